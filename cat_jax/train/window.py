"""The metrics of the steps since the last log: kept on the device, fetched late, added in f64, checked."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cat_jax.errors import NonFiniteError
from cat_jax.losses.metrics import summarize
from cat_jax.train.packed import PackedMetrics

SCALARS = ("loss_sum", "weight_sum", "grad_norm", "learning_rate", "input_tokens", "teacher_failures")
"""What a step reports beside `LossOutput.sums`."""


class MetricWindow:
    """Adds up steps until they are logged.

    The newest steps stay on the device, so that the host runs ahead of it. What was added is part of a checkpoint:
    the line that a resumed run logs next is the line that an undisturbed run would have logged.

    Args:
      state: of a checkpoint; None starts empty.
      teacher: the name of a live one, for messages.
    """

    def __init__(self, state: Mapping[str, Any] | None = None, teacher: str = ""):
        self._teacher = teacher
        self._pending: collections.deque[tuple[int, PackedMetrics]] = collections.deque()
        self._steps = 0
        self._learning_rate = 0.0
        self._totals: dict[str, np.ndarray] = {}
        if state is not None:
            self._steps, self._learning_rate = state["steps"], state["learning_rate"]
            self._totals = {name: np.asarray(total, np.float64) for name, total in state["totals"].items()}

    def add(self, step: int, metrics: PackedMetrics) -> None:
        """Takes the metrics of update number `step` without waiting for them."""
        self._pending.append((step, metrics))

    def settle(self, leave: int = 0) -> int:
        """Fetches and adds all but the newest `leave` steps; waits for them if need be.

        Returns:
          How many steps are added up since the last `take`.

        Raises:
          NonFiniteError: the loss, the gradient norm or a number of the teacher is NaN or infinite in a step; the first
            such step is named.
        """
        while len(self._pending) > leave:
            step, packed = self._pending.popleft()
            metrics = packed.fetch()
            self._check_finite(step, metrics)
            self._learning_rate = float(metrics.pop("learning_rate"))
            self._steps += 1
            for name, value in metrics.items():
                self._totals[name] = self._totals.get(name, 0.0) + value
        return self._steps

    def empty(self) -> bool:
        """Whether no step was added since the last `take`."""
        return self._steps == 0 and not self._pending

    def take(self, task_names: Sequence[str]) -> dict[str, float]:
        """The scalars of all steps since the last call, which are then forgotten: means over tokens, not over steps."""
        self.settle()
        sums = {name: total for name, total in self._totals.items() if name not in SCALARS}
        scalars = summarize(sums, task_names)
        scalars["grad_norm"] = float(self._totals["grad_norm"]) / self._steps
        scalars["learning_rate"] = self._learning_rate
        scalars["input_tokens"] = float(self._totals["input_tokens"])
        self._steps, self._totals = 0, {}
        return scalars

    def state(self) -> dict[str, Any]:
        """JSON-able, exact."""
        self.settle()
        totals = {name: total.tolist() for name, total in self._totals.items()}
        return {"steps": self._steps, "learning_rate": self._learning_rate, "totals": totals}

    def _check_finite(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        failures = float(metrics["teacher_failures"])
        if failures > 0:
            raise NonFiniteError(
                f"the teacher {self._teacher} gives numbers that are not finite for {failures:g} target tokens of step "
                f"{step}",
                "choose another checkpoint of it, or dtype float32; checkpoints of this run saved before are sound",
            )
        loss, norm = float(metrics["loss_sum"]), float(metrics["grad_norm"])
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = "loss" if not math.isfinite(loss) else "gradient norm"
            raise NonFiniteError(
                f"the {what} of step {step} is not finite (loss sum {loss:g}, gradient norm {norm:g})",
                "lower the learning rate, set max_grad_norm, or look at its data; checkpoints saved before are sound",
            )
