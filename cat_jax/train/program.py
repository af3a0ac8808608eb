"""The compiled parts of a run, made from its configuration alone: no data, no checkpoint, no device memory.

`cat-jax train` runs them; because shapes and shardings are all known before, they can as well be compiled ahead of
time for devices that are not here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from cat_jax.checkpoint.params import abstract_model
from cat_jax.losses.fused import FusedHead
from cat_jax.losses.objective import Objective
from cat_jax.losses.terms import LossHead
from cat_jax.models.axes import axes_by_name
from cat_jax.parallel.activations import rows_over
from cat_jax.parallel.batches import ROW_AXES, VOCAB_AXIS, batch_sharding, replicated
from cat_jax.parallel.names import flatten_names, unflatten_names
from cat_jax.parallel.rules import DEFAULT_RULES, AxisRules
from cat_jax.train.eval_step import make_eval_step
from cat_jax.train.frozen import IsFrozen, frozen_names, trained_share
from cat_jax.train.optimizer import OptimizerConfig, learning_rate_at
from cat_jax.train.packed import PackedMetrics
from cat_jax.train.state import Params, TrainState, new_state, place_state
from cat_jax.train.step import SignalOf, make_train_step
from cat_jax.types import Array, Batch, ModelConfig, ModelOutput, TeacherSignal


@dataclasses.dataclass(frozen=True)
class TeacherProgram:
    """A teacher that is computed inside the step.

    Attributes:
      signal: (parameters, batch) -> signal, pure.
      params: its parameters, arrays or `jax.ShapeDtypeStruct`s with shardings.
      name: for messages.
    """

    signal: Callable[[Any, Batch], TeacherSignal]
    params: Any
    name: str = ""


@dataclasses.dataclass(frozen=True)
class TrainProgram:
    """What a run computes.

    Attributes:
      mesh: where.
      abstract_state: shapes, dtypes and shardings of the train state.
      init: (seed) -> new state; jitted.
      init_from: (parameters by name, seed) -> new state around them, those that are not given drawn; jitted.
      step: (state, teacher leaves, batch, stored signal) -> (state, `PackedMetrics`); jitted, donates the state.
      evaluator: (objective, number of tasks) -> a jitted (parameters, teacher leaves, batch, stored signal) ->
        `PackedMetrics` of sums.
      teacher_leaves: the teacher's parameters as the steps take them; empty without a live teacher.
      teacher_name: for messages; empty without a live teacher.
      trained: share of the parameters that an update changes.
    """

    mesh: Mesh
    abstract_state: TrainState
    init: Any
    init_from: Any
    step: Any
    evaluator: Callable[[Objective, int], Any]
    teacher_leaves: list[Any]
    teacher_name: str = ""
    trained: float = 1.0


def build_program(
    model: ModelConfig,
    objective: Objective,
    optimizer: OptimizerConfig,
    mesh: Mesh,
    *,
    rules: AxisRules = DEFAULT_RULES,
    num_tasks: int = 1,
    num_microbatches: int = 1,
    teacher: TeacherProgram | None = None,
    head: LossHead | None = None,
    frozen: Sequence[str] = (),
) -> TrainProgram:
    """Everything that is to be compiled for a run.

    Args:
      model: the student.
      objective: what is minimised.
      optimizer: how.
      mesh: on what.
      rules: how the student's parameters lie on the mesh.
      num_tasks: tasks in the data, for metrics by task.
      num_microbatches: see `make_train_step`.
      teacher: a live teacher; None where the signal is stored or there is none.
      head: makes losses and gradients of hidden states; None for a `FusedHead` on `mesh`.
      frozen: regular expressions; parameters in whose names one is found stay as they are.

    Raises:
      UserError: the rules do not fit the model or the mesh, or `frozen` the model's parameters.
    """
    graphdef, abstract = abstract_model(model, mesh, rules)
    axes = axes_by_name(abstract)
    transform = optimizer.build(axes)
    leaves, signal_of = _teacher_parts(teacher)
    head = FusedHead(mesh, ROW_AXES, VOCAB_AXIS) if head is None else head

    def apply(params: Params, batch: Batch, dropout_key: Array | None) -> ModelOutput:
        return nnx.merge(graphdef, unflatten_names(abstract, params))(batch, dropout_key=dropout_key)

    named = flatten_names(abstract)
    is_frozen = frozen_names(named, frozen).__contains__
    init, init_from = _initialisers(model, transform, is_frozen, named.keys())
    shapes = jax.eval_shape(init, 0)
    state = place_state(shapes, {name: p.sharding for name, p in named.items()}, mesh, axes)
    placed = jax.tree.map(lambda x: x.sharding, state)
    train_step = make_train_step(
        apply,
        objective,
        transform,
        functools.partial(learning_rate_at, optimizer),
        signal_of,
        num_tasks=num_tasks,
        num_microbatches=num_microbatches,
        head=head,
        is_frozen=is_frozen,
    )
    of_teacher = [leaf.sharding for leaf in leaves]
    rows, everywhere = batch_sharding(mesh), replicated(mesh)

    def step(*args: Any) -> tuple[TrainState, PackedMetrics]:
        with rows_over(mesh):
            state, metrics = train_step(*args)
        return state, PackedMetrics.pack(metrics)

    def evaluator(objective: Objective, num_tasks: int) -> Any:
        eval_step = make_eval_step(apply, objective, signal_of, num_tasks=num_tasks, head=head)

        def evaluate(*args: Any) -> PackedMetrics:
            with rows_over(mesh):
                return PackedMetrics.pack(eval_step(*args))

        return jax.jit(evaluate, in_shardings=(placed.params, of_teacher, rows, rows), out_shardings=everywhere)

    return TrainProgram(
        mesh=mesh,
        abstract_state=state,
        init=jax.jit(init, out_shardings=placed),
        init_from=jax.jit(init_from, out_shardings=placed, donate_argnums=0),
        step=jax.jit(
            step, in_shardings=(placed, of_teacher, rows, rows), out_shardings=(placed, everywhere), donate_argnums=0
        ),
        evaluator=evaluator,
        teacher_leaves=leaves,
        teacher_name="" if teacher is None else teacher.name,
        trained=trained_share(named, is_frozen),
    )


def _initialisers(
    model: ModelConfig, transform: optax.GradientTransformation, is_frozen: IsFrozen, names: Collection[str]
) -> tuple[Any, Any]:
    """(seed) -> a new state, and (parameters by name, seed) -> the state around them, what they lack drawn."""

    def draw(seed: Array) -> Params:
        return flatten_names(nnx.state(model.build(jax.random.key(seed))))

    def init(seed: Array) -> TrainState:
        return new_state(draw(seed), transform, seed, is_frozen)

    def init_from(params: Params, seed: Array) -> TrainState:
        # Nothing reads the other draws, so that the compiler leaves them out.
        missing = {name: p for name, p in draw(seed).items() if name not in params} if set(params) != set(names) else {}
        return new_state(params | missing, transform, seed, is_frozen)

    return init, init_from


def _teacher_parts(teacher: TeacherProgram | None) -> tuple[list[Any], SignalOf]:
    """(leaves, signal function over leaves): a list of leaves costs no Python to flatten each step."""
    if teacher is None:
        return [], lambda leaves, batch, stored: stored
    leaves, structure = jax.tree.flatten(teacher.params)

    def signal_of(leaves: list[Any], batch: Batch, stored: TeacherSignal | None) -> TeacherSignal:
        del stored
        return teacher.signal(jax.tree.unflatten(structure, leaves), batch)

    return leaves, signal_of
