"""Draws every student's curve in one scope, on all examples and on resamples of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cat_jax.cascade.bootstrap import Resamples
from cat_jax.cascade.curve import Curve, random_quality
from cat_jax.cascade.inputs import Student
from cat_jax.cascade.summary import against, summarize
from cat_jax.cascade.view import View
from cat_jax.progress import Progress

GRID = np.linspace(0, 1, 101)
"""Deferral rates at which curves are averaged over seeds, kept and drawn."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is read off: deferral rates, shares of quality kept, and the objective that others are compared with."""

    rates: tuple[float, ...] = (0.1, 0.3, 0.5)
    kept: tuple[float, ...] = (0.95,)
    baseline: str = "xent"

    @property
    def headline_rate(self) -> float:
        """The rate of the comparisons at a fixed point: 0.3 if it is read off, else the first."""
        return 0.3 if 0.3 in self.rates else self.rates[0]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One student's numbers under R example weightings."""

    metrics: Mapping[str, np.ndarray]  # f64[R] each
    quality: np.ndarray  # f64[R, G] over GRID

    @staticmethod
    def concatenate(parts: Sequence[Drawn]) -> Drawn:
        """The rows of all parts, one after the other."""
        metrics = {name: np.concatenate([p.metrics[name] for p in parts]) for name in parts[0].metrics}
        return Drawn(metrics, np.concatenate([p.quality for p in parts]))


@dataclasses.dataclass(frozen=True)
class Lines:
    """The lines of one student's picture, f64[G] each over GRID; `ideal` is None where it is not defined."""

    cost: np.ndarray  # mean cost of a query, as a share of the large model's
    random: np.ndarray
    ideal: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Measured:
    """A scope's students: the estimate (R = 1), the resamples (R = 0 if there are none), and the lines."""

    estimate: Mapping[str, Drawn]
    resampled: Mapping[str, Drawn]
    lines: Mapping[str, Lines]


def measure(views: Mapping[str, View], students: Sequence[Student], reading: Reading, resamples: Resamples) -> Measured:
    """Measures `views[student]` of one scope; tells its progress where every resample costs calls of a function."""
    curves = {name: view.curve() for name, view in views.items()}
    point = _draw(views, curves, students, reading, None)
    first = next(iter(views.values()))
    blocks, dear, done = [], first.quality.max_points is not None, 0
    count = resamples.used(dear)
    progress = Progress(f"cascade {' + '.join(first.tasks)}", count, "resamples") if dear and count else None
    for weights in resamples.blocks(first.tasks, first.clusters, dear):
        drawn = {name: view.curve(weights) for name, view in views.items()}
        blocks.append(_draw(views, drawn, students, reading, weights))
        done += weights.shape[1]
        if progress is not None:
            progress.update(done)
    if progress is not None:
        progress.close()
    if not blocks:
        blocks = [{name: _nothing(drawn) for name, drawn in point.items()}]
    resampled = {name: Drawn.concatenate([block[name] for block in blocks]) for name in views}
    return Measured(point, resampled, {name: _lines(view, curves[name]) for name, view in views.items()})


def _draw(
    views: Mapping[str, View],
    curves: Mapping[str, Curve],
    students: Sequence[Student],
    reading: Reading,
    weights: np.ndarray | None,
) -> dict[str, Drawn]:
    """Every student's numbers from its curve, those against the baseline of the same seed included."""
    baselines = {s.seed: curves[s.name] for s in students if s.objective == reading.baseline}
    drawn = {}
    for student in students:
        view, curve = views[student.name], curves[student.name]
        metrics = summarize(view, curve, reading.rates, reading.kept, weights)
        if student.objective != reading.baseline and student.seed in baselines:
            metrics |= against(curve, baselines[student.seed], reading.headline_rate)
        drawn[student.name] = Drawn(metrics, curve.on_grid(GRID))
    return drawn


def _nothing(drawn: Drawn) -> Drawn:
    return Drawn({name: values[:0] for name, values in drawn.metrics.items()}, drawn.quality[:0])


def _lines(view: View, curve: Curve) -> Lines:
    ideal = view.ideal_curve()
    return Lines(
        cost=np.interp(GRID, curve.rate[0], curve.cost[0]) / curve.large_cost[0],
        random=random_quality(curve, GRID)[0],
        ideal=None if ideal is None else ideal.on_grid(GRID)[0],
    )
