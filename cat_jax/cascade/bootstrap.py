"""Paired bootstrap over examples.

A resample is a set of example weights: how often each example was drawn, with replacement, within its task, whose size
stays fixed. Rows that a metric looks at together, such as the answers to one question, are drawn together. Every model
and objective is judged on the same resamples, so the interval of a difference is that of paired numbers (Efron and
Tibshirani 1993; Koehn 2004 for corpus metrics).
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

BLOCK = 2**21
"""Numbers in a block of weights, at most: it should stay near the processor's caches."""

_FEW = 5


@dataclasses.dataclass(frozen=True)
class Resamples:
    """Reproducible resamples of tasks' examples: a function of the seed, the task's name and its clusters, no more.

    Attributes:
      count: how many.
      seed: of the draws.
      dear: how many of them, the first so many, for a metric that is computed anew for each.
    """

    count: int = 1000
    seed: int = 0
    dear: int = 100
    _drawn: dict[tuple[str, int, int], np.ndarray] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def used(self, dear: bool) -> int:
        """How many resamples there are for a metric that is, or is not, computed anew for each."""
        return min(self.count, self.dear) if dear else self.count

    def blocks(self, tasks: Sequence[str], clusters: Sequence[np.ndarray], dear: bool = False) -> Iterator[np.ndarray]:
        """Yields f64[N, R] weights of the examples of `tasks`, one task after the other; `used(dear)` columns in all.

        `clusters` are, by task, the numbers from 0 of what is drawn: of each example, or of several together. Dear ones
        come a few at a time, so that progress can be told.
        """
        count = self.used(dear)
        rows = _FEW if dear else max(1, BLOCK // sum(map(len, clusters)))
        drawn = [self._task(task, of_task) for task, of_task in zip(tasks, clusters, strict=True)] if count else []
        for start in range(0, count, rows):
            end = min(start + rows, count)
            yield np.concatenate([d[:, start:end] for d in drawn]).astype(np.float64)

    def _task(self, task: str, clusters: np.ndarray) -> np.ndarray:
        """Uint8[N, count]: how often each example of a task is drawn, in as many draws as it has clusters."""
        key = (task, len(clusters), zlib.crc32(np.ascontiguousarray(clusters).tobytes()))
        if key not in self._drawn:
            size = int(clusters.max()) + 1
            generator = np.random.default_rng([self.seed, zlib.crc32(task.encode())])
            columns = np.empty((size, self.count), dtype=np.uint8)
            for column in range(self.count):
                columns[:, column] = np.bincount(generator.integers(0, size, size), minlength=size)
            self._drawn[key] = columns[clusters]
        return self._drawn[key]

    def seed_draws(self, seeds: int) -> np.ndarray:
        """i64[count, seeds]: which training seeds each resample draws, with replacement, for the nested interval."""
        return np.random.default_rng([self.seed, seeds]).integers(0, seeds, (self.count, seeds))


def interval(samples: np.ndarray, level: float) -> list[float] | None:
    """The percentile interval of f64[R] resampled values; None if there are none, or one is not finite."""
    if not len(samples) or not np.isfinite(samples).all():
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return [float(low), float(high)]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One number of an objective: its mean over seeds, and how far to trust it."""

    mean: float
    interval: list[float] | None
    """Examples resampled, the trained models held fixed."""
    nested: list[float] | None
    """Examples and training seeds resampled; None with a single seed."""
    spread: float | None
    """Standard deviation over seeds (n - 1); None with a single seed."""
    seeds: dict[str, float]

    def to_dict(self) -> dict:
        """JSON-able."""
        return dataclasses.asdict(self)


def estimate(
    values: Mapping[int, float], samples: Sequence[np.ndarray], resamples: Resamples, level: float
) -> Estimate:
    """Sums up an objective over seeds.

    Args:
      values: the number by training seed.
      samples: f64[R] resampled numbers of each seed, in the order of `values`; empty arrays for no intervals.
      resamples: that the samples came from.
      level: of the intervals, such as 0.95.
    """
    stacked = np.stack(list(samples))  # [S, R]
    nested = None
    if len(values) > 1 and stacked.shape[1]:
        draws = resamples.seed_draws(len(values))[: stacked.shape[1]]  # [R, S]
        nested = interval(np.take_along_axis(stacked.T, draws, axis=1).mean(axis=1), level)
    numbers = np.array(list(values.values()))
    return Estimate(
        mean=float(numbers.mean()),
        interval=interval(stacked.mean(axis=0), level),
        nested=nested,
        spread=float(numbers.std(ddof=1)) if len(values) > 1 else None,
        seeds={str(seed): float(v) for seed, v in values.items()},
    )
