"""Deferral curves: quality and cost of a cascade at every threshold.

The small model answers every query and is always paid for. With threshold t, a query whose confidence is below t is
deferred and the large model answers, and is paid for as well. Queries of equal confidence are deferred together, so a
curve's points are the thresholds that can really be set. Between two points, curves are read off the straight line:
what deferring the tied queries at random would give on average.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cat_jax.cascade.quality import Quality, running_sums


@dataclasses.dataclass(frozen=True)
class Ordering:
    """The order in which examples are deferred, and where it can be cut."""

    order: np.ndarray  # i64[N]: least sure first
    cuts: np.ndarray  # i64[P]: numbers of deferred examples that a threshold can give; 0 first, N last
    thresholds: np.ndarray  # f64[P]: defers exactly those below it; -inf for none, inf for all


def ordering(confidence: np.ndarray, max_points: int | None = None) -> Ordering:
    """The ordering of f64[N] confidences; with `max_points`, only that many cuts, spread evenly."""
    order = np.argsort(confidence, kind="stable")
    ascending = confidence[order]
    cuts = np.concatenate([[0], np.flatnonzero(ascending[1:] > ascending[:-1]) + 1, [len(order)]])
    if max_points is not None and len(cuts) > max_points:
        wanted = np.linspace(0, len(order), max_points)
        cuts = np.unique(cuts[np.abs(cuts[:, None] - wanted).argmin(axis=0)])
    thresholds = np.concatenate([[-np.inf], ascending[cuts[1:-1]], [np.inf]])
    return Ordering(order, cuts, thresholds)


@dataclasses.dataclass(frozen=True)
class Curve:
    """R curves over the same P thresholds: one per set of example weights. Ascending in rate and in FLOPs."""

    thresholds: np.ndarray  # f64[P]
    rate: np.ndarray  # f64[R, P]: share of queries deferred
    quality: np.ndarray  # f64[R, P]
    flops: np.ndarray  # f64[R, P]: mean FLOPs of a query, small model included
    large_flops: np.ndarray  # f64[R]: mean FLOPs of a query that goes straight to the large model

    def at_rate(self, rates: np.ndarray) -> np.ndarray:
        """f64[R, G]: quality at each deferral rate of f64[G]."""
        return np.stack([np.interp(rates, x, y) for x, y in zip(self.rate, self.quality, strict=True)])

    def flops_at_rate(self, rates: np.ndarray) -> np.ndarray:
        """f64[R, G]: mean FLOPs of a query at each deferral rate of f64[G]."""
        return np.stack([np.interp(rates, x, y) for x, y in zip(self.rate, self.flops, strict=True)])

    def at_flops(self, budget: np.ndarray) -> np.ndarray:
        """f64[R]: quality at a mean cost of f64[R] FLOPs; NaN below the small model's own cost."""
        rows = zip(budget, self.flops, self.quality, strict=True)
        return np.array([np.interp(b, x, y, left=np.nan) for b, x, y in rows])

    def least_flops(self, wanted: np.ndarray) -> np.ndarray:
        """f64[R]: the least mean FLOPs of a query at which quality reaches f64[R] `wanted`; inf if it never does."""
        reached = self.quality >= wanted[:, None]
        first = reached.argmax(axis=1)
        row = np.arange(len(first))
        before = np.maximum(first - 1, 0)
        low, high = self.quality[row, before], self.quality[row, first]
        share = np.divide(wanted - low, high - low, out=np.zeros_like(low), where=high > low)
        start = self.flops[row, before]
        cost = np.where(first == 0, self.flops[:, 0], start + share * (self.flops[row, first] - start))
        return np.where(reached.any(axis=1), cost, np.inf)

    def area(self) -> np.ndarray:
        """f64[R]: integral of quality over the deferral rate, by the trapezoid rule."""
        return np.trapezoid(self.quality, self.rate, axis=1)


def deferral_curve(
    confidence: np.ndarray,
    quality: Quality,
    small_flops: np.ndarray,
    large_flops: np.ndarray,
    weights: np.ndarray | None = None,
) -> Curve:
    """The curve over all thresholds.

    Args:
      confidence: f64[N] of the small model.
      quality: both models' answers.
      small_flops: f64[N] of answering each example with the small model.
      large_flops: f64[N], with the large one.
      weights: f64[R, N] example weights, whole numbers; one row of ones if absent.
    """
    if weights is None:
        weights = np.ones((1, len(confidence)))
    where = ordering(confidence, quality.max_points)
    count = weights.sum(axis=1)
    deferred = running_sums(np.ones(len(confidence)), where.order, where.cuts, weights)
    paid = running_sums(large_flops, where.order, where.cuts, weights)
    return Curve(
        thresholds=where.thresholds,
        rate=deferred / count[:, None],
        quality=quality.merged(where.order, where.cuts, weights),
        flops=((weights @ small_flops)[:, None] + paid) / count[:, None],
        large_flops=weights @ large_flops / count,
    )


def random_quality(curve: Curve, rates: np.ndarray) -> np.ndarray:
    """f64[R, G]: the random line, small + rate x (large - small)."""
    small, large = curve.quality[:, :1], curve.quality[:, -1:]
    return small + rates * (large - small)
