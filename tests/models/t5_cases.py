"""Small T5s and batches for the tests of models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cat_jax.models.t5_config import T5Config
from cat_jax.types import Batch

VOCAB = 50


def tiny_config(**changes) -> T5Config:
    sizes = {
        "vocab_size": VOCAB,
        "embed_dim": 16,
        "num_heads": 3,
        "head_dim": 4,
        "mlp_dim": 24,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
    }
    return T5Config(**{**sizes, **changes})


@functools.cache
def split(config: T5Config, seed: int = 0):
    """Graph definition and parameters of a new model; compiled as one, which is much faster than op by op."""
    abstract = nnx.eval_shape(lambda: config.build(jax.random.key(seed)))
    return nnx.graphdef(abstract), jax.jit(lambda: nnx.state(config.build(jax.random.key(seed))))()


def padded(rows: list[list[int]], length: int) -> np.ndarray:
    return np.array([row + [0] * (length - len(row)) for row in rows], np.int32)


def batch_of(inputs: list[list[int]], targets: list[list[int]], input_length: int, target_length: int) -> Batch:
    """One example a row, right-padded."""
    target_tokens = padded(targets, target_length)
    return Batch(
        decoder_target_tokens=jnp.array(target_tokens),
        decoder_input_tokens=jnp.array(padded([[0, *row[:-1]] for row in targets], target_length)),
        decoder_loss_weights=jnp.array(target_tokens > 0, jnp.float32),
        encoder_input_tokens=jnp.array(padded(inputs, input_length)),
    )


def random_rows(seed: int, lengths: list[int]) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, VOCAB, length).tolist() for length in lengths]


def random_batch(seed: int = 0) -> Batch:
    """Three rows of unlike lengths, padded to 9 inputs and 7 targets."""
    return batch_of(random_rows(seed, [9, 4, 6]), random_rows(seed + 1, [7, 2, 5]), 9, 7)


@functools.partial(jax.jit, static_argnums=0)
def run(graphdef, params, batch, dropout_key=None):
    return nnx.merge(graphdef, params)(batch, dropout_key=dropout_key)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(graphdef, params, batch, dropout_key=None):
    output = nnx.merge(graphdef, params)(batch, dropout_key=dropout_key)
    return output.head.logits(output.hidden)


def biggest_difference(a, b) -> float:
    """The largest absolute difference between two trees of one structure."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    gaps = jax.tree.map(lambda x, y: float(jnp.max(jnp.abs(x.astype(jnp.float32) - y.astype(jnp.float32)))), a, b)
    return max(jax.tree.leaves(gaps))
