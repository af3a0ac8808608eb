"""The training objective: xent, dist, cat_xent and cat_dist are four settings of one class."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cat_jax.errors import UserError
from cat_jax.losses import metrics
from cat_jax.losses.dense import dense_losses
from cat_jax.losses.formulas import widen
from cat_jax.losses.keep import KeepRule
from cat_jax.losses.terms import LossHead, Terms, TokenLosses
from cat_jax.types import Array, Batch, LossOutput, ModelOutput, TeacherSignal

NORMALIZERS = ("target_tokens", "kept_tokens")


@dataclasses.dataclass(frozen=True)
class Objective:
    """Sum over target tokens of  alpha [ w CE + (1 - w) T^2 KD + z_loss log_z^2 ],  and what to divide it by.

    CE is the cross-entropy against the target, KD that of the student against the teacher, both softened by T.
    xent: w = 1, keep all. dist: w < 1, keep all. cat_xent: w = 1, keep either. cat_dist: w < 1, keep either.

    Attributes:
      w: weight of the target in [0, 1]; the teacher's distribution has 1 - w.
      temperature: T > 0, softens both models in KD only.
      normalizer: what the sum is divided by: all target tokens, or the kept ones.
      label_smoothing: in [0, 1), t5x's meaning, in CE only.
      z_loss: coefficient >= 0, t5x's meaning.
      keep: which tokens train, see `losses.keep`.
      name: in logs and reports; by default made from w and keep, of a subclass its own.

    Raises:
      UserError: a field is out of its range.
    """

    w: float = 0.5
    temperature: float = 1.0
    normalizer: str = "target_tokens"
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    keep: str = "either"
    name: str = ""

    reads_teacher: ClassVar[bool] = False
    """Set by a subclass whose `token_weights` looks at `teacher_right` or `distillation`: it needs a teacher then."""

    def __post_init__(self):
        rule = KeepRule.parse(self.keep)
        _check_number("w", self.w, lambda x: 0 <= x <= 1, "in [0, 1]")
        _check_number("temperature", self.temperature, lambda x: x > 0, "above 0")
        _check_number("label_smoothing", self.label_smoothing, lambda x: 0 <= x < 1, "in [0, 1)")
        _check_number("z_loss", self.z_loss, lambda x: x >= 0, "0 or more")
        if self.normalizer not in NORMALIZERS:
            close = difflib.get_close_matches(str(self.normalizer), NORMALIZERS, n=1)
            mend = f"did you mean {close[0]!r}?" if close else "use one of them"
            raise UserError(
                f"there is no Objective.normalizer {self.normalizer!r}, only {', '.join(NORMALIZERS)}", mend
            )
        if not self.name and type(self) is not Objective:
            object.__setattr__(self, "name", type(self).__name__)
        if not self.name:
            base = "dist" if self.w < 1 else "xent"
            prefix = {"either": "cat_", "all": ""}.get(rule.kind, f"{rule.kind}_")
            object.__setattr__(self, "name", prefix + base)

    @property
    def needs_distribution(self) -> bool:
        """Whether the signal must hold the teacher's distribution."""
        return self.w < 1

    @property
    def needs_teacher(self) -> bool:
        """Whether there must be a signal at all."""
        return self.needs_distribution or self.keep_rule.needs_teacher or self.reads_teacher

    @property
    def needs_uniform(self) -> bool:
        """Whether the step must draw one uniform number per token of the global batch."""
        return self.keep_rule.needs_uniform

    @property
    def keep_rule(self) -> KeepRule:
        """The parsed `keep`."""
        return KeepRule.parse(self.keep)

    @property
    def terms(self) -> Terms:
        """The coefficients of a token's loss, for a head."""
        return Terms(self.w, self.temperature, self.label_smoothing, self.z_loss)

    def __call__(
        self,
        student: ModelOutput,
        batch: Batch,
        signal: TeacherSignal | None,
        *,
        num_tasks: int = 1,
        uniform: Array | None = None,
        head: LossHead | None = None,
    ) -> LossOutput:
        """The sums of one batch, or of a part of one: the second part of `losses`, which says more."""
        return self.losses(student, batch, signal, num_tasks=num_tasks, uniform=uniform, head=head)[1]

    def losses(
        self,
        student: ModelOutput,
        batch: Batch,
        signal: TeacherSignal | None,
        *,
        num_tasks: int = 1,
        uniform: Array | None = None,
        head: LossHead | None = None,
    ) -> tuple[TokenLosses, LossOutput]:
        """What is made of each token, N = B x T, and the sums.

        Args:
          student: hidden states [B, T, D] and the head.
          batch: weights must not be negative; a position of weight 0 counts nowhere, whatever stands there.
          signal: what is known of the teacher; may be None unless `needs_teacher`.
          num_tasks: length of each metric sum; tokens of other task ids are in none of them.
          uniform: f32[B, T] in [0, 1), drawn once for the global batch, where `needs_uniform`.
          head: makes losses without whole logits. Where it is None, does not take a term, or a subclass overrides
            `tokens` or `sum_up`, the two make them of whole logits.

        Raises:
          UserError: the signal lacks what the objective needs, or does not fit it.
        """
        self._check_uniform(uniform)
        if head is None or not self._leaves_losses_to(head):
            tokens = self.tokens(student, batch, signal)
            return tokens, self.sum_up(tokens, batch, num_tasks=num_tasks, uniform=uniform)
        self._check_signal(signal)
        targets, weights = batch.decoder_target_tokens, _weights(batch)
        loss_sum, tokens = head(self.terms, self.coefficients, student, targets, weights, signal, uniform)
        tokens = jax.tree.map(lambda x: jax.lax.stop_gradient(x.reshape(-1)), tokens)
        output = self.sum_up(tokens, batch, num_tasks=num_tasks, uniform=uniform)
        return tokens, dataclasses.replace(output, loss_sum=loss_sum)

    def tokens(self, student: ModelOutput, batch: Batch, signal: TeacherSignal | None) -> TokenLosses:
        """What is made of each target token, from whole logits. Arguments and errors are those of `losses`."""
        self._check_signal(signal)
        counted = batch.decoder_loss_weights.reshape(-1) > 0
        return dense_losses(self.terms, student, batch.decoder_target_tokens.reshape(-1), counted, signal)

    def token_weights(self, tokens: TokenLosses) -> Array | None:
        """A factor >= 0 on each token's loss, float[N], without gradient; None for 1. For subclasses to override.

        A token's factor may depend on that token alone: the method is given whatever part of the tokens is at hand, and
        more than once. One that looks at the teacher says so in `reads_teacher`. The factor scales the loss alone:
        normalizer and metrics count every token by its own weight, as they do without it.
        """
        del tokens
        return None

    def coefficients(self, tokens: TokenLosses, weights: Array, uniform: Array | None) -> Array:
        """float[N]: weight, factor and alpha in one, by which each token's loss enters the sum; no gradient.

        Args:
          tokens: N of them.
          weights: float[N], 0 where a token does not count.
          uniform: f32[N], where `needs_uniform`.
        """
        factor = self._factor(tokens)
        if factor is not None and jnp.shape(factor) != weights.shape:
            raise UserError(
                f"{type(self).__name__}.token_weights gives the shape {jnp.shape(factor)} for {weights.size} tokens",
                f"give a factor for each: {weights.shape}, as of tokens.loss",
            )
        kept = self.keep_rule(tokens.student_right, tokens.teacher_right, uniform) & (weights > 0)
        scaled = weights if factor is None else weights * jax.lax.stop_gradient(factor)
        return jnp.where(kept, scaled, 0)

    def sum_up(
        self, tokens: TokenLosses, batch: Batch, *, num_tasks: int = 1, uniform: Array | None = None
    ) -> LossOutput:
        """The sums over the target tokens. Only `loss_sum` has a gradient, and only to the student."""
        self._check_uniform(uniform)
        weights = _weights(batch).reshape(-1)
        uniform = None if uniform is None else uniform.reshape(-1)
        kept = self.keep_rule(tokens.student_right, tokens.teacher_right, uniform)
        kept_weights = jnp.where(kept, weights, 0)
        coefficients = self.coefficients(tokens, weights, uniform)
        # A factor of 0 leaves a token out though its loss be infinite.
        kept_loss = jnp.where(coefficients != 0, coefficients * tokens.loss, 0)
        normalizer = kept_weights if self.normalizer == "kept_tokens" else weights
        values = {
            "target_tokens": weights,
            "kept_tokens": kept_weights,
            "normalizer": normalizer,
            "loss": kept_loss,
            "cross_entropy": weights * tokens.cross_entropy,
            "student_right": weights * tokens.student_right,
        }
        if tokens.distillation is not None:
            values["distillation"] = weights * tokens.distillation
        if tokens.teacher_right is not None:
            cells = metrics.cells(tokens.student_right, tokens.teacher_right)
            values |= {name: weights * cell for name, cell in cells.items()}
        return LossOutput(
            loss_sum=jnp.sum(kept_loss),
            weight_sum=jnp.sum(normalizer),
            sums=metrics.sum_by_task(values, batch.task_ids, num_tasks),
        )

    def _leaves_losses_to(self, head: LossHead) -> bool:
        """Whether nothing of what a head replaces is overridden, and the head has every term."""
        own = type(self).tokens is not Objective.tokens or type(self).sum_up is not Objective.sum_up
        return not own and head.takes(self.terms)

    def _factor(self, tokens: TokenLosses) -> Array | None:
        try:
            return self.token_weights(tokens)
        except (TypeError, AttributeError) as e:
            if tokens.teacher_right is not None or self.reads_teacher:
                raise
            raise UserError(
                f"{type(self).__name__}.token_weights fails where there is no teacher ({e})",
                "set reads_teacher = True in the class if it looks at the teacher, and TEACHER in the run",
            ) from e

    def _check_uniform(self, uniform: Array | None) -> None:
        if self.needs_uniform and uniform is None:
            raise ValueError("a random keep rule needs `uniform` numbers, drawn for the global batch")

    def _check_signal(self, signal: TeacherSignal | None) -> None:
        if self.needs_teacher and signal is None:
            raise UserError(
                f"the objective {self.name} needs a teacher and there is none",
                "configure StoredTeacher or LiveTeacher, or set Objective.w = 1 and Objective.keep = 'all'",
            )


def _weights(batch: Batch) -> Array:
    """float[B, T]: 0 wherever a target does not count."""
    weights = jax.lax.stop_gradient(widen(batch.decoder_loss_weights))
    return jnp.where(weights > 0, weights, 0)


def divide(total: Array, weight_sum: Array) -> Array:
    """`total` (a loss sum, or a gradient of one) per unit of weight; 0 where nothing counted.

    To be called once, after the sum over all microbatches and devices.

    >>> divide(jnp.array(6.0), jnp.array(4.0)).item(), divide(jnp.array(0.0), jnp.array(0.0)).item()
    (1.5, 0.0)
    """
    return jnp.where(weight_sum > 0, total / jnp.where(weight_sum > 0, weight_sum, 1), 0).astype(total.dtype)


def _check_number(field: str, value: Any, holds: Callable[[float], bool], meaning: str) -> None:
    """Raises a UserError unless `value` is a finite number for which `holds`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not holds(value):
        raise UserError(f"Objective.{field} = {value!r} is not a number {meaning}", f"set Objective.{field} {meaning}")
