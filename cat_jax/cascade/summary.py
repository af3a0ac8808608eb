"""Numbers that sum up a deferral curve; docs/cascade.md has each one's formula and source.

All work on R example weightings at once and return f64[R]: the estimate (weights of one) and its bootstrap resamples
go through the same code. Qualities are on the metric's own scale (0 to 100 for accuracy and BLEU). Names that
speak of FLOPs mean the cost, whatever its unit.
"""

from __future__ import annotations

import numpy as np

from cat_jax.cascade.curve import Curve
from cat_jax.cascade.view import View


def rate_name(rate: float) -> str:
    """The metric's name for quality at a deferral rate.

    >>> rate_name(0.3), rate_name(0.125)
    ('quality_at_30', 'quality_at_12.5')
    """
    return f"quality_at_{rate * 100:g}"


def kept_name(share: float) -> str:
    """The metric's name for cost saved while keeping a share of the large model's quality.

    >>> kept_name(0.95)
    'flops_saved_at_95'
    """
    return f"flops_saved_at_{share * 100:g}"


def summarize(
    view: View, curve: Curve, rates: tuple[float, ...], kept: tuple[float, ...], weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Every metric of one curve, f64[R] each; NaN where it is not defined.

    The ideal of `auc_ideal` and `share_of_ideal` is free to route between the tasks of a pooled view, also of one in
    which the curve itself is not, deferring the same rate in each: a share of 1 is then out of its reach.

    Args:
      view: what the curve was drawn from.
      curve: its deferral curve.
      rates: deferral rates at which quality is read off.
      kept: shares of the large model's quality at which saved cost is read off.
      weights: the f64[N, R] example weights of `curve`.
    """
    small, large = curve.quality[:, 0], curve.quality[:, -1]
    area, random = curve.area(), (small + large) / 2
    ideal_curve = view.ideal_curve(weights)
    ideal = np.full_like(area, np.nan) if ideal_curve is None else ideal_curve.area()
    numbers = {
        "small_quality": small,
        "large_quality": large,
        "auc_df": area,
        "auc_random": random,
        "gain_over_random": area - random,
        "gain_over_random_percent": 100 * _ratio(area - random, random),
        "auc_ideal": ideal,
        "share_of_ideal": _ratio(area - random, ideal - random),
        "auroc": auroc(curve),
        "qnc": curve.least_cost(large) / curve.large_cost,
        "small_cost": curve.cost[:, 0] / curve.large_cost,
    }
    numbers |= {rate_name(rate): curve.at_rate(rate) for rate in rates}
    for share in kept:
        numbers[kept_name(share)] = 1 - curve.least_cost(share * large) / curve.large_cost
    return numbers


def auroc(curve: Curve) -> np.ndarray:
    """f64[R]: chance that a right answer is surer than a wrong one, equal confidence counting half.

    Confidences between two thresholds of the curve count as equal. NaN where all answers are right or all wrong.
    """
    right, wrong = curve.right, curve.rate - curve.right  # deferred so far
    won = (np.diff(right, axis=1) * (wrong[:, :-1] + np.diff(wrong, axis=1) / 2)).sum(axis=1)
    return _ratio(won, right[:, -1] * wrong[:, -1])


def against(curve: Curve, baseline: Curve, rate: float) -> dict[str, np.ndarray]:
    """CAT's own two comparisons with a baseline curve, both at the baseline's point of deferral rate `rate`.

    Returns:
      `flops_saved`: f64[R], 1 - C(q) / C_baseline(q), where C is the least cost that reaches the quality q that the
      baseline has there; and `quality_gained`: f64[R], quality more than the baseline's at the cost that it has
      there. A curve has neither against itself.
    """
    quality, cost = baseline.at_rate(rate), baseline.cost_at_rate(rate)
    return {
        "flops_saved": 1 - curve.least_cost(quality) / baseline.least_cost(quality),
        "quality_gained": curve.at_cost(cost) - baseline.at_cost(cost),
    }


def four_cells(view: View) -> dict[str, float] | None:
    """Shares of examples that both, one or none of the models get right; None where right is not defined."""
    right = view.right()
    if right is None:
        return None
    small, large = right
    return {
        "both_right": float((small & large).mean()),
        "small_only_right": float((small & ~large).mean()),
        "large_only_right": float((~small & large).mean()),
        "both_wrong": float((~small & ~large).mean()),
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The ratio; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator != 0)
