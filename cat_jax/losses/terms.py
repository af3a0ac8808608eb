"""What a head is asked of each target token and what it answers: the dense one, and any that never holds logits."""

from __future__ import annotations

import dataclasses

from cat_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Terms:
    """The coefficients of a token's loss  w CE + (1 - w) T^2 KD + z_loss log_z^2;  `Objective` says what each means."""

    w: float
    temperature: float = 1.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0


@dataclasses.dataclass(frozen=True)
class TokenLosses:
    """What student and teacher make of each target token, N = B x T; only `loss` carries a gradient.

    Where a token does not count the values are finite and mean nothing.
    """

    loss: Array  # float[N]: before alpha and weights
    cross_entropy: Array  # float[N]: -log p_S(target), unsmoothed
    student_right: Array  # bool[N]
    teacher_right: Array | None  # bool[N]: None without a teacher
    distillation: Array | None  # float[N]: the KD term, None where w = 1
