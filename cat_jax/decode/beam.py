"""Beam search: of many sequences that grow side by side, the one with the best score.

The search is that of `transformers`' generate, token for token; t5x's length penalty may take the place of its own.
Shape letters: B rows, K beams, L columns, V vocabulary; C = 2 K candidates, so that K are left if K of them end.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cat_jax.decode.beam_cache import Beams
from cat_jax.decode.loop import Decoded
from cat_jax.decode.statistics import TokenStatistics
from cat_jax.decode.top import top
from cat_jax.errors import UserError
from cat_jax.types import Batch, Model

LENGTH_PENALTIES = ("transformers", "t5x")
"""What divides the log-probability of a sequence of n tokens: n^alpha, or ((5 + n) / 6)^alpha (Wu et al. 2016)."""

EARLY_STOPPING = (False, True, "never")
"""What `BeamSearch.early_stopping` may be."""


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Keeps the `beams` likeliest beginnings of each row; the answer is the ended one with the best score.

    A score is the log-probability divided by the length penalty. The answer's statistics are the model's own, as those
    of greedy decoding, which a beam of one is: it ends with its first end.

    Attributes:
      beams: sequences of a row that are continued at every step.
      length_penalty: one of `LENGTH_PENALTIES`.
      alpha: its exponent; 0 for none.
      early_stopping: when a row with `beams` ended sequences stops. True: at once. False: when no running one would be
        better at its present length. "never": when none would be at the length that favours it most, up to the limit.

    Raises:
      UserError: a field is out of its range.
    """

    beams: int = 4
    length_penalty: str = "transformers"
    alpha: float = 1.0
    early_stopping: bool | str = False

    def __post_init__(self):
        if isinstance(self.beams, bool) or not isinstance(self.beams, int) or self.beams < 1:
            raise UserError(f"BeamSearch.beams is {self.beams!r}", "give a whole number above 0")
        if self.length_penalty not in LENGTH_PENALTIES:
            raise UserError(
                f"there is no BeamSearch.length_penalty {self.length_penalty!r}",
                f"use one of {', '.join(LENGTH_PENALTIES)}",
            )
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not math.isfinite(self.alpha):
            raise UserError(f"BeamSearch.alpha is {self.alpha!r}", "give a number, 0 for no length penalty")
        # Of the right type, too: 0 and 1 are equal to False and True.
        if not isinstance(self.early_stopping, bool | str) or self.early_stopping not in EARLY_STOPPING:
            raise UserError(f"BeamSearch.early_stopping is {self.early_stopping!r}", "use True, False or 'never'")

    def to_dict(self) -> dict[str, Any]:
        """What decides the answers, JSON-able."""
        return {"name": "beam_search", **dataclasses.asdict(self), "alpha": float(self.alpha)}

    def penalties(self, length: int) -> np.ndarray:
        """f32[length + 1]: what the log-probability of a sequence of that many tokens is divided by."""
        tokens = np.arange(length + 1, dtype=np.float64)
        base = (5 + tokens) / 6 if self.length_penalty == "t5x" else np.maximum(tokens, 1)
        return (base**self.alpha).astype(np.float32)

    def __call__(
        self,
        model: Model,
        batch: Batch,
        *,
        max_decode_length: int,
        eos_id: int,
        rows: jax.Array | None = None,
        live: jax.Array | None = None,
    ) -> Decoded:
        """Searches. Call it inside `jax.jit`; see `decode.loop.Decoding`."""
        del rows  # nothing is drawn
        search = _Search(self, max_decode_length, eos_id)
        head = model.head()
        cache, hidden = model.prefill(batch, max_decode_length)
        count = hidden.shape[0]
        beams = Beams(model, cache, self.beams)
        state = _State(
            position=jnp.int32(0),
            done=jnp.zeros(count, bool) if live is None else ~live,
            steps=jnp.zeros(count, jnp.int32),
            running=dataclasses.replace(_none(count, 1, max_decode_length), scores=jnp.zeros((count, 1), jnp.float32)),
            ended=_none(count, self.beams, max_decode_length),
            parents=jnp.zeros((count, self.beams), jnp.int32),
            cache=beams.cache,
        )

        def step(state: _State) -> _State:
            last = lax.dynamic_index_in_dim(state.running.tokens, state.position - 1, axis=2, keepdims=False)
            cache, hidden = beams.step(last, state.parents, state.cache)
            return search.write(dataclasses.replace(state, cache=cache), head.logits(hidden))

        def unfinished(state: _State) -> jax.Array:
            return (state.position < max_decode_length) & ~jnp.all(state.done)

        # The prompt is read once a row: the first tokens all continue the same, empty sequence.
        state = lax.while_loop(unfinished, step, search.write(state, head.logits(hidden[:, None])))
        return _answers(state, live)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Sequences:
    """N sequences of each row; 0 beyond their lengths."""

    scores: jax.Array  # f32[B, N], descending; -inf where there is none
    lengths: jax.Array  # i32[B, N]
    tokens: jax.Array  # i32[B, N, L]
    statistics: TokenStatistics  # f32[B, N, L] each


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    position: jax.Array  # i32[]: the next column to write
    done: jax.Array  # bool[B]: nothing of the row changes any more
    steps: jax.Array  # i32[B]: columns written until then
    running: _Sequences  # K a row, by log-probability; at the start the empty one alone
    ended: _Sequences  # K a row, by log-probability over penalty
    parents: jax.Array  # i32[B, K]: where in `cache` the running ones are to be found
    cache: list[jax.Array]


@dataclasses.dataclass(frozen=True)
class _Search:
    options: BeamSearch
    length: int
    eos_id: int

    def write(self, state: _State, logits: jax.Array) -> _State:
        """The state with one more column, from logits [B, N, V] of the running sequences' next tokens."""
        o, beams = self.options, self.options.beams
        candidates, parents, tokens = _continue(state.running, logits, state.position, 2 * beams)
        ends = (tokens == self.eos_id) | (state.position + 1 == self.length)
        scores = candidates.scores
        going, chosen = top(jnp.where(ends, -jnp.inf, scores), beams)
        running = dataclasses.replace(_take(candidates, chosen), scores=going)
        penalty = jnp.asarray(o.penalties(self.length))
        # Those beyond the first K are there to go on in the place of those that end; they do not end themselves.
        ends &= (jnp.arange(2 * beams) < beams) & ~state.done[:, None]
        new = dataclasses.replace(candidates, scores=jnp.where(ends, scores / penalty[state.position + 1], -jnp.inf))
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), state.ended, new)
        ended = _take(both, top(both.scores, beams)[1])
        optimist = self.length if o.early_stopping == "never" and o.alpha > 0 else state.position + 1
        worst = ended.scores[:, -1]
        done = going[:, 0] / penalty[optimist] <= worst
        if o.early_stopping is True or beams == 1:
            done |= worst > -jnp.inf
        return _State(
            position=state.position + 1,
            done=state.done | done,
            steps=state.steps + ~state.done,
            running=running,
            ended=ended,
            parents=jnp.take_along_axis(parents, chosen, axis=1),
            cache=state.cache,
        )


def _continue(
    running: _Sequences, logits: jax.Array, position: jax.Array, count: int
) -> tuple[_Sequences, jax.Array, jax.Array]:
    """The likeliest continuations: `count` of each row by their log-probability, with parents and tokens i32[B, count].

    No parent has more than `count` among them, so that no more of each are compared.
    """
    each = min(count, logits.shape[-1])
    best, ids = top(logits, each)
    shifted = logits - best[..., :1]
    weights = jnp.exp(shifted)
    total = jnp.sum(weights, axis=-1)
    expected = jnp.sum(weights * jnp.where(weights > 0, shifted, 0), axis=-1) / total
    logprobs = best - best[..., :1] - jnp.log(total)[..., None]
    margins = best[..., 0] - best[..., min(1, each - 1)]

    def by_row(x: jax.Array, fill: float) -> jax.Array:
        """[B, N, each] -> [B, N * each], filled up to `count`."""
        x = x.reshape(len(x), -1)
        return jnp.pad(x, [(0, 0), (0, max(0, count - x.shape[1]))], constant_values=fill)

    scores = running.scores[..., None] + logprobs
    # `top` passes NaN over: as the largest score it gets into the answer, where it is seen.
    scores, chosen = top(by_row(jnp.where(jnp.isnan(scores), jnp.inf, scores), -jnp.inf), count)
    parents = jnp.minimum(chosen // each, running.scores.shape[1] - 1)
    tokens = jnp.take_along_axis(by_row(ids, 0), chosen, axis=1)

    def of_parent(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, parents, axis=1)

    statistics = TokenStatistics(
        logprobs=jnp.take_along_axis(by_row(logprobs, -jnp.inf), chosen, axis=1),
        entropies=of_parent(jnp.log(total) - expected),
        margins=of_parent(margins),
    )
    before = _take(running, parents)

    def put(whole: jax.Array, column: jax.Array) -> jax.Array:
        return lax.dynamic_update_index_in_dim(whole, column, position, axis=2)

    candidates = _Sequences(
        scores=scores,
        lengths=before.lengths + 1,
        tokens=put(before.tokens, tokens),
        statistics=jax.tree.map(put, before.statistics, statistics),
    )
    return candidates, parents, tokens


def _none(rows: int, count: int, length: int) -> _Sequences:
    numbers = jnp.zeros((rows, count, length), jnp.float32)
    return _Sequences(
        scores=jnp.full((rows, count), -jnp.inf, jnp.float32),
        lengths=jnp.zeros((rows, count), jnp.int32),
        tokens=jnp.zeros((rows, count, length), jnp.int32),
        statistics=TokenStatistics(logprobs=numbers, entropies=numbers, margins=numbers),
    )


def _take(sequences: _Sequences, which: jax.Array) -> _Sequences:
    """Those of each row at `which` i32[B, M]."""

    def take(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, which.reshape(*which.shape, *[1] * (x.ndim - 2)), axis=1)

    return jax.tree.map(take, sequences)


def _answers(state: _State, live: jax.Array | None) -> Decoded:
    """The best of each row."""
    best = jax.tree.map(lambda x: x[:, 0], state.ended)
    if live is not None:
        best = jax.tree.map(lambda x: jnp.where(live.reshape(-1, *[1] * (x.ndim - 1)), x, 0), best)
    return Decoded(tokens=best.tokens, lengths=best.lengths, statistics=best.statistics, steps=state.steps)
