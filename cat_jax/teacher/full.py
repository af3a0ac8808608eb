"""The whole truth, at four bytes a vocabulary entry: for tests and for vocabularies of a few hundred symbols."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cat_jax.losses.formulas import top1_correct
from cat_jax.types import TeacherSignal


@dataclasses.dataclass(frozen=True)
class FullLayout:
    """The teacher's f32 logits, beside the exact bit: any temperature, and the live signal's loss to the last digit."""

    kind = "full"
    has_distribution = True

    def record_dtype(self, vocab_size: int) -> np.dtype | None:
        """One position's bytes: the logits without the vocabulary's padding."""
        return np.dtype([("logits", "<f4", (vocab_size,))])

    def ragged(self, vocab_size: int) -> None:
        """None: all records have the same size."""

    def encode(self, logits: jax.Array, targets: jax.Array, uniforms: jax.Array) -> dict[str, jax.Array]:
        """The record's fields of f32 logits [N, V] and targets i32[N], inside jit."""
        error = jnp.zeros(len(logits), jnp.float32)
        return {"top1_correct": top1_correct(logits, targets), "logits": logits, "squared_error": error}

    def assemble(self, padded: Mapping[str, np.ndarray], vocab_size: int) -> TeacherSignal:
        """The signal of padded arrays: 'top1_correct' bool[B, T] and 'records' u8[B, T, 4 * vocab_size]."""
        logits = np.ascontiguousarray(padded["records"]).view("<f4")
        return TeacherSignal(top1_correct=padded["top1_correct"], logits=logits)  # pyright: ignore[reportArgumentType]

    def check_temperature(self, temperature: float) -> str | None:
        """None: logits serve every temperature."""
        return None

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind}
