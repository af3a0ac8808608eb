"""Deferral curves: quality and cost of a cascade at every threshold.

The small model answers every query and is always paid for. With threshold t, a query whose confidence is below t is
deferred and the large model answers, and is paid for as well. Queries of equal confidence are deferred together, so a
curve's points are the thresholds that can really be set. Between two points, curves are read off the straight line:
what deferring the tied queries at random would give on average. Cost is in the unit of the tables, FLOPs as a rule.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cat_jax.cascade.quality import Quality
from cat_jax.cascade.running import RESAMPLED_POINTS, Running, no_weights, ordering


@dataclasses.dataclass(frozen=True)
class Curve:
    """R curves over the same P thresholds: one per set of example weights. Ascending in rate and in cost.

    A metric need not be defined of every mixture of answers: quality is NaN there. Such a point reaches no quality, and
    neither the lines to it nor the area are defined.
    """

    thresholds: np.ndarray  # f64[P]
    rate: np.ndarray  # f64[R, P]: share of queries deferred
    quality: np.ndarray  # f64[R, P]
    cost: np.ndarray  # f64[R, P]: mean cost of a query, small model included
    large_cost: np.ndarray  # f64[R]: mean cost of a query that goes straight to the large model
    right: np.ndarray  # f64[R, P]: share of queries that are deferred though the small model is right; NaN if undefined
    rounding: np.ndarray  # f64[R]: qualities that differ by less are equal

    def on_grid(self, rates: np.ndarray) -> np.ndarray:
        """f64[R, G]: quality at each deferral rate of f64[G]."""
        return np.stack([np.interp(rates, x, y) for x, y in zip(self.rate, self.quality, strict=True)])

    def at_rate(self, rate: float) -> np.ndarray:
        """f64[R]: quality at a deferral rate."""
        return _interpolate(np.full(len(self.rate), rate), self.rate, self.quality)

    def cost_at_rate(self, rate: float) -> np.ndarray:
        """f64[R]: mean cost of a query at a deferral rate."""
        return _interpolate(np.full(len(self.rate), rate), self.rate, self.cost)

    def at_cost(self, budget: np.ndarray) -> np.ndarray:
        """f64[R]: quality at a mean cost of f64[R]; NaN below the small model's own cost."""
        return np.where(budget < self.cost[:, 0], np.nan, _interpolate(budget, self.cost, self.quality))

    def reaches(self, wanted: np.ndarray) -> np.ndarray:
        """bool[R, P]: the points whose quality is f64[R] `wanted` or more.

        Not an exact comparison: the ends of a curve are summed directly and the points between them are running sums,
        so two equal qualities may differ by the rounding of N additions.
        """
        return self.quality >= (wanted - self.rounding)[:, None]

    def least_cost(self, wanted: np.ndarray) -> np.ndarray:
        """f64[R]: the least mean cost of a query at which quality reaches f64[R] `wanted`; inf if it never does.

        NaN where `wanted` is.
        """
        reached = self.reaches(wanted)
        first = reached.argmax(axis=1)
        row = np.arange(len(first))
        before = np.maximum(first - 1, 0)
        low, high = self.quality[row, before], self.quality[row, first]
        # All of the way where there is no line, from a point at which quality is not defined.
        share = np.divide(wanted - low, high - low, out=np.ones_like(low), where=high > low).clip(0, 1)
        start = self.cost[row, before]
        cost = np.where(first == 0, self.cost[:, 0], start + share * (self.cost[row, first] - start))
        return np.where(np.isnan(wanted), np.nan, np.where(reached.any(axis=1), cost, np.inf))

    def area(self) -> np.ndarray:
        """f64[R]: integral of quality over the deferral rate, by the trapezoid rule."""
        return np.trapezoid(self.quality, self.rate, axis=1)


def deferral_curve(
    confidence: np.ndarray,
    quality: Quality,
    small_cost: np.ndarray,
    large_cost: np.ndarray,
    weights: np.ndarray | None = None,
    right: np.ndarray | None = None,
) -> Curve:
    """The curve over all thresholds; with weights, over at most RESAMPLED_POINTS of them.

    Args:
      confidence: f64[N] of the small model.
      quality: both models' answers.
      small_cost: f64[N] of answering each example with the small model.
      large_cost: f64[N], with the large one.
      weights: f64[N, R] example weights, whole numbers; every example counts once if absent.
      right: bool[N], whether the small model is right; None if that is not defined.
    """
    most = quality.max_points
    if weights is not None:
        most = min(most or RESAMPLED_POINTS, RESAMPLED_POINTS)
    where = ordering(confidence, most)
    running = Running(where.order, where.cuts, no_weights(len(confidence)) if weights is None else weights)
    columns = [np.ones(len(confidence)), large_cost] + ([] if right is None else [right])
    deferred = running.sums(np.stack(columns, axis=1)) / running.count[:, None, None]  # [R, P, 2 or 3]
    rate, paid = deferred[:, :, 0], deferred[:, :, 1]
    own = running.totals(small_cost[:, None]) / running.count[:, None]  # [R, 1]
    merged = quality.merged(running)
    return Curve(
        thresholds=where.thresholds,
        rate=rate,
        quality=merged,
        cost=own + paid,
        large_cost=paid[:, -1],
        right=np.full_like(rate, np.nan) if right is None else deferred[:, :, 2],
        # N additions err by at most N eps / 2 of the summed magnitudes. A point is small + (large - small), three such
        # sums, and an end one more: less than 2 N eps of the greatest quality. One example moves a mean by far more.
        rounding=2 * len(confidence) * np.finfo(np.float64).eps * _greatest(merged),
    )


def _greatest(quality: np.ndarray) -> np.ndarray:
    """f64[R]: the greatest magnitude in each row of f64[R, P], past what is not defined; 0 where nothing is."""
    return np.fmax.reduce(np.abs(quality), axis=1, initial=0.0)  # nanmax warns of a row of NaN


def _interpolate(wanted: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """f64[R]: the line through (x, y) f64[R, P], ascending in x, at f64[R] `wanted`; its ends beyond them."""
    after = np.clip((x < wanted[:, None]).sum(axis=1), 1, x.shape[1] - 1)
    row = np.arange(len(x))
    x0, x1, y0, y1 = x[row, after - 1], x[row, after], y[row, after - 1], y[row, after]
    share = np.divide(wanted - x0, x1 - x0, out=np.ones_like(x0), where=x1 > x0).clip(0, 1)
    # Not y0 + share * (y1 - y0), which misses y1 by a rounding, and of a defined end makes NaN beside an undefined one.
    return np.where(share == 1, y1, np.where(share == 0, y0, y0 + share * (y1 - y0)))


def random_quality(curve: Curve, rates: np.ndarray) -> np.ndarray:
    """f64[R, G]: the random line, small + rate x (large - small)."""
    small, large = curve.quality[:, :1], curve.quality[:, -1:]
    return small + rates * (large - small)
