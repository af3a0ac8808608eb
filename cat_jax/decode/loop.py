"""What decoding is, and the loop of its plain forms: choose a token, write it down with its statistics, step on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from cat_jax.decode.statistics import TokenStatistics, token_statistics
from cat_jax.types import Batch, Model

Choose = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits f32[B, V], position i32[]) -> tokens i32[B]."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoded:
    """What a model wrote. Position t holds something only where t < lengths; everything after is 0."""

    tokens: jax.Array  # i32[B, L], the end-of-sequence token included
    lengths: jax.Array  # i32[B]: tokens written, the end-of-sequence token included
    statistics: TokenStatistics  # f32[B, L] each, of the model's own distribution
    steps: jax.Array  # i32[B]: columns that were computed for the row; `lengths`, unless a search went on


class Decoding(Protocol):
    """A way to write answers: a frozen, hashable dataclass of its options, such as `decode.greedy.Greedy`."""

    def to_dict(self) -> dict[str, Any]:
        """What decides the answers, JSON-able, for the table to record.

        `name` says which way it is, and `beams`, where a row has more than one, how many sequences each step computes.
        """
        ...

    def __call__(
        self,
        model: Model,
        batch: Batch,
        *,
        max_decode_length: int,
        eos_id: int,
        rows: jax.Array,
        live: jax.Array | None = None,
    ) -> Decoded:
        """Answers prompts. Called inside `jax.jit`; a row's result does not depend on the other rows.

        Args:
          model: what predicts.
          batch: the prompts, as `Model.prefill` takes them.
          max_decode_length: L, the columns of the result.
          eos_id: the token that ends a row.
          rows: i32[B]: what names each row, for what is drawn; the same name and prompt, the same answer.
          live: bool[B], False for rows that only fill the batch up: they come back empty and hold up nobody.
        """
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    position: jax.Array  # i32[]: the next column to write
    finished: jax.Array  # bool[B]
    last: jax.Array  # i32[B]: the tokens of column position - 1
    cache: Any
    decoded: Decoded


def decode(
    model: Model,
    batch: Batch,
    choose: Choose,
    *,
    max_decode_length: int,
    eos_id: int,
    live: jax.Array | None = None,
) -> Decoded:
    """Writes up to `max_decode_length` tokens a row, each row until its `eos_id`, all until the last row is done.

    Args:
      model: what predicts.
      batch: the prompts.
      choose: picks the next tokens; the statistics are those of the logits it is given.
      max_decode_length: L, the columns of the result.
      eos_id: the token that ends a row.
      live: bool[B], False for rows that only fill the batch up: they come back empty and hold up nobody.
    """
    head = model.head()
    cache, hidden = model.prefill(batch, max_decode_length)
    rows = hidden.shape[0]

    def write(state: _State, hidden: jax.Array, cache: Any) -> _State:
        logits = head.logits(hidden)
        writes = ~state.finished
        tokens = jnp.where(writes, choose(logits, state.position), 0)
        statistics = token_statistics(logits, tokens)
        lengths = state.decoded.lengths + writes
        column = Decoded(tokens=tokens, lengths=lengths, statistics=statistics, steps=lengths)
        return _State(
            position=state.position + 1,
            finished=state.finished | (tokens == eos_id),
            last=tokens,
            cache=cache,
            decoded=_put(state.decoded, column, state.position, writes),
        )

    def step(state: _State) -> _State:
        cache, hidden = model.step(state.last, state.cache)
        return write(state, hidden, cache)

    def unfinished(state: _State) -> jax.Array:
        return (state.position < max_decode_length) & ~jnp.all(state.finished)

    start = _State(
        position=jnp.int32(0),
        finished=jnp.zeros(rows, bool) if live is None else ~live,
        last=jnp.zeros(rows, jnp.int32),
        cache=cache,
        decoded=_empty(rows, max_decode_length),
    )
    # The first token comes from the prompt, so that a loop body is step, then write, and no step's result is dropped.
    return lax.while_loop(unfinished, step, write(start, hidden, cache)).decoded


def _empty(rows: int, length: int) -> Decoded:
    numbers = jnp.zeros((rows, length), jnp.float32)
    return Decoded(
        tokens=jnp.zeros((rows, length), jnp.int32),
        lengths=jnp.zeros(rows, jnp.int32),
        statistics=TokenStatistics(logprobs=numbers, entropies=numbers, margins=numbers),
        steps=jnp.zeros(rows, jnp.int32),
    )


def _put(decoded: Decoded, column: Decoded, position: jax.Array, writes: jax.Array) -> Decoded:
    """`decoded` with column `position` filled where `writes`, left at 0 elsewhere."""

    def put(whole: jax.Array, values: jax.Array) -> jax.Array:
        return whole.at[:, position].set(jnp.where(writes, values, 0).astype(whole.dtype))

    return Decoded(
        tokens=put(decoded.tokens, column.tokens),
        lengths=column.lengths,
        statistics=jax.tree.map(put, decoded.statistics, column.statistics),
        steps=column.steps,
    )
