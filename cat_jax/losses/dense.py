"""The objective from whole logits: the oracle that any faster head must equal, term by term.

Rows and positions are one axis here, N = B x T tokens: XLA:CPU takes a third less time for the head's product and its
gradient over [N, D] than over [B, T, D].
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from cat_jax.errors import UserError
from cat_jax.losses import formulas
from cat_jax.types import Array, Head, ModelOutput, SparseDistribution, TeacherSignal

if TYPE_CHECKING:
    from cat_jax.losses.objective import Objective


@dataclasses.dataclass(frozen=True)
class TokenLosses:
    """What the head makes of each target token; only `loss` carries a gradient."""

    loss: Array  # float[N]
    cross_entropy: Array  # float[N]: -log p_S(target), unsmoothed
    student_right: Array  # bool[N]
    distillation: Array | None  # float[N]: the KD term, None where w = 1


def dense_losses(
    objective: Objective, student: ModelOutput, targets: Array, counted: Array, signal: TeacherSignal | None
) -> TokenLosses:
    """The loss of every token before alpha:  w CE + (1 - w) T^2 KD + z_loss log_z^2.

    Where `counted` is false the values are finite and mean nothing.

    Args:
      objective: read for the coefficients of the terms; alpha is the caller's.
      student: hidden states [B, T, D] and the head.
      targets: i32[N].
      counted: bool[N].
      signal: [B, T, ...], as in the batch.

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
    if objective.w > 0:
        smoothed = cross_entropy
        if objective.label_smoothing > 0:
            smoothed = formulas.cross_entropy(
                logits, targets, objective.label_smoothing, log_z=log_z, vocab_size=vocab_size
            )
        loss += objective.w * smoothed
    distillation = None
    if objective.w < 1:
        distillation = _distillation(objective.temperature, logits, log_z, student.head, counted, signal)
        loss += (1 - objective.w) * objective.temperature**2 * distillation
        distillation = jax.lax.stop_gradient(distillation)
    if objective.z_loss > 0:
        loss += objective.z_loss * formulas.z_loss(logits, log_z=log_z)
    return TokenLosses(
        loss=loss,
        cross_entropy=jax.lax.stop_gradient(cross_entropy),
        student_right=formulas.top1_correct(logits, targets),
        distillation=distillation,
    )


def _distillation(
    temperature: float, logits: Array, log_z: Array, head: Head, counted: Array, signal: TeacherSignal | None
) -> Array:
    """The KD term [N] from whichever distribution the signal holds."""
    teacher = distribution_of(signal, temperature, head.vocab_size)
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
    if isinstance(teacher, ModelOutput):
        teacher_logits = teacher.head.logits(_blank(teacher.hidden, counted))
    else:
        teacher_logits = _blank(teacher, counted)
    return formulas.distillation(logits, teacher_logits, temperature, log_z=log_z)


def distribution_of(
    signal: TeacherSignal | None, temperature: float, vocab_size: int
) -> Array | ModelOutput | SparseDistribution:
    """The one distribution that the signal holds, cut off from gradients: logits, (hidden, head) or sparse.

    Raises:
      UserError: there is none or more than one, or it is of another vocabulary or temperature.
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
    size = teacher.head.vocab_size if isinstance(teacher, ModelOutput) else teacher.shape[-1]
    # Bare logits do not say how many of their columns are padding, so only too few of them are surely wrong.
    if size < vocab_size or (isinstance(teacher, ModelOutput) and size != vocab_size):
        raise UserError(
            f"the teacher's vocabulary has {size} ids, the student's {vocab_size}",
            "train both on one vocabulary",
        )
    return jax.lax.stop_gradient(teacher)


def _blank(x_BTX: Array, counted: Array) -> Array:
    """`x` as [N, X], with 0 at the tokens that do not count."""
    return jnp.where(counted[:, None], x_BTX.reshape(-1, x_BTX.shape[-1]), 0)
