"""T5's encoder and decoder: relative bias, layers, final norm, and dropout at both ends.

Shape letters: B rows, S input positions, T target positions, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cat_jax.models.dropout import draw_keep, dropout
from cat_jax.models.layers import RMSNorm
from cat_jax.models.relative import RelativeBias
from cat_jax.models.stack import apply_layers, make_layers
from cat_jax.models.t5_config import T5Config
from cat_jax.models.t5_layers import T5DecoderLayer, T5EncoderLayer


class _Stack(nnx.Module):
    """What the encoder and the decoder share."""

    def __init__(self, config: T5Config, key: jax.Array, layer: type, count: int, *, bidirectional: bool):
        """Draws the parameters from `key`."""
        c = config
        bias_key, layers_key = jax.random.split(key)
        self.config = config
        self.relative = RelativeBias(
            bias_key,
            c.num_heads,
            num_buckets=c.relative_buckets,
            max_distance=c.relative_max_distance,
            bidirectional=bidirectional,
            param_dtype=c.param_dtype,
        )
        self.layers = make_layers(layers_key, lambda key: layer(c, key), count, scan=c.scan_layers)
        self.norm = RMSNorm(c.embed_dim, epsilon=c.norm_epsilon, param_dtype=c.param_dtype)

    def _run(
        self,
        x: jax.Array,
        *context: Any,
        count: int,
        places: Mapping[str, tuple[int, ...]],
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        """Applies all of the stack to [B, T, D]; `places` are those of one of its `count` layers."""
        rate = self.config.dropout_rate
        ends, keep = {"first": None, "last": None}, None
        if dropout_key is not None and rate > 0.0:
            end = (1, self.config.embed_dim)
            wanted = {"first": end, "last": end, **{name: (count, *shape) for name, shape in places.items()}}
            drawn = draw_keep(dropout_key, rate, x.shape[0], wanted)
            ends = {name: drawn.pop(name) for name in ends}
            keep = {name: jnp.moveaxis(rows, 1, 0) for name, rows in drawn.items()}
        x = dropout(x, rate, ends["first"])
        x = apply_layers(self.layers, x, *context, keep=keep, remat=self.config.remat)
        return dropout(self.norm(x), rate, ends["last"])


class T5Encoder(_Stack):
    """Every input sees every other."""

    def __init__(self, config: T5Config, key: jax.Array):
        """Draws the parameters from `key`."""
        super().__init__(config, key, T5EncoderLayer, config.num_encoder_layers, bidirectional=True)

    def __call__(self, x: jax.Array, mask: jax.Array, *, dropout_key: jax.Array | None) -> jax.Array:
        """[B, S, D] embeddings to [B, S, D]; `mask` as in `models.masks`."""
        config, length = self.config, x.shape[1]
        return self._run(
            x,
            self.relative(length, length),
            mask,
            count=config.num_encoder_layers,
            places=T5EncoderLayer.places(config, length),
            dropout_key=dropout_key,
        )


class T5Decoder(_Stack):
    """Every target sees those before it, and the encoder's output."""

    def __init__(self, config: T5Config, key: jax.Array):
        """Draws the parameters from `key`."""
        super().__init__(config, key, T5DecoderLayer, config.num_decoder_layers, bidirectional=False)

    def __call__(
        self,
        x: jax.Array,
        encoded: jax.Array,
        self_mask: jax.Array,
        cross_mask: jax.Array,
        *,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        """[B, T, D] embeddings to [B, T, D]; `encoded` [B, S, D], masks as in `models.masks`."""
        config, length = self.config, x.shape[1]
        return self._run(
            x,
            encoded,
            self.relative(length, length),
            self_mask,
            cross_mask,
            count=config.num_decoder_layers,
            places=T5DecoderLayer.places(config, length, encoded.shape[1]),
            dropout_key=dropout_key,
        )
