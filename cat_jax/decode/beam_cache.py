"""A model's cache for several beams a row: what differs between beams is kept for each, the rest once a row.

A cache says nothing of which of its arrays hold the prompt. But what a step hands on untouched was the same for all
beams of a row at the start, and stays so: it need neither be copied for each beam nor follow a beam that moves. For an
encoder-decoder that is all it remembers of the input, and the attention of a row's beams reads it once.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cat_jax.types import Model


class Beams:
    """`Model.step` for K beams of each of B rows.

    Attributes:
      cache: the leaves that steps change, [K, B, ...] each: beams lead, so that no step transposes them.
    """

    def __init__(self, model: Model, cache: Any, beams: int):
        """Starts K beams a row from a cache of B rows, as `Model.prefill` gives it."""
        leaves, self._structure = jax.tree.flatten(cache)
        self._model, self._beams = model, beams
        self._changes = _changes(model, leaves, self._structure)
        self._constant = [x for x, changes in zip(leaves, self._changes, strict=True) if not changes]
        self.cache = [
            jnp.broadcast_to(x, (beams, *x.shape)) for x, changes in zip(leaves, self._changes, strict=True) if changes
        ]

    def step(self, tokens: jax.Array, parents: jax.Array, cache: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
        """One step of beams that continue others.

        Args:
          tokens: i32[B, K]: the tokens just chosen.
          parents: i32[B, K]: for each beam the one, of the same row, whose cache it goes on from.
          cache: as `cache`.

        Returns:
          The next cache, and hidden states [B, K, D].
        """
        if self._beams > 1:
            # Row by row: the compiler sees that no beam comes from another row, which may lie on another device.
            follow = jax.vmap(lambda x, parents: x.at[parents].get(mode="promise_in_bounds"), (1, 0), 1)
            cache = [follow(x, parents) for x in cache]
        return jax.vmap(self._step_one, out_axes=(0, 1))(tokens.T, cache)

    def _step_one(self, tokens: jax.Array, cache: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
        changing, constant = iter(cache), iter(self._constant)
        leaves = [next(changing if changes else constant) for changes in self._changes]
        after, hidden = self._model.step(tokens, jax.tree.unflatten(self._structure, leaves))
        pairs = zip(jax.tree.leaves(after), self._changes, strict=True)
        return [x for x, changes in pairs if changes], hidden


def _changes(model: Model, leaves: list[jax.Array], structure: Any) -> list[bool]:
    """Which leaves of a cache a step changes, seen by tracing one: what is handed on comes back as the same object."""
    found: list[bool] = []

    def trace(tokens: jax.Array, before: list[jax.Array]) -> None:
        after, _ = model.step(tokens, jax.tree.unflatten(structure, before))
        found.extend(a is not b for a, b in zip(jax.tree.leaves(after), before, strict=True))

    jax.eval_shape(trace, jnp.zeros(leaves[0].shape[0], jnp.int32), leaves)
    return found
