"""How a merged output, some answers of the large model and the rest of the small one, is scored.

A `Quality` knows both models' answers to N examples. Of an order of deferral it says the quality at every cut, under R
sets of example weights at once. Metrics that are functions of summed statistics (means, BLEU) cost one pass over
running sums for all points together; any other metric is recomputed on each merged output, so that its curves have few
points and its intervals few resamples.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from cat_jax.cascade.bleu import WIDTH, bleu
from cat_jax.cascade.pairs import Answers, Pair
from cat_jax.cascade.running import Running
from cat_jax.errors import UserError

MetricFunction = Callable[[Sequence[str], pa.Table, str], float]
"""(predictions[N], the table's rows without their per-token columns, the split) -> the metric of this output."""

PER_TOKEN = ("prediction_tokens", "token_logprobs", "token_entropies", "token_margins")
"""Columns that no metric of an output needs, and most of the bytes of a table."""


class Quality(Protocol):
    """Two models' answers to N examples, and the metric of any mixture of them."""

    @property
    def max_points(self) -> int | None:
        """The most points of a curve worth asking for; None if they cost next to nothing."""
        ...

    def merged(self, running: Running) -> np.ndarray:
        """f64[R, P]: the metric when the examples before each cut are answered by the large model."""
        ...


@dataclasses.dataclass(frozen=True)
class SumQuality:
    """A metric that is a function of statistics summed over examples.

    Attributes:
      small: f64[N, D], the small model's statistics.
      large: f64[N, D], the large model's.
      value: (sums f64[..., D], number of examples f64[...]) -> f64[...].
    """

    small: np.ndarray
    large: np.ndarray
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]
    max_points: int | None = None

    def merged(self, running: Running) -> np.ndarray:
        """See `Quality.merged`. No deferral and full deferral are exactly each model's own metric."""
        if running.single:
            none, every = running.totals(self.small), running.totals(self.large)  # [1, D]
            sums = none[:, None] + running.sums(self.large - self.small)
            # Summed directly, not small + (large - small), so that the ends carry no rounding.
            sums[:, running.cuts == 0] = none[:, None]
            sums[:, running.cuts == len(running.order)] = every[:, None]
        else:
            none = running.totals(self.small)
            sums = none[:, None] + running.sums(self.large - self.small)
        return self.value(sums, running.count[:, None])


def mean_value(sums: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The mean of the first statistic."""
    return sums[..., 0] / count


def bleu_value(sums: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Corpus BLEU; the number of examples does not enter."""
    del count
    return bleu(sums)


@dataclasses.dataclass(frozen=True)
class FunctionQuality:
    """Any metric: recomputed on every merged output, so on few thresholds. A weight w repeats an example w times.

    Attributes:
      small: the small model's table.
      large: the large model's, row by row of the same examples.
      function: the metric.
      split: of the tables.
      scale: factor on what the function says.
    """

    small: pa.Table
    large: pa.Table
    function: MetricFunction
    split: str = "test"
    scale: float = 1.0
    max_points: int | None = 21

    @functools.cached_property
    def _both(self) -> pa.Table:
        """The rows of both tables, one after the other."""
        both = pa.concat_tables([self.small, self.large])
        return both.drop_columns([name for name in PER_TOKEN if name in both.column_names]).combine_chunks()

    def merged(self, running: Running) -> np.ndarray:
        """See `Quality.merged`; R x P calls of the function."""
        count = len(running.order)
        rank = np.empty(count, dtype=np.int64)
        rank[running.order] = np.arange(count)
        quality = np.empty((running.weights.shape[1], len(running.cuts)))
        for r, repeats in enumerate(running.weights.T.astype(np.int64)):
            rows = np.repeat(np.arange(count), repeats)
            for p, cut in enumerate(running.cuts):
                merged = self._both.take(pa.array(np.where(rank[rows] < cut, rows + count, rows)))
                quality[r, p] = self.function(merged.column("prediction").to_pylist(), merged, self.split)
        return self.scale * quality


@dataclasses.dataclass(frozen=True)
class MacroQuality:
    """The plain mean of several tasks' metrics, under one order over the examples of all.

    Attributes:
      parts: each task's quality; its examples follow those of the task before it.
      sizes: the number of examples of each.
    """

    parts: Sequence[Quality]
    sizes: Sequence[int]

    @property
    def max_points(self) -> int | None:
        """That of the dearest part."""
        return min((p.max_points for p in self.parts if p.max_points is not None), default=None)

    def merged(self, running: Running) -> np.ndarray:
        """See `Quality.merged`."""
        total, start = 0.0, 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            inside = (running.order >= start) & (running.order < start + size)
            deferred = np.concatenate([[0], np.cumsum(inside)])[running.cuts]
            weights = running.weights[start : start + size]
            total = total + part.merged(Running(running.order[inside] - start, deferred, weights))
            start += size
        return np.asarray(total) / len(self.parts)


def score_scale(tables: Sequence[Answers]) -> float:
    """100 for scores on 0 to 1 in every table, else 1: curves and reports are on 0 to 100.

    Of a metric that is no mean of scores, what the tables state is looked at, where they do: it need not be defined of
    every model's answers. BLEU is on 0 to 100 by itself.
    """
    values = [t.numbers("score") for t in tables if t.info.metric_kind == "mean"]
    values += [
        np.array([t.info.metrics.get(t.info.metric, np.nan)]) for t in tables if t.info.metric_kind == "function"
    ]
    scores = np.concatenate([np.empty(0), *values])
    scores = scores[~np.isnan(scores)]
    return 100.0 if len(scores) and scores.min() >= 0 and scores.max() <= 1 else 1.0


def task_quality(pair: Pair, scale: float = 1.0, function: MetricFunction | None = None) -> Quality:
    """The quality that the task's own kind of metric asks for.

    Args:
      pair: the joined tables.
      scale: factor on the scores of a "mean" metric, and on the values of a "function".
      function: the metric of a "function" task.

    Raises:
      UserError: the tables lack what the kind needs.
    """
    if pair.kind == "mean":
        small, large = (side.numbers("score")[:, None] * scale for side in (pair.small, pair.large))
        return SumQuality(small, large, mean_value)
    if pair.kind == "bleu":
        return SumQuality(_statistics(pair.small), _statistics(pair.large), bleu_value)
    if function is None:
        raise UserError(
            f"the metric {pair.large.info.metric} of {pair.task} can only be scored by the task's own function",
            "give it in functions",
        )
    return FunctionQuality(pair.small.table, pair.large.table, function, pair.large.info.split, scale)


def _statistics(answers: Answers) -> np.ndarray:
    """f64[N, 10]: BLEU's sufficient statistics of each example."""
    rows = answers.table.column("statistics").to_pylist()
    if any(row is None or len(row) != WIDTH for row in rows):
        raise UserError(
            f"{answers} lacks the {WIDTH} BLEU statistics of some row",
            "delete that table and evaluate this model again",
        )
    return np.array(rows, dtype=np.float64)


def pool_quality(parts: Sequence[Quality], sizes: Sequence[int]) -> Quality:
    """Several tasks as one: the mean over all examples if every task's metric is a mean, else the mean of tasks."""
    if all(isinstance(p, SumQuality) and p.value is mean_value for p in parts):
        sums = [p for p in parts if isinstance(p, SumQuality)]
        return SumQuality(np.concatenate([p.small for p in sums]), np.concatenate([p.large for p in sums]), mean_value)
    return MacroQuality(parts, sizes)
