"""Prompts as arrays and as a `Batch`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cat_jax.data.store import ExampleStore
from cat_jax.types import Batch, Prompt


def prompt_batch(inputs: jax.Array, prompt: Prompt = "encoder", lengths: jax.Array | None = None) -> Batch:
    """A batch to decode from, as `Model.prefill` takes it, of inputs i32[B, S] with padding 0 on the right.

    A prefix has S + 1 columns: what predicts the first target is the last input's place, or the start's without any.
    `lengths` i32[B] say where padding begins if id 0 is a token; without, it begins at the first 0.
    """
    stand = inputs > 0 if lengths is None else jnp.arange(inputs.shape[1]) < lengths[:, None]
    if prompt == "encoder":
        empty = jnp.zeros((len(inputs), 1), jnp.int32)
        segments = None if lengths is None else stand.astype(jnp.int32)
        fields = {"encoder_input_tokens": inputs, "encoder_segment_ids": segments}
        return Batch(empty, empty, empty.astype(jnp.float32), **fields)
    present = jnp.pad(stand, [(0, 0), (1, 0)], constant_values=True)
    return Batch(
        decoder_target_tokens=jnp.pad(inputs, [(0, 0), (0, 1)]),
        decoder_input_tokens=jnp.pad(inputs, [(0, 0), (1, 0)]),
        decoder_loss_weights=jnp.zeros(present.shape, jnp.float32),
        decoder_segment_ids=present.astype(jnp.int32),
        decoder_positions=jnp.where(present, jnp.arange(present.shape[1]), 0),
    )


def read_inputs(store: ExampleStore, examples: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Arguments of `prompt_batch`, as arrays: the inputs of `examples`, nothing of -1.

    Returns:
      "inputs" i32[R, length], filled up with 0; and "input_lengths" i32[R] where id 0 is a token of the inputs.
    """
    result, lengths = np.zeros((len(examples), length), np.int32), np.zeros(len(examples), np.int32)
    [real] = np.nonzero(examples >= 0)
    for row, example in zip(real, store.read(examples[real]), strict=True):
        if example.inputs is not None:
            lengths[row] = len(example.inputs)
            result[row, : lengths[row]] = example.inputs
    feature = store.manifest.features.get("inputs")
    if feature is None or not feature.zero_is_token:
        return {"inputs": result}
    return {"inputs": result, "input_lengths": lengths}
