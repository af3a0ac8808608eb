"""Speed of training: what a stretch of steps took, without evaluations and saves."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import jax

from cat_jax.train.chips import peak_flops


class Clock:
    """Measures from one `lap` to the next.

    Args:
      flops_per_step: model FLOPs of one step over the whole batch; None if not known.
      num_devices: how many devices share a step.
      now: a monotonic clock, in seconds.
    """

    def __init__(self, flops_per_step: float | None, num_devices: int, now: Callable[[], float] = time.perf_counter):
        self._now = now
        peak = peak_flops(jax.devices()[0].device_kind)
        self._flops = flops_per_step
        self._peak = peak * num_devices if peak else None
        self.restart(0)

    def restart(self, step: int) -> None:
        """Begins a stretch after `step` steps."""
        self._step, self._since, self._paused = step, self._now(), 0.0

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves out what happens inside."""
        began = self._now()
        yield
        self._paused += self._now() - began

    def lap(self, step: int, tokens_per_step: float) -> dict[str, float]:
        """The speed since the last lap, in steps of `tokens_per_step` tokens on average; begins another stretch."""
        seconds = max(1e-9, self._now() - self._since - self._paused)
        steps = step - self._step
        rate = steps / seconds
        timing = {"seconds": seconds, "steps_per_second": rate, "tokens_per_second": tokens_per_step * rate}
        if self._flops and self._peak:
            timing["mfu"] = self._flops * steps / seconds / self._peak
        self.restart(step)
        return timing
