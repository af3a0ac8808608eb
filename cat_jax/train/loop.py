"""`train`: from a configuration to a trained model in a directory. Gin binds its arguments."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from cat_jax.checkpoint.params import check_start
from cat_jax.checkpoint.retention import CheckpointConfig
from cat_jax.data.beginnings import check_beginnings
from cat_jax.data.loader import DatasetConfig
from cat_jax.errors import UserError
from cat_jax.lock import locked
from cat_jax.losses.objective import Objective
from cat_jax.models.flops import train_flops
from cat_jax.models.lora import Lora, adapted
from cat_jax.parallel.barrier import barrier
from cat_jax.parallel.batches import check_batch_size
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.parallel.rules import DEFAULT_RULES, AxisRules
from cat_jax.teacher.live import LiveTeacher, LoadedTeacher
from cat_jax.train.compilation import enable_compilation_cache
from cat_jax.train.evaluation import Evaluator
from cat_jax.train.inputs import check_evaluation, check_vocabularies, make_place, open_signals, open_training_data
from cat_jax.train.optimizer import AdamW, OptimizerConfig
from cat_jax.train.program import TeacherProgram, build_program
from cat_jax.train.run import Plan, Run, TrainResult
from cat_jax.train.run_file import claim_directory
from cat_jax.train.teachers import Teacher, check_live, describe_teacher
from cat_jax.types import ModelConfig

logger = logging.getLogger(__name__)

_SAVING_SECONDS = 120.0

_OPTIMIZER, _MESH, _CHECKPOINT = AdamW(), MeshConfig(), CheckpointConfig()


def train(
    model_dir: str | os.PathLike,
    model: ModelConfig,
    objective: Objective,
    train_dataset: DatasetConfig,
    train_steps: int,
    eval_dataset: DatasetConfig | None = None,
    teacher: Teacher | None = None,
    optimizer: OptimizerConfig = _OPTIMIZER,
    frozen: Sequence[str] = (),
    lora: Lora | None = None,
    mesh: MeshConfig = _MESH,
    axis_rules: AxisRules | None = None,
    num_microbatches: int = 1,
    seed: int = 0,
    log_period: int = 100,
    eval_period: int = 1000,
    eval_batches: int | None = None,
    checkpoint: CheckpointConfig = _CHECKPOINT,
    initial_checkpoint_path: str | None = None,
    compilation_cache_dir: str | None = None,
) -> TrainResult:
    """Trains a model, or goes on where the directory's newest checkpoint is.

    Every process of a job calls this with the same arguments, after `jax.distributed.initialize`.

    Args:
      model_dir: where checkpoints, `model.json`, `metrics.jsonl` and TensorBoard's files go.
      model: the student.
      objective: what is minimised.
      train_dataset: what it trains on; `batch_size` counts the rows of all processes together.
      train_steps: updates in all, those before a resume included.
      eval_dataset: what is measured every `eval_period` steps and at the end; None measures nothing.
      teacher: a live or a stored teacher; required where the objective needs one, otherwise for the metrics alone.
      optimizer: AdamW or Adafactor.
      frozen: regular expressions; parameters in whose names one is found stay as they are, without gradient and
        optimizer state.
      lora: train low-rank adapters beside kernels, and nothing else; None trains the parameters themselves.
      mesh: how devices share batch, parameters and layers.
      axis_rules: from logical axes to mesh axes; None is `parallel.rules.DEFAULT_RULES`.
      num_microbatches: parts of a batch that are computed one after the other to save memory.
      seed: of initialisation, dropout and random keep rules; the data's order has its own.
      log_period: steps between records in `metrics.jsonl`, each the mean over those steps.
      eval_period: steps between evaluations.
      eval_batches: batches per evaluation; None is all.
      checkpoint: how often to save, what to keep.
      initial_checkpoint_path: start from these parameters: a run's directory, one of its `checkpoints/<step>`, or
        another program's checkpoint (`cat_jax.foreign`) of this model.
      compilation_cache_dir: see `enable_compilation_cache`.

    Returns:
      The last step and its evaluation.

    Raises:
      UserError: anything that does not fit, before the first step; or the disk is full.
      NonFiniteError: the loss, a gradient norm or a parameter is NaN or infinite; names the step.
      Preempted: told to stop by SIGTERM or Ctrl-C; the checkpoint is safe.
    """
    plan = Plan(train_steps, log_period, eval_period, checkpoint, seed, initial_checkpoint_path, model, lora)
    _check_plan(plan, num_microbatches, eval_batches, eval_dataset)
    student, still = adapted(model, lora, frozen)
    enable_compilation_cache(compilation_cache_dir)
    devices = mesh.build()
    check_batch_size(train_dataset.batch_size, devices, num_microbatches)
    signals = open_signals(train_dataset, teacher, objective, model)
    data = open_training_data(train_dataset, signals, devices, model.prompt)
    check_beginnings(data.stores, model)
    live = teacher if isinstance(teacher, LiveTeacher) else None
    if live is not None:
        check_live(live, model, objective, data.stores)
    described = {
        "objective": objective,
        "train_dataset": train_dataset,
        "optimizer": optimizer,
        "teacher": describe_teacher(teacher, signals),
        "seed": seed,
        "fine_tuned": initial_checkpoint_path is not None,
        "frozen": list(frozen) or None,
    }
    if initial_checkpoint_path is not None:
        check_start(initial_checkpoint_path, model)
    vocabularies = check_vocabularies(model, data.features, {"initial checkpoint": initial_checkpoint_path})
    if eval_dataset is not None:
        check_evaluation(model, eval_dataset, train_dataset, vocabularies)
    if lora is not None and initial_checkpoint_path is None:
        logger.warning(
            "train.lora without INITIAL_CHECKPOINT_PATH: the adapters are of a model that is drawn at random"
        )
    sequences = {"eos_id": data.features["targets"].eos_id, "length": sum(train_dataset.feature_lengths.values())}
    with _hold(model_dir):
        claim_directory(model_dir, student, vocabularies, described, sequences)
        loaded = live.load(devices) if live is not None else None
        program = build_program(
            student,
            objective,
            optimizer,
            devices,
            rules=DEFAULT_RULES if axis_rules is None else axis_rules,
            num_tasks=len(data.task_names),
            num_microbatches=num_microbatches,
            teacher=loaded and TeacherProgram(loaded.signal_fn(), loaded.params, str(loaded.identity)),
            frozen=still,
        )
        evaluator = None
        if eval_dataset is not None:
            evaluator = Evaluator(program, model, objective, eval_dataset, teacher, eval_batches)
        flops = _flops_per_step(student, train_dataset, loaded, program.trained)
        return Run(model_dir, plan, program, data, make_place(devices, objective), evaluator, flops).train()


@contextlib.contextmanager
def _hold(model_dir: str | os.PathLike) -> Iterator[None]:
    """Keeps a second trainer out: one that a scheduler starts again while the first still saves waits for it."""
    path = pathlib.Path(model_dir) / ".train.lock"
    lock = locked(path, "another `train`", "stop it, or name another MODEL_DIR", patience=_SAVING_SECONDS)
    with lock if jax.process_index() == 0 else contextlib.nullcontext():
        barrier("train.held")
        yield


def _check_plan(plan: Plan, num_microbatches: int, eval_batches: int | None, eval_dataset: Any) -> None:
    counts = {
        "train_steps": plan.train_steps,
        "log_period": plan.log_period,
        "eval_period": plan.eval_period,
        "num_microbatches": num_microbatches,
        "eval_batches": 1 if eval_batches is None else eval_batches,
    }
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"train.{name} is {value!r}", "give a whole number above 0")
    if isinstance(plan.seed, bool) or not isinstance(plan.seed, int) or not 0 <= plan.seed < 2**31:
        raise UserError(f"train.seed is {plan.seed!r}", "give a whole number from 0 to 2147483647")
    if plan.checkpoint.keep_best and eval_dataset is None:
        raise UserError("CheckpointConfig.keep_best needs evaluations", "set train.eval_dataset, or keep_best = False")


def _flops_per_step(model: ModelConfig, dataset: DatasetConfig, teacher: LoadedTeacher | None, trained: float) -> float:
    inputs, targets = dataset.feature_lengths.get("inputs", 0), dataset.feature_lengths["targets"]
    of_example = train_flops(model, inputs, targets, None if teacher is None else teacher.config, trained)
    return dataset.batch_size * float(of_example)
