"""One start of a run: restore or initialise, then step, log, evaluate and save, always in this order."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cat_jax.checkpoint.manager import CheckpointManager
from cat_jax.checkpoint.params import load_params
from cat_jax.checkpoint.retention import CheckpointConfig
from cat_jax.checkpoint.seal import read_seal
from cat_jax.data.loader import TrainIterator
from cat_jax.errors import NonFiniteError, Preempted, UserError
from cat_jax.models.lora import Lora, is_adapter
from cat_jax.progress import Progress, magnitude
from cat_jax.train.clock import Clock
from cat_jax.train.evaluation import Evaluator
from cat_jax.train.inputs import Place
from cat_jax.train.metrics_writer import MetricsWriter
from cat_jax.train.program import TrainProgram
from cat_jax.train.state import Params, TrainState, from_checkpoint, parameter_count, to_checkpoint
from cat_jax.train.stopping import Stopper
from cat_jax.train.window import MetricWindow
from cat_jax.types import ModelConfig

logger = logging.getLogger(__name__)

_AHEAD = 2
"""Steps that the host may run ahead of the devices."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How far a run came, and its last evaluation (empty without one)."""

    step: int
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run is, how often it does what, and from where it starts: parameters of `model`, without adapters."""

    train_steps: int
    log_period: int
    eval_period: int
    checkpoint: CheckpointConfig
    seed: int
    initial_checkpoint_path: str | None
    model: ModelConfig
    lora: Lora | None = None


class Run:
    """The loop and what it holds between steps.

    Args:
      model_dir: the run's directory.
      plan: how long, how often.
      program: what is computed.
      data: this process's batches.
      place: from a host's batch to the step's arguments.
      evaluator: None evaluates never.
      flops_per_step: for the utilisation; None if not known.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike,
        plan: Plan,
        program: TrainProgram,
        data: TrainIterator,
        place: Place,
        evaluator: Evaluator | None,
        flops_per_step: float | None,
    ):
        self._model_dir, self._plan, self._program = model_dir, plan, program
        self._data, self._place, self._evaluator = data, place, evaluator
        self._clock = Clock(flops_per_step, program.mesh.size)
        self._window = MetricWindow(teacher=program.teacher_name)
        self._writer: MetricsWriter | None = None
        self._progress: Progress | None = None
        self._scores: Mapping[str, float] = {}
        self._note = ""
        self._evaluated = self._saved = self._rated = 0

    def train(self) -> TrainResult:
        """Trains from the newest checkpoint, or the beginning, to the end.

        Raises:
          Preempted: SIGTERM or Ctrl-C; the checkpoint is sealed.
          NonFiniteError: a loss, gradient norm, parameter or number of the teacher is not finite; no checkpoint has it.
          UserError: the disk is full, or a checkpoint is damaged or of something else.
        """
        with CheckpointManager(self._model_dir, self._plan.checkpoint) as self._checkpoints:
            state, step = self._restore_or_initialise()
            self._clock.restart(step)
            owed = self._owes_evaluation(step)
            if step >= self._plan.train_steps and not owed:
                logger.info("already trained for %d steps", step)
                return TrainResult(step, self._scores)
            try:
                if jax.process_index() == 0:
                    self._writer = MetricsWriter(self._model_dir, step)
                with Stopper(self._program.mesh) as stopper:
                    if owed:
                        self._evaluate_saved(state, step, stopper)
                    state, step = self._steps(state, step, stopper)
                    self._finish(state, step, stopper)
            finally:
                if self._writer is not None:
                    self._writer.close()
        return TrainResult(step, self._scores)

    def _restore_or_initialise(self) -> tuple[TrainState, int]:
        step = self._checkpoints.latest()
        abstract = self._program.abstract_state
        if step is not None:
            restored = self._checkpoints.restore(step, *to_checkpoint(abstract))
            self._data.set_state(restored.host["data"])
            self._window = MetricWindow(restored.host["window"], self._program.teacher_name)
            self._scores = read_seal(self._checkpoints.directory / str(step)).metrics
            self._saved = step
            if self._scores:
                self._evaluated = self._rated = step
            logger.info("restored step %d from %s", step, self._checkpoints.directory)
            return from_checkpoint(abstract, restored.params, restored.state), step
        start = self._plan.initial_checkpoint_path
        origin = "initialised anew" if start is None else f"from {start}"
        logger.info("%s parameters, %s", magnitude(parameter_count(abstract.params)), origin)
        if self._plan.lora is not None:
            trained = {name: p for name, p in abstract.params.items() if is_adapter(name)}
            logger.info("%s of them are LoRA's, and are trained", magnitude(parameter_count(trained)))
        if start is None:
            return self._program.init(self._plan.seed), 0
        given = {name: p for name, p in abstract.params.items() if self._plan.lora is None or not is_adapter(name)}
        params = load_params(start, given, model=self._plan.model)
        return self._program.init_from(params, self._plan.seed), 0

    def _steps(self, state: TrainState, step: int, stopper: Stopper) -> tuple[TrainState, int]:
        plan, program = self._plan, self._program
        first = True
        while step < plan.train_steps:
            host = next(self._data, None)
            if host is None:
                logger.warning("the data ended after step %d, before train_steps = %d", step, plan.train_steps)
                break
            batch, signal = self._place(host)
            if first:
                self._compile(state, batch, signal, step)
                first = False
            state, metrics = program.step(state, program.teacher_leaves, batch, signal)
            step += 1
            self._window.add(step, metrics)
            self._window.settle(leave=_AHEAD)
            stop = stopper.should_stop()
            if self._progress is not None:
                self._progress.update(step, self._note)
            if step == plan.train_steps:
                break  # `_finish` logs, evaluates and saves
            if step % plan.log_period == 0:
                self._log(step)
            if self._owes_evaluation(step) and not stop:
                stop = not self._evaluate(step, state.params, stopper)
            if stop or step % plan.checkpoint.period == 0:
                self._save(step, state)
            if stop:
                raise self._stopped(step, stopper)
        return state, step

    def _finish(self, state: TrainState, step: int, stopper: Stopper) -> None:
        if not self._window.empty():
            self._log(step)
        whole = self._evaluate(step, state.params, stopper)
        self._save(step, state)
        self._checkpoints.wait()  # a signal while it is written must not end the process
        if not whole:
            raise self._stopped(step, stopper)
        if self._progress is not None:
            self._progress.close(self._note)

    def _stopped(self, step: int, stopper: Stopper) -> Preempted:
        self._checkpoints.wait()
        return Preempted(f"{stopper.reason()} after step {step}, which is saved")

    def _owes_evaluation(self, step: int) -> bool:
        """Whether the plan has one after this step which there was none of: told to stop, a run saves without it."""
        plan = self._plan
        by_saves = plan.checkpoint.keep_best and step % plan.checkpoint.period == 0
        due = step % plan.eval_period == 0 or by_saves or step >= plan.train_steps
        return self._evaluator is not None and due and step > 0 and self._evaluated != step

    def _evaluate_saved(self, state: TrainState, step: int, stopper: Stopper) -> None:
        if not self._evaluate(step, state.params, stopper):
            raise self._stopped(step, stopper)
        self._save(step, state)

    def _compile(self, state: TrainState, batch: Any, signal: Any, step: int) -> None:
        """Compiles the step, apart from running it, so that both times are known."""
        began = time.perf_counter()
        self._program.step.lower(state, self._program.teacher_leaves, batch, signal).compile()
        logger.info("compiled the train step in %.1f s", time.perf_counter() - began)
        self._clock.restart(step)
        if jax.process_index() == 0:
            self._progress = Progress("train", self._plan.train_steps, "steps", start=step)

    def _log(self, step: int) -> None:
        steps = self._window.settle()  # more than this process made, where it went on from a checkpoint
        scalars = self._window.take(self._data.task_names)
        timing = self._clock.lap(step, (scalars["target_tokens"] + scalars["input_tokens"]) / steps)
        self._note = (
            f"at step {step} loss {scalars['loss']:.4f}, kept {100 * scalars['kept_fraction']:.1f} %, "
            f"{magnitude(timing['tokens_per_second'])} tokens/s"
        )
        if "mfu" in timing:
            self._note += f", MFU {100 * timing['mfu']:.1f} %"
        if self._writer is not None:
            self._writer.write(step, "train", scalars, timing)

    def _evaluate(self, step: int, params: Params, stopper: Stopper) -> bool:
        """Evaluates if that was not done; returns False if told to stop meanwhile."""
        if self._evaluator is None or self._evaluated == step:
            return True
        with self._clock.pause():
            began = time.perf_counter()
            scores = self._evaluator(params, stopper.should_stop)
            if scores is None:
                return False
            self._scores, self._evaluated = scores, step
            seconds = time.perf_counter() - began
        logger.info(
            "step %d: loss %.4f, %.4f of sequences right", step, *map(self._scores.get, ("loss", "sequence_accuracy"))
        )
        if self._writer is not None:
            self._writer.write(step, "eval", self._scores, {"seconds": seconds})
        return True

    def _save(self, step: int, state: TrainState) -> None:
        scores = self._scores if self._evaluated == step else {}
        if self._saved == step:
            if scores and self._rated != step:
                self._checkpoints.add_metrics(step, scores)
                self._rated = step
                self._check_best()
            return
        with self._clock.pause():
            notes = {"window": self._window.state(), "data": self._data.get_state()}
            if not jax.device_get(_all_finite(state.params)):
                raise NonFiniteError(
                    f"a parameter is not finite after step {step}",
                    "lower the learning rate or set max_grad_norm; checkpoints saved before are sound",
                )
            self._checkpoints.save(step, *to_checkpoint(state), notes, scores)
            self._saved = step
            self._rated = step if scores else self._rated
            self._check_best()

    def _check_best(self) -> None:
        """Once there are scores: a best one cannot be kept by a metric that is not among them."""
        config = self._plan.checkpoint
        if config.keep_best and self._scores and config.best_metric not in self._scores:
            self._checkpoints.wait()
            close = difflib.get_close_matches(config.best_metric, self._scores, n=3, cutoff=0.4)
            raise UserError(
                f"CheckpointConfig.best_metric is {config.best_metric!r}, and the evaluation gives no such number",
                f"name one of {', '.join(close or sorted(self._scores))}; the run goes on from its last checkpoint",
            )


@jax.jit
def _all_finite(params: Params) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(p)) for p in params.values()]))
