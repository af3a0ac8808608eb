"""Prompts as arrays and as a `Batch`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cat_jax.data.store import ExampleStore
from cat_jax.types import Batch, Prompt


def prompt_batch(inputs: jax.Array, prompt: Prompt = "encoder") -> Batch:
    """A batch to decode from, as `Model.prefill` takes it, of inputs i32[B, S] with padding 0 on the right.

    A prefix has S + 1 columns: what predicts the first target is the last input's place, or the start's without any.
    """
    if prompt == "encoder":
        empty = jnp.zeros((len(inputs), 1), jnp.int32)
        return Batch(empty, empty, empty.astype(jnp.float32), encoder_input_tokens=inputs)
    present = jnp.pad(inputs > 0, [(0, 0), (1, 0)], constant_values=True)
    return Batch(
        decoder_target_tokens=jnp.pad(inputs, [(0, 0), (0, 1)]),
        decoder_input_tokens=jnp.pad(inputs, [(0, 0), (1, 0)]),
        decoder_loss_weights=jnp.zeros(present.shape, jnp.float32),
        decoder_segment_ids=present.astype(jnp.int32),
        decoder_positions=jnp.where(present, jnp.arange(present.shape[1]), 0),
    )


def read_inputs(store: ExampleStore, examples: np.ndarray, length: int) -> np.ndarray:
    """i32[R, length]: the inputs of `examples`, filled up with 0; nothing of -1."""
    result = np.zeros((len(examples), length), np.int32)
    [real] = np.nonzero(examples >= 0)
    for row, example in zip(real, store.read(examples[real]), strict=True):
        if example.inputs is not None:
            result[row, : len(example.inputs)] = example.inputs
    return result
