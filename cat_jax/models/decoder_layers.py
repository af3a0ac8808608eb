"""A layer of the decoder-only family: attention and MLP, each with a norm before it, or one before and one after.

Shape letters: B rows, T positions, P columns of the prompt in the cache, R room for new tokens, N heads of keys and
values, K size of a head, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from cat_jax.models.attention import put_position
from cat_jax.models.decoder_config import LOCAL, DecoderConfig
from cat_jax.models.dropout import Keep, dropout
from cat_jax.models.grouped_attention import GroupedAttention
from cat_jax.models.layers import MLP, RMSNorm
from cat_jax.models.rope import Rotation

KeysValues = tuple[jax.Array, jax.Array]
"""[B, N, T, K] each, keys rotated."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class View:
    """What layers of one kind, global or local, look with."""

    mask: jax.Array  # bool, broadcastable to [B, 1, T, T]; see `models.masks`
    rotation: Rotation
    examples: jax.Array | None  # i32[B, T], for a kernel that reads no mask


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerCache:
    """What one layer remembers, in the dtype of the computation.

    Steps leave the prompt's part as it is, so that beams share it. The other is a ring: step i writes at i modulo R.
    """

    prompt_keys: jax.Array  # [B, N, P, K]
    prompt_values: jax.Array  # [B, N, P, K]
    keys: jax.Array  # [B, N, R, K]
    values: jax.Array  # [B, N, R, K]


@dataclasses.dataclass(frozen=True)
class StepView:
    """What layers of one kind look with when a token is decoded."""

    prompt_mask: jax.Array  # bool[B, 1, 1, P]
    mask: jax.Array  # bool[B, 1, 1, R], the token itself included
    slot: jax.Array  # i32[B]: where in the ring the token goes
    rotation: Rotation


class DecoderLayer(nnx.Module):
    """Self-attention and MLP."""

    def __init__(self, config: DecoderConfig, key: jax.Array):
        """Draws the parameters from `key`."""
        c = config
        attention_key, mlp_key = jax.random.split(key)
        norm = {"epsilon": c.norm_epsilon, "offset": c.norm_offset, "param_dtype": c.param_dtype}
        self.dropout_rate, self.window = c.dropout_rate, c.window
        self.kinds = frozenset(c.layer_kinds)
        self.attention_norm = RMSNorm(c.embed_dim, **norm)
        self.attention = GroupedAttention(c, attention_key)
        self.attention_post_norm = RMSNorm(c.embed_dim, **norm) if c.post_norms else None
        self.mlp_norm = RMSNorm(c.embed_dim, **norm)
        self.mlp = MLP(mlp_key, c.embed_dim, c.mlp_dim, c.activations, 0.0, param_dtype=c.param_dtype)
        self.mlp_post_norm = RMSNorm(c.embed_dim, **norm) if c.post_norms else None

    def __call__(self, x: jax.Array, views: Sequence[View], *, keep: Keep | None) -> jax.Array:
        """[B, T, D] to [B, T, D].

        Args:
            x: the residual stream.
            views: of the model's kinds of layers, global ones first if there are both.
            keep: `local`, bool[], where there are both kinds: which one this layer is. `attention` and `mlp` are
                dropout's; see `models.dropout`.
        """
        view, *others = views
        if not others:
            return self.read(x, view, LOCAL in self.kinds, keep=keep)[0]
        local = (keep or {})["local"]
        view = jax.tree.map(lambda whole, part: jnp.where(local, part, whole), view, *others)
        return self.read(x, view, local, keep=keep)[0]

    def read(
        self, x: jax.Array, view: View, local: bool | jax.Array, *, keep: Keep | None = None
    ) -> tuple[jax.Array, KeysValues]:
        """[B, T, D] to [B, T, D], and the keys and values that were looked at."""
        found: list[KeysValues] = []

        def attention(y: jax.Array) -> jax.Array:
            query, keys, values = self.attention.project(y, view.rotation)
            found.append((keys, values))
            return self.attention.mix_row(query, (keys, values, view.mask), view.examples, self.window, local)

        return self._residual(x, attention, keep or {}), found[0]

    def step(self, x: jax.Array, view: StepView, cache: LayerCache) -> tuple[jax.Array, LayerCache]:
        """One token a row: [B, 1, D] to [B, 1, D], and the cache with it."""
        after: list[LayerCache] = []

        def attention(y: jax.Array) -> jax.Array:
            query, key, value = self.attention.project(y, view.rotation)
            keys, values = put_position(cache.keys, key, view.slot), put_position(cache.values, value, view.slot)
            after.append(dataclasses.replace(cache, keys=keys, values=values))
            prompt = (cache.prompt_keys, cache.prompt_values, view.prompt_mask)
            return self.attention.mix(query, [prompt, (keys, values, view.mask)])

        return self._residual(x, attention, {}), after[0]

    def _residual(self, x: jax.Array, attention: Callable[[jax.Array], jax.Array], keep: Keep) -> jax.Array:
        rate = self.dropout_rate
        y = attention(self.attention_norm(x))
        y = y if self.attention_post_norm is None else self.attention_post_norm(y)
        x = x + dropout(y, rate, keep.get("attention"))
        y = self.mlp(self.mlp_norm(x))
        y = y if self.mlp_post_norm is None else self.mlp_post_norm(y)
        return x + dropout(y, rate, keep.get("mlp"))
