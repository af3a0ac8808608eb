"""Optimizers as configurations: what gin binds, and the optax transform that it means."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from cat_jax.errors import UserError
from cat_jax.train.matrices import ParameterAxes, as_matrices

LearningRate = float | Callable[[Any], jax.Array]
"""A constant, or a schedule: updates so far -> learning rate."""


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101).

    Attributes:
      learning_rate: a number or a schedule.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      weight_decay: times the learning rate, per update.
      decay_exclude: regular expressions; a parameter whose name one of them is found in is not decayed.
      max_grad_norm: gradients are scaled down to this global norm where theirs is larger; None leaves them.
    """

    learning_rate: LearningRate = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_exclude: Sequence[str] = ("norm", "relative")
    max_grad_norm: float | None = None

    def __post_init__(self):
        """Refuses numbers out of range, by name."""
        _check_common(self)
        for field in ("b1", "b2"):
            _check(self, field, lambda x: 0 <= x < 1, "in [0, 1)")
        _check(self, "eps", lambda x: x > 0, "above 0")
        _check(self, "weight_decay", lambda x: x >= 0, "of at least 0")

    def build(self, axes: ParameterAxes | None = None) -> optax.GradientTransformation:
        """The transform, over parameters by name; their axes do not matter."""
        del axes
        return _clipped(
            optax.adamw(
                self.learning_rate,
                b1=self.b1,
                b2=self.b2,
                eps=self.eps,
                weight_decay=self.weight_decay,
                mask=decay_mask(self.decay_exclude),
            ),
            self.max_grad_norm,
        )


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Adafactor (Shazeer and Stern 2018, arXiv 1804.04235) as t5x sets it: factored, relative steps, no momentum.

    Attention kernels are factored as matrices, see `train.matrices`.

    Attributes:
      learning_rate: a number or a schedule; times the parameter's own scale if `multiply_by_parameter_scale`.
      decay_rate: the second moment decays by 1 - t ** -decay_rate at update t.
      clipping_threshold: largest root mean square of a parameter's update; None leaves it.
      multiply_by_parameter_scale: make steps relative to the root mean square of each parameter.
      min_dim_size_to_factor: second moments are factored where the two largest dimensions are at least this.
      momentum: decay of the first moment; None keeps none.
      weight_decay: per update, not times the learning rate; None is none.
      decay_exclude: regular expressions; a parameter whose name one of them is found in is not decayed.
      eps: added to squared gradients.
      max_grad_norm: gradients are scaled down to this global norm where theirs is larger; None leaves them.
    """

    learning_rate: LearningRate = 1e-3
    decay_rate: float = 0.8
    clipping_threshold: float | None = 1.0
    multiply_by_parameter_scale: bool = True
    min_dim_size_to_factor: int = 128
    momentum: float | None = None
    weight_decay: float | None = None
    decay_exclude: Sequence[str] = ("norm", "relative")
    eps: float = 1e-30
    max_grad_norm: float | None = None

    def __post_init__(self):
        """Refuses numbers out of range, by name."""
        _check_common(self)
        _check(self, "decay_rate", lambda x: 0 < x <= 1, "in (0, 1]")
        _check(self, "min_dim_size_to_factor", lambda x: x >= 1, "of at least 1")
        _check(self, "eps", lambda x: x > 0, "above 0")
        for field in ("clipping_threshold", "momentum", "weight_decay"):
            if getattr(self, field) is not None:
                _check(self, field, lambda x: x > 0, "above 0, or None")

    def build(self, axes: ParameterAxes | None = None) -> optax.GradientTransformation:
        """The transform, over parameters by name; without their logical axes all keep their shapes."""
        transform = optax.adafactor(
            self.learning_rate,
            min_dim_size_to_factor=self.min_dim_size_to_factor,
            decay_rate=self.decay_rate,
            multiply_by_parameter_scale=self.multiply_by_parameter_scale,
            clipping_threshold=self.clipping_threshold,
            momentum=self.momentum,
            weight_decay_rate=self.weight_decay,
            eps=self.eps,
            weight_decay_mask=decay_mask(self.decay_exclude),
        )
        return _clipped(as_matrices(transform, axes or {}), self.max_grad_norm)


OptimizerConfig = AdamW | Adafactor


def learning_rate_at(config: OptimizerConfig, step: Any) -> jax.Array | float:
    """The learning rate of the update that follows `step` updates."""
    rate = config.learning_rate
    return rate(step) if callable(rate) else rate


def decay_mask(exclude: Sequence[str]) -> Callable[[Mapping[str, Any]], dict[str, bool]]:
    """A function from parameters by name to whether each is decayed.

    >>> decay_mask(["norm", "bias$"])({"encoder.norm.scale": 0, "mlp.bias": 0, "mlp.kernel": 0})
    {'encoder.norm.scale': False, 'mlp.bias': False, 'mlp.kernel': True}
    """
    patterns = [re.compile(pattern) for pattern in exclude]
    return lambda params: {name: not any(p.search(name) for p in patterns) for name in params}


def _clipped(transform: optax.GradientTransformation, norm: float | None) -> optax.GradientTransformation:
    return transform if norm is None else optax.chain(optax.clip_by_global_norm(norm), transform)


def _check_common(config: OptimizerConfig) -> None:
    name = type(config).__name__
    if not callable(config.learning_rate):
        _check(config, "learning_rate", lambda x: x >= 0, "of at least 0, or a schedule such as @Schedule()")
    if config.max_grad_norm is not None:
        _check(config, "max_grad_norm", lambda x: x > 0, "above 0, or None")
    if isinstance(config.decay_exclude, str):
        raise UserError(f"{name}.decay_exclude is the string {config.decay_exclude!r}", "give a list of strings")
    for pattern in config.decay_exclude:
        try:
            re.compile(pattern)
        except re.error as e:
            raise UserError(f"{name}.decay_exclude has {pattern!r} ({e})", "give regular expressions") from e


def _check(config: OptimizerConfig, field: str, holds: Callable[[float], bool], meaning: str) -> None:
    value = getattr(config, field)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not holds(value):
        raise UserError(f"{type(config).__name__}.{field} is {value!r}", f"give a number {meaning}")
