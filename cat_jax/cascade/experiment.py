"""From per-example tables to results.json: the entry point of the room."""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cat_jax.cascade.bootstrap import Resamples
from cat_jax.cascade.confidence import ConfidenceRule, parse_rule
from cat_jax.cascade.inputs import Inputs, load_inputs
from cat_jax.cascade.measure import Reading
from cat_jax.cascade.quality import MetricFunction
from cat_jax.cascade.results import describe, measurements, operation
from cat_jax.cascade.threshold import Target, parse_target
from cat_jax.cascade.training import training_histories
from cat_jax.errors import UserError
from cat_jax.files import write_json

logger = logging.getLogger(__name__)

VERSION = 1


def cascade(
    *,
    tables_dir: str | os.PathLike,
    large: str,
    students: Mapping[str, tuple[str, int]],
    tasks: Sequence[str],
    output_dir: str | os.PathLike,
    test_split: str = "test",
    validation_split: str | None = "validation",
    rules: Sequence[str] = ("chow_average",),
    baseline: str | None = None,
    targets: Sequence[str] = ("rate=0.3", "quality=0.95", "cost=0.5"),
    rates: Sequence[float] = (0.1, 0.3, 0.5),
    kept: Sequence[float] = (0.95,),
    resamples: int = 1000,
    function_resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
    functions: Mapping[str, MetricFunction] | None = None,
    histories: Mapping[str, str | os.PathLike] | None = None,
    configs: Mapping[str, str] | None = None,
    title: str = "Cascade report",
) -> dict[str, Any]:
    """Compares training objectives by the cascades that their small models make with one large model.

    Reads `<tables_dir>/<model>/<task>.<split>.parquet` for every model, task and split, and writes results.json into
    `output_dir`, whole or not at all. Equal input gives equal bytes. `report.files` makes a page of it.

    Args:
      tables_dir: holds one directory per model.
      large: name of the large model.
      students: from each small model's name to its (objective, seed).
      tasks: task names; with several, pooled curves are drawn too.
      output_dir: for results.json.
      test_split: the split that everything is reported on.
      validation_split: the split that thresholds are picked on; None for no thresholds.
      rules: confidence rules. The first draws the report; the others are compared with it in one table.
      baseline: the objective that others are compared with; xent if there is one, else the first.
      targets: what thresholds are picked for: `rate=`, `quality=` or `cost=`, the latter two as shares of the large
        model's. The first also chooses who answers the sample rows.
      rates: deferral rates at which quality is read off.
      kept: shares of the large model's quality at which saved cost is read off.
      resamples: bootstrap resamples; 0 for no intervals.
      function_resamples: how many of them in scopes with a metric that is neither a mean nor BLEU, which is computed
        anew for every point of every resampled curve; 0 for no intervals there.
      level: of the intervals.
      seed: of the resamples.
      functions: from a task whose metric is neither a mean nor BLEU to the function that computes it, for any mixture
        of two models' answers.
      histories: from a small model's name to its training log, metrics.jsonl.
      configs: from a name to the text of an operative configuration, shown in the report.
      title: heading of the report.

    Returns:
      The content of results.json; docs/cascade.md describes it.

    Raises:
      UserError: tables that are missing or do not fit, an unknown rule, target or objective, or a file that cannot be
        written.
    """
    parsed = [parse_rule(rule) for rule in rules]
    aims = [parse_target(target) for target in targets]
    _check(parsed, rates, kept, min(resamples, function_resamples), level)
    if validation_split == test_split:
        raise UserError(
            f"thresholds are picked and reported on the same split {test_split!r}",
            "set VALIDATION_SPLIT = None, or name another split",
        )
    splits = [test_split] + ([validation_split] if validation_split is not None else [])
    inputs = load_inputs(tables_dir, large, students, tasks, splits, functions)
    reading = Reading(tuple(rates), tuple(kept), _baseline(inputs, baseline))
    draws = Resamples(resamples, seed, function_resamples)
    _announce(inputs, draws)
    settings = _settings(parsed, aims, reading, draws)
    settings |= {"level": level, "test_split": test_split, "validation_split": validation_split}
    results = {"version": VERSION, "title": title, "settings": settings, "configs": dict(configs or {})}
    results |= describe(inputs, test_split, splits)
    results |= measurements(inputs, test_split, parsed, reading, draws, level)
    results |= operation(inputs, test_split, validation_split, parsed[0], aims, draws, level)
    results["training"] = training_histories(inputs.objectives, histories or {})
    results = jsonable(results)
    write_json(pathlib.Path(output_dir) / "results.json", results)
    return results


def _settings(
    rules: Sequence[ConfidenceRule], targets: Sequence[Target], reading: Reading, draws: Resamples
) -> dict[str, Any]:
    return {
        "rules": [str(rule) for rule in rules],
        "targets": [str(target) for target in targets],
        "baseline": reading.baseline,
        "rates": list(reading.rates),
        "headline_rate": reading.headline_rate,
        "kept": list(reading.kept),
        "resamples": draws.count,
        "function_resamples": draws.used(dear=True),
        "seed": draws.seed,
    }


def _check(
    rules: Sequence[ConfidenceRule], rates: Sequence[float], kept: Sequence[float], resamples: int, level: float
) -> None:
    if not rules:
        raise UserError("a cascade needs a confidence rule", "name one in rules, such as chow_average")
    if not rates or not all(0 <= rate <= 1 for rate in rates):
        raise UserError(f"deferral rates {list(rates)} are not shares of queries", "give numbers from 0 to 1 in rates")
    if not all(share > 0 for share in kept):
        raise UserError(f"shares of quality {list(kept)} are not positive", "give numbers such as 0.95 in kept")
    if resamples < 0 or not 0 < level < 1:
        raise UserError(f"{resamples} resamples at level {level}", "give a count from 0 and a level between 0 and 1")


def _announce(inputs: Inputs, draws: Resamples) -> None:
    """Says which tasks thresholds are not picked for, and why a metric that is a function takes its time."""
    for split in inputs.pairs:
        lacking = [task for task in inputs.tasks if task not in inputs.of_split(split).tasks]
        if lacking:
            words = "no model has a table of split %r of %s: thresholds are picked and tested without"
            logger.warning(words, split, ", ".join(lacking))
    for task in inputs.functional_tasks:
        logger.info(
            "the metric of %s is computed anew for every mixture of answers: its intervals come from %d resamples, "
            "not %d (cascade.function_resamples)",
            *(task, draws.used(dear=True), draws.count),
        )


def _baseline(inputs: Inputs, wanted: str | None) -> str:
    if wanted is None:
        return "xent" if "xent" in inputs.objectives else next(iter(inputs.objectives))
    if wanted not in inputs.objectives:
        raise UserError(
            f"the baseline {wanted!r} is no objective here", f"choose one of {', '.join(inputs.objectives)}"
        )
    return wanted


def jsonable(value: Any) -> Any:
    """The value with NaN as null and infinities as the strings "inf" and "-inf": JSON knows neither.

    >>> jsonable({"a": [float("nan"), float("-inf"), 1.5]})
    {'a': [None, '-inf', 1.5]}
    """
    if isinstance(value, Mapping):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
