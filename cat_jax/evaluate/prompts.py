"""Prompts as arrays and as a `Batch`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cat_jax.data.store import ExampleStore
from cat_jax.types import Batch


def prompt_batch(inputs: jax.Array) -> Batch:
    """A batch of encoder inputs i32[B, S] without targets."""
    empty = jnp.zeros((len(inputs), 1), jnp.int32)
    return Batch(empty, empty, empty.astype(jnp.float32), encoder_input_tokens=inputs)


def read_inputs(store: ExampleStore, examples: np.ndarray, length: int) -> np.ndarray:
    """i32[R, length]: the inputs of `examples`, filled up with 0; of -1, a token that keeps attention from nothing."""
    result = np.zeros((len(examples), length), np.int32)
    [real] = np.nonzero(examples >= 0)
    result[examples < 0, 0] = 1
    for row, example in zip(real, store.read(examples[real]), strict=True):
        if example.inputs is not None:
            result[row, : len(example.inputs)] = example.inputs
    return result
