"""The columns of the vocabulary that this device holds, and what must be asked of the devices that hold the others.

Shape letters: N tokens, C columns of the vocabulary on this device, K ids a token.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp

from cat_jax.types import Array

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Columns:
    """A contiguous part of the vocabulary: `width` columns, the part's number being the index on the mesh's `axis`.

    Without an axis it is the whole. What crosses devices is to be called inside `shard_map`.

    Attributes:
      width: C.
      vocab_size: columns with a meaning, on all devices together; those beyond are padding.
      axis: the mesh axis over which the vocabulary is split, or None.
      parts: its size.
    """

    width: int
    vocab_size: int
    axis: str | None = None
    parts: int = 1

    @property
    def padded(self) -> bool:
        """Whether any device holds a column of padding."""
        return self.width * self.parts > self.vocab_size

    def ids(self) -> Array:
        """i32[C]: the ids of the columns here."""
        return self._first() + jnp.arange(self.width, dtype=jnp.int32)

    def real(self) -> Array:
        """bool[C]: which columns here are no padding."""
        return self.ids() < self.vocab_size

    def places(self, ids: Array) -> Array:
        """The column here of each id, i32[...]; `width` where it is on another device, or nowhere."""
        place = ids - self._first()
        return jnp.where((place >= 0) & (place < self.width), place, self.width)

    def pick(self, logits: Array, ids: Array) -> Array:
        """The logit [N, K] of each id [N, K]; 0 where another device has it, to be summed."""
        place = self.places(ids)
        here = place < self.width
        return jnp.where(here, jnp.take_along_axis(logits, jnp.where(here, place, 0), axis=-1), 0)

    def maximum(self, tree: Tree) -> Tree:
        """The greatest over all devices, element by element, in one round."""
        return tree if self.axis is None else jax.lax.pmax(tree, self.axis)

    def total(self, tree: Tree) -> Tree:
        """The sum over all devices, element by element, in one round."""
        return tree if self.axis is None else jax.lax.psum(tree, self.axis)

    def _first(self) -> Array:
        return jnp.int32(0) if self.axis is None else jax.lax.axis_index(self.axis) * self.width
