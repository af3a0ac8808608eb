"""Batches for the tests of the losses, and the step from an oracle's Case to our types."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from losses_oracle import Case, first_argmax, softmax

from cat_jax.losses.objective import Objective
from cat_jax.losses.terms import LossHead
from cat_jax.types import Batch, Head, LossOutput, ModelOutput, SparseDistribution, TeacherSignal

B, T, D, V = 4, 6, 5, 11


def random_case(seed: int = 0, *, scale: float = 1.0) -> Case:
    """Ragged masks with one all-masked row, and every one of the four cells among the counted tokens."""
    rng = np.random.default_rng(seed)
    hidden, kernel = rng.normal(size=(B, T, D)), rng.normal(size=(D, V)) * scale
    targets = rng.integers(0, V, (B, T))
    student = hidden @ kernel
    teacher_logits = rng.normal(size=(B, T, V)) * 2
    lengths = np.array([6, 4, 0, 5])
    weights = (np.arange(T) < lengths[:, None]).astype(np.float64)
    for b, t in np.ndindex(B, T):
        if (b + t) % 2 == 0:
            targets[b, t] = first_argmax(student[b, t])
        if t % 3 == 0:
            teacher_logits[b, t, targets[b, t]] = 8.0
    return Case(hidden, kernel, targets, weights, teacher_logits)


def with_sparse(case: Case, k: int, *, temperature: float = 1.0, ghost: bool, draws: int = 0, seed: int = 1) -> Case:
    """The Case with its teacher's top k, and the rest as a ghost bucket or as random draws from the tail."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((*case.targets.shape, k + draws), int)
    probabilities = np.zeros(ids.shape)
    tail = np.zeros(case.targets.shape)
    for at in np.ndindex(*case.targets.shape):
        p = softmax(case.teacher_logits[at] / temperature)
        order = np.argsort(-p)
        ids[at][:k], probabilities[at][:k] = order[:k], p[order[:k]]
        left = 1 - p[order[:k]].sum()
        if ghost:
            tail[at] = left
        elif draws:
            ids[at][k:] = rng.choice(order[k:], draws, p=p[order[k:]] / p[order[k:]].sum())
            probabilities[at][k:] = left / draws
    return dataclasses.replace(case, sparse=(ids, probabilities, tail))


def student_of(case: Case, dtype, padding: int = 0, softcap: float | None = None) -> ModelOutput:
    """Hidden states and head; padded columns hold noise, which the head must hide."""
    kernel = np.concatenate([case.kernel, np.full((case.kernel.shape[0], padding), 3.0)], axis=1)
    return ModelOutput(jnp.asarray(case.hidden, dtype), Head(jnp.asarray(kernel, dtype), case.kernel.shape[1], softcap))


def batch_of(case: Case, task_ids=None) -> Batch:
    targets = jnp.asarray(case.targets, jnp.int32)
    ids = None if task_ids is None else jnp.asarray(task_ids, jnp.int32)
    return Batch(targets, targets, jnp.asarray(case.weights, jnp.float32), task_ids=ids)


def signal_of(case: Case, kind: str, dtype, *, padding: int = 0, temperature: float = 1.0) -> TeacherSignal:
    """The teacher as `bit`, `logits` (columns padded with -inf), `output` or `sparse`."""
    right = np.array([[first_argmax(z) for z in row] for row in case.teacher_logits]) == case.targets
    signal = TeacherSignal(jnp.asarray(right))
    if kind == "logits":
        pad = np.full((*case.targets.shape, padding), -np.inf)
        logits = np.concatenate([case.teacher_logits, pad], axis=-1)
        return dataclasses.replace(signal, logits=jnp.asarray(logits, dtype))
    if kind == "output":  # a teacher as wide as the vocabulary: its head is the identity
        vocabulary = case.teacher_logits.shape[-1]
        kernel = np.concatenate([np.eye(vocabulary), np.ones((vocabulary, padding))], axis=1)
        output = ModelOutput(jnp.asarray(case.teacher_logits, dtype), Head(jnp.asarray(kernel, dtype), vocabulary))
        return dataclasses.replace(signal, output=output)
    if kind == "sparse":
        assert case.sparse is not None
        ids, probabilities, tail = case.sparse
        tail = jnp.asarray(tail, dtype) if tail.any() else None
        sparse = SparseDistribution(jnp.asarray(ids, jnp.int32), jnp.asarray(probabilities, dtype), tail, temperature)
        return dataclasses.replace(signal, sparse=sparse)
    assert kind == "bit"
    return signal


def run(
    objective: Objective,
    student: ModelOutput,
    batch: Batch,
    signal: TeacherSignal | None,
    *,
    num_tasks: int = 1,
    uniform: jax.Array | None = None,
    head: LossHead | None = None,
) -> tuple[LossOutput, tuple[jax.Array, jax.Array]]:
    """The LossOutput, and the gradients of its loss sum with respect to hidden states and kernel.

    Not compiled: over many settings of one shape that takes least time. `run_jit` is the same compiled; `run_once`
    is compiled without optimisation, for a shape that few tests share.
    """

    def loss(hidden, kernel):
        output = ModelOutput(hidden, dataclasses.replace(student.head, kernel=kernel))
        result = objective(output, batch, signal, num_tasks=num_tasks, uniform=uniform, head=head)
        return result.loss_sum, result

    gradients, output = jax.grad(loss, (0, 1), has_aux=True)(student.hidden, student.head.kernel)
    return output, gradients


_STATIC = ("objective", "num_tasks", "head")
run_jit = jax.jit(run, static_argnames=_STATIC)
run_once = jax.jit(run, static_argnames=_STATIC, compiler_options={"xla_backend_optimization_level": 0})
