"""The objective of one block of tokens from its logits, with its gradient in closed form.

All terms are cross-entropies against something known, so the gradient with respect to a student's logit is a sum of
softmaxes with one factor a token, less what they are compared with. It is known as soon as the losses are: nothing is
kept for a backward pass. Shape letters: N tokens of the block, C columns of the vocabulary on this device, K entries.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp

from cat_jax.losses.first_choice import FirstChoice
from cat_jax.losses.terms import Terms, TokenLosses
from cat_jax.losses.vocabulary import Columns
from cat_jax.types import Array, SparseDistribution

Gradient = Callable[[Array, Array | None], Array]
"""(student's logits [N, C], the teacher's or None) -> gradient [N, C] of the block's loss, before the soft-cap."""

Sums = dict[str, Array]
"""Sums over all columns of all devices, f[N] each."""


@dataclasses.dataclass(frozen=True)
class Block:
    """One block: its tokens' logits and what is known of the teacher.

    Attributes:
      terms: the coefficients.
      columns: of the student's logits; a teacher's logits that are distilled from have the same.
      targets: i32[N].
      counted: bool[N].
      logits: [N, C], soft-capped, -inf at padding.
      teacher: the same of the teacher, or None.
      teacher_columns: of the teacher's logits.
      teacher_right: bool[N] where the signal says so itself.
      sparse: [N, K] entries, in f32 or f64.
      by_maxima: see `FirstChoice`.
    """

    terms: Terms
    columns: Columns
    targets: Array
    counted: Array
    logits: Array
    teacher: Array | None
    teacher_columns: Columns
    teacher_right: Array | None
    sparse: SparseDistribution | None
    by_maxima: bool

    def losses(self) -> tuple[TokenLosses, Callable[[Array], Gradient]]:
        """What is made of each token, and from the factors [N] on their losses to the gradient."""
        terms, columns = self.terms, self.columns
        choice = FirstChoice(columns, self.logits, self.targets, self.by_maxima)
        theirs = None
        if self.teacher is not None:
            theirs = FirstChoice(self.teacher_columns, self.teacher, self.targets, self.by_maxima)
        rest = self._unnamed()
        # Two rounds of collectives a block: what is asked of other devices is asked together.
        maxima, teacher_maxima, rest_top = columns.maximum(
            (choice.maxima(), theirs and theirs.maxima(), None if rest is None else jnp.max(rest, axis=-1))
        )
        teacher_top = None if teacher_maxima is None else teacher_maxima["top"]
        softmaxes = _Softmaxes(self, maxima["top"], teacher_top, rest, rest_top)
        sums, choice_sums, teacher_sums = columns.total(
            (softmaxes.sums(), choice.sums(maxima["top"]), theirs and theirs.sums(teacher_top))
        )
        own, right = choice.result(maxima, choice_sums)
        log_z = maxima["top"] + jnp.log(sums["student"])
        cross_entropy = log_z - own
        loss = jnp.zeros_like(log_z)
        if terms.w > 0:
            loss += terms.w * (self._smoothed(log_z, own, sums) if terms.label_smoothing > 0 else cross_entropy)
        distillation = None
        if terms.w < 1:
            distillation = jnp.where(self.counted, softmaxes.distillation(sums), 0)
            loss += (1 - terms.w) * terms.temperature**2 * distillation
        if terms.z_loss > 0:
            loss += terms.z_loss * jnp.square(log_z)
        teacher_right = self.teacher_right
        if teacher_right is None and theirs is not None:
            _, teacher_right = theirs.result(teacher_maxima, teacher_sums)
        losses = TokenLosses(loss, cross_entropy, right, teacher_right, distillation)
        return losses, lambda factors: softmaxes.gradient(factors, sums, log_z)

    def _unnamed(self) -> Array | None:
        """The student's logits with -inf where an entry names the column, if there is a bucket for the others."""
        if self.terms.w == 1 or self.sparse is None or self.sparse.tail_mass is None:
            return None
        named = jnp.where(self.sparse.probabilities > 0, self.columns.places(self.sparse.token_ids), self.columns.width)
        rows = jnp.arange(len(named))[:, None]
        return self.logits.at[rows, named].set(-jnp.inf, mode="drop")

    def _smoothed(self, log_z: Array, own: Array, sums: Sums) -> Array:
        others, high, low = _smoothing(self.terms, self.columns)
        entropy = -(high * math.log(high) + others * low * math.log(low))
        return high * (log_z - own) + low * (others * log_z - (sums["logits"] - own)) - entropy


class _Softmaxes:
    """The exponentials of one block, for the sums and again for the gradient.

    Args:
      block: the block.
      top: [N] the student's greatest logit.
      teacher_top: the teacher's.
      rest: the student's logits [N, C] that no entry names, the others at -inf; None without a bucket.
      rest_top: [N] the greatest of those.
    """

    def __init__(self, block: Block, top: Array, teacher_top: Array | None, rest: Array | None, rest_top: Array | None):
        self.block, self.top, self.teacher_top = block, top, teacher_top
        self.terms, self.columns, self.sparse = block.terms, block.columns, block.sparse
        self.distils_logits = block.terms.w < 1 and block.sparse is None
        self.bucket: tuple[Array, Array, Array] | None = None  # the others' logits, their greatest, their mass
        if rest is not None and rest_top is not None:
            assert block.sparse is not None
            assert block.sparse.tail_mass is not None
            # Without a column to share it out to there is no bucket.
            mass = jnp.where(rest_top > -jnp.inf, block.sparse.tail_mass, 0)
            self.bucket = rest, jnp.where(mass > 0, rest_top, 0), mass

    def sums(self) -> Sums:
        """The sums over this device's columns."""
        block, columns, temperature = self.block, self.columns, self.terms.temperature
        sums = {"student": jnp.sum(_exp(block.logits, self.top), axis=-1)}
        if self.terms.label_smoothing > 0:
            sums["logits"] = jnp.sum(jnp.where(columns.real(), block.logits, 0), axis=-1)
        if self.terms.w == 1:
            return sums
        if temperature != 1:
            sums["soft_student"] = jnp.sum(_exp(block.logits, self.top, temperature), axis=-1)
        if self.distils_logits:
            weights = _exp(block.teacher, self.teacher_top, temperature)
            sums["teacher"] = jnp.sum(weights, axis=-1)
            product = weights * block.logits
            # A column without probability counts as 0 though the student's logit be -inf.
            product = jnp.where(weights > 0, product, 0) if columns.padded else product
            sums["product"] = jnp.sum(product, axis=-1)
        if self.sparse is not None:
            used, entries = self.sparse.probabilities > 0, columns.pick(block.logits, self.sparse.token_ids)
            sums["product"] = jnp.sum(jnp.where(used, self.sparse.probabilities * entries, 0), axis=-1)
        if self.bucket is not None:
            rest, rest_top, _ = self.bucket
            sums["rest"] = jnp.sum(_exp(rest, rest_top, temperature), axis=-1)
        return sums

    def distillation(self, sums: Sums) -> Array:
        """The KD term [N]."""
        temperature = self.terms.temperature
        log_z = self.top / temperature + jnp.log(sums.get("soft_student", sums["student"]))
        if self.sparse is None:
            return log_z - sums["product"] / (sums["teacher"] * temperature)
        term = jnp.sum(self.sparse.probabilities, axis=-1) * log_z - sums["product"] / temperature
        if self.bucket is not None:
            _, rest_top, mass = self.bucket
            log_rest = rest_top / temperature + jnp.log(jnp.where(mass > 0, sums["rest"], 1))
            term += mass * (log_z - log_rest)
        return term

    def gradient(self, factors: Array, sums: Sums, log_z: Array) -> Gradient:
        """From the factors [N] on the losses to the gradient; the token-wise part of it is done here."""
        terms, columns, sparse = self.terms, self.columns, self.sparse
        temperature, soft = terms.temperature, terms.temperature != 1
        factors = factors.astype(log_z.dtype)
        of_kd = factors * (1 - terms.w) * temperature
        mass = 1.0 if sparse is None or terms.w == 1 else jnp.sum(sparse.probabilities, axis=-1)
        mass = mass if self.bucket is None else mass + self.bucket[2]
        of_student = factors * terms.w + factors * 2 * terms.z_loss * log_z + (0 if soft else of_kd * mass)
        _, high, low = _smoothing(terms, columns)
        of_target = factors * terms.w * (high - low)

        def gradient(logits: Array, teacher: Array | None) -> Array:
            result = _exp(logits, self.top) * (of_student / sums["student"])[:, None]
            if terms.w > 0:
                result -= jnp.where(columns.ids() == self.block.targets[:, None], of_target[:, None], 0)
            if terms.label_smoothing > 0:
                result -= jnp.where(columns.real(), (factors * terms.w * low)[:, None], 0)
            if terms.w == 1:
                return result
            if soft:
                result += _exp(logits, self.top, temperature) * (of_kd * mass / sums["soft_student"])[:, None]
            if self.distils_logits:
                return result - _exp(teacher, self.teacher_top, temperature) * (of_kd / sums["teacher"])[:, None]
            return self._less_entries(result, of_kd, sums)

        return gradient

    def _less_entries(self, result: Array, of_kd: Array, sums: Sums) -> Array:
        """`result` without what a sparse teacher gives its entries, and the others together."""
        assert self.sparse is not None
        if self.bucket is not None:
            rest, rest_top, mass = self.bucket
            share = of_kd * mass / jnp.where(mass > 0, sums["rest"], 1)
            result -= _exp(rest, rest_top, self.terms.temperature) * share[:, None]
        place = self.columns.places(self.sparse.token_ids)
        rows = jnp.arange(len(place))[:, None]
        return result.at[rows, place].add(-self.sparse.probabilities * of_kd[:, None], mode="drop")


def _exp(logits: Array | None, top: Array | None, temperature: float = 1.0) -> Array:
    assert logits is not None
    assert top is not None
    scaled = logits - top[:, None]
    return jnp.exp(scaled if temperature == 1 else scaled / temperature)


def _smoothing(terms: Terms, columns: Columns) -> tuple[int, float, float]:
    """(number of ids that are not the target, the target's probability, that of each other)."""
    others = columns.vocab_size - 1
    return others, 1.0 - terms.label_smoothing, terms.label_smoothing / others
