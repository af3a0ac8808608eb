"""The least model that trains: quick to trace and to compile, for jobs of several processes."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from cat_jax.models.layers import Embedding, Linear
from cat_jax.models.registry import register_family
from cat_jax.types import Head, ModelOutput


@register_family
@dataclasses.dataclass(frozen=True)
class BagConfig:
    family: ClassVar[str] = "toy_bag"
    prompt: ClassVar[str] = "encoder"

    vocab_size: int = 16
    width: int = 8

    def build(self, key):
        return Bag(self, key)

    def forward_flops(self, input_length, target_length):
        return 2.0 * target_length * self.width * self.vocab_size + 0.0 * input_length

    def answer_flops(self, input_length, output_length):
        return self.forward_flops(input_length, output_length)

    def to_dict(self):
        return {"family": self.family, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, fields):
        return cls(**{name: value for name, value in fields.items() if name != "family"})


class Bag(nnx.Module):
    """A token's state is its embedding, plus the mean of the inputs'."""

    def __init__(self, config, key):
        one, other = jax.random.split(key)
        self.config = config
        self.embedding = Embedding(one, config.vocab_size, config.width, param_dtype="float32")
        self.output = Linear(other, (config.width, config.vocab_size), ("embed", "vocab"), param_dtype="float32")

    def __call__(self, batch, *, dropout_key=None):
        inputs = jnp.mean(self.embedding(batch.encoder_input_tokens, "float32"), axis=1, keepdims=True)
        return ModelOutput(self.embedding(batch.decoder_input_tokens, "float32") + inputs, self.head())

    def head(self):
        return Head(self.output.kernel[...], self.config.vocab_size)

    def prefill(self, batch, max_decode_length):
        raise NotImplementedError

    def step(self, tokens, cache):
        raise NotImplementedError
