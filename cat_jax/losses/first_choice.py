"""Whether a model's first choice is the target: the argmax over columns that lie on several devices.

Among equal logits the lowest id is the first choice, as in `formulas.top1_correct`. Shape letters: N tokens, C columns
of the vocabulary on this device.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from cat_jax.losses.vocabulary import Columns
from cat_jax.types import Array


@dataclasses.dataclass(frozen=True)
class FirstChoice:
    """One model's logits of a block, reduced in two rounds over the devices: first maxima, then sums.

    Attributes:
      columns: of the logits.
      logits: [N, C].
      targets: i32[N].
      by_maxima: asks for maxima alone. XLA:TPU computes those inside the head's product, at no cost, and nothing else;
        XLA:CPU writes down what they are taken of, and looks a single logit up for nothing.
    """

    columns: Columns
    logits: Array
    targets: Array
    by_maxima: bool

    def maxima(self) -> dict[str, Array]:
        """For the first round."""
        top = {"top": jnp.max(self.logits, axis=-1)}
        if not self.by_maxima:
            return top
        ids, targets = self.columns.ids(), self.targets[:, None]
        lower = jnp.max(jnp.where(ids < targets, self.logits, -jnp.inf), axis=-1)
        own = jnp.max(jnp.where(ids == targets, self.logits, -jnp.inf), axis=-1)
        return top | {"lower": lower, "own": own}

    def sums(self, top: Array | None) -> dict[str, Array]:
        """For the second round, `top` being the greatest logit of all devices."""
        if self.by_maxima:
            return {}
        assert top is not None
        ids, targets = self.columns.ids(), self.targets[:, None]
        before = jnp.any((self.logits == top[:, None]) & (ids < targets), axis=-1)
        return {"own": self.columns.pick(self.logits, targets)[:, 0], "before": before.astype(jnp.int32)}

    def result(self, maxima: dict[str, Array] | None, sums: dict[str, Array] | None) -> tuple[Array, Array]:
        """([N] the target's logit, NaN for an id beyond the last column; bool[N] whether it is the first choice)."""
        assert maxima is not None
        assert sums is not None
        top = maxima["top"]
        if self.by_maxima:
            own, first = maxima["own"], maxima["lower"] < top
        else:
            own, first = sums["own"], sums["before"] == 0
        known = (self.targets >= 0) & (self.targets < self.columns.width * self.columns.parts)
        return jnp.where(known, own, jnp.nan), (own == top) & first
