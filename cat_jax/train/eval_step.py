"""The teacher-forced evaluation step: the training objective's sums, and which whole targets are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cat_jax.losses.objective import Objective
from cat_jax.losses.terms import LossHead
from cat_jax.train.state import Params
from cat_jax.train.step import Apply, Metrics, SignalOf
from cat_jax.types import Array, Batch, TeacherSignal

EvalStep = Callable[[Params, Any, Batch, TeacherSignal | None], Metrics]


def make_eval_step(
    apply: Apply,
    objective: Objective,
    signal_of: SignalOf,
    *,
    num_tasks: int = 1,
    head: LossHead | None = None,
) -> EvalStep:
    """A pure function (parameters, teacher's parameters, batch, stored signal) -> sums, f32[num_tasks] each.

    The sums are those of `LossOutput.sums`, `sequences` (rows with a target token) and `sequences_right` (rows in
    which the student's first choice is right at every target token: greedy decoding would give a target that ends with
    EOS).
    """

    def eval_step(params: Params, teacher: Any, batch: Batch, signal: TeacherSignal | None) -> Metrics:
        uniform = None
        if objective.needs_uniform:
            uniform = jax.random.uniform(jax.random.key(0), batch.decoder_target_tokens.shape)
        student = apply(params, batch, None)
        signal = signal_of(teacher, batch, signal)
        tokens, output = objective.losses(student, batch, signal, num_tasks=num_tasks, uniform=uniform, head=head)
        return {**output.sums, **_sequences(tokens.student_right, batch, num_tasks)}

    return eval_step


def _sequences(student_right: Array, batch: Batch, num_tasks: int) -> Metrics:
    counted = batch.decoder_loss_weights > 0
    right = student_right.reshape(counted.shape)
    present = jnp.any(counted, axis=1)
    all_right = present & jnp.all(right | ~counted, axis=1)
    return {
        "sequences": _sum_rows(present, batch, num_tasks),
        "sequences_right": _sum_rows(all_right, batch, num_tasks),
    }


def _sum_rows(rows: Array, batch: Batch, num_tasks: int) -> Array:
    """f32[num_tasks]: how many of the rows bool[B] are true, by the task of their targets."""
    if batch.task_ids is None:
        return jnp.zeros(num_tasks).at[0].set(jnp.sum(rows))
    task = jnp.max(jnp.where(batch.decoder_loss_weights > 0, batch.task_ids, 0), axis=1)
    return jnp.sum(jax.nn.one_hot(task, num_tasks) * rows[:, None], axis=0)
