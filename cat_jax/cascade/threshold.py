"""Thresholds: picked on validation, reported on test.

A threshold is a number on the confidence's own scale: queries less sure than it go to the large model. It is picked so
that the validation split meets a target; what it does on test (how many are deferred, how good, how dear) is measured.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from cat_jax.cascade.running import Running, no_weights
from cat_jax.cascade.view import View
from cat_jax.errors import UserError

_KINDS = {
    "rate": "defer at most {} of queries",
    "quality": "reach {} of the large model's quality",
    "cost": "spend at most {} of the large model's {unit}",
    "flops": "spend at most {} of the large model's {unit}",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """What a threshold is for: a deferral rate, or a share of the large model's quality or cost."""

    kind: str  # "rate", "quality", or "cost", which may be called "flops" too
    value: float

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}"

    def words(self, unit: str = "FLOPs") -> str:
        """The target as a sentence of the report, `unit` being that of the cost.

        >>> Target("rate", 0.3).words()
        'defer at most 30 % of queries'
        """
        return _KINDS[self.kind].format(f"{self.value * 100:g} %", unit=unit)


def parse_target(text: str) -> Target:
    """The target that `text` names, such as `rate=0.3`, `quality=0.95` or `cost=0.5`.

    Raises:
      UserError: another spelling, or a number that cannot be met by any threshold.
    """
    match = re.fullmatch(r"\s*(\w+)\s*=\s*([0-9.eE+-]+)\s*", text)
    mend = "write rate=0.3, quality=0.95 or cost=0.5"
    if match is None or match[1] not in _KINDS:
        raise UserError(f"no threshold target is spelt {text!r}", mend)
    try:
        value = float(match[2])
    except ValueError as e:
        raise UserError(f"threshold target {text!r} has no number", mend) from e
    if not np.isfinite(value) or value < 0 or (match[1] == "rate" and value > 1):
        raise UserError(f"threshold target {text!r} cannot be met", mend)
    return Target(match[1], value)


def pick(view: View, target: Target) -> float | None:
    """The threshold that meets `target` on this (validation) view; None if none does.

    A rate or a budget is never exceeded: the largest threshold within it. A quality is reached as cheaply as
    possible: the smallest threshold that has it.
    """
    curve = view.curve()
    if target.kind == "quality":
        meets = np.flatnonzero(curve.reaches(target.value * curve.quality[:, -1])[0])
        return float(curve.thresholds[meets[0]]) if len(meets) else None
    spent = curve.rate[0] if target.kind == "rate" else curve.cost[0] / curve.large_cost[0]
    meets = np.flatnonzero(spent <= target.value)
    return float(curve.thresholds[meets[-1]]) if len(meets) else None


def apply(view: View, threshold: float, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What a fixed threshold does on a view: f64[R] deferral `rate`, `quality`, `flops` (share of the large's cost).

    `weights` are f64[N, R]; every example counts once if absent.
    """
    deferred = view.confidence < threshold
    order = np.argsort(~deferred, kind="stable")
    cut = np.array([np.count_nonzero(deferred)])
    running = Running(order, cut, no_weights(len(view)) if weights is None else weights)
    totals = running.totals(
        np.stack([deferred, view.small_cost + deferred * view.large_cost, view.large_cost], axis=1)
    )  # [R, 3]
    return {
        "rate": totals[:, 0] / running.count,
        "quality": view.quality.merged(running)[:, 0],
        "flops": totals[:, 1] / totals[:, 2],
    }
