"""The programs of a job, compiled for devices that are not here: the step of training, of teaching, of decoding."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cat_jax.checkpoint.params import abstract_model
from cat_jax.data.columns import row_columns
from cat_jax.decode.loop import Decoding
from cat_jax.evaluate.devices import Devices
from cat_jax.evaluate.generate import generation_program
from cat_jax.losses.objective import Objective
from cat_jax.models.lora import Lora, adapted
from cat_jax.parallel.batches import ALL_AXES, ROW_AXES, RowAxes, num_row_shards
from cat_jax.parallel.names import flatten_names, unflatten_names
from cat_jax.parallel.rules import DEFAULT_RULES, AxisRules
from cat_jax.planning.flops import traced_flops
from cat_jax.planning.hlo import HloProgram
from cat_jax.teacher.forward import make_step
from cat_jax.teacher.layout import SignalLayout
from cat_jax.train.frozen import frozen_names, separate, trained_share
from cat_jax.train.optimizer import OptimizerConfig
from cat_jax.train.program import TeacherProgram, build_program
from cat_jax.types import Batch, ModelConfig, TeacherSignal

_EOS = 1  # any id will do
_BEYOND = re.compile(r"HLO temporaries \((\d+(?:\.\d+)?)([KMGT])\) exceeds|[Uu]sed (\d+(?:\.\d+)?)([KMGT]) of")
"""How XLA:TPU says that memory is short: what the temporaries need, or all together."""
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A step as its compiler made it. All bytes are of one chip.

    Attributes:
      parts: what lies in memory while it runs: the first ones are arguments, then activations, temporaries, program.
      total: bytes in all. Where the compiler gave up for want of memory: what it would have needed.
      flops: products of all chips together, what is computed again included.
      program: what it does; None where the compiler gave up.
    """

    parts: Mapping[str, int]
    total: int
    flops: float
    program: HloProgram | None


@dataclasses.dataclass(frozen=True)
class TrainCase:
    """All that decides the train step.

    Attributes:
      model: the student.
      objective: what is minimised.
      optimizer: how.
      teacher: a live teacher's configuration, or None.
      signal: a stored signal's layout, or None.
      batch_size: rows on all chips together.
      feature_lengths: tokens of each feature.
      pack: whether rows are packed.
      num_tasks: of the mixture.
      num_microbatches: parts of a batch, one after the other.
      frozen: parameters that stay as they are, see `train`.
      lora: adapters, see `train`.
      rules: of the student's parameters.
      teacher_rules: of the teacher's.
    """

    model: ModelConfig
    objective: Objective
    optimizer: OptimizerConfig
    teacher: ModelConfig | None
    signal: SignalLayout | None
    batch_size: int
    feature_lengths: Mapping[str, int]
    pack: bool = False
    num_tasks: int = 1
    num_microbatches: int = 1
    frozen: Sequence[str] = ()
    lora: Lora | None = None
    rules: AxisRules = DEFAULT_RULES
    teacher_rules: AxisRules = DEFAULT_RULES

    def student(self) -> tuple[Any, Sequence[str]]:
        """(what is trained, regular expressions of what of it stays as it is)."""
        return adapted(self.model, self.lora, self.frozen)


def train_step(case: TrainCase, mesh: Mesh) -> Compiled:
    """The step of `cat-jax train`.

    Raises:
      UserError: rules, batch and mesh do not fit each other.
    """
    step, arguments, parts = train_arguments(case, mesh)
    return _compile(step, arguments, parts, mesh.size, activations=activation_bytes(case, mesh))


def state_bytes(case: TrainCase, mesh: Mesh) -> int:
    """Bytes of a chip that the train step's arguments take: nothing is compiled."""
    return sum(train_arguments(case, mesh)[2].values())


def trained_share_of(case: TrainCase, mesh: Mesh) -> float:
    """Share of the student's parameters that have a gradient."""
    student, frozen = case.student()
    named = flatten_names(abstract_model(student, mesh, case.rules)[1])
    return trained_share(named, frozen_names(named, frozen).__contains__)


def train_arguments(case: TrainCase, mesh: Mesh) -> tuple[Any, tuple[Any, ...], dict[str, int]]:
    """(the jitted step, its abstract arguments, their bytes on a chip by part)."""
    student, frozen = case.student()
    program = build_program(
        student,
        case.objective,
        case.optimizer,
        mesh,
        rules=case.rules,
        num_tasks=case.num_tasks,
        num_microbatches=case.num_microbatches,
        frozen=frozen,
        teacher=None if case.teacher is None else _teacher_program(case.teacher, mesh, case.teacher_rules),
    )
    batch = abstract_batch(case.model, case.feature_lengths, case.batch_size, case.pack, mesh)
    signal = None
    if case.signal is not None:
        signal = _abstract_signal(case.signal, case.model.vocab_size, batch, case.objective)
    state = program.abstract_state
    parts = {
        "student": chip_bytes(state.params),
        "optimizer": chip_bytes((state.step, state.opt_state, state.key)),
        "teacher": chip_bytes(program.teacher_leaves),
        "batch": chip_bytes((batch, signal)),
    }
    return program.step, (state, program.teacher_leaves, batch, signal), parts


def teach_step(
    teacher: ModelConfig, layout: SignalLayout, lengths: Mapping[str, int], rows: int, host: Mesh
) -> Compiled:
    """The step of `cat-jax teach` on one host, `rows` on each of its chips: hosts work apart from one another."""
    graphdef, params = abstract_model(teacher, host)
    count = rows * num_row_shards(host, ALL_AXES)
    batch = abstract_batch(teacher, lengths, count, False, host, ALL_AXES)
    by_row = NamedSharding(host, PartitionSpec(ALL_AXES))
    number = jax.ShapeDtypeStruct((), jnp.uint32)
    arguments = params, batch, number, number, jax.ShapeDtypeStruct((count,), jnp.uint32, sharding=by_row)
    parts = {"teacher": chip_bytes(params), "batch": chip_bytes(batch)}
    return _compile(make_step(graphdef, layout, host), arguments, parts, host.size)


def decode_step(
    model: ModelConfig,
    lengths: Mapping[str, int],
    rows: int,
    mesh: Mesh,
    decoding: Decoding,
    *,
    reproducible: bool = True,
) -> Compiled:
    """The program of `cat-jax evaluate` that writes one batch of answers, `rows` on each chip, at their full length."""
    devices = Devices.of(mesh, reproducible)
    graphdef, params = abstract_model(model, mesh)
    count, by_row = rows * devices.chunks, NamedSharding(mesh, PartitionSpec(devices.axes))
    arrays = {
        "examples": jax.ShapeDtypeStruct((count,), jnp.int32, sharding=by_row),
        "inputs": jax.ShapeDtypeStruct((count, lengths.get("inputs", 1)), jnp.int32, sharding=by_row),
    }
    step = generation_program(graphdef, devices, lengths["targets"], _EOS, decoding)
    parts = {"model": chip_bytes(params), "batch": chip_bytes(arrays)}
    return _compile(step, (params, arrays), parts, mesh.size, trips=lengths["targets"] - 1)


def _compile(
    step: Any,
    arguments: tuple[Any, ...],
    parts: dict[str, int],
    devices: int,
    *,
    activations: int = 0,
    trips: int = 1,
) -> Compiled:
    """Compiles a jitted step; `activations` are an estimate of bytes, `trips` those of loops without a fixed count."""
    traced = step.trace(*arguments)
    flops = traced_flops(traced.jaxpr.jaxpr, devices, trips)
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as e:
        beyond = _BEYOND.search(str(e))
        if beyond is None:
            raise
        given = sum(parts.values())
        rest = _number(beyond[1], beyond[2]) if beyond[1] else max(_number(beyond[3], beyond[4]) - given, 0)
        kept = min(activations, rest)
        return Compiled({**parts, "activations": kept, "other temporaries": rest - kept}, given + rest, flops, None)
    sizes = compiled.memory_analysis()
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    kept = min(activations, sizes.temp_size_in_bytes)
    padding = sizes.argument_size_in_bytes - sum(parts.values())
    parts = {
        **parts,
        "padding of arguments" if padding >= 0 else "arguments that nothing reads": padding,
        "results": results,
        "activations": kept,
        "other temporaries": sizes.temp_size_in_bytes - kept,
        "program": sizes.generated_code_size_in_bytes,
    }
    return Compiled(parts, sum(parts.values()), flops, HloProgram(compiled.as_text()))


def _number(digits: str, unit: str) -> int:
    return int(float(digits) * _UNITS[unit])


def abstract_batch(
    model: ModelConfig,
    feature_lengths: Mapping[str, int],
    rows: int,
    pack: bool,
    mesh: Mesh,
    axes: RowAxes = ROW_AXES,
) -> Batch:
    """A batch as `data.assemble` makes it, of shapes alone."""
    encoder, decoder = row_columns(feature_lengths, feature_lengths, model.prompt)
    by_row = NamedSharding(mesh, PartitionSpec(axes))

    def array(columns: int, dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct((rows, columns), dtype, sharding=by_row)

    fields = {name: array(decoder) for name in ("decoder_target_tokens", "decoder_input_tokens", "task_ids")}
    fields["decoder_loss_weights"] = array(decoder, jnp.float32)
    if model.prompt == "encoder":
        fields["encoder_input_tokens"] = array(encoder)
    if pack:
        sides = {"decoder": decoder} | ({"encoder": encoder} if model.prompt == "encoder" else {})
        for side, columns in sides.items():
            fields |= {f"{side}_segment_ids": array(columns), f"{side}_positions": array(columns)}
    return Batch(**fields)


def chip_bytes(tree: Any) -> int:
    """Bytes of a tree of arrays or shapes on the chip that holds most, without a layout's padding."""

    def of(leaf: Any) -> int:
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        return int(np.prod(shape, dtype=np.int64)) * leaf.dtype.itemsize

    return sum(of(leaf) for leaf in jax.tree.leaves(tree))


def _abstract_signal(layout: SignalLayout, vocab_size: int, batch: Batch, objective: Objective) -> TeacherSignal:
    """The signal of a batch, from that of one position."""
    record = layout.record_dtype(vocab_size)
    padded: dict[str, Any] = {"top1_correct": np.zeros((1, 1), bool)}
    if record is not None:
        padded["records"] = np.zeros((1, 1, record.itemsize), np.uint8)
    one = layout.assemble(padded, vocab_size)
    if not objective.needs_distribution:
        one = TeacherSignal(one.top1_correct)
    shape, by_row = batch.decoder_target_tokens.shape, batch.decoder_target_tokens.sharding
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*shape, *x.shape[2:]), x.dtype, sharding=by_row), one)


def _teacher_program(config: ModelConfig, mesh: Mesh, rules: AxisRules) -> TeacherProgram:
    graphdef, params = abstract_model(config, mesh, rules)

    def signal(params: Any, batch: Batch) -> TeacherSignal:
        return TeacherSignal(None, output=jax.lax.stop_gradient(nnx.merge(graphdef, params)(batch)))

    return TeacherProgram(signal, params)


def activation_bytes(case: TrainCase, mesh: Mesh) -> int:
    """Bytes on a chip of what the student's forward pass keeps for the backward pass, as JAX writes it.

    The compiler may keep less. Rows are split over the mesh's row axes, and whatever is not as wide as the model
    over the tensor axis, too.
    """
    student, frozen = case.student()
    graphdef, params = nnx.split(nnx.eval_shape(lambda: student.build(jax.random.key(0))))
    named = flatten_names(params)
    trained, still = separate(named, frozen_names(named, frozen).__contains__)
    rows = case.batch_size // case.num_microbatches
    placed = abstract_batch(case.model, case.feature_lengths, rows, case.pack, mesh)
    part = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), placed)

    def kept(trained: Any, still: Any, batch: Batch, key: Any) -> Any:
        def hidden(trained: Any) -> jax.Array:
            model = nnx.merge(graphdef, unflatten_names(params, trained | still))
            return model(batch, dropout_key=key).hidden

        output, backward = jax.vjp(hidden, trained)
        return output, jax.tree.leaves(backward)

    key = jax.eval_shape(lambda: jax.random.key(0))
    jaxpr = jax.make_jaxpr(kept)(trained, still, part, key).jaxpr
    hidden, *residuals = jaxpr.outvars
    given = set(map(id, jaxpr.invars))
    each: dict[int, Any] = {id(v): v.aval for v in residuals if id(v) not in given and hasattr(v.aval, "dtype")}
    output: Any = hidden.aval
    shards, tensor, width = num_row_shards(mesh, ROW_AXES), mesh.shape["tensor"], output.shape[-1]
    total = 0
    for aval in each.values():
        split = shards * (tensor if aval.ndim > 2 and aval.shape[-1] != width else 1)
        total += int(np.prod(aval.shape, dtype=np.int64)) * getattr(aval.dtype, "itemsize", 4) // split
    return total
