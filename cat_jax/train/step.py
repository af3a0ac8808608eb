"""The train step: sums over microbatches and devices, one division, one update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import optax

from cat_jax.losses.objective import Objective, divide
from cat_jax.losses.terms import LossHead
from cat_jax.teacher.finite import finite
from cat_jax.train.frozen import IsFrozen, nothing, separate
from cat_jax.train.state import Params, TrainState
from cat_jax.types import Array, Batch, LossOutput, ModelOutput, TeacherSignal

Metrics = dict[str, Array]
"""What a step reports: `LossOutput.sums` (f32[tasks]), and the scalars loss_sum, weight_sum, grad_norm, learning_rate,
input_tokens (of what is asked, without padding) and teacher_failures (target tokens for which a live teacher's numbers
are not finite)."""


class Apply(Protocol):
    """The student as a function of its parameters."""

    def __call__(self, params: Params, batch: Batch, dropout_key: Array | None) -> ModelOutput:
        """Hidden states [B, T, D] and the head; dropout from a typed key, none where it is None."""
        ...


SignalOf = Callable[[Any, Batch, TeacherSignal | None], TeacherSignal | None]
"""(teacher's parameters, batch, stored signal) -> signal."""

TrainStep = Callable[[TrainState, Any, Batch, TeacherSignal | None], tuple[TrainState, Metrics]]


def make_train_step(
    apply: Apply,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    learning_rate: Callable[[Array], Any],
    signal_of: SignalOf,
    *,
    num_tasks: int = 1,
    num_microbatches: int = 1,
    head: LossHead | None = None,
    is_frozen: IsFrozen = nothing,
) -> TrainStep:
    """A pure function (state, teacher's parameters, batch, stored signal) -> (next state, metrics).

    Args:
      apply: the student.
      objective: what is minimised.
      optimizer: the transform of the gradients of the mean loss.
      learning_rate: of the update that follows so many updates; for the metrics alone.
      signal_of: where the teacher's signal comes from.
      num_tasks: length of each metric sum.
      num_microbatches: into how many parts a batch is split, one after the other. Without dropout the update does not
        depend on it, up to the order of additions.
      head: makes losses and gradients without whole logits; None makes whole logits.
      is_frozen: of a parameter's name: whether it stays as it is.
    """

    def train_step(state: TrainState, teacher: Any, batch: Batch, signal: TeacherSignal | None):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        trained, frozen = separate(state.params, is_frozen)
        uniform = None
        if objective.needs_uniform:
            uniform = jax.random.uniform(jax.random.fold_in(key, 0), batch.decoder_target_tokens.shape)

        def loss_sum(params: Params, part: tuple[Any, Array]) -> tuple[Array, tuple[LossOutput, Array]]:
            (batch, signal, uniform), dropout_key = part
            signal = signal_of(teacher, batch, signal)
            student = apply(params | frozen, batch, dropout_key)
            output = objective(student, batch, signal, num_tasks=num_tasks, uniform=uniform, head=head)
            return output.loss_sum, (output, _teacher_failures(signal, batch))

        parts = split_rows((batch, signal, uniform), num_microbatches)
        keys = jax.vmap(lambda m: jax.random.fold_in(key, m))(jnp.arange(1, num_microbatches + 1))
        gradient_sum, (output, failures) = sum_gradients(loss_sum, trained, (parts, keys), num_microbatches)
        gradient = jax.tree.map(lambda g: divide(g, output.weight_sum), gradient_sum)
        updates, opt_state = optimizer.update(gradient, state.opt_state, trained)
        updated = cast(Params, optax.apply_updates(trained, updates))
        metrics = {
            **output.sums,
            "input_tokens": _input_tokens(batch),
            "loss_sum": output.loss_sum,
            "weight_sum": output.weight_sum,
            "grad_norm": optax.tree.norm(gradient),
            "learning_rate": jnp.asarray(learning_rate(state.step), jnp.float32),
            "teacher_failures": failures,
        }
        return TrainState(state.step + 1, updated | frozen, opt_state, state.key), metrics

    return train_step


def _input_tokens(batch: Batch) -> Array:
    """f32[]: the encoder's tokens, or those of the prefixes."""
    tokens, segments = batch.encoder_input_tokens, batch.encoder_segment_ids
    if tokens is None:
        tokens, segments = batch.decoder_target_tokens, batch.decoder_segment_ids
    asked = (tokens if segments is None else segments) > 0
    if batch.encoder_input_tokens is None:
        asked &= batch.decoder_loss_weights == 0
    return jnp.sum(asked, dtype=jnp.float32)


def _teacher_failures(signal: TeacherSignal | None, batch: Batch) -> Array:
    """f32[]: a stored signal was checked when it was taught."""
    if signal is None or signal.output is None:
        return jnp.float32(0)
    return jnp.sum(~finite(signal.output) & (batch.decoder_loss_weights > 0), dtype=jnp.float32)


def split_rows(tree: Any, parts: int) -> Any:
    """[B, ...] -> [parts, B / parts, ...]: part m takes rows m, m + parts, ..., so that each stays spread over devices.

    Row r of a batch split over D devices lies on device r // (B / D); in every part as many rows lie there, and no
    row moves.
    """
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def sum_gradients(
    loss_sum: Callable[[Params, Any], tuple[Array, Any]], params: Params, parts: Any, num_parts: int
) -> tuple[Mapping[str, Array], Any]:
    """Gradients and what `loss_sum` returns beside the loss, summed over the leading axis of `parts`, in f32 or f64."""

    def of_part(part: Any) -> tuple[Mapping[str, Array], Any]:
        gradient, output = jax.grad(loss_sum, has_aux=True)(params, part)
        return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), (gradient, output))

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_part(part)), None

    first = jax.tree.map(lambda x: x[0], parts)
    if num_parts == 1:
        return of_part(first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_part, first))
    return jax.lax.scan(add, zeros, parts)[0]
