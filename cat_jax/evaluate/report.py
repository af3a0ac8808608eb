"""The metrics of a model on all tasks of a mixture as JSON, read off its tables."""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cat_jax.data.layout import safe_name
from cat_jax.evaluate.job import Job, sweep
from cat_jax.files import write_json
from cat_jax.table import FLOPS, TableInfo, read_table

logger = logging.getLogger(__name__)


def metrics_path(output_dir: str | os.PathLike, model: str, mixture_or_task: str, split: str) -> pathlib.Path:
    """Where the metrics of a model lie: beside its tables."""
    return pathlib.Path(output_dir) / model / f"{safe_name(mixture_or_task)}.{safe_name(split)}.metrics.json"


def write_metrics(
    output_dir: str | os.PathLike,
    mixture_or_task: str,
    jobs: Sequence[Job],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Writes one file for each model and split of `jobs`, whose tables are finished; returns {model: {split: content}}.

    `groups`, {name: its tasks}, get averages of their own over those of their tasks that were evaluated.

    Raises:
      UserError: a table is missing or broken, or the disk is full.
    """
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        content = found.setdefault(job.model.name, {}).setdefault(
            job.store.split,
            {
                "model": job.model.name,
                "step": job.step,
                "checkpoint": job.checkpoint,
                "mixture_or_task": mixture_or_task,
                "split": job.store.split,
                "tasks": {},
            },
        )
        content["tasks"][job.store.task] = _of_table(job)
    for model, splits in found.items():
        for split, content in splits.items():
            content["average"] = _average(content["tasks"])
            if groups:
                content["averages"] = _averages(content, groups)
            _warn_of_undefined(content)
            path = metrics_path(output_dir, model, mixture_or_task, split)
            sweep(path)
            write_json(path, _defined(content))
    return found


def _of_table(job: Job) -> dict[str, Any]:
    table, info = read_table(job.path)
    tokens = {name: table[f"{name}_length"].to_numpy() for name in ("input", "target", "prediction")}
    return {
        "metric": info.metric,
        "metrics": dict(info.metrics),
        **({"signatures": dict(info.signatures)} if info.signatures else {}),
        "mode": info.mode,
        "settings": dict(info.settings),
        "examples": len(table),
        "mean_tokens": {name: float(np.mean(lengths)) for name, lengths in tokens.items()},
        "mean_flops": None if table["flops"].null_count else float(np.mean(table["flops"].to_numpy())),
        **({} if info.cost_unit == FLOPS else _other_cost(table, info)),
        "parameters": info.parameters,
    }


def _other_cost(table: pa.Table, info: TableInfo) -> dict[str, Any]:
    """What an imported table says that is not in FLOPs."""
    return {"mean_cost": float(np.mean(table["cost"].to_numpy())), "cost_unit": info.cost_unit}


def _warn_of_undefined(content: dict[str, Any]) -> None:
    for task, found in content["tasks"].items():
        for name, value in found["metrics"].items():
            if not np.isfinite(value):
                model, split = content["model"], content["split"]
                logger.warning("warning: %s of %s is %s for %s on %s", name, task, value, model, split)


def _defined(content: Any) -> Any:
    """`content` with None for numbers that are not finite, which JSON lacks."""
    if isinstance(content, dict):
        return {name: _defined(value) for name, value in content.items()}
    return None if isinstance(content, float) and not np.isfinite(content) else content


def _averages(content: dict[str, Any], groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    found = {}
    for name, members in groups.items():
        tasks = {task: of_task for task, of_task in content["tasks"].items() if task in members}
        if tasks:
            found[name] = {**_average(tasks), "tasks": len(tasks), "of": len(members)}
            words = "%s on %s, %s: mean of %d of %d tasks %.4g"
            average = found[name]["headline"]
            logger.info(words, content["model"], content["split"], name, len(tasks), len(members), average)
    return found


def _average(tasks: dict[str, Any]) -> dict[str, Any]:
    """The plain mean over tasks: of each task's headline metric, and of every metric that all tasks have.

    Where a metric is undefined the task is left out of its mean; `undefined` names those without a headline.
    """
    shared = set.intersection(*(set(task["metrics"]) for task in tasks.values()))
    headlines = {name: task["metrics"][task["metric"]] for name, task in tasks.items()}
    undefined = sorted(name for name, value in headlines.items() if not np.isfinite(value))
    return {
        "headline": _mean(headlines.values()),
        "metrics": {name: _mean([task["metrics"][name] for task in tasks.values()]) for name in sorted(shared)},
        "examples": sum(task["examples"] for task in tasks.values()),
        **({"undefined": undefined} if undefined else {}),
    }


def _mean(values: Iterable[float]) -> float:
    """Of those that are numbers; NaN if none is."""
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")
