"""A decoder-only Transformer with rotary positions and RMSNorm: Llama, Mistral, Qwen, SmolLM2, Gemma by configuration.

Numbers agree with `transformers`' models to f32 rounding. Shape letters: B rows, T columns, P columns of the prompt in
the cache, N heads of keys and values, K size of a head, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from cat_jax.models import initializers
from cat_jax.models.decoder_config import GLOBAL, LOCAL, DecoderConfig
from cat_jax.models.decoder_layers import DecoderLayer, LayerCache, StepView, View
from cat_jax.models.decoder_rows import Rows, read_rows
from cat_jax.models.dropout import draw_keep, dropout
from cat_jax.models.layers import Embedding, Linear, RMSNorm
from cat_jax.models.rope import rotation
from cat_jax.models.stack import apply_layers, each_layer, make_layers
from cat_jax.parallel.activations import by_rows
from cat_jax.types import Batch, Head, ModelOutput

_UNSEEN = -1
"""Position of a prompt's column that is no token."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderCache:
    """What decoding remembers: every array has the batch as its leading axis, and rows may be of different lengths.

    Steps change `index` and the layers' rings; all else stays as the prompt left it.
    """

    index: jax.Array  # i32[B]: tokens read since the prompt
    length: jax.Array  # i32[B]: tokens of the prompt, its start included where it has one
    positions: dict[str, jax.Array]  # i32[B, P] by kind of layer: of the prompt's columns in its cache, or _UNSEEN
    layers: tuple[LayerCache, ...]


class Decoder(nnx.Module):
    """A decoder-only model. It holds parameters and nothing else: `nnx.split(model)` is (graphdef, params)."""

    def __init__(self, config: DecoderConfig, key: jax.Array):
        """Draws the parameters from `key`; the same numbers whether `scan_layers` is set or not."""
        embedding_key, layers_key, head_key = jax.random.split(key, 3)
        c = config
        self.config = config
        rows, stddev = c.padded_vocab_size, c.embed_dim**-0.5
        self.embedding = Embedding(
            embedding_key, c.vocab_size, c.embed_dim, rows=rows, stddev=stddev, param_dtype=c.param_dtype
        )
        self.layers = make_layers(layers_key, lambda key: DecoderLayer(c, key), c.num_layers, scan=c.scan_layers)
        self.norm = RMSNorm(c.embed_dim, epsilon=c.norm_epsilon, offset=c.norm_offset, param_dtype=c.param_dtype)
        if not c.tie_embeddings:
            shape, axes = (c.embed_dim, rows), ("embed", "vocab")
            initializer = initializers.padded(initializers.truncated_normal(stddev), 1, c.vocab_size)
            self.output = Linear(head_key, shape, axes, initializer=initializer, param_dtype=c.param_dtype)

    def __call__(self, batch: Batch, *, dropout_key: jax.Array | None = None) -> ModelOutput:
        """Runs teacher-forced.

        Args:
            batch: inputs before targets, one example a row or packed.
            dropout_key: turns dropout on.

        Returns:
            Hidden states [B, T, D], in `config.dtype`, and the head. Where `bos_id` is None, those in the column where
            an example begins mean nothing.
        """
        c = self.config
        rows = read_rows(batch, c.bos_id, prefix_lm=c.prefix_lm)
        x, keep = self._embed(rows.tokens), {}
        if dropout_key is not None and c.dropout_rate > 0.0:
            each = (c.num_layers, 1, c.embed_dim)
            places = {"first": (1, c.embed_dim), "attention": each, "mlp": each}
            drawn = draw_keep(dropout_key, c.dropout_rate, len(x), places)
            x = dropout(x, c.dropout_rate, drawn.pop("first"))
            keep = {name: jnp.moveaxis(kept, 1, 0) for name, kept in drawn.items()}
        views = self._views(rows)
        if len(views) > 1:
            keep["local"] = jnp.array([kind == LOCAL for kind in c.layer_kinds])
        x = apply_layers(self.layers, x, tuple(views.values()), keep=keep or None, remat=c.remat)
        return ModelOutput(self.norm(x), self.head())

    def head(self) -> Head:
        """The map from hidden states to logits, in the dtype of the computation (its product accumulates in f32)."""
        c = self.config
        kernel = self.embedding.table[...].T if c.tie_embeddings else self.output.kernel[...]
        return Head(kernel.astype(c.dtype), c.vocab_size, c.logit_softcap)

    def prefill(self, batch: Batch, max_decode_length: int) -> tuple[DecoderCache, jax.Array]:
        """Reads the prompts.

        Args:
            batch: prompts with segment ids and positions, padded on either side.
            max_decode_length: how many tokens will be decoded at most.

        Returns:
            The cache, and the hidden state [B, D] that predicts the first token.
        """
        c, segments = self.config, batch.decoder_segment_ids
        if segments is None:
            raise ValueError("prompts come with segment ids and positions, and the batch has none")
        rows = read_rows(batch, c.bos_id, prefix_lm=c.prefix_lm)
        assert rows.examples is not None
        columns = jnp.arange(segments.shape[1])
        last = jnp.max(jnp.where(segments > 0, columns, 0), axis=1)
        seen = jnp.where(rows.examples > 0, rows.positions, _UNSEEN)
        x, views = self._embed(rows.tokens), self._views(rows)
        room, kept = max(max_decode_length - 1, 1), {kind: self._kept(kind, last, len(columns)) for kind in views}
        layers = []
        for kind, layer in zip(c.layer_kinds, each_layer(self.layers), strict=True):
            x, keys_values = layer.read(x, views[kind], kind == LOCAL)
            x = by_rows(x)
            keys, values = (_take_keys(each, kept[kind]) for each in keys_values)
            layers.append(_fresh(keys, values, self._ring(kind, room)))
        cache = DecoderCache(
            index=jnp.zeros_like(last),
            length=jnp.sum(rows.examples > 0, axis=1, dtype=jnp.int32),
            positions={kind: _take_positions(seen, where) for kind, where in kept.items()},
            layers=tuple(layers),
        )
        return cache, self.norm(jnp.take_along_axis(x, last[:, None, None], axis=1))[:, 0]

    def step(self, tokens: jax.Array, cache: DecoderCache) -> tuple[DecoderCache, jax.Array]:
        """Takes the tokens i32[B] just chosen; returns the cache and the hidden state [B, D] that predicts the next."""
        position = (cache.length + cache.index)[:, None]
        views = {kind: self._step_view(kind, position, cache) for kind in cache.positions}
        x = self._embed(tokens[:, None])
        layers = []
        for kind, layer, each in zip(self.config.layer_kinds, each_layer(self.layers), cache.layers, strict=True):
            x, each = layer.step(x, views[kind], each)
            layers.append(each)
        return dataclasses.replace(cache, index=cache.index + 1, layers=tuple(layers)), self.norm(x)[:, 0]

    def _embed(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding(tokens, self.config.dtype)
        if self.config.embedding_scale:  # rounded first, as it is in the weights' dtype where Gemma was trained
            x = x * jnp.asarray(self.config.embed_dim**0.5, x.dtype)
        return by_rows(x)

    def _window(self, kind: str) -> int | None:
        return self.config.window if kind == LOCAL else None

    def _views(self, rows: Rows) -> dict[str, View]:
        """By kind of layer, global first."""
        kinds = [kind for kind in (GLOBAL, LOCAL) if kind in self.config.layer_kinds]
        turn = lambda kind: rotation(self.config, rows.positions, local=kind == LOCAL)  # noqa: E731
        examples = None
        if self.config.attention == "splash":
            examples = jnp.ones_like(rows.tokens) if rows.examples is None else rows.examples
        return {kind: View(rows.mask(self._window(kind)), turn(kind), examples) for kind in kinds}

    def _kept(self, kind: str, last: jax.Array, columns: int) -> jax.Array | None:
        """i32[B, P]: the prompt's columns that a layer can still see when it is over, if they are not all."""
        window = self._window(kind)
        if window is None or window >= columns:
            return None
        return last[:, None] + jnp.arange(1 - window, 1)

    def _ring(self, kind: str, room: int) -> int:
        window = self._window(kind)
        return room if window is None else min(room, window)

    def _step_view(self, kind: str, position: jax.Array, cache: DecoderCache) -> StepView:
        window, prompt = self._window(kind), cache.positions[kind]
        prompt_mask = prompt != _UNSEEN
        if window is not None:
            prompt_mask &= position - prompt < window
        ring = cache.layers[self.config.layer_kinds.index(kind)].keys.shape[2]
        # A ring of the window's size holds just what is seen once it is full; before, the slots up to this one.
        mask = jnp.arange(ring) <= cache.index[:, None]
        return StepView(
            prompt_mask[:, None, None],
            mask[:, None, None],
            cache.index % ring,
            rotation(self.config, position, local=kind == LOCAL),
        )


def _fresh(keys: jax.Array, values: jax.Array, ring: int) -> LayerCache:
    """The cache of a layer after the prompt, whose keys and values are [B, N, P, K]."""
    empty = jnp.zeros((*keys.shape[:2], ring, keys.shape[3]), keys.dtype)
    return LayerCache(keys, values, empty, empty)


def _take_keys(x: jax.Array, columns: jax.Array | None) -> jax.Array:
    """[B, N, P, K] of [B, N, T, K]; where there is no such column, any other."""
    return x if columns is None else jnp.take_along_axis(x, jnp.maximum(columns, 0)[:, None, :, None], axis=2)


def _take_positions(x: jax.Array, columns: jax.Array | None) -> jax.Array:
    """i32[B, P] of i32[B, T]; where there is no such column, _UNSEEN."""
    if columns is None:
        return x
    return jnp.where(columns >= 0, jnp.take_along_axis(x, jnp.maximum(columns, 0), axis=1), _UNSEEN)
