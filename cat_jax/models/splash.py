"""JAX's splash attention, a Pallas kernel for TPUs: attention over a row without ever holding all of its logits.

Shape letters: B rows, T columns, H heads of queries, N heads of keys and values, K size of a head.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from cat_jax.models.layers import PRODUCT

_BLOCKS = (512, 256, 128)
"""Columns that the kernel treats together: the first that divides a row, which is padded to a multiple of the last."""

_BLOCK_FIELDS = (
    "block_q",
    "block_kv",
    "block_kv_compute",
    "block_q_dkv",
    "block_kv_dkv",
    "block_kv_dkv_compute",
    "block_q_dq",
    "block_kv_dq",
)

_NOBODY = jnp.iinfo(jnp.int32).min
"""The example that columns of the kernel's padding belong to."""


def splash_attend(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    examples: jax.Array,
    *,
    window: int | None,
    scale: float,
    softcap: float | None,
    interpret: bool = False,
) -> jax.Array:
    """Causal attention of each column to those of its example, as `grouped_attention.attend` computes it.

    Args:
        query: [B, H, T, K].
        keys: [B, N, T, K].
        values: [B, N, T, K].
        examples: i32[B, T]: a column sees those of its own number.
        window: a column sees so many, its own included; None is all up to its own.
        scale: factor on the logits.
        softcap: c of c tanh(logits / c); None for none.
        interpret: run where there is no TPU, slowly.

    Returns:
        [B, H, T, K] in the dtype of the values.
    """
    heads, length = query.shape[1:3]
    padding = -length % _BLOCKS[-1]
    size = length + padding
    pad = lambda x: jnp.pad(x, [(0, 0), (0, 0), (0, padding), (0, 0)])  # noqa: E731
    query, keys, values = map(pad, (query * jnp.asarray(scale, query.dtype), keys, values))
    examples = jnp.pad(examples, [(0, 0), (0, padding)], constant_values=_NOBODY)
    mask = masks.CausalMask((size, size)) if window is None else masks.LocalMask((size, size), (window - 1, 0), 0)
    block = next(block for block in _BLOCKS if size % block == 0)
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=kernels.BlockSizes(**dict.fromkeys(_BLOCK_FIELDS, block)),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name=PRODUCT,  # rematerialisation keeps what the kernel made
        interpret=interpret,
    )

    def of_row(query: jax.Array, keys: jax.Array, values: jax.Array, examples: jax.Array) -> jax.Array:
        mixed = kernel(query, keys, values, segment_ids=kernels.SegmentIds(examples, examples))
        assert isinstance(mixed, jax.Array)  # it has no residuals to return but in differentiation
        return mixed

    return jax.vmap(of_row)(query, keys, values, examples)[:, :, :length].astype(values.dtype)
