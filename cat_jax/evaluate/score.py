"""Mode "score", rank classification: the answer is the option that the model finds most likely."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from flax import nnx

from cat_jax.data.store import ExampleStore
from cat_jax.decode.score import score_options
from cat_jax.decode.statistics import TokenStatistics
from cat_jax.evaluate.answers import answer_rows, ragged
from cat_jax.evaluate.devices import Devices
from cat_jax.evaluate.plan import Chunk, plan_chunks
from cat_jax.evaluate.prompts import prompt_batch, read_inputs
from cat_jax.parallel.activations import rows_over
from cat_jax.parallel.batches import replicated

NORMALIZATIONS = ("sum", "mean")
"""By what an option is chosen: its log-likelihood, or that divided by its number of tokens.

Tables hold the former, the lengths and this setting: `cascade.confidence.option_keys` chooses by them as is done here.
"""

_MULTIPLE = 4


class Scoring:
    """How the examples of one store are answered in this mode.

    Args:
      store: the examples.
      options: the token ids of each option of each example, as targets have them.
      devices: where.
      rows: examples of a chunk.
      normalization: one of `NORMALIZATIONS`.
    """

    def __init__(
        self,
        store: ExampleStore,
        options: Sequence[Sequence[np.ndarray]],
        devices: Devices,
        rows: int,
        normalization: str,
    ):
        self._store, self._options, self._devices, self._normalization = store, options, devices, normalization
        counts = np.array([len(each) for each in options])
        lengths = np.array([max(map(len, each)) for each in options])
        # One shape for the whole store: the program's loops end at the options and tokens that a batch really has.
        self._count, self._length = int(counts.max()), -(-int(lengths.max()) // _MULTIPLE) * _MULTIPLE
        longest = store.manifest.feature_lengths.get("inputs", 0)
        self.chunks: list[Chunk] = plan_chunks(store.lengths[:, 0], longest, rows, lengths, counts)

    def program(self, graphdef: Any) -> Callable[..., Any]:
        """A jitted function (params, arrays) -> results on every host; equal models share it."""
        return _program(graphdef, self._devices, self._normalization)

    def arrays(self, examples: np.ndarray, input_length: int) -> dict[str, np.ndarray]:
        """What the program is fed for these examples, -1 for rows that only fill up."""
        options = np.zeros((len(examples), self._count, self._length), np.int32)
        lengths = np.zeros((len(examples), self._count), np.int32)
        for row, index in enumerate(examples):
            for o, tokens in enumerate(self._options[index] if index >= 0 else ()):
                options[row, o, : len(tokens)] = tokens
                lengths[row, o] = len(tokens)
        return {
            "examples": examples.astype(np.int32),
            **read_inputs(self._store, examples, input_length),
            "options": options,
            "lengths": lengths,
        }

    def answers(self, results: Any) -> pa.Table:
        """Rows of `ANSWERS` from the program's results."""
        examples, scores, best, statistics = results
        real = examples >= 0
        options = [self._options[index] for index in examples[real]]
        chosen = [each[o] for each, o in zip(options, best[real], strict=True)]
        counts, lengths = np.array([len(each) for each in options]), np.array([len(tokens) for tokens in chosen])
        return answer_rows(
            {
                "index": examples[real],
                "prediction_tokens": pa.array(chosen, pa.list_(pa.int32())),
                "token_logprobs": ragged(statistics.logprobs[real], lengths),
                "token_entropies": ragged(statistics.entropies[real], lengths),
                "token_margins": ragged(statistics.margins[real], lengths),
                "best_option": pa.array(best[real]),
                "option_scores": ragged(scores[real], counts),
                "option_lengths": pa.array(
                    [[len(tokens) for tokens in each] for each in options], pa.list_(pa.int32())
                ),
            }
        )


@functools.cache
def _program(graphdef: Any, devices: Devices, normalization: str) -> Callable[..., Any]:
    def run(params: Any, arrays: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array, TokenStatistics]:
        model, lengths = nnx.merge(graphdef, params), arrays["lengths"]
        batch = prompt_batch(arrays["inputs"], model.config.prompt, arrays.get("input_lengths"))
        with rows_over(devices.mesh, devices.axes):
            statistics = score_options(model, batch, arrays["options"], lengths)
        scores = jnp.sum(statistics.logprobs, axis=-1)
        keys = scores / jnp.maximum(lengths, 1) if normalization == "mean" else scores
        best = jnp.argmax(jnp.where(lengths > 0, keys, -jnp.inf), axis=-1).astype(jnp.int32)
        of_best = jax.tree.map(lambda x: jnp.take_along_axis(x, best[:, None, None], axis=1)[:, 0], statistics)
        return arrays["examples"], scores, best, of_best

    return jax.jit(run, out_shardings=replicated(devices.mesh))
