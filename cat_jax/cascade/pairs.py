"""A small model's table beside the large model's: the same examples, row by row, joined by example id."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cat_jax.errors import UserError
from cat_jax.table import FLOPS, TableInfo, read_table, table_path

KINDS = ("mean", "bleu", "function")

ONE_UNIT = "import one of them again with Cost.unit set, be it a table that `evaluate` wrote (docs/evaluation.md)"


@dataclasses.dataclass(frozen=True)
class Answers:
    """What one model answered on one task and split, ordered by example id."""

    table: pa.Table
    info: TableInfo

    @property
    def ids(self) -> list[str]:
        """The example ids, ascending."""
        return self.table.column("example_id").to_pylist()

    def numbers(self, column: str) -> np.ndarray:
        """f64[N]: a numeric column.

        Raises:
          UserError: a row of it is null, NaN or infinite.
        """
        values = self.table.column(column)
        if values.null_count:
            raise UserError(
                f"{column} is missing in {values.null_count} of {len(values)} rows of {self}",
                "delete that table and evaluate this model again",
            )
        array = values.to_numpy().astype(np.float64)
        if not np.isfinite(array).all():
            raise UserError(
                f"{column} is not finite in a row of {self}", "delete that table and evaluate this model again"
            )
        return array

    @property
    def cost(self) -> np.ndarray:
        """f64[N]: of each answer, in the table's unit.

        Raises:
          UserError: a row has none.
        """
        return self.numbers("flops" if self.info.cost_unit == FLOPS else "cost")

    def __str__(self) -> str:
        return f"the table of {self.info.model} on {self.info.task} ({self.info.split})"


@dataclasses.dataclass(frozen=True)
class Pair:
    """Row i of both tables is the same example."""

    small: Answers
    large: Answers

    @property
    def task(self) -> str:
        """The task that both answered."""
        return self.large.info.task

    @property
    def kind(self) -> str:
        """How a merged output is scored: "mean", "bleu" or "function"."""
        return self.large.info.metric_kind

    @property
    def clusters(self) -> np.ndarray:
        """i64[N]: the same number for rows of one `group`, such as a question's answers; else each row its own."""
        if "group" not in self.large.table.column_names:
            return np.arange(len(self))
        groups = self.large.table.column("group").to_pylist()
        named = [(i, "") if group is None else (-1, group) for i, group in enumerate(groups)]
        numbers = {name: k for k, name in enumerate(dict.fromkeys(named))}
        return np.array([numbers[name] for name in named], np.int64)

    def __len__(self) -> int:
        return len(self.large.table)


def answers(table: pa.Table, info: TableInfo) -> Answers:
    """Sorts a table by example id and checks that it can stand in a cascade.

    Raises:
      UserError: no rows, an id twice, an unknown kind of metric, one of which less is better, or a cost that is not
        positive.
    """
    made = Answers(table.sort_by("example_id"), info)
    mend = "delete that table and evaluate this model again"
    if not len(table):
        raise UserError(f"{made} has no rows", mend)
    repeated = len(table) - len(table.column("example_id").unique())
    if repeated:
        raise UserError(f"{repeated} example ids occur twice in {made}", mend)
    if info.metric_kind not in KINDS:
        raise UserError(f"{made} has metric kind {info.metric_kind!r}", f"use one of {', '.join(KINDS)}")
    if not info.higher_is_better:
        raise UserError(
            f"of the metric {info.metric} of {info.task} less is better, and a cascade's curves want more",
            "put one such as 1 - error rate first in the task's metric_fns, and run `cat-jax evaluate --rescore`",
        )
    if not (made.cost > 0).all():
        raise UserError(f"{made} holds {info.cost_unit} that are not positive numbers", mend)
    return made


def load_answers(tables_dir: str | os.PathLike, model: str, task: str, split: str) -> Answers:
    """Reads `<tables_dir>/<model>/<task>.<split>.parquet`.

    Raises:
      UserError: the file is missing, broken, or a table of another task or split.
    """
    path = table_path(tables_dir, model, task, split)
    table, info = read_table(path)
    if (info.task, info.split) != (task, split):
        raise UserError(
            f"{path} is a table of {info.task} ({info.split}), not of {task} ({split})",
            "delete that table and evaluate this model again",
        )
    return answers(table, info)


def join(small: Answers, large: Answers) -> Pair:
    """Pairs two tables of the same examples.

    Raises:
      UserError: examples on one side only, or tables of different stores, splits or metrics; names both sides.
    """
    for field, mend in (
        ("task", "name two tables of the same task"),
        ("split", "name two tables of the same split"),
        ("store_fingerprint", "evaluate both models on the same example store"),
        ("metric", "run `cat-jax evaluate --rescore` for both models"),
        ("metric_kind", "run `cat-jax evaluate --rescore` for both models"),
        ("cost_unit", ONE_UNIT),
    ):
        ours, theirs = getattr(small.info, field), getattr(large.info, field)
        if ours != theirs:
            raise UserError(f"{small} has {field} {ours!r}, {large} has {theirs!r}", mend)
    small_ids, large_ids = small.ids, large.ids
    if small_ids != large_ids:
        lacking = [
            f"{side} lacks {len(ids)} ({_some(ids)})"
            for side, ids in (
                (small, sorted(set(large_ids) - set(small_ids))),
                (large, sorted(set(small_ids) - set(large_ids))),
            )
            if ids
        ]
        raise UserError(
            f"the two models did not answer the same examples; {' and '.join(lacking)}",
            "evaluate both on the whole split",
        )
    return Pair(small, large)


def _some(ids: Sequence[str], most: int = 3) -> str:
    return ", ".join(ids[:most]) + (", ..." if len(ids) > most else "")
