"""The objectives in float64 NumPy, token by token, written from the paper's formulas and not from our code.

Gradients are analytic: d/dz of a cross-entropy against q is p - q. `loss_sum` alone lets a test check them, and the
code's, against finite differences.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass
class Case:
    """One batch: all arrays float64 or int, the teacher as a row of logits and, maybe, a sparse row per token."""

    hidden: np.ndarray  # [B, T, D]
    kernel: np.ndarray  # [D, V], no padding
    targets: np.ndarray  # [B, T]
    weights: np.ndarray  # [B, T]
    teacher_logits: np.ndarray  # [B, T, V]
    sparse: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # ids, probabilities [B, T, K]; tail mass [B, T]


@dataclasses.dataclass
class Answer:
    """What the objective must say of a Case."""

    loss_sum: float
    weight_sum: float
    d_hidden: np.ndarray
    d_kernel: np.ndarray
    alpha: np.ndarray
    student_right: np.ndarray
    teacher_right: np.ndarray
    cross_entropy: float
    distillation: float  # 0 where w = 1


def softmax(z):
    e = np.exp(z - np.max(z))
    return e / np.sum(e)


def first_argmax(z):
    """The lowest of the ids that have the greatest logit."""
    return min(v for v in range(len(z)) if z[v] == max(z))


def keeps(keep, student_right, teacher_right):
    return {
        "either": student_right or teacher_right,
        "teacher": teacher_right,
        "student": student_right,
        "all": True,
    }[keep]


def smoothed_target(y, vocabulary, smoothing):
    q = np.full(vocabulary, smoothing / (vocabulary - 1))
    q[y] = 1 - smoothing
    return q


def entropy(q):
    return -sum(x * np.log(x) for x in q if x > 0)


def sparse_row(sparse, b, t):
    """Weight per id as a dict, and the tail mass."""
    ids, probabilities, tail = sparse
    row: dict[int, float] = {}
    for i, p in zip(ids[b, t], probabilities[b, t], strict=True):
        if p > 0:
            row[int(i)] = row.get(int(i), 0.0) + float(p)
    return row, float(tail[b, t])


def kd_term(z, teacher_z, sparse, temperature):
    """KD of one token and its gradient with respect to z."""
    p = softmax(z / temperature)
    if sparse is None:
        q = softmax(teacher_z / temperature)
        return -np.sum(q * np.log(p)), (p - q) / temperature
    row, tail = sparse
    value, gradient = 0.0, np.zeros_like(p)
    for i, q in row.items():
        value -= q * np.log(p[i])
        gradient += q * (p - np.eye(len(p))[i])
    outside = np.array([v not in row for v in range(len(p))])
    if tail > 0 and outside.any():
        rest = p[outside].sum()
        value -= tail * np.log(rest)
        gradient += tail * (p - np.where(outside, p / rest, 0))
    return value, gradient / temperature


def token_loss(z, y, teacher_z, sparse, *, w, temperature, label_smoothing, z_loss):
    """The loss of one kept token and its gradient with respect to its logits z."""
    p, q = softmax(z), smoothed_target(y, len(z), label_smoothing)
    log_z = np.max(z) + np.log(np.sum(np.exp(z - np.max(z))))
    value = w * (-np.sum(q * np.log(p)) - entropy(q)) + z_loss * log_z**2
    gradient = w * (p - q) + 2 * z_loss * log_z * p
    if w < 1:
        kd, d_kd = kd_term(z, teacher_z, sparse, temperature)
        value += (1 - w) * temperature**2 * kd
        gradient = gradient + (1 - w) * temperature**2 * d_kd
    return value, gradient


def answer(
    case: Case, *, w, temperature=1.0, normalizer="target_tokens", label_smoothing=0.0, z_loss=0.0, keep="either"
) -> Answer:
    """The sums and gradients of a Case."""
    shape = case.targets.shape
    alpha, s_right, t_right = (np.zeros(shape, bool) for _ in range(3))
    d_hidden, d_kernel = np.zeros_like(case.hidden), np.zeros_like(case.kernel)
    loss_sum = weight_sum = cross_entropy = distillation = 0.0
    for b, t in np.ndindex(*shape):
        m, y = case.weights[b, t], case.targets[b, t]
        if m == 0:
            continue
        z, teacher_z = case.hidden[b, t] @ case.kernel, case.teacher_logits[b, t]
        s_right[b, t], t_right[b, t] = first_argmax(z) == y, first_argmax(teacher_z) == y
        alpha[b, t] = keeps(keep, s_right[b, t], t_right[b, t])
        sparse = None if case.sparse is None else sparse_row(case.sparse, b, t)
        value, gradient = token_loss(
            z, y, teacher_z, sparse, w=w, temperature=temperature, label_smoothing=label_smoothing, z_loss=z_loss
        )
        cross_entropy -= m * np.log(softmax(z)[y])
        distillation += m * kd_term(z, teacher_z, sparse, temperature)[0] if w < 1 else 0.0
        weight_sum += m if normalizer == "target_tokens" else m * alpha[b, t]
        if alpha[b, t]:
            loss_sum += m * value
            d_hidden[b, t] = case.kernel @ (m * gradient)
            d_kernel += np.outer(case.hidden[b, t], m * gradient)
    return Answer(loss_sum, weight_sum, d_hidden, d_kernel, alpha, s_right, t_right, cross_entropy, distillation)
