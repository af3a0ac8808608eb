"""One small model before one large model, on one task or on several pooled: all that curves and metrics read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from cat_jax.cascade.confidence import ConfidenceRule
from cat_jax.cascade.curve import Curve, deferral_curve
from cat_jax.cascade.pairs import Answers, Pair
from cat_jax.cascade.quality import MetricFunction, Quality, pool_quality, task_quality
from cat_jax.cascade.running import ordering
from cat_jax.errors import UserError

RIGHT = 50.0
"""A score on 0 to 100 counts as a right answer from here on."""


@dataclasses.dataclass(frozen=True)
class View:
    """N examples of one task, or of several tasks one after the other.

    `small_scores` and `large_scores` are each example's own score on 0 to 100; None where the metric is not a mean of
    them, or not on that scale. Without them there is neither an ideal order nor a right or wrong answer.
    """

    tasks: tuple[str, ...]
    clusters: tuple[np.ndarray, ...]  # i64 of each task's examples: equal numbers are resampled together
    confidence: np.ndarray  # f64[N] of the small model
    quality: Quality
    small_cost: np.ndarray  # f64[N], in the unit of the tables
    large_cost: np.ndarray  # f64[N]
    small_scores: np.ndarray | None  # f64[N]
    large_scores: np.ndarray | None  # f64[N]

    def __len__(self) -> int:
        return len(self.confidence)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of examples of each task."""
        return tuple(map(len, self.clusters))

    def curve(self, weights: np.ndarray | None = None) -> Curve:
        """The deferral curve of the small model's confidence; f64[N, R] weights."""
        right = self.right()
        return self._curve(self.confidence, weights, None if right is None else right[0])

    def ideal_curve(self, weights: np.ndarray | None = None) -> Curve | None:
        """The best that any order can do: defers first where the large model gains most, last where it loses."""
        if self.small_scores is None or self.large_scores is None:
            return None
        return self._curve(self.small_scores - self.large_scores, weights, None)

    def _curve(self, confidence: np.ndarray, weights: np.ndarray | None, right: np.ndarray | None) -> Curve:
        return deferral_curve(confidence, self.quality, self.small_cost, self.large_cost, weights, right)

    def right(self) -> tuple[np.ndarray, np.ndarray] | None:
        """bool[N] of the small and of the large model: whether the answer is right."""
        if self.small_scores is None or self.large_scores is None:
            return None
        return self.small_scores >= RIGHT, self.large_scores >= RIGHT

    def deferred_by_task(self, rate: float) -> dict[str, float]:
        """Share of each task's examples among the first `rate` of the order: where the cascade sends its budget."""
        where = ordering(self.confidence)
        task = np.repeat(np.arange(len(self.tasks)), self.sizes)[where.order]
        shares = {}
        for i, name in enumerate(self.tasks):
            deferred = np.concatenate([[0], np.cumsum(task == i)])[where.cuts]
            shares[name] = float(np.interp(rate * len(self), where.cuts, deferred)) / self.sizes[i]
        return shares


def task_view(pair: Pair, rule: ConfidenceRule, scale: float = 1.0, function: MetricFunction | None = None) -> View:
    """The view of one task's joined tables; `scale` and `function` as in `task_quality`."""
    small = large = None
    if pair.kind == "mean":
        small, large = pair.small.numbers("score") * scale, pair.large.numbers("score") * scale
        if min(small.min(), large.min()) < 0 or max(small.max(), large.max()) > 100:
            small = large = None
    return View(
        tasks=(pair.task,),
        clusters=(pair.clusters,),
        confidence=_confidence(pair.small, rule),
        quality=task_quality(pair, scale, function),
        small_cost=pair.small.cost,
        large_cost=pair.large.cost,
        small_scores=small,
        large_scores=large,
    )


def _confidence(small: Answers, rule: ConfidenceRule) -> np.ndarray:
    try:
        return rule(small.table)
    except UserError as e:
        raise UserError(f"the confidence rule {rule} cannot rate {small}: {e.problem}", e.mend) from e


def pool(views: Sequence[View]) -> View:
    """Several tasks under one threshold on the raw confidence: the cascade may route between tasks."""
    small = [v.small_scores for v in views if v.small_scores is not None]
    large = [v.large_scores for v in views if v.large_scores is not None]
    scored = len(small) == len(large) == len(views)
    return View(
        tasks=tuple(task for v in views for task in v.tasks),
        clusters=tuple(clusters for v in views for clusters in v.clusters),
        confidence=np.concatenate([v.confidence for v in views]),
        quality=pool_quality([v.quality for v in views], [len(v) for v in views]),
        small_cost=np.concatenate([v.small_cost for v in views]),
        large_cost=np.concatenate([v.large_cost for v in views]),
        small_scores=np.concatenate(small) if scored else None,
        large_scores=np.concatenate(large) if scored else None,
    )


def pool_at_equal_rates(views: Sequence[View]) -> View:
    """Several tasks, each deferring the same share of its own examples: no routing between tasks."""
    return pool([dataclasses.replace(v, confidence=rank_share(v.confidence)) for v in views])


def rank_share(confidence: np.ndarray) -> np.ndarray:
    """f64[N] in (0, 1]: the share of examples that are at most as sure; equal confidences share the largest.

    >>> rank_share(np.array([-3.0, -1.0, -2.0, -2.0])).tolist()
    [0.25, 1.0, 0.75, 0.75]
    """
    return np.searchsorted(np.sort(confidence), confidence, side="right") / len(confidence)
