"""The content of results.json, section by section; docs/cascade.md describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cat_jax.cascade import aggregate
from cat_jax.cascade.bootstrap import Resamples
from cat_jax.cascade.confidence import ConfidenceRule
from cat_jax.cascade.inputs import EQUAL_RATES, Inputs, task_scope
from cat_jax.cascade.measure import Reading, measure
from cat_jax.cascade.operating import operating_points
from cat_jax.cascade.samples import sample_rows
from cat_jax.cascade.summary import four_cells
from cat_jax.cascade.threshold import Target, pick
from cat_jax.cascade.view import View
from cat_jax.errors import UserError


def describe(inputs: Inputs, test_split: str, splits: Sequence[str]) -> dict[str, Any]:
    """What was compared: tasks, models, scopes."""
    first = inputs.students[0].name
    there = {split: inputs.pairs[split][first] for split in splits}
    tasks, models = {}, {}
    for task in inputs.tasks:
        pair = inputs.pairs[test_split][first][task]
        tasks[task] = {
            "metric": pair.large.info.metric,
            "metric_kind": pair.kind,
            "scale": inputs.scales[task],
            "examples": {split: len(pairs[task]) for split, pairs in there.items() if task in pairs},
        }
    for name, objective, seed in [
        (inputs.large, None, None),
        *((s.name, s.objective, s.seed) for s in inputs.students),
    ]:
        pairs = inputs.pairs[test_split][name if objective else first]
        sides = [pair.small if objective else pair.large for pair in pairs.values()]
        models[name] = {
            "role": "small" if objective else "large",
            "objective": objective,
            "seed": seed,
            "parameters": sides[0].info.parameters,
            "step": sides[0].info.step,
            "checkpoint": sides[0].info.checkpoint,
            "flops": float(np.concatenate([side.cost for side in sides]).mean()),
            "metrics": {side.info.task: dict(side.info.metrics) for side in sides},
        }
    means = all(t["metric_kind"] == "mean" for t in tasks.values())
    return {
        "large": inputs.large,
        "objectives": list(inputs.objectives),
        "cost_unit": inputs.cost_unit,
        "models": models,
        "tasks": tasks,
        "scopes": list(inputs.scopes),
        "headline_scope": inputs.scopes[0],
        "examples": sum(t["examples"][test_split] for t in tasks.values()),
        "pooling": "mean over examples" if means else "mean over tasks",
    }


def measurements(
    inputs: Inputs, split: str, rules: Sequence[ConfidenceRule], reading: Reading, draws: Resamples, level: float
) -> dict[str, Any]:
    """Everything that is read off curves on the test split."""
    groups, headline = inputs.objectives, inputs.scopes[0]
    views = inputs.views(split, rules[0])
    check_endpoints(inputs, split, views)
    curves: dict[str, Any] = {"rate": aggregate.grid()}
    results: dict[str, Any] = {"resamples": {}, "summary": {}, "differences": {}, "curves": curves, "cells": {}}
    for scope in inputs.scopes:
        measured = measure(views[scope], inputs.students, reading, draws)
        results["resamples"][scope] = len(next(iter(measured.resampled.values())).quality)
        results["summary"][scope] = aggregate.estimates(measured, groups, draws, level)
        results["differences"][scope] = aggregate.differences(measured, groups, reading.baseline, draws, level)
        curves[scope] = aggregate.curves(measured, groups, reading.baseline, level)
        if scope != EQUAL_RATES:
            results["cells"][scope] = {
                objective: _mean_cells([views[scope][s.name] for s in students])
                for objective, students in groups.items()
            }
    results["routing"] = {
        objective: _mean_dicts([views[headline][s.name].deferred_by_task(reading.headline_rate) for s in students])
        for objective, students in groups.items()
    }
    results["rules"] = {str(rules[0]): results["summary"][headline]}
    for rule in rules[1:]:
        measured = measure(inputs.views(split, rule)[headline], inputs.students, reading, draws)
        results["rules"][str(rule)] = aggregate.estimates(measured, groups, draws, level)
    return results


def _mean_cells(views: Sequence[View]) -> dict[str, float] | None:
    cells = [four_cells(view) for view in views]
    found = [c for c in cells if c is not None]
    return _mean_dicts(found) if found else None


def _mean_dicts(dicts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([d[key] for d in dicts])) for key in dicts[0]}


def operation(
    inputs: Inputs,
    test_split: str,
    validation_split: str | None,
    rule: ConfidenceRule,
    targets: Sequence[Target],
    draws: Resamples,
    level: float,
) -> dict[str, Any]:
    """Thresholds, and sample rows at the first of them, of the tasks that have a validation split."""
    if validation_split is None or not targets:
        return {"threshold_tasks": [], "thresholds": {}, "samples": None}
    inputs = inputs.of_split(validation_split)
    validation, test = inputs.views(validation_split, rule), inputs.views(test_split, rule)
    thresholds = {
        scope: operating_points(
            validation[scope], test[scope], inputs.objectives, targets, draws, level, inputs.cost_unit
        )
        for scope in inputs.scopes
        if scope != EQUAL_RATES
    }
    headline = inputs.scopes[0]
    areas = {s: float(validation[headline][s.name].curve().area()[0]) for s in inputs.students}
    # NaN, an area that is not defined, compares as no number does: the first would then be the greatest.
    best = max(areas, key=lambda s: -np.inf if np.isnan(areas[s]) else areas[s])
    threshold = pick(validation[headline][best.name], targets[0])
    found = {"threshold_tasks": list(inputs.tasks), "thresholds": thresholds}
    if threshold is None:
        return {**found, "samples": None}
    rows = sample_rows(
        {task: inputs.pairs[test_split][best.name][task] for task in inputs.tasks},
        {task: test[task_scope(task)][best.name] for task in inputs.tasks},
        threshold,
    )
    words = targets[0].words(inputs.cost_unit)
    samples = {"student": best.name, "objective": best.objective, "threshold": threshold, "words": words}
    return {**found, "samples": {**samples, "rows": rows}}


def check_endpoints(inputs: Inputs, split: str, views: Mapping[str, Mapping[str, View]]) -> None:
    """Checks that no deferral and full deferral give the metrics that the two models' tables state.

    Raises:
      UserError: they do not: the kind of the metric is not what the table says.
    """
    for student in inputs.students:
        for task in inputs.tasks:
            pair, view = inputs.pairs[split][student.name][task], views[task_scope(task)][student.name]
            ends = view.curve().quality[0, [0, -1]]
            for answers, drawn in zip((pair.small, pair.large), ends, strict=True):
                stated = answers.info.metrics.get(answers.info.metric)
                if stated is None or not np.isfinite(stated):
                    continue
                # A table may score examples on 0 to 1 and state its metric on 0 to 100. NaN is no metric at all.
                if not min(abs(stated - drawn), abs(stated * inputs.scales[task] - drawn)) <= 1e-3:
                    ours = "give the metric the kind 'function'" if pair.kind != "function" else "mend the function"
                    raise UserError(
                        f"{answers} states {answers.info.metric} {stated:g}, but its rows give {drawn:g}",
                        f"run `cat-jax evaluate --rescore`, or {ours}",
                    )
