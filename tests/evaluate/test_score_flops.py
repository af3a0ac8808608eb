"""The FLOPs that a table states of rank classification, against a count of what `score_options` calls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from cat_jax.decode.score import score_options
from cat_jax.evaluate.text import _flops
from cat_jax.models.t5_config import T5Config
from cat_jax.types import Batch, Head

CONFIG = T5Config(
    vocab_size=64,
    embed_dim=64,
    num_heads=4,
    head_dim=16,
    mlp_dim=128,
    num_encoder_layers=1,
    num_decoder_layers=2,
    dropout_rate=0.0,
)
INPUTS = 6


def count_of(f, *arguments) -> float:
    """XLA's own count, before optimisation."""
    return jax.jit(f).lower(*arguments).cost_analysis()["flops"]


@dataclasses.dataclass(frozen=True)
class CountedHead:
    head: Head
    owner: "Counted"

    def logits(self, hidden):
        self.owner.total += count_of(self.head.logits, hidden)
        return self.head.logits(hidden)


class Counted:
    """A model of one row that adds up what its calls cost."""

    def __init__(self, model):
        self.model, self.total = model, 0.0

    def head(self):
        return CountedHead(self.model.head(), self)

    def prefill(self, batch, length):
        self.total += count_of(lambda tokens: self.model.prefill(prompt(tokens), length), batch.encoder_input_tokens)
        return self.model.prefill(batch, length)

    def step(self, tokens, cache):
        self.total += count_of(self.model.step, tokens, cache)
        return self.model.step(tokens, cache)


def prompt(tokens):
    targets = jnp.zeros((1, 1), jnp.int32)
    return Batch(targets, targets, jnp.zeros((1, 1)), encoder_input_tokens=tokens)


@pytest.mark.parametrize(("options", "length"), [pytest.param(3, 4, marks=pytest.mark.exhaustive), (5, 1), (1, 3)])
def test_flops_of_scoring_are_those_of_its_calls(options, length):
    model = Counted(CONFIG.build(jax.random.key(0)))
    tokens = jnp.full((1, options, length), 5, jnp.int32)
    with jax.disable_jit():  # loops run in Python, so that every call is seen
        score_options(model, prompt(jnp.full((1, INPUTS), 7, jnp.int32)), tokens, jnp.full((1, options), length))
    answers = pa.table({"option_lengths": pa.array([[length] * options], pa.list_(pa.int32()))})
    stated = _flops(CONFIG, np.array([INPUTS]), answers, {})
    assert stated[0] == pytest.approx(model.total, rel=0.05)
