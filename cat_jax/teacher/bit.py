"""The smallest signal: whether the teacher's top-1 is the target, one bit per target position."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cat_jax.losses.formulas import top1_correct
from cat_jax.types import TeacherSignal


@dataclasses.dataclass(frozen=True)
class BitLayout:
    """One bit per target position: all that `cat_xent` needs of the teacher, and exact at every temperature."""

    kind = "bit"
    has_distribution = False

    def record_dtype(self, vocab_size: int) -> np.dtype | None:
        """None: nothing beyond the bit that every layout keeps."""
        return None

    def ragged(self, vocab_size: int) -> None:
        """None: all records have the same size."""

    def encode(self, logits: jax.Array, targets: jax.Array, uniforms: jax.Array) -> dict[str, jax.Array]:
        """The bit of f32 logits [N, V] and targets i32[N], inside jit."""
        return {"top1_correct": top1_correct(logits, targets)}

    def assemble(self, padded: Mapping[str, np.ndarray], vocab_size: int) -> TeacherSignal:
        """The signal of padded arrays: 'top1_correct' bool[B, T]."""
        return TeacherSignal(top1_correct=padded["top1_correct"])  # pyright: ignore[reportArgumentType]

    def check_temperature(self, temperature: float) -> str | None:
        """None: the bit does not depend on the temperature."""
        return None

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind}
