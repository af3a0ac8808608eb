"""Greedy decoding: always the most probable token."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from cat_jax.decode.loop import Decoded, decode
from cat_jax.decode.statistics import best_tokens
from cat_jax.types import Batch, Model


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The most probable token at every position; of equal ones the lowest id."""

    def to_dict(self) -> dict[str, Any]:
        """What decides the answers, JSON-able."""
        return {"name": "greedy"}

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
        """Answers prompts; see `decode.loop.Decoding`."""
        del rows  # nothing is drawn
        return greedy(model, batch, max_decode_length=max_decode_length, eos_id=eos_id, live=live)


def greedy(
    model: Model, batch: Batch, *, max_decode_length: int, eos_id: int, live: jax.Array | None = None
) -> Decoded:
    """The most probable token at every position, from f32 logits; of equal ones the lowest id.

    Call it inside `jax.jit`. Arguments and result are those of `decode.loop.decode`.
    """
    return decode(
        model,
        batch,
        lambda logits, position: best_tokens(logits),
        max_decode_length=max_decode_length,
        eos_id=eos_id,
        live=live,
    )
