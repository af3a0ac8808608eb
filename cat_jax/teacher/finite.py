"""Whether a teacher's numbers are numbers: of NaN every comparison is false, so that the bit alone would not tell."""

from __future__ import annotations

import jax.numpy as jnp

from cat_jax.types import Array, ModelOutput


def finite(output: ModelOutput) -> Array:
    """bool[B, T]: whether the hidden state and the whole head are finite: a pass over each, none over logits."""
    return jnp.isfinite(output.hidden).all(-1) & jnp.isfinite(output.head.kernel).all()
