"""The encoder's and the decoder's layer of T5: pre-norm residual blocks.

Shape letters: B rows, S input positions, T target positions, L room in the cache, H heads, K size of a head, D width.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from cat_jax.models.attention import Attention, put_position
from cat_jax.models.dropout import Keep, dropout
from cat_jax.models.layers import MLP, RMSNorm
from cat_jax.models.t5_config import T5Config


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerCache:
    """What one decoder layer remembers between steps, in the dtype of the computation."""

    self_keys: jax.Array  # [B, H, L, K]
    self_values: jax.Array  # [B, H, L, K]
    cross_keys: jax.Array  # [B, H, S, K]
    cross_values: jax.Array  # [B, H, S, K]


def _norm(config: T5Config) -> RMSNorm:
    return RMSNorm(config.embed_dim, epsilon=config.norm_epsilon, param_dtype=config.param_dtype)


def _attention(config: T5Config, key: jax.Array) -> Attention:
    c = config
    return Attention(key, c.embed_dim, c.num_heads, c.head_dim, c.dropout_rate, param_dtype=c.param_dtype)


def _mlp(config: T5Config, key: jax.Array) -> MLP:
    c = config
    return MLP(key, c.embed_dim, c.mlp_dim, c.activations, c.dropout_rate, param_dtype=c.param_dtype)


class T5EncoderLayer(nnx.Module):
    """Self-attention and MLP."""

    def __init__(self, config: T5Config, key: jax.Array):
        """Draws the parameters from `key`."""
        attention_key, mlp_key = jax.random.split(key)
        self.dropout_rate = config.dropout_rate
        self.attention_norm = _norm(config)
        self.attention = _attention(config, attention_key)
        self.mlp_norm = _norm(config)
        self.mlp = _mlp(config, mlp_key)

    @staticmethod
    def places(config: T5Config, length: int) -> dict[str, tuple[int, ...]]:
        """The places of dropout, and the shape of one row's draw for each; see `models.dropout`."""
        c = config
        return {
            "weights": (c.num_heads, 1, length),
            "attention": (1, c.embed_dim),
            "hidden": (1, c.mlp_dim),
            "mlp": (1, c.embed_dim),
        }

    def __call__(self, x: jax.Array, bias: jax.Array, mask: jax.Array, *, keep: Keep | None) -> jax.Array:
        """[B, S, D] to [B, S, D]; `bias` f32[H, S, S], `mask` bool broadcastable to [B, 1, S, S]."""
        kept, rate = (keep or {}).get, self.dropout_rate
        y = self.attention_norm(x)
        y = self.attention(y, *self.attention.keys_values(y), bias=bias, mask=mask, keep=kept("weights"))
        x = x + dropout(y, rate, kept("attention"))
        y = self.mlp(self.mlp_norm(x), keep=kept("hidden"))
        return x + dropout(y, rate, kept("mlp"))


class T5DecoderLayer(nnx.Module):
    """Causal self-attention, attention to the encoder's output, and MLP."""

    def __init__(self, config: T5Config, key: jax.Array):
        """Draws the parameters from `key`."""
        self_key, cross_key, mlp_key = jax.random.split(key, 3)
        self.dropout_rate = config.dropout_rate
        self.self_attention_norm = _norm(config)
        self.self_attention = _attention(config, self_key)
        self.cross_attention_norm = _norm(config)
        self.cross_attention = _attention(config, cross_key)
        self.mlp_norm = _norm(config)
        self.mlp = _mlp(config, mlp_key)

    @staticmethod
    def places(config: T5Config, length: int, input_length: int) -> dict[str, tuple[int, ...]]:
        """The places of dropout, and the shape of one row's draw for each; see `models.dropout`."""
        c = config
        return {
            "self_weights": (c.num_heads, 1, length),
            "self_attention": (1, c.embed_dim),
            "cross_weights": (c.num_heads, 1, input_length),
            "cross_attention": (1, c.embed_dim),
            "hidden": (1, c.mlp_dim),
            "mlp": (1, c.embed_dim),
        }

    def __call__(
        self,
        x: jax.Array,
        encoded: jax.Array,
        bias: jax.Array,
        self_mask: jax.Array,
        cross_mask: jax.Array,
        *,
        keep: Keep | None,
    ) -> jax.Array:
        """[B, T, D] to [B, T, D]; `encoded` [B, S, D], `bias` f32[H, T, T], masks as in `models.masks`."""
        kept, rate = (keep or {}).get, self.dropout_rate
        y = self.self_attention_norm(x)
        kv = self.self_attention.keys_values(y)
        y = self.self_attention(y, *kv, bias=bias, mask=self_mask, keep=kept("self_weights"))
        x = x + dropout(y, rate, kept("self_attention"))
        y = self.cross_attention_norm(x)
        kv = self.cross_attention.keys_values(encoded)
        y = self.cross_attention(y, *kv, mask=cross_mask, keep=kept("cross_weights"))
        x = x + dropout(y, rate, kept("cross_attention"))
        y = self.mlp(self.mlp_norm(x), keep=kept("hidden"))
        return x + dropout(y, rate, kept("mlp"))

    def empty_cache(self, encoded: jax.Array, room: int) -> LayerCache:
        """A cache for `room` steps, the encoder's output [B, S, D] already projected."""
        keys, values = self.cross_attention.keys_values(encoded)
        batch, heads, _, size = keys.shape
        empty = jnp.zeros((batch, heads, room, size), keys.dtype)
        return LayerCache(empty, empty, keys, values)

    def step(
        self,
        x: jax.Array,
        cache: LayerCache,
        index: jax.Array,
        bias: jax.Array,
        self_mask: jax.Array,
        cross_mask: jax.Array,
    ) -> tuple[jax.Array, LayerCache]:
        """One position: [B, 1, D] to [B, 1, D] and the cache with this position at `index` i32[B].

        `bias` f32[B, H, 1, L], `self_mask` bool[B, 1, 1, L] (positions up to `index`), `cross_mask` bool[B, 1, 1, S].
        """
        y = self.self_attention_norm(x)
        key, value = self.self_attention.keys_values(y)
        keys, values = put_position(cache.self_keys, key, index), put_position(cache.self_values, value, index)
        x = x + self.self_attention(y, keys, values, bias=bias, mask=self_mask)
        y = self.cross_attention_norm(x)
        x = x + self.cross_attention(y, cache.cross_keys, cache.cross_values, mask=cross_mask)
        x = x + self.mlp(self.mlp_norm(x))
        return x, dataclasses.replace(cache, self_keys=keys, self_values=values)
