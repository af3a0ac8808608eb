"""Learning-rate schedules: t5x's product of factors, linear decay, cosine decay."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import Any

import jax
import jax.numpy as jnp

from cat_jax.errors import UserError

FACTORS = (
    "constant",
    "linear_warmup",
    "linear_decay",
    "rsqrt_decay",
    "rsqrt_normalized_decay",
    "decay_every",
    "cosine_decay",
)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The product of named factors, with t5x's names and meanings (t5x/utils.py, create_learning_rate_scheduler).

    With s = max(0, step - step_offset), where step counts the updates before this one:
      constant                base_learning_rate
      linear_warmup           min(1, s / warmup_steps)
      linear_decay            base_learning_rate * min(s / warmup_steps, 1 + decay_factor * (warmup_steps - s))
      rsqrt_decay             1 / sqrt(max(s, warmup_steps))
      rsqrt_normalized_decay  sqrt(warmup_steps) / sqrt(max(s, warmup_steps))
      decay_every             decay_factor ** (s // steps_per_decay)
      cosine_decay            (1 + cos(pi * (max(0, s - warmup_steps) / steps_per_cycle mod 1))) / 2
    The result is at least min_learning_rate.

    >>> float(Schedule(base_learning_rate=2.0, warmup_steps=100)(400))  # 2 * 1 / sqrt(400)
    0.10000000149011612
    """

    factors: str = "constant * linear_warmup * rsqrt_decay"
    base_learning_rate: float = 0.5
    warmup_steps: int = 1000
    decay_factor: float = 0.5
    steps_per_decay: int = 20_000
    steps_per_cycle: int = 100_000
    step_offset: int = 0
    min_learning_rate: float = 1e-8

    def __post_init__(self):
        """Refuses unknown factors and numbers out of range, by name."""
        for name in self._names():
            if name not in FACTORS:
                close = difflib.get_close_matches(name, FACTORS, n=1)
                mend = f"did you mean {close[0]!r}?" if close else f"use {', '.join(FACTORS)}, joined by *"
                raise UserError(f"Schedule.factors has no factor {name!r}", mend)
        _check(self, "base_learning_rate", 0.0)
        _check(self, "min_learning_rate", 0.0)
        _check(self, "step_offset", 0)
        for field in ("warmup_steps", "steps_per_decay", "steps_per_cycle"):
            _check(self, field, 1)

    def __call__(self, step: Any) -> jax.Array:
        """f32[]: the learning rate of the update that follows `step` updates."""
        s = jnp.maximum(0, jnp.asarray(step, jnp.int32) - self.step_offset).astype(jnp.float32)
        warmup = float(self.warmup_steps)
        rate = jnp.float32(1.0)
        for name in self._names():
            if name == "constant":
                rate *= self.base_learning_rate
            elif name == "linear_warmup":
                rate *= jnp.minimum(1.0, s / warmup)
            elif name == "linear_decay":
                rate *= self.base_learning_rate * jnp.minimum(s / warmup, 1.0 + self.decay_factor * (warmup - s))
            elif name == "rsqrt_decay":
                rate /= jnp.sqrt(jnp.maximum(s, warmup))
            elif name == "rsqrt_normalized_decay":
                rate *= math.sqrt(warmup) / jnp.sqrt(jnp.maximum(s, warmup))
            elif name == "decay_every":
                rate *= self.decay_factor ** jnp.floor(s / self.steps_per_decay)
            else:
                progress = jnp.maximum(0.0, s - warmup) / self.steps_per_cycle
                rate *= 0.5 * (1.0 + jnp.cos(jnp.pi * (progress % 1.0)))
        return jnp.maximum(rate, self.min_learning_rate)

    def _names(self) -> list[str]:
        return [name.strip() for name in self.factors.split("*")]


@dataclasses.dataclass(frozen=True)
class _WarmupThenDecay:
    """From 0 up to `peak` in `warmup_steps`, then down to `end` at `total_steps`, and `end` from there on.

    Attributes:
      peak: the largest learning rate.
      total_steps: updates until `end` is reached, the warm-up included.
      warmup_steps: updates until `peak` is reached; 0 starts there.
      end: the last learning rate.
    """

    peak: float
    total_steps: int
    warmup_steps: int = 0
    end: float = 0.0

    def __post_init__(self):
        """Refuses numbers out of range, by name."""
        _check(self, "peak", 0.0)
        _check(self, "end", 0.0)
        _check(self, "warmup_steps", 0)
        if isinstance(self.total_steps, int) and 0 < self.total_steps <= self.warmup_steps:
            name = type(self).__name__
            raise UserError(
                f"{name}.total_steps (TRAIN_STEPS, as a rule) is {self.total_steps}, all within "
                f"{name}.warmup_steps, {self.warmup_steps}",
                "give more steps, or a shorter warm-up",
            )
        _check(self, "total_steps", 1)

    def __call__(self, step: Any) -> jax.Array:
        """f32[]: the learning rate of the update that follows `step` updates."""
        s = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((s - self.warmup_steps) / (self.total_steps - self.warmup_steps), 0.0, 1.0)
        decayed = self.end + (self.peak - self.end) * self._remaining(progress)
        return jnp.where(s < self.warmup_steps, self.peak * s / max(1, self.warmup_steps), decayed)

    def _remaining(self, progress: jax.Array) -> jax.Array:
        raise AssertionError("a subclass says how")


@dataclasses.dataclass(frozen=True)
class LinearDecay(_WarmupThenDecay):
    """Linear warm-up, then linear decay.

    >>> [round(float(LinearDecay(peak=1.0, total_steps=10, warmup_steps=2)(s)), 3) for s in (0, 1, 2, 6, 10, 11)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    def _remaining(self, progress: jax.Array) -> jax.Array:
        return 1.0 - progress


@dataclasses.dataclass(frozen=True)
class CosineDecay(_WarmupThenDecay):
    """Linear warm-up, then half a cosine.

    >>> [round(float(CosineDecay(peak=1.0, total_steps=10, warmup_steps=2)(s)), 3) for s in (1, 2, 4, 6, 10)]
    [0.5, 1.0, 0.854, 0.5, 0.0]
    """

    def _remaining(self, progress: jax.Array) -> jax.Array:
        return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def _check(config: Any, field: str, least: float) -> None:
    """Raises a UserError unless the field is a finite number of at least `least`, and whole where `least` is."""
    value = getattr(config, field)
    kinds = int if isinstance(least, int) else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or value < least:
        kind = "whole number" if isinstance(least, int) else "number"
        raise UserError(f"{type(config).__name__}.{field} is {value!r}", f"give a {kind} of at least {least:g}")
