"""`plan`: what a configuration will need on devices that are not here. Gin binds its arguments."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import Mesh

from cat_jax.checkpoint.params import read_model_file, split_step_dir
from cat_jax.data.loader import DatasetConfig
from cat_jax.decode.greedy import Greedy
from cat_jax.decode.loop import Decoding
from cat_jax.errors import UserError
from cat_jax.losses.objective import Objective
from cat_jax.models.flops import generation_flops, parameter_count, train_flops
from cat_jax.models.int8 import in_dtype
from cat_jax.models.lora import Lora
from cat_jax.parallel.batches import check_batch_size
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.parallel.rules import DEFAULT_RULES, AxisRules
from cat_jax.planning.estimate import assumptions, estimate
from cat_jax.planning.proposal import Proposal, propose, propose_teach
from cat_jax.planning.steps import Compiled, TrainCase, decode_step, teach_step, train_step, trained_share_of
from cat_jax.planning.topology import Topology
from cat_jax.teacher.layout import SignalLayout, SparseLayout
from cat_jax.teacher.live import LiveTeacher
from cat_jax.train.optimizer import AdamW, OptimizerConfig
from cat_jax.train.teachers import Teacher
from cat_jax.types import ModelConfig

logger = logging.getLogger(__name__)

STEPS = ("train", "teach", "decode")
_OPTIMIZER, _MESH, _LAYOUT, _GREEDY = AdamW(), MeshConfig(), SparseLayout(), Greedy()


def plan(
    topology: str,
    model: ModelConfig,
    objective: Objective,
    train_dataset: DatasetConfig,
    teacher: Teacher | None = None,
    teacher_model: ModelConfig | str | Sequence[str] | None = None,
    layout: SignalLayout = _LAYOUT,
    optimizer: OptimizerConfig = _OPTIMIZER,
    mesh: MeshConfig = _MESH,
    axis_rules: AxisRules | None = None,
    num_microbatches: int = 1,
    frozen: Sequence[str] = (),
    lora: Lora | None = None,
    steps: Sequence[str] = STEPS,
    teach_mesh: MeshConfig = _MESH,
    teach_dtype: str = "float32",
    teach_batch_size: int = 64,
    evaluate_batch_size: int = 32,
    decoding: Decoding = _GREEDY,
    num_tasks: int = 1,
    suggest: bool = True,
) -> dict[str, Any]:
    """Compiles the steps of a job for `topology`, of which nothing need be here: no chip, no data, no checkpoint.

    Args:
      topology: chips and how they lie: v5e:16x16, v5p:4x4x4, v6e:8x8, h100:8.
      model: the student.
      objective: what is minimised.
      train_dataset: of which batch size, feature lengths and packing count.
      teacher: a live or a stored teacher, or None.
      teacher_model: the teacher's configuration, which in gin is named by its file(s), models/t5_xxl.gin; None reads it
        from a live teacher's directory.
      layout: of a stored signal, and of what `teach` writes.
      optimizer: AdamW or Adafactor.
      mesh: how devices share batch, parameters and layers.
      axis_rules: of the student's parameters; None for the default rules.
      num_microbatches: parts of a batch.
      frozen: parameters that stay as they are, see `train`.
      lora: adapters of the student, see `train`.
      steps: which of `STEPS` to compile; "teach" needs a teacher's configuration.
      teach_mesh: of one host while teaching; one that is not of a host's chips counts as none: a copy on each chip.
      teach_dtype: of the teacher while teaching.
      teach_batch_size: rows of a chip while teaching.
      evaluate_batch_size: rows of a chip while decoding.
      decoding: how answers are written.
      num_tasks: of the mixture.
      suggest: whether to look for a change that fits where the train step does not.

    Returns:
      JSON-able: bytes by part, FLOPs, bytes moved, collectives, times and whether it fits, of each step.

    Raises:
      UserError: something that does not fit each other, named as `train` names it.
    """
    if isinstance(teacher_model, str | Sequence):
        raise UserError(f"plan.teacher_model is {teacher_model!r}", "give a configuration: the command reads files")
    unknown = [step for step in steps if step not in STEPS]
    if isinstance(steps, str) or unknown:
        raise UserError(f"plan.steps is {steps!r}", f"list some of {', '.join(STEPS)}")
    where = Topology.parse(topology)
    if teacher is None and objective.needs_teacher:
        raise UserError(
            f"the objective {objective.name} needs a teacher and there is none",
            "set TEACHER to @StoredTeacher(), or to @LiveTeacher() with TEACHER_MODEL or TEACHER_DIR, or plan xent",
        )
    devices = where.devices()
    build = lambda shape: MeshConfig(*shape).build(devices)  # noqa: E731
    shape = mesh.shape(len(devices))
    on = build(shape)
    check_batch_size(train_dataset.batch_size, on, num_microbatches)
    live = teacher if isinstance(teacher, LiveTeacher) else None
    teacher_config = _teacher_config(live, teacher_model)
    teaching = _Teaching(_loaded(teacher_config, teach_dtype), layout, teach_mesh, teach_batch_size)
    case = TrainCase(
        model=model,
        objective=objective,
        optimizer=optimizer,
        teacher=None if live is None else _loaded(teacher_config, live.dtype),
        signal=layout if teacher is not None and live is None else None,
        batch_size=train_dataset.batch_size,
        feature_lengths=train_dataset.feature_lengths,
        pack=train_dataset.pack,
        num_tasks=num_tasks,
        num_microbatches=num_microbatches,
        frozen=frozen,
        lora=lora,
        rules=DEFAULT_RULES if axis_rules is None else axis_rules,
        teacher_rules=DEFAULT_RULES if live is None or live.axis_rules is None else live.axis_rules,
    )
    result: dict[str, Any] = {
        "topology": where.text,
        "chips": where.count,
        "mesh": dict(zip(on.axis_names, shape, strict=True)),
        "chip_memory": where.chip.memory,
        "parameters": _parameters(case.student()[0], teacher_config),
        "batch_size": train_dataset.batch_size,
        "compiler": "TPU" if where.chip.platform == "tpu" else "CPU, in place of the GPU's",
        "assumptions": assumptions(where.chip),
        "steps": {},
    }
    job = _Job(case, teaching, where, on, build, evaluate_batch_size, decoding)
    names = [name for name in steps if name != "teach" or teaching.teacher is not None]

    def step(name: str) -> dict[str, Any]:
        logger.info("compiling the %s step for %s", name, where.text)
        began = time.monotonic()
        found = getattr(job, name)(suggest)
        return {**found, "compile_seconds": round(time.monotonic() - began, 1)}

    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # a compiler keeps one or two cores busy
        result["steps"] = dict(zip(names, pool.map(step, names), strict=True))
    result["fits"] = all(step["fits"] for step in result["steps"].values())
    return result


@dataclasses.dataclass(frozen=True)
class _Job:
    """The steps of a job; each method compiles one and describes it, and a change that fits where it does not."""

    case: TrainCase
    teaching: _Teaching
    where: Topology
    mesh: Mesh
    build: Callable[[tuple[int, int, int]], Mesh]
    decode_rows: int
    decoding: Decoding

    def train(self, suggest: bool) -> dict[str, Any]:
        case, memory = self.case, self.where.chip.memory
        inputs, targets = self._lengths()
        student, _ = case.student()
        flops = case.batch_size * float(
            train_flops(student, inputs, targets, case.teacher, trained_share_of(case, self.mesh))
        )
        compiled = train_step(case, self.mesh)
        found = self._describe(compiled, flops, self.mesh.size)
        if found["fits"] or not suggest:
            return found
        data, fsdp, tensor = self.mesh.devices.shape
        proposal = propose(case, (data, fsdp, tensor), compiled, memory, self.build, logger.info)
        return self._with(found, proposal, flops)

    def teach(self, suggest: bool) -> dict[str, Any]:
        lengths, memory, asked = self.case.feature_lengths, self.where.chip.memory, self.teaching
        devices = self.where.host().devices()
        teacher = asked.teacher
        assert teacher is not None

        def compile_with(shape: tuple[int, int, int], rows: int) -> Compiled:
            return teach_step(teacher, asked.layout, lengths, rows, MeshConfig(*shape).build(devices))

        flops = asked.rows * len(devices) * float(teacher.forward_flops(*self._lengths()))
        shape = asked.shape(len(devices))
        compiled = compile_with(shape, asked.rows)
        found = self._describe(compiled, flops, len(devices))
        if found["fits"] or not suggest:
            return found
        proposal = propose_teach(compile_with, shape, asked.rows, compiled, memory, logger.info)
        return self._with(found, proposal, flops)

    def decode(self, suggest: bool) -> dict[str, Any]:
        del suggest
        beams = getattr(self.decoding, "beams", 1)
        each = float(generation_flops(self.case.model, *self._lengths(), beams))
        flops = self.decode_rows * self.mesh.size * each
        compiled = decode_step(self.case.model, self.case.feature_lengths, self.decode_rows, self.mesh, self.decoding)
        return self._describe(compiled, flops, self.mesh.size)

    def _lengths(self) -> tuple[int, int]:
        return self.case.feature_lengths.get("inputs", 0), self.case.feature_lengths["targets"]

    def _with(self, found: dict[str, Any], proposal: Proposal | None, flops: float) -> dict[str, Any]:
        if proposal is None:
            return {**found, "proposal": None}
        changed = self._describe(proposal.compiled, flops * proposal.share, found["chips"])
        return {**found, "proposal": {"flags": list(proposal.flags), **changed}}

    def _describe(self, compiled: Compiled, model_flops: float, chips: int) -> dict[str, Any]:
        """JSON of a step."""
        chip = self.where.chip
        found: dict[str, Any] = {
            "bytes": {name: int(size) for name, size in compiled.parts.items() if size},
            "total_bytes": int(compiled.total),
            "fits": compiled.program is not None and compiled.total <= chip.memory,
            "model_flops": model_flops,
            "flops": compiled.flops,
            "chips": chips,
        }
        if compiled.program is None:
            return found
        collectives = compiled.program.collectives()
        times = estimate(compiled.program, collectives, model_flops, compiled.flops, chip, chips)
        by_kind: dict[str, dict[str, float]] = {}
        for each in collectives:
            kind = by_kind.setdefault(each.kind, {"times": 0, "sent_bytes": 0.0})
            kind["times"] += each.times
            kind["sent_bytes"] += each.sent()
        return {
            **found,
            "bytes_moved": compiled.program.bytes_moved(),
            "collectives": by_kind,
            "estimate": dataclasses.asdict(times),
        }


@dataclasses.dataclass(frozen=True)
class _Teaching:
    """What `teach` was asked for."""

    teacher: ModelConfig | None
    layout: SignalLayout
    mesh: MeshConfig
    rows: int

    def shape(self, chips: int) -> tuple[int, int, int]:
        """Of the mesh on one host; a copy of the teacher on each chip where the mesh is of other chips."""
        try:
            return self.mesh.shape(chips)
        except UserError:
            return chips, 1, 1


def _parameters(student: ModelConfig, teacher: ModelConfig | None) -> dict[str, int]:
    named = {"student": student} | ({} if teacher is None else {"teacher": teacher})
    return {name: parameter_count(config) for name, config in named.items()}


def _teacher_config(live: LiveTeacher | None, given: ModelConfig | None) -> ModelConfig | None:
    """The teacher's configuration, of a live teacher from its directory if it is not given."""
    if given is not None or live is None:
        return given
    if not live.model_dir:
        raise UserError(
            "the live teacher has neither a model nor a directory",
            "name its gin file, --gin.TEACHER_MODEL='\"models/t5_xxl.gin\"', or its TEACHER_DIR",
        )
    model_dir, step = split_step_dir(live.model_dir, live.step)
    return read_model_file(model_dir, step=step)[0]


def _loaded(config: ModelConfig | None, dtype: str) -> Any:
    """As a teacher is loaded."""
    return None if config is None else in_dtype(config, dtype)
