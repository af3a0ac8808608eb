"""Operating points: each student's threshold picked on validation, and what it does on test, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cat_jax.cascade.bootstrap import Resamples, estimate
from cat_jax.cascade.inputs import Student
from cat_jax.cascade.threshold import Target, apply, pick
from cat_jax.cascade.view import View

MEASURES = ("rate", "quality", "flops")


def operating_points(
    validation: Mapping[str, View],
    test: Mapping[str, View],
    groups: Mapping[str, Sequence[Student]],
    targets: Sequence[Target],
    resamples: Resamples,
    level: float,
    unit: str,
) -> list[dict[str, Any]]:
    """One row per target and objective, of one scope.

    `thresholds` maps a seed to its threshold, None where no threshold meets the target on validation; `validation`
    and `test` sum up deferral rate, quality and cost (share of the large model's) over the seeds that have one. `unit`
    is that of the cost.
    Intervals are of the test examples at a fixed threshold; that validation is a sample too is not in them.
    """
    rows = []
    for target in targets:
        for objective, students in groups.items():
            picked = {s: pick(validation[s.name], target) for s in students}
            met = {s: t for s, t in picked.items() if t is not None}
            points = {s: apply(validation[s.name], t) for s, t in met.items()}
            tested = {s: apply(test[s.name], t) for s, t in met.items()}
            drawn = {s: _resample(test[s.name], t, resamples) for s, t in met.items()}
            row = {
                "target": str(target),
                "words": target.words(unit),
                "objective": objective,
                "thresholds": {str(s.seed): t for s, t in picked.items()},
                "validation": None,
                "test": None,
            }
            if met:
                row["validation"] = {m: float(np.mean([points[s][m][0] for s in met])) for m in MEASURES}
                row["test"] = {
                    m: estimate(
                        {s.seed: tested[s][m][0] for s in met}, [drawn[s][m] for s in met], resamples, level
                    ).to_dict()
                    for m in MEASURES
                }
            rows.append(row)
    return rows


def _resample(view: View, threshold: float, resamples: Resamples) -> dict[str, np.ndarray]:
    """f64[R] of each measure at a fixed threshold."""
    parts: dict[str, list[np.ndarray]] = {m: [np.empty(0)] for m in MEASURES}
    for weights in resamples.blocks(view.tasks, view.clusters, dear=view.quality.max_points is not None):
        for name, values in apply(view, threshold, weights).items():
            parts[name].append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}
