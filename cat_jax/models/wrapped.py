"""A configuration around another's: the same model with something done to its kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # reading a configuration must not wait for JAX
    import jax

    from cat_jax.types import Count


@dataclasses.dataclass(frozen=True)
class WrappedConfig:
    """A `types.ModelConfig` that is `base` in all that it does not say otherwise.

    Attributes:
        base: of any family.
    """

    base: Any

    @property
    def family(self) -> str:
        return self.base.family

    @property
    def prompt(self) -> Any:
        return self.base.prompt

    @property
    def vocab_size(self) -> int:
        return self.base.vocab_size

    @property
    def dtype(self) -> str:
        return self.base.dtype

    @property
    def param_dtype(self) -> str:
        return self.base.param_dtype

    @property
    def needs_inputs(self) -> bool:
        return getattr(self.base, "needs_inputs", False)

    def build(self, key: jax.Array) -> Any:
        """A new model."""
        return self.base.build(key)

    def forward_flops(self, input_length: Count, target_length: Count) -> Count:
        """FLOPs of one example's teacher-forced pass."""
        return self.base.forward_flops(input_length, target_length)

    def answer_flops(self, input_length: Count, output_length: Count) -> Count:
        """FLOPs of answering one example."""
        return self.base.answer_flops(input_length, output_length)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `family` included."""
        return self.base.to_dict()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Any:
        """Wrappers are read by `models.registry.config_from_dict`, which knows the families."""
        raise TypeError(f"{cls.__name__} is no family")
