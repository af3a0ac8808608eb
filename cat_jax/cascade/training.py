"""What a student's training log says of the cascade: the four cells and the kept fraction over time.

These are of target tokens, teacher-forced, on training batches: not the answers of the test split.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cat_jax.cascade.inputs import Student
from cat_jax.errors import UserError

SERIES = (
    "cells/both_right",
    "cells/student_only_right",
    "cells/teacher_only_right",
    "cells/both_wrong",
    "kept_fraction",
    "student_accuracy",
    "teacher_accuracy",
)
POINTS = 60
"""Steps are averaged in at most so many bins: single batches are noise."""


def read_history(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The series of a `metrics.jsonl`: `step` and those of SERIES that are there; `train/` may stand before a name.

    Each line is a JSON object with a step and scalars. Lines without any of the series (of evaluations, say) are
    skipped, and so is a last line cut short by a kill. A step logged twice, after a resume, counts as it was last.

    Raises:
      UserError: the file is missing, or a line is not JSON.
    """
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except OSError as e:
        raise UserError(
            f"cannot read the training log {path} ({e.strerror})", "train this model, or leave it out"
        ) from e
    rows: dict[int, dict[str, float]] = {}
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            step = int(fields["step"])
        except (ValueError, KeyError, TypeError) as e:
            if number == len(lines):
                break
            raise UserError(f"line {number} of {path} is not a training record", "train this model again") from e
        found = {name: fields.get(name, fields.get(f"train/{name}")) for name in SERIES}
        found = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
        if found:
            rows[step] = found
    steps = sorted(rows)
    common = [name for name in SERIES if steps and all(name in rows[step] for step in steps)]
    history = {"step": np.array(steps, dtype=np.float64)}
    return history | {name: np.array([rows[step][name] for step in steps]) for name in common}


def binned(values: np.ndarray) -> np.ndarray:
    """Means of at most POINTS runs of values, of equal length to within one."""
    return np.array([part.mean() for part in np.array_split(values, min(POINTS, len(values)))])


def training_histories(
    groups: Mapping[str, Sequence[Student]], paths: Mapping[str, str | os.PathLike]
) -> dict[str, dict[str, Any]]:
    """histories[objective]: the mean over seeds of each series, or the first seed's where the steps differ.

    `kept_fraction` beside them is the mean over the whole of training. Objectives without a log are left out.

    Raises:
      UserError: a path of a model that is not a student, or a broken log.
    """
    known = {s.name for students in groups.values() for s in students}
    for name in paths:
        if name not in known:
            raise UserError(f"a training log is named for {name}, which is not a small model here", "leave it out")
    result = {}
    for objective, students in groups.items():
        logs = {s.name: read_history(paths[s.name]) for s in students if s.name in paths}
        logs = {name: log for name, log in logs.items() if len(log["step"])}
        if not logs:
            continue
        first, *others = logs.values()
        alike = all(o.keys() == first.keys() and np.array_equal(o["step"], first["step"]) for o in others)
        averaged = [first, *others] if alike else [first]
        kept = {name: float(log["kept_fraction"].mean()) for name, log in logs.items() if "kept_fraction" in log}
        result[objective] = {
            "models": list(logs)[: len(averaged)],
            "series": {name: binned(np.mean([log[name] for log in averaged], axis=0)).tolist() for name in first},
            "kept_fraction": {"mean": float(np.mean(list(kept.values()))), "seeds": kept} if kept else None,
        }
    return result
