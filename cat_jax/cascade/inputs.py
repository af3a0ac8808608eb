"""Reads and joins the tables of an experiment: one large model, students by objective and seed, tasks, two splits."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

from cat_jax.cascade.confidence import ConfidenceRule
from cat_jax.cascade.pairs import ONE_UNIT, Pair, join, load_answers
from cat_jax.cascade.quality import MetricFunction, score_scale
from cat_jax.cascade.view import View, pool, pool_at_equal_rates, task_view
from cat_jax.errors import UserError
from cat_jax.table import table_path

POOLED, EQUAL_RATES = "pooled", "equal_rates"


@dataclasses.dataclass(frozen=True)
class Student:
    """A small model of the experiment."""

    name: str
    objective: str
    seed: int


def task_scope(task: str) -> str:
    """The name of the scope of a single task; never that of a pooled one."""
    return f"task:{task}"


@dataclasses.dataclass(frozen=True)
class Inputs:
    """All joined tables, `pairs[split][student][task]`: of the first split all tasks, of others those that have it."""

    large: str
    students: tuple[Student, ...]
    tasks: tuple[str, ...]
    pairs: Mapping[str, Mapping[str, Mapping[str, Pair]]]
    scales: Mapping[str, float]
    functions: Mapping[str, MetricFunction]
    cost_unit: str  # of all tables

    @functools.cached_property
    def objectives(self) -> dict[str, tuple[Student, ...]]:
        """Students by objective, in the order in which objectives and seeds were named."""
        grouped: dict[str, list[Student]] = {}
        for student in self.students:
            grouped.setdefault(student.objective, []).append(student)
        return {objective: tuple(students) for objective, students in grouped.items()}

    @property
    def scopes(self) -> tuple[str, ...]:
        """The pooled scopes, if there are several tasks, then each task's."""
        pooled = (POOLED, EQUAL_RATES) if len(self.tasks) > 1 else ()
        return pooled + tuple(task_scope(task) for task in self.tasks)

    def of_split(self, split: str) -> Inputs:
        """The tasks that have tables of `split`, alone."""
        there = self.pairs[split][self.students[0].name]
        return dataclasses.replace(self, tasks=tuple(task for task in self.tasks if task in there))

    @property
    def functional_tasks(self) -> tuple[str, ...]:
        """The tasks whose metric is neither a mean nor BLEU."""
        pairs = next(iter(next(iter(self.pairs.values())).values()))
        return tuple(task for task in self.tasks if pairs[task].kind == "function")

    def views(self, split: str, rule: ConfidenceRule) -> dict[str, dict[str, View]]:
        """views[scope][student] of a split under a confidence rule."""
        views: dict[str, dict[str, View]] = {scope: {} for scope in self.scopes}
        for student in self.students:
            pairs = self.pairs[split][student.name]
            single = [task_view(pairs[t], rule, self.scales[t], self.functions.get(t)) for t in self.tasks]
            for task, view in zip(self.tasks, single, strict=True):
                views[task_scope(task)][student.name] = view
            if len(single) > 1:
                views[POOLED][student.name] = pool(single)
                views[EQUAL_RATES][student.name] = pool_at_equal_rates(single)
        return views


def load_inputs(
    tables_dir: str | os.PathLike,
    large: str,
    students: Mapping[str, tuple[str, int]],
    tasks: Sequence[str],
    splits: Sequence[str],
    functions: Mapping[str, MetricFunction] | None = None,
) -> Inputs:
    """Reads the tables of every model, task and split, and joins each student's with the large model's.

    Args:
      tables_dir: holds `<model>/<task>.<split>.parquet`.
      large: name of the large model.
      students: from each small model's name to its (objective, seed).
      tasks: their names.
      splits: their names. Every task has the first; one of which no model has a table of another lacks that split.
      functions: from a task to its metric, for tasks whose metric is neither a mean nor BLEU.

    Raises:
      UserError: nothing to compare, two students of one objective and seed, or tables that do not fit together.
    """
    if not students or not tasks:
        raise UserError("a cascade needs at least one small model and one task", "name them in students and tasks")
    named = tuple(Student(name, objective, int(seed)) for name, (objective, seed) in students.items())
    seen: dict[tuple[str, int], str] = {}
    for student in named:
        twin = seen.setdefault((student.objective, student.seed), student.name)
        if twin != student.name:
            raise UserError(
                f"{twin} and {student.name} are both {student.objective} with seed {student.seed}",
                "give each small model its own objective or seed",
            )
    pairs: dict[str, dict[str, dict[str, Pair]]] = {split: {s.name: {} for s in named} for split in splits}
    scales = {}
    models = [large, *students]
    lacking = {split: tasks_without_tables(tables_dir, models, tasks, split) for split in splits[1:]}
    for task in tasks:
        scored = []
        for split in splits:
            if task in lacking.get(split, ()):
                continue
            teacher = load_answers(tables_dir, large, task, split)
            for student in named:
                pair = join(load_answers(tables_dir, student.name, task, split), teacher)
                pairs[split][student.name][task] = pair
                scored += [pair.small, pair.large]
        scales[task] = score_scale(scored)
    unit = _cost_unit([pair for of_split in pairs[splits[0]].values() for pair in of_split.values()])
    return Inputs(large, named, tuple(tasks), pairs, scales, dict(functions or {}), unit)


def _cost_unit(pairs: Sequence[Pair]) -> str:
    """The one unit of all tables.

    Raises:
      UserError: tasks have different ones; a pair's two tables were compared when they were joined.
    """
    first = pairs[0].large
    for pair in pairs:
        ours, theirs = first.info.cost_unit, pair.large.info.cost_unit
        if ours != theirs:
            raise UserError(f"{first} counts {ours}, {pair.large} {theirs}, and tasks are pooled", ONE_UNIT)
    return first.info.cost_unit


def tasks_without_tables(
    tables_dir: str | os.PathLike, models: Sequence[str], tasks: Sequence[str], split: str
) -> list[str]:
    """The tasks of whose `split` no model has a table; none if that is so of all, which is no property of a task."""
    there = [task for task in tasks if any(table_path(tables_dir, m, task, split).exists() for m in models)]
    return [task for task in tasks if task not in there] if there else []
