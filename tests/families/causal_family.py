"""A decoder-only family such as a user would bring: a causal Transformer with absolute positions and a KV cache.

It touches no wall of cat-jax: what it needs is the model protocol, and `register_family`.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from cat_jax.models import masks
from cat_jax.models.attention import Attention
from cat_jax.models.layers import MLP, Embedding, Linear, RMSNorm
from cat_jax.models.registry import register_family
from cat_jax.types import Head, ModelOutput


@register_family
@dataclasses.dataclass(frozen=True)
class CausalConfig:
    family: ClassVar[str] = "toy_causal"
    prompt: ClassVar[str] = "prefix"

    vocab_size: int
    width: int = 16
    num_heads: int = 2
    num_layers: int = 2
    dtype: str = "float32"
    param_dtype: str = "float32"

    def build(self, key):
        return Causal(self, key)

    def forward_flops(self, input_length, target_length):
        """A row of inputs + targets columns, as the walls of cat-jax make it."""
        length = 1.0 * (input_length + target_length)
        return self._layers(length, length * length) + self._head(length)

    def answer_flops(self, input_length, output_length):
        """The prompt after its start, then a token at a time; the last one is never read."""
        prompt, steps = 1.0 * input_length + 1, 1.0 * output_length - 1
        attended = prompt * prompt + prompt * steps + steps * (steps + 1) / 2
        return self._layers(prompt + steps, attended) + self._head(steps + 1)

    def _layers(self, length, attended):
        kernels = 4 * self.width**2 + 2 * self.width * 2 * self.width
        return self.num_layers * (2.0 * length * kernels + 4.0 * attended * self.width)

    def _head(self, length):
        return 2.0 * length * self.width * self.vocab_size

    def to_dict(self):
        return {"family": self.family, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, fields):
        return cls(**{name: value for name, value in fields.items() if name != "family"})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    keys: jax.Array  # [B, layers, H, L, K]
    values: jax.Array
    seen: jax.Array  # bool[B, L]: columns that hold a token of the row
    column: jax.Array  # i32[B]: the next to write
    position: jax.Array  # i32[B]: of the next token in its example


class Layer(nnx.Module):
    def __init__(self, config, key):
        attention_key, mlp_key = jax.random.split(key)
        size = config.width // config.num_heads
        norm = {"epsilon": 1e-6, "param_dtype": config.param_dtype}
        self.attention_norm, self.mlp_norm = RMSNorm(config.width, **norm), RMSNorm(config.width, **norm)
        self.attention = Attention(
            attention_key, config.width, config.num_heads, size, 0.0, param_dtype=config.param_dtype
        )
        self.mlp = MLP(mlp_key, config.width, 2 * config.width, ("relu",), 0.0, param_dtype=config.param_dtype)

    def __call__(self, x, mask, past=None):
        """The layer of `x`, and the keys and values it attended to; `past` takes those of `x` and gives all."""
        y = self.attention_norm(x)
        keys, values = self.attention.keys_values(y)
        if past is not None:
            keys, values = past(keys, values)
        x = x + self.attention(y, keys, values, mask=mask)
        return x + self.mlp(self.mlp_norm(x)), keys, values


class Causal(nnx.Module):
    def __init__(self, config, key):
        embedding_key, head_key, *layer_keys = jax.random.split(key, 2 + config.num_layers)
        self.config = config
        self.embedding = Embedding(embedding_key, config.vocab_size, config.width, param_dtype=config.param_dtype)
        self.layers = nnx.List([Layer(config, key) for key in layer_keys])
        shape, axes = (config.width, config.vocab_size), ("embed", "vocab")
        self.output = Linear(head_key, shape, axes, param_dtype=config.param_dtype)

    def head(self):
        return Head(self.output.kernel[...].astype(self.config.dtype), self.config.vocab_size)

    def __call__(self, batch, *, dropout_key=None):
        del dropout_key
        x, mask = self._read(batch)
        for layer in self.layers:
            x, _, _ = layer(x, mask)
        return ModelOutput(x, self.head())

    def prefill(self, batch, max_decode_length):
        """Prompts padded on either side: `segment_mask` hides the padding, positions count without it."""
        segments = batch.decoder_segment_ids
        if segments is None:
            raise ValueError("prompts come with segment ids")
        x, mask = self._read(batch)
        keys, values = [], []
        for layer in self.layers:
            x, key, value = layer(x, mask)
            keys.append(key)
            values.append(value)
        room, columns = max_decode_length - 1, segments.shape[1]
        grow = lambda kv: jnp.pad(jnp.stack(kv, 1), [(0, 0)] * 3 + [(0, room), (0, 0)])  # noqa: E731
        last = jnp.max(jnp.where(segments > 0, jnp.arange(columns), 0), axis=1)
        cache = Cache(
            keys=grow(keys),
            values=grow(values),
            seen=jnp.pad(segments > 0, [(0, 0), (0, room)]),
            column=jnp.full(len(last), columns, jnp.int32),
            position=jnp.sum(segments > 0, axis=1),
        )
        return cache, jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]

    def step(self, tokens, cache):
        here = jnp.arange(cache.seen.shape[1]) == cache.column[:, None]
        seen = cache.seen | here
        x = self._embed(tokens[:, None], cache.position[:, None])
        keys, values = [], []
        for i, layer in enumerate(self.layers):

            def past(key, value, i=i):
                put = lambda old, new: jnp.where(here[:, None, :, None], new, old[:, i])  # noqa: E731
                return put(cache.keys, key), put(cache.values, value)

            x, key, value = layer(x, seen[:, None, None], past)
            keys.append(key)
            values.append(value)
        cache = Cache(jnp.stack(keys, 1), jnp.stack(values, 1), seen, cache.column + 1, cache.position + 1)
        return cache, x[:, 0]

    def _read(self, batch):
        """Embedded tokens [B, T, D] and who sees whom."""
        tokens, segments, positions = batch.decoder_input_tokens, batch.decoder_segment_ids, batch.decoder_positions
        mask = masks.causal_mask(tokens.shape[1])
        if segments is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        else:
            mask &= masks.segment_mask(segments, segments)
        return self._embed(tokens, positions), mask

    def _embed(self, tokens, positions):
        """Token vectors and waves of the position: absolute, so that a position that is off shows."""
        half = self.config.width // 2
        angles = positions[..., None] / 50.0 ** (jnp.arange(half) / half)
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return (self.embedding(tokens, self.config.dtype) + waves).astype(self.config.dtype)
