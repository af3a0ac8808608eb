"""From students to objectives: means and spread over seeds, intervals, differences from the baseline, mean curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cat_jax.cascade.bootstrap import Estimate, Resamples, estimate
from cat_jax.cascade.inputs import Student
from cat_jax.cascade.measure import GRID, Measured

AGAINST = ("flops_saved", "quality_gained")

Groups = Mapping[str, Sequence[Student]]


def estimates(
    measured: Measured, groups: Groups, resamples: Resamples, level: float
) -> dict[str, dict[str, dict[str, Any]]]:
    """estimates[objective][metric]: a JSON-able `Estimate`, over the seeds of each objective."""
    result = {}
    for objective, students in groups.items():
        names = [m for m in measured.estimate[students[0].name].metrics if m not in AGAINST]
        result[objective] = {m: _estimate(measured, students, m, resamples, level).to_dict() for m in names}
    return result


def differences(
    measured: Measured, groups: Groups, baseline: str, resamples: Resamples, level: float
) -> dict[str, dict[str, dict[str, Any]]]:
    """differences[objective][metric]: each objective minus the baseline, paired over seeds and examples.

    Only seeds that both have count. Cost saved and quality gained at the baseline's own point are among them.
    """
    result = {}
    twins = {s.seed: s.name for s in groups[baseline]}
    for objective, students in groups.items():
        paired = [s for s in students if s.seed in twins]
        if objective == baseline or not paired:
            continue
        metrics = {}
        for name in measured.estimate[paired[0].name].metrics:
            values, samples = {}, []
            for s in paired:
                point, drawn = measured.estimate[s.name].metrics[name], measured.resampled[s.name].metrics[name]
                if name not in AGAINST:
                    twin = twins[s.seed]
                    point = point - measured.estimate[twin].metrics[name]
                    drawn = drawn - measured.resampled[twin].metrics[name]
                values[s.seed] = point[0]
                samples.append(drawn)
            metrics[name] = estimate(values, samples, resamples, level).to_dict()
        result[objective] = metrics
    return result


def curves(measured: Measured, groups: Groups, baseline: str, level: float) -> dict[str, dict[str, Any]]:
    """curves[objective]: mean over seeds at each rate of GRID, with pointwise intervals.

    `difference` is the curve minus the baseline's over the seeds that both have, at the same rate.
    """
    twins = {s.seed: s.name for s in groups[baseline]}
    result = {}
    for objective, students in groups.items():
        lines = [measured.lines[s.name] for s in students]
        ideals = [line.ideal for line in lines if line.ideal is not None]
        quality, drawn = _mean_curve(measured, [s.name for s in students])
        curve: dict[str, Any] = {
            "quality": quality.tolist(),
            **_band(drawn, level),
            "flops": np.mean([line.cost for line in lines], axis=0).tolist(),
            "random": np.mean([line.random for line in lines], axis=0).tolist(),
            "ideal": np.mean(ideals, axis=0).tolist() if ideals else None,
            "difference": None,
        }
        paired = [s for s in students if s.seed in twins]
        if objective != baseline and paired:
            ours, our_draws = _mean_curve(measured, [s.name for s in paired])
            theirs, their_draws = _mean_curve(measured, [twins[s.seed] for s in paired])
            curve["difference"] = {"quality": (ours - theirs).tolist(), **_band(our_draws - their_draws, level)}
        result[objective] = curve
    return result


def _estimate(
    measured: Measured, students: Sequence[Student], metric: str, resamples: Resamples, level: float
) -> Estimate:
    values = {s.seed: measured.estimate[s.name].metrics[metric][0] for s in students}
    samples = [measured.resampled[s.name].metrics[metric] for s in students]
    return estimate(values, samples, resamples, level)


def _mean_curve(measured: Measured, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The mean over students of the quality curve, f64[G], and of its resamples, f64[R, G]."""
    point = np.mean([measured.estimate[n].quality[0] for n in names], axis=0)
    return point, np.mean([measured.resampled[n].quality for n in names], axis=0)


def _band(drawn: np.ndarray, level: float) -> dict[str, list[float] | None]:
    if not len(drawn):
        return {"low": None, "high": None}
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return {"low": low.tolist(), "high": high.tolist()}


def grid() -> list[float]:
    """The deferral rates of every curve."""
    return GRID.tolist()
