"""Orders of deferral, the places where a threshold can cut them, and sums over everything before each cut.

Sums are taken under R sets of example weights at once: f64[N, R], one column per set. A bootstrap resample is a set of
whole numbers, how often each example was drawn.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

RESAMPLED_POINTS = 201
"""Points of a resampled curve: thresholds spread evenly over the order, both ends included."""

FEW = 6
"""Up to so many cuts, sums are taken without reordering the weights."""


@dataclasses.dataclass(frozen=True)
class Ordering:
    """The order in which examples are deferred, and where it can be cut."""

    order: np.ndarray  # i64[N]: example indices, first to defer first
    cuts: np.ndarray  # i64[P]: ascending numbers of deferred examples, each in 0..N
    thresholds: np.ndarray  # f64[P]: defers exactly those below it; -inf for none, inf for all


def ordering(confidence: np.ndarray, max_points: int | None = None) -> Ordering:
    """The ordering of f64[N] confidences: a cut at every threshold, or with `max_points` at that many, spread evenly.

    Equal confidences are never parted. The first cut defers none, the last all.
    """
    order = np.argsort(confidence, kind="stable")
    ascending = confidence[order]
    cuts = np.concatenate([[0], np.flatnonzero(ascending[1:] > ascending[:-1]) + 1, [len(order)]])
    if max_points is not None and len(cuts) > max_points:
        wanted = np.linspace(0, len(order), max_points)
        after = np.searchsorted(cuts, wanted)
        before = np.maximum(after - 1, 0)
        nearest = np.where(wanted - cuts[before] < cuts[after] - wanted, before, after)
        cuts = cuts[np.unique(nearest)]
    thresholds = np.concatenate([[-np.inf], ascending[cuts[1:-1]], [np.inf]])
    return Ordering(order, cuts, thresholds)


@dataclasses.dataclass(frozen=True)
class Running:
    """An order cut at P places, under R sets of weights."""

    order: np.ndarray  # i64[N]
    cuts: np.ndarray  # i64[P]
    weights: np.ndarray  # f64[N, R], in the examples' own order

    @functools.cached_property
    def ordered(self) -> np.ndarray:
        """f64[N, R]: the weights in the order of deferral."""
        return self.weights[self.order]

    @functools.cached_property
    def count(self) -> np.ndarray:
        """f64[R]: the number of examples, each as often as it counts."""
        return self.weights.sum(axis=0)

    @property
    def single(self) -> bool:
        """Whether there is one set of weights: then all is exact, and nothing is done for speed."""
        return self.weights.shape[1] == 1

    def totals(self, values: np.ndarray) -> np.ndarray:
        """f64[R, D]: weighted sums of f64[N, D] over all examples, in the examples' own order."""
        return _product(self.weights, values)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """f64[R, P, D]: weighted sums of f64[N, D] over the first `cuts[p]` examples of the order."""
        ordered = values[self.order]
        if self.single:
            running = np.cumsum(self.ordered * ordered, axis=0)
            return np.concatenate([np.zeros_like(ordered[:1]), running])[self.cuts][None]
        if len(self.cuts) <= FEW:
            # Masks the values where that is cheaper than to reorder the weights, which are many more.
            rank = np.empty(len(self.order), dtype=np.int64)
            rank[self.order] = np.arange(len(self.order))
            sums = np.zeros((self.weights.shape[1], len(self.cuts), values.shape[1]))
            some = np.flatnonzero(self.cuts)
            if not len(some):
                return sums
            masked = values[:, None, :] * (rank[:, None] < self.cuts[some])[:, :, None]  # [N, P, D]
            sums[:, some] = self.totals(masked.reshape(len(values), -1)).reshape(-1, len(some), values.shape[1])
            return sums
        edges = itertools.pairwise([0, *self.cuts.tolist()])
        blocks = np.stack([self.ordered[a:b].T @ ordered[a:b] for a, b in edges])  # [P, R, D]
        return np.cumsum(blocks, axis=0).transpose(1, 0, 2)


def _product(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """f64[R, D]: weights f64[N, R] transposed times values f64[N, D].

    In blocks too small for the BLAS library to wake its threads: on a busy machine they wait for one another, and
    the plain product of such thin matrices takes ten times as long.
    """
    count, sets = weights.shape
    width = values.shape[1]
    if width == 1 and sets > 1:
        return np.einsum("nr,n->r", weights, values[:, 0])[:, None]
    rows = max(1, 2**17 // (sets * width))
    whole = count // rows * rows
    left = values[:whole].reshape(-1, rows, width).transpose(0, 2, 1)
    total = np.matmul(left, weights[:whole].reshape(-1, rows, sets)).sum(axis=0)
    return (total + values[whole:].T @ weights[whole:]).T


def no_weights(count: int) -> np.ndarray:
    """f64[N, 1]: every example counts once."""
    return np.ones((count, 1))
