"""Attention in which groups of queries' heads share the heads of keys and values.

Multi-head attention is one head a group, multi-query attention one group. Shape letters: B rows, T queries, S keys,
H heads of queries, N heads of keys and values, G = H / N, K size of a head, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from cat_jax.models import initializers
from cat_jax.models.attention import MASKED
from cat_jax.models.decoder_config import DecoderConfig
from cat_jax.models.layers import Linear, RMSNorm
from cat_jax.models.rope import Rotation
from cat_jax.parallel.activations import by_rows_and_heads

Keys = tuple[jax.Array, jax.Array, jax.Array]
"""Keys and values [B, N, S, K], and who may see them: bool, broadcastable to [B, 1, T, S]."""


def attend(query: jax.Array, keys: Sequence[Keys], *, scale: float, softcap: float | None) -> jax.Array:
    """Softmax attention over several sets of keys as over one; logits and softmax in f32 whatever the inputs' dtype.

    Args:
        query: [B, H, T, K].
        keys: sets of keys; a query must see at least one key of one of them.
        scale: factor on the logits.
        softcap: c of c tanh(logits / c); None for none.

    Returns:
        [B, H, T, K] in the dtype of the values.
    """
    batch, heads, length, size = query.shape
    groups = keys[0][0].shape[1]
    query = query.reshape(batch, groups, heads // groups, length, size)
    logits = []
    for key, _, mask in keys:
        product = jnp.einsum("BNGTK,BNSK->BNGTS", query, key, preferred_element_type=jnp.float32) * scale
        if softcap is not None:
            product = softcap * jnp.tanh(product / softcap)
        logits.append(jnp.where(mask[:, :, None], product, MASKED))
    weights = jax.nn.softmax(jnp.concatenate(logits, axis=-1), axis=-1)
    mixed, start = None, 0
    for key, value, _ in keys:
        part = weights[..., start : start + key.shape[2]].astype(value.dtype)
        more = jnp.einsum("BNGTS,BNSK->BNGTK", part, value)
        mixed, start = more if mixed is None else mixed + more, start + key.shape[2]
    assert mixed is not None
    return mixed.reshape(batch, heads, length, size)


class GroupedAttention(nnx.Module):
    """Query, key, value and output projections around `attend`."""

    def __init__(self, config: DecoderConfig, key: jax.Array):
        """Draws the parameters from `key`, each kernel with variance 1 / fan-in."""
        c = config
        query_key, key_key, value_key, output_key = jax.random.split(key, 4)
        self.scale = (c.head_dim if c.query_pre_attn_scalar is None else c.query_pre_attn_scalar) ** -0.5
        self.softcap = c.attention_softcap
        options = {"bias": c.qkv_bias, "param_dtype": c.param_dtype}
        few, few_axes = (c.embed_dim, c.kv_heads, c.head_dim), ("embed", "kv_heads", "kv")
        self.query = Linear(query_key, (c.embed_dim, c.num_heads, c.head_dim), ("embed", "heads", "kv"), **options)
        self.key = Linear(key_key, few, few_axes, **options)
        self.value = Linear(value_key, few, few_axes, **options)
        self.output = Linear(
            output_key,
            (c.num_heads, c.head_dim, c.embed_dim),
            ("heads", "kv", "embed"),
            initializer=initializers.truncated_normal((c.num_heads * c.head_dim) ** -0.5),
            contract=2,
            param_dtype=c.param_dtype,
        )
        norm = {"epsilon": c.norm_epsilon, "offset": c.norm_offset, "axis": "kv", "param_dtype": c.param_dtype}
        self.query_norm = RMSNorm(c.head_dim, **norm) if c.qk_norm else None
        self.key_norm = RMSNorm(c.head_dim, **norm) if c.qk_norm else None

    def project(self, x: jax.Array, rotation: Rotation) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries [B, H, T, K], keys and values [B, N, T, K] of [B, T, D], normed and rotated as they are attended."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        query, key = rotation(query), rotation(key)
        return jnp.swapaxes(query, 1, 2), jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)

    def mix(self, query: jax.Array, keys: Sequence[Keys]) -> jax.Array:
        """[B, T, D] of queries [B, H, T, K] that look at sets of keys."""
        mixed = attend(query, keys, scale=self.scale, softcap=self.softcap)
        return self.output(jnp.swapaxes(mixed, 1, 2))

    def mix_row(
        self, query: jax.Array, keys: Keys, examples: jax.Array | None, window: int | None, local: bool | jax.Array
    ) -> jax.Array:
        """The same of all columns of a row that look at each other: by a kernel, if the configuration wants one.

        Args:
            query: [B, H, T, K].
            keys: of the same columns.
            examples: i32[B, T], of `decoder_rows.Rows`; what the kernel reads in place of the keys' mask.
            window: of a local layer.
            local: whether this is one; traced where layers are scanned.
        """
        if examples is None:
            return self.mix(query, [keys])
        from cat_jax.models.splash import splash_attend  # Pallas takes long to import

        def on_tpu(query: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, examples: jax.Array):
            del mask
            splash = functools.partial(splash_attend, scale=self.scale, softcap=self.softcap)
            whole, part = (
                functools.partial(by_rows_and_heads, functools.partial(splash, window=w)) for w in (None, window)
            )
            if isinstance(local, bool):
                return (part if local else whole)(query, keys, values, examples)
            return jax.lax.cond(local, part, whole, query, keys, values, examples)

        def elsewhere(query: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, examples: jax.Array):
            del examples
            return attend(query, [(keys, values, mask)], scale=self.scale, softcap=self.softcap)

        mixed = jax.lax.platform_dependent(query, *keys, examples, tpu=on_tpu, default=elsewhere)
        return self.output(jnp.swapaxes(mixed, 1, 2))
