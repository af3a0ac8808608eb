"""The objective from whole logits: the oracle that any faster head must equal, term by term.

Rows and positions are one axis here, N = B x T tokens: XLA:CPU takes a third less time for the head's product and its
gradient over [N, D] than over [B, T, D].
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from cat_jax.errors import UserError
from cat_jax.losses import formulas
from cat_jax.losses.terms import Terms, TokenLosses
from cat_jax.types import Array, ModelOutput, SparseDistribution, TeacherSignal


def dense_losses(
    terms: Terms, student: ModelOutput, targets: Array, counted: Array, signal: TeacherSignal | None
) -> TokenLosses:
    """The loss of every token before alpha:  w CE + (1 - w) T^2 KD + z_loss log_z^2.

    Args:
      terms: the coefficients.
      student: hidden states [B, T, D] and the head.
      targets: i32[N], N = B x T.
      counted: bool[N].
      signal: [B, T, ...], as in the batch; None without a teacher.

    Raises:
      UserError: w < 1 and the signal does not hold a distribution that fits.
    """
    # Whatever stands at uncounted positions, NaN included, must reach neither the loss nor a gradient, and 0 x NaN is
    # NaN: so it is replaced before anything is computed from it.
    targets = jnp.where(counted, targets, 0)
    logits = formulas.widen(student.head.logits(_blank(student.hidden, counted)))
    log_z = formulas.log_normalizer(logits)
    vocab_size = student.head.vocab_size
    cross_entropy = formulas.cross_entropy(logits, targets, log_z=log_z)
    loss = jnp.zeros_like(log_z)
    if terms.w > 0:
        smoothed = cross_entropy
        if terms.label_smoothing > 0:
            smoothed = formulas.cross_entropy(
                logits, targets, terms.label_smoothing, log_z=log_z, vocab_size=vocab_size
            )
        loss += terms.w * smoothed
    teacher = distribution_of(signal, terms.temperature, vocab_size) if terms.w < 1 else None
    teacher_logits = _teacher_logits(signal, counted)
    distillation = None
    if teacher is not None:
        teacher = teacher_logits if isinstance(teacher, ModelOutput) else teacher
        distillation = _distillation(terms.temperature, logits, log_z, teacher, counted)
        loss += (1 - terms.w) * terms.temperature**2 * distillation
        distillation = jax.lax.stop_gradient(distillation)
    if terms.z_loss > 0:
        loss += terms.z_loss * formulas.z_loss(logits, log_z=log_z)
    return TokenLosses(
        loss=loss,
        cross_entropy=jax.lax.stop_gradient(cross_entropy),
        student_right=formulas.top1_correct(logits, targets),
        teacher_right=_teacher_right(signal, teacher_logits, targets),
        distillation=distillation,
    )


def _teacher_logits(signal: TeacherSignal | None, counted: Array) -> Array | None:
    """[N, V] of a teacher that is there as (hidden, head): made once, for the distribution and for the bit."""
    if signal is None or signal.output is None:
        return None
    output = jax.lax.stop_gradient(signal.output)
    return output.head.logits(_blank(output.hidden, counted))


def _teacher_right(signal: TeacherSignal | None, logits: Array | None, targets: Array) -> Array | None:
    """bool[N]: the signal's bit, or where it has none, the one that `logits` give."""
    if signal is None:
        return None
    if signal.top1_correct is not None:
        return signal.top1_correct.astype(bool).reshape(-1)
    if logits is None:
        raise ValueError("a teacher signal needs top1_correct or output")
    return formulas.top1_correct(logits, targets)


def _distillation(
    temperature: float, logits: Array, log_z: Array, teacher: Array | SparseDistribution | None, counted: Array
) -> Array:
    """The KD term [N] from the teacher's logits, [B, T, V] or [N, V], or its sparse distribution."""
    if temperature != 1:
        log_z = formulas.log_normalizer(logits / temperature)
    if isinstance(teacher, SparseDistribution):
        blanked = dataclasses.replace(
            teacher,
            token_ids=_blank(teacher.token_ids, counted),
            probabilities=_blank(teacher.probabilities, counted),
            tail_mass=None if teacher.tail_mass is None else jnp.where(counted, teacher.tail_mass.reshape(-1), 0),
        )
        return formulas.sparse_distillation(logits, blanked, log_z=log_z)
    assert teacher is not None
    term = formulas.distillation(logits, _blank(teacher, counted), temperature, log_z=log_z)
    # A blank teacher gives columns a weight that are padding, at -inf, to the student.
    return jnp.where(counted, term, 0)


def distribution_of(
    signal: TeacherSignal | None, temperature: float, vocab_size: int
) -> Array | ModelOutput | SparseDistribution:
    """The one distribution that the signal holds, cut off from gradients: logits, (hidden, head) or sparse.

    Raises:
      UserError: there is none or more than one, or it is of ids that the student lacks, or of another temperature.
    """
    held = [] if signal is None else [d for d in (signal.logits, signal.output, signal.sparse) if d is not None]
    if len(held) != 1:
        problem = "an objective with w < 1 needs the teacher's distribution, and the teacher signal holds "
        mend = "train with a live teacher, or `cat-jax teach` with the sparse layout, or set Objective.w = 1"
        raise UserError(problem + ("none" if not held else "several"), mend)
    (teacher,) = held
    if isinstance(teacher, SparseDistribution):
        if teacher.temperature != temperature:
            raise UserError(
                f"the teacher signal was stored at temperature {teacher.temperature}, the objective has {temperature}",
                f"set Objective.temperature = {teacher.temperature}, or run `cat-jax teach` at {temperature}",
            )
        return jax.lax.stop_gradient(teacher)
    # Ids that the teacher lacks have probability 0 for it. Bare logits do not say which columns are padding.
    if isinstance(teacher, ModelOutput) and teacher.head.vocab_size > vocab_size:
        raise UserError(
            f"the teacher's vocabulary has {teacher.head.vocab_size} ids, the student's {vocab_size}",
            f"set the student's vocab_size to {teacher.head.vocab_size}",
        )
    return jax.lax.stop_gradient(teacher)


def _blank(x_BTX: Array, counted: Array) -> Array:
    """`x` as [N, X], with 0 at the tokens that do not count."""
    return jnp.where(counted[:, None], x_BTX.reshape(-1, x_BTX.shape[-1]), 0)
