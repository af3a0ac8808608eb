"""T5: an encoder-decoder Transformer with relative position biases, RMSNorm, no biases and a gated MLP.

Raffel et al. 2020, arXiv 1910.10683; the 1.1 version is Shazeer 2020, arXiv 2002.05202, as released. Numbers agree
with `transformers`' T5 to f32 rounding.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from cat_jax.models import initializers, masks
from cat_jax.models.layers import Embedding, Linear
from cat_jax.models.stack import each_layer
from cat_jax.models.t5_config import T5Config
from cat_jax.models.t5_layers import LayerCache
from cat_jax.models.t5_stacks import T5Decoder, T5Encoder
from cat_jax.parallel.activations import by_rows
from cat_jax.types import Batch, Head, ModelOutput


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class T5Cache:
    """What decoding remembers: every array has the batch as its leading axis, and rows may be of different lengths."""

    index: jax.Array  # i32[B]: position of the next token
    cross_mask: jax.Array  # bool[B, 1, 1, S]: inputs that are not padding
    layers: tuple[LayerCache, ...]


class T5(nnx.Module):
    """A T5 model. It holds parameters and nothing else: `nnx.split(model)` is (graphdef, params)."""

    def __init__(self, config: T5Config, key: jax.Array):
        """Draws the parameters from `key`; the same numbers whether `scan_layers` is set or not."""
        embedding_key, encoder_key, decoder_key, head_key = jax.random.split(key, 4)
        c = config
        self.config = config
        rows = c.padded_vocab_size
        self.embedding = Embedding(embedding_key, c.vocab_size, c.embed_dim, rows=rows, param_dtype=c.param_dtype)
        self.encoder = T5Encoder(config, encoder_key)
        self.decoder = T5Decoder(config, decoder_key)
        if not c.tie_embeddings:
            shape, axes = (c.embed_dim, c.padded_vocab_size), ("embed", "vocab")
            initializer = initializers.padded(initializers.truncated_normal(c.embed_dim**-0.5), 1, c.vocab_size)
            self.output = Linear(head_key, shape, axes, initializer=initializer, param_dtype=c.param_dtype)

    def __call__(self, batch: Batch, *, dropout_key: jax.Array | None = None) -> ModelOutput:
        """Runs teacher-forced.

        Args:
            batch: with encoder inputs; packed rows have segment ids on both sides.
            dropout_key: turns dropout on.

        Returns:
            Hidden states [B, T, D] at the targets' positions, in `config.dtype`, and the head.
        """
        encoder_key, decoder_key = [None] * 2 if dropout_key is None else jax.random.split(dropout_key)
        encoded, cross_mask = self._encode(batch, encoder_key)
        length = batch.decoder_input_tokens.shape[1]
        self_mask = masks.causal_mask(length)
        if batch.decoder_segment_ids is not None:
            self_mask &= masks.segment_mask(batch.decoder_segment_ids, batch.decoder_segment_ids)
        x = self._embed(batch.decoder_input_tokens)
        x = self.decoder(x, encoded, self_mask, cross_mask, dropout_key=decoder_key)
        return ModelOutput(self._to_head(x), self.head())

    def head(self) -> Head:
        """The map from hidden states to logits, in the dtype of the computation (its product accumulates in f32)."""
        kernel = self.embedding.table[...].T if self.config.tie_embeddings else self.output.kernel[...]
        return Head(kernel.astype(self.config.dtype), self.config.vocab_size)

    def prefill(self, batch: Batch, max_decode_length: int) -> tuple[T5Cache, jax.Array]:
        """Encodes the inputs and starts decoding.

        Args:
            batch: of which only the encoder's side is read; rows must not be packed.
            max_decode_length: how many tokens will be decoded at most.

        Returns:
            The cache, and the hidden state [B, D] that predicts the first token.
        """
        if batch.decoder_segment_ids is not None:
            raise ValueError("decoding takes one example a row: this batch is packed")
        encoded, cross_mask = self._encode(batch, None)
        layers = tuple(layer.empty_cache(encoded, max_decode_length) for layer in each_layer(self.decoder.layers))
        start = jnp.zeros(encoded.shape[:1], jnp.int32)
        return self.step(start, T5Cache(start, cross_mask, layers))

    def step(self, tokens: jax.Array, cache: T5Cache) -> tuple[T5Cache, jax.Array]:
        """Takes the tokens i32[B] just chosen; returns the cache and the hidden state [B, D] that predicts the next."""
        room = cache.layers[0].self_keys.shape[2]
        bias = self.decoder.relative.rows(cache.index, room)[:, :, None]
        self_mask = (jnp.arange(room) <= cache.index[:, None])[:, None, None]
        x = self._embed(tokens[:, None])
        layers = []
        for layer, remembered in zip(each_layer(self.decoder.layers), cache.layers, strict=True):
            x, remembered = layer.step(x, remembered, cache.index, bias, self_mask, cache.cross_mask)
            layers.append(remembered)
        hidden = self._to_head(self.decoder.norm(x))[:, 0]
        return dataclasses.replace(cache, index=cache.index + 1, layers=tuple(layers)), hidden

    def _encode(self, batch: Batch, dropout_key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """The encoder's output [B, S, D], and the mask with which the decoder looks at it."""
        tokens = batch.encoder_input_tokens
        if tokens is None:
            raise ValueError("T5 reads encoder_input_tokens, and the batch has none")
        segments = batch.encoder_segment_ids
        if segments is None:
            mask = cross_mask = masks.padding_mask(tokens)
        elif batch.decoder_segment_ids is None:  # one example a row
            mask = cross_mask = masks.padding_mask(segments)
        else:
            mask = masks.segment_mask(segments, segments)
            cross_mask = masks.segment_mask(batch.decoder_segment_ids, segments)
        return self.encoder(self._embed(tokens), mask, dropout_key=dropout_key), cross_mask

    def _embed(self, tokens: jax.Array) -> jax.Array:
        return by_rows(self.embedding(tokens, self.config.dtype))

    def _to_head(self, x: jax.Array) -> jax.Array:
        return x * self.config.embed_dim**-0.5 if self.config.tie_embeddings else x
