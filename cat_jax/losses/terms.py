"""What a head is asked of each target token and what it answers: the dense one, and any that never holds logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax

from cat_jax.types import Array, ModelOutput, TeacherSignal


@dataclasses.dataclass(frozen=True)
class Terms:
    """The coefficients of a token's loss  w CE + (1 - w) T^2 KD + z_loss log_z^2;  `Objective` says what each means."""

    w: float
    temperature: float = 1.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenLosses:
    """What student and teacher make of each target token, N = B x T; of a dense head only `loss` carries a gradient.

    Where a token does not count the values are finite and mean nothing.
    """

    loss: Array  # float[N]: before alpha and weights
    cross_entropy: Array  # float[N]: -log p_S(target), unsmoothed
    student_right: Array  # bool[N]
    teacher_right: Array | None  # bool[N]: None without a teacher
    distillation: Array | None  # float[N]: the KD term, None where w = 1


Coefficients = Callable[[TokenLosses, Array, Array | None], Array]
"""(losses [N], weights [N], uniform [N] or None) -> the factor [N] on each token's loss, without gradient."""


class LossHead(Protocol):
    """Hidden states and what is known of the teacher to losses, without whole logits."""

    def takes(self, terms: Terms) -> bool:
        """Whether these terms can be computed; where they cannot, whole logits are made."""
        ...

    def __call__(
        self,
        terms: Terms,
        coefficients: Coefficients,
        student: ModelOutput,
        targets: Array,
        weights: Array,
        signal: TeacherSignal | None,
        uniform: Array | None,
    ) -> tuple[Array, TokenLosses]:
        """The loss sum, which alone has a gradient, and only to the student; and what is made of each token.

        Args:
          terms: the coefficients of a token's loss.
          coefficients: asked for any part of the tokens at a time, and more than once.
          student: hidden states [B, T, D] and the head.
          targets: i32[B, T].
          weights: f[B, T]: a position of weight 0 counts nowhere, whatever stands there.
          signal: what is known of the teacher.
          uniform: f32[B, T] for `coefficients`, or None.

        Returns:
          f[] and [B, T] each.

        Raises:
          UserError: w < 1 and the signal does not hold a distribution that fits.
        """
        ...
