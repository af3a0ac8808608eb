"""Mode "generate": the model writes an answer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from flax import nnx

from cat_jax.data.store import ExampleStore
from cat_jax.decode.greedy import Greedy
from cat_jax.decode.loop import Decoded, Decoding
from cat_jax.evaluate.answers import answer_rows, ragged
from cat_jax.evaluate.devices import Devices
from cat_jax.evaluate.plan import Chunk, plan_chunks
from cat_jax.evaluate.prompts import prompt_batch, read_inputs
from cat_jax.parallel.activations import rows_over
from cat_jax.parallel.batches import replicated

NO_EOS = -1
"""Stands for the end-of-sequence id of a vocabulary that has none: no token equals it."""


class Generation:
    """How the examples of one store are answered in this mode."""

    def __init__(
        self,
        store: ExampleStore,
        devices: Devices,
        rows: int,
        max_decode_length: int,
        decoding: Decoding = Greedy(),  # noqa: B008
    ):
        self._store, self._devices, self._length, self._decoding = store, devices, max_decode_length, decoding
        eos_id = store.manifest.features["targets"].eos_id
        self._eos_id = NO_EOS if eos_id is None else eos_id
        self.chunks: list[Chunk] = plan_chunks(
            store.lengths[:, 0], store.manifest.feature_lengths.get("inputs", 0), rows
        )

    def program(self, graphdef: Any) -> Callable[..., Any]:
        """A jitted function (params, arrays) -> results on every host; equal models share it."""
        return generation_program(graphdef, self._devices, self._length, self._eos_id, self._decoding)

    def arrays(self, examples: np.ndarray, input_length: int) -> dict[str, np.ndarray]:
        """What the program is fed for these examples, -1 for rows that only fill up."""
        return {"examples": examples.astype(np.int32), **read_inputs(self._store, examples, input_length)}

    def answers(self, results: Any) -> pa.Table:
        """Rows of `ANSWERS` from the program's results."""
        examples, decoded = results
        real = examples >= 0
        lengths = decoded.lengths[real]
        return answer_rows(
            {
                "index": examples[real],
                "prediction_tokens": ragged(decoded.tokens[real], lengths),
                "token_logprobs": ragged(decoded.statistics.logprobs[real], lengths),
                "token_entropies": ragged(decoded.statistics.entropies[real], lengths),
                "token_margins": ragged(decoded.statistics.margins[real], lengths),
                "steps": pa.array(decoded.steps[real]),
            }
        )


@functools.cache
def generation_program(
    graphdef: Any, devices: Devices, max_decode_length: int, eos_id: int, decoding: Decoding
) -> Callable[..., Any]:
    """A jitted function (params, {"examples": i32[R], "inputs": i32[R, S]}) -> (examples, `Decoded`), on every host.

    An example of -1 fills the batch up. "input_lengths" i32[R] come with inputs of which id 0 is a token.
    """

    def run(params: Any, arrays: dict[str, jax.Array]) -> tuple[jax.Array, Decoded]:
        model = nnx.merge(graphdef, params)
        batch = prompt_batch(arrays["inputs"], model.config.prompt, arrays.get("input_lengths"))
        examples = arrays["examples"]
        with rows_over(devices.mesh, devices.axes):
            # A row is named by its example's place in the store: what is drawn does not depend on how rows are batched.
            decoded = decoding(
                model, batch, max_decode_length=max_decode_length, eos_id=eos_id, rows=examples, live=examples >= 0
            )
        return examples, decoded

    return jax.jit(run, out_shardings=replicated(devices.mesh))
