"""The objective of one block of tokens from its logits, with its gradient in closed form.

All terms are cross-entropies against something known, so the gradient with respect to a student's logit is a sum of
softmaxes with one factor a token, less what they are compared with. It is known as soon as the losses are: nothing is
kept for a backward pass. Shape letters: N tokens of the block, C columns of the vocabulary on this device, K entries.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from cat_jax.losses.terms import Terms, TokenLosses
from cat_jax.losses.vocabulary import Columns
from cat_jax.types import Array, SparseDistribution

Gradient = Callable[[Array, Array | None], Array]
"""(student's logits [N, C], the teacher's or None) -> gradient [N, C] of the block's loss, before the soft-cap."""


class Peaks(NamedTuple):
    """What decides an argmax, [N] each: the greatest logit, the greatest at an id below the target, the target's."""

    top: Array
    lower: Array
    own: Array

    @classmethod
    def of(cls, columns: Columns, logits: Array, targets: Array) -> Peaks:
        """Of the columns on this device."""
        ids, targets = columns.ids(), targets[:, None]
        lower = jnp.max(jnp.where(ids < targets, logits, -jnp.inf), axis=-1)
        own = jnp.max(jnp.where(ids == targets, logits, -jnp.inf), axis=-1)
        return cls(jnp.max(logits, axis=-1), lower, own)

    def right(self) -> Array:
        """bool[N]: whether the argmax, the lowest id among equals, is the target."""
        return (self.own == self.top) & (self.lower < self.top)


@dataclasses.dataclass(frozen=True)
class Block:
    """One block: its tokens' logits and what is known of the teacher.

    Attributes:
      terms: the coefficients.
      columns: of the student's logits; where a teacher's logits are distilled from they have the same.
      targets: i32[N].
      counted: bool[N].
      logits: [N, C], soft-capped, -inf at padding.
      teacher_logits: the same of the teacher, or None.
      teacher_columns: of the teacher's logits.
      teacher_right: bool[N] where the signal says so itself.
      sparse: [N, K] entries.
    """

    terms: Terms
    columns: Columns
    targets: Array
    counted: Array
    logits: Array
    teacher_logits: Array | None
    teacher_columns: Columns | None
    teacher_right: Array | None
    sparse: SparseDistribution | None

    def losses(self) -> tuple[TokenLosses, Callable[[Array], Gradient]]:
        """What is made of each token, and from the factors [N] on their losses to the gradient."""
        terms, columns, targets = self.terms, self.columns, self.targets
        rest = self._unnamed()
        dense_teacher = terms.w < 1 and self.sparse is None
        teacher = None
        if self.teacher_logits is not None and (dense_teacher or self.teacher_right is None):
            assert self.teacher_columns is not None
            teacher = Peaks.of(self.teacher_columns, self.teacher_logits, targets)
        peaks, teacher_peaks, rest_top = columns.maximum(
            (
                Peaks.of(columns, self.logits, targets),
                teacher,
                None if rest is None else jnp.max(rest, axis=-1),
            )
        )
        softmaxes = _Softmaxes(self, peaks.top, None if teacher_peaks is None else teacher_peaks.top, rest, rest_top)
        sums = columns.total(softmaxes.sums())
        log_z = peaks.top + jnp.log(sums["student"])
        cross_entropy = log_z - peaks.own
        loss = jnp.zeros_like(log_z)
        if terms.w > 0:
            loss += terms.w * (self._smoothed(log_z, peaks.own, sums) if terms.label_smoothing > 0 else cross_entropy)
        distillation = None
        if terms.w < 1:
            distillation = jnp.where(self.counted, softmaxes.distillation(sums), 0)
            loss += (1 - terms.w) * terms.temperature**2 * distillation
        if terms.z_loss > 0:
            loss += terms.z_loss * jnp.square(log_z)
        right = self.teacher_right
        if right is None and teacher_peaks is not None:
            right = teacher_peaks.right()
        losses = TokenLosses(loss, cross_entropy, peaks.right(), right, distillation)
        return losses, lambda factors: softmaxes.gradient(factors, sums, log_z)

    def _unnamed(self) -> Array | None:
        """The student's logits with -inf where an entry names the column, if there is a bucket for the others."""
        if self.terms.w == 1 or self.sparse is None or self.sparse.tail_mass is None:
            return None
        named = jnp.where(self.sparse.probabilities > 0, self.columns.places(self.sparse.token_ids), self.columns.width)
        rows = jnp.arange(len(named))[:, None]
        return self.logits.at[rows, named].set(-jnp.inf, mode="drop")

    def _smoothed(self, log_z: Array, own: Array, sums: dict[str, Array]) -> Array:
        others, high, low = smoothing_of(self.terms, self.columns)
        entropy = -(high * math.log(high) + others * low * math.log(low))
        return high * (log_z - own) + low * (others * log_z - (sums["logits"] - own)) - entropy


def smoothing_of(terms: Terms, columns: Columns) -> tuple[int, float, float]:
    """(number of ids that are not the target, the target's probability, that of each other)."""
    others = columns.vocab_size - 1
    return others, 1.0 - terms.label_smoothing, terms.label_smoothing / others


class _Softmaxes:
    """The exponentials of one block, each written down once: for the sums, and again for the gradient."""

    def __init__(self, block: Block, top: Array, teacher_top: Array | None, rest: Array | None, rest_top: Array | None):
        self.block, self.top, self.teacher_top = block, top, teacher_top
        self.terms, self.columns, self.sparse = block.terms, block.columns, block.sparse
        self.dense_teacher = block.terms.w < 1 and block.sparse is None
        self.rest = rest
        self.tail = self.rest_top = None
        if rest is not None:
            assert rest_top is not None
            assert block.sparse is not None
            assert block.sparse.tail_mass is not None
            # Without a column to share it out to there is no bucket.
            self.tail = jnp.where(rest_top > -jnp.inf, block.sparse.tail_mass, 0)
            self.rest_top = jnp.where(self.tail > 0, rest_top, 0)

    def sums(self) -> dict[str, Array]:
        """The sums over this device's columns."""
        block, columns, hot = self.block, self.columns, self.terms.temperature != 1
        sums = {"student": jnp.sum(_exp(block.logits, self.top), axis=-1)}
        if self.terms.label_smoothing > 0:
            sums["logits"] = jnp.sum(jnp.where(columns.real(), block.logits, 0), axis=-1)
        if self.terms.w == 1:
            return sums
        temperature = self.terms.temperature
        if hot:
            sums["soft_student"] = jnp.sum(_exp(block.logits, self.top, temperature), axis=-1)
        if self.dense_teacher:
            assert block.teacher_logits is not None
            assert self.teacher_top is not None
            weights = _exp(block.teacher_logits, self.teacher_top, temperature)
            sums["teacher"] = jnp.sum(weights, axis=-1)
            product = weights * block.logits
            # A column without probability counts as 0 though the student's logit be -inf.
            product = jnp.where(weights > 0, product, 0) if columns.padded else product
            sums["product"] = jnp.sum(product, axis=-1)
        if self.sparse is not None:
            place = columns.places(self.sparse.token_ids)
            used = (self.sparse.probabilities > 0) & (place < columns.width)
            picked = jnp.take_along_axis(block.logits, jnp.where(used, place, 0), axis=-1)
            sums["product"] = jnp.sum(jnp.where(used, self.sparse.probabilities * picked, 0), axis=-1)
        if self.rest is not None:
            assert self.rest_top is not None
            sums["rest"] = jnp.sum(_exp(self.rest, self.rest_top, temperature), axis=-1)
        return sums

    def distillation(self, sums: dict[str, Array]) -> Array:
        """The KD term [N]."""
        temperature = self.terms.temperature
        log_z = self.top / temperature + jnp.log(sums.get("soft_student", sums["student"]))
        if self.sparse is None:
            return log_z - sums["product"] / (sums["teacher"] * temperature)
        mass = jnp.sum(self.sparse.probabilities, axis=-1)
        term = mass * log_z - sums["product"] / temperature
        if self.tail is not None:
            assert self.rest_top is not None
            log_rest = self.rest_top / temperature + jnp.log(jnp.where(self.tail > 0, sums["rest"], 1))
            term += self.tail * (log_z - log_rest)
        return term

    def gradient(self, factors: Array, sums: dict[str, Array], log_z: Array) -> Gradient:
        """From the factors [N] on the losses to the gradient; the token-wise part of it is done here."""
        terms, columns, sparse = self.terms, self.columns, self.sparse
        temperature, hot = terms.temperature, terms.temperature != 1
        factors = factors.astype(log_z.dtype)
        of_kd = factors * (1 - terms.w) * temperature
        mass = 1.0
        if sparse is not None and terms.w < 1:
            mass = jnp.sum(sparse.probabilities, axis=-1)
            mass += 0 if self.tail is None else self.tail
        of_student = factors * terms.w + factors * 2 * terms.z_loss * log_z + (0 if hot else of_kd * mass)
        _, high, low = smoothing_of(terms, columns)
        of_target = factors * terms.w * (high - low)

        def gradient(logits: Array, teacher_logits: Array | None) -> Array:
            result = _exp(logits, self.top) * (of_student / sums["student"])[:, None]
            if terms.w > 0:
                result -= jnp.where(columns.ids() == self.block.targets[:, None], of_target[:, None], 0)
            if terms.label_smoothing > 0:
                result -= jnp.where(columns.real(), (factors * terms.w * low)[:, None], 0)
            if terms.w == 1:
                return result
            if hot:
                result += _exp(logits, self.top, temperature) * (of_kd * mass / sums["soft_student"])[:, None]
            if self.dense_teacher:
                assert teacher_logits is not None
                assert self.teacher_top is not None
                weights = _exp(teacher_logits, self.teacher_top, temperature)
                return result - weights * (of_kd / sums["teacher"])[:, None]
            return self._less_entries(result, of_kd, sums)

        return gradient

    def _less_entries(self, result: Array, of_kd: Array, sums: dict[str, Array]) -> Array:
        """`result` without what a sparse teacher gives its entries, and the others together."""
        assert self.sparse is not None
        if self.rest is not None:
            assert self.tail is not None
            assert self.rest_top is not None
            share = of_kd * self.tail / jnp.where(self.tail > 0, sums["rest"], 1)
            result -= _exp(self.rest, self.rest_top, self.terms.temperature) * share[:, None]
        place = self.columns.places(self.sparse.token_ids)
        rows = jnp.arange(len(place))[:, None]
        return result.at[rows, place].add(-self.sparse.probabilities * of_kd[:, None], mode="drop")


def _exp(logits: Array, top: Array, temperature: float = 1.0) -> Array:
    scaled = logits - top[:, None]
    return jnp.exp(scaled if temperature == 1 else scaled / temperature)
