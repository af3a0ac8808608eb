"""LoRA: what is asked for, and the configuration of a model that has it.

Hu et al. 2021, arXiv 2106.09685: beside a kernel W, which stays as it is, lie A and B of a small rank, and the layer is
x W + alpha / rank (x A) B. Training changes A and B alone; whoever reads the model afterwards reads
W + alpha / rank A B, a model of the base's configuration. The work on arrays is in `models.adapters`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cat_jax.errors import UserError
from cat_jax.models.wrapped import WrappedConfig

if TYPE_CHECKING:  # reading a configuration must not wait for JAX
    import jax

    from cat_jax.types import Count

LORA = "lora"
"""The key of `model.json` under which a model with adapters says so."""

LORA_A, LORA_B = "lora_a", "lora_b"
"""Names of the adapters' parameters: attributes of a `layers.Linear`."""

FROZEN = (rf"(?<!\.{LORA_A})(?<!\.{LORA_B})$",)
"""As `train.frozen`: every parameter but the adapters."""


def is_adapter(name: str) -> bool:
    """Of a parameter's name.

    >>> [is_adapter(name) for name in ("attention.query.kernel", "attention.query.lora_a")]
    [False, True]
    """
    return name.endswith((f".{LORA_A}", f".{LORA_B}"))


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters beside kernels.

    Attributes:
        rank: columns of A and rows of B.
        alpha: what the adapters add is multiplied by alpha / rank.
        targets: regular expressions; kernels in whose names one is found get adapters. Names are those of parameters,
            `encoder.layers.0.attention.query.kernel`; where layers are stacked, without the number. None is every
            kernel of attention and MLP. Neither embedding nor head ever has one.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] | None = None

    def __post_init__(self):
        """Refuses what is no LoRA, by name."""
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise UserError(f"Lora.rank is {self.rank!r}", "give a positive whole number")
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if not number or not math.isfinite(self.alpha) or self.alpha <= 0:
            raise UserError(f"Lora.alpha is {self.alpha!r}", "give a number above 0")
        object.__setattr__(self, "alpha", float(self.alpha))  # 16 and 16.0 are one description
        if self.targets is None:
            return
        if isinstance(self.targets, str) or not self.targets:
            raise UserError(f"Lora.targets is {self.targets!r}", "give a list of strings, or None for every kernel")
        object.__setattr__(self, "targets", tuple(self.targets))  # hashable
        for pattern in self.targets:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as e:
                raise UserError(f"Lora.targets has {pattern!r} ({e})", "give regular expressions") from e

    @property
    def factor(self) -> float:
        """On what the adapters add."""
        return self.alpha / self.rank

    def chosen(self, kernels: Sequence[str]) -> list[str]:
        """Those of the names that get adapters.

        Raises:
            UserError: a target is in none of them.
        """
        for pattern in self.targets or ():
            if not any(re.search(pattern, name) for name in kernels):
                some = ", ".join(kernels[:4])
                raise UserError(f"Lora.targets has {pattern!r}, which is in no kernel's name", f"they are {some}, ...")
        if self.targets is None:
            return list(kernels)
        return [name for name in kernels if any(re.search(pattern, name) for pattern in self.targets)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        targets = None if self.targets is None else list(self.targets)
        return {"rank": self.rank, "alpha": self.alpha, "targets": targets}


@dataclasses.dataclass(frozen=True)
class AdaptedConfig(WrappedConfig):
    """`base` with adapters: what is trained. What reads the result reads `base`, see `checkpoint.params`."""

    lora: Lora = dataclasses.field(default_factory=Lora)

    def build(self, key: jax.Array) -> Any:
        """The base that `key` draws, with A drawn from it too and B zero.

        Raises:
            UserError: a target is in no kernel's name.
        """
        from cat_jax.models.adapters import attach

        model = self.base.build(key)
        attach(model, self.lora, key)
        return model

    def forward_flops(self, input_length: Count, target_length: Count) -> Count:
        """The base's and the adapters', at the positions that `kernel_positions` gives, or else at all."""
        positions = getattr(self.base, "kernel_positions", lambda name, inputs, targets: inputs + targets)
        flops = self.base.forward_flops(input_length, target_length)
        for name, numbers in _adapter_sizes(self):
            flops = flops + 2.0 * numbers * positions(name, input_length, target_length)
        return flops

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `family` included."""
        return {**self.base.to_dict(), LORA: self.lora.to_dict()}


def adapted(config: Any, lora: Lora | None, frozen: Sequence[str] = ()) -> tuple[Any, Sequence[str]]:
    """(what is trained, which of its parameters are frozen) of a model that is trained with `lora`, or without.

    Raises:
        UserError: parameters are to be frozen beside LoRA, or a target is in no kernel's name.
    """
    if lora is None:
        return config, frozen
    if frozen:
        raise UserError(
            "train.lora and train.frozen are both set",
            "leave FROZEN out: LoRA trains its adapters alone, and Lora.targets says where they are",
        )
    made = AdaptedConfig(config, lora)
    _adapter_sizes(made)  # refuses targets that are nowhere, before anything is written
    return made, FROZEN


@functools.cache
def _adapter_sizes(config: AdaptedConfig) -> tuple[tuple[str, int], ...]:
    """(kernel, numbers in its adapters), those of a stack together; nothing is allocated."""
    import jax
    from flax import nnx

    from cat_jax.parallel.names import flatten_names

    params = flatten_names(nnx.state(nnx.eval_shape(lambda: config.build(jax.random.key(0)))))
    return tuple((name, math.prod(p.shape)) for name, p in params.items() if is_adapter(name))
