"""Evaluation inside the training loop: one teacher-forced pass over held-out data."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from cat_jax.data.assemble import HostBatch
from cat_jax.data.loader import DatasetConfig, make_eval_batches
from cat_jax.data.mixture import open_stores
from cat_jax.losses.metrics import summarize
from cat_jax.losses.objective import Objective
from cat_jax.parallel.batches import check_batch_size, data_shard
from cat_jax.teacher.manifest import signal_directory
from cat_jax.teacher.store import StoredTeacher
from cat_jax.train.inputs import make_place, open_signals
from cat_jax.train.packed import PackedMetrics
from cat_jax.train.program import TrainProgram
from cat_jax.train.state import Params
from cat_jax.train.teachers import Teacher
from cat_jax.types import ModelConfig, Prompt

logger = logging.getLogger(__name__)

_KEPT_BYTES = 1 << 28
"""Evaluation batches up to this size are kept in memory from one evaluation to the next."""
_AHEAD = 4
"""Batches that the host may run ahead of the devices."""


class Evaluator:
    """Measures parameters on `dataset` by the training objective.

    Where the objective needs a teacher whose stored signal does not cover this split, plain cross-entropy over all
    tokens is measured instead, and the four cells are absent.

    Args:
      program: the run's.
      model: the student.
      objective: the training objective.
      dataset: what to measure on.
      teacher: the training's.
      max_batches: stop after so many; None is all.

    Raises:
      UserError: the stores, the signal or the batch size do not fit.
    """

    def __init__(
        self,
        program: TrainProgram,
        model: ModelConfig,
        objective: Objective,
        dataset: DatasetConfig,
        teacher: Teacher | None,
        max_batches: int | None = None,
    ):
        check_batch_size(dataset.batch_size, program.mesh)
        stores, _ = open_stores(dataset.store_dir, dataset.mixture_or_task, dataset.split, dataset.feature_lengths)
        if isinstance(teacher, StoredTeacher):
            covered = [signal_directory(teacher.signal_dir, s.task, s.split).is_dir() for s in stores]
            if not any(covered):
                logger.info("no teacher signal for split %s: evaluating without the teacher", dataset.split)
                teacher = None
        if objective.needs_teacher and teacher is None:
            objective = Objective(w=1.0, keep="all", name="xent")
        self._dataset, self._max_batches = dataset, max_batches
        self._prompt: Prompt = model.prompt
        self._signals = open_signals(dataset, teacher, objective, model)
        self._task_names = [store.task for store in stores]
        self._program, self._place = program, make_place(program.mesh, objective)
        self._step = program.evaluator(objective, len(stores))
        self._kept: list[HostBatch] | None = None

    def __call__(self, params: Params, should_stop: Callable[[], bool] = lambda: False) -> dict[str, float] | None:
        """Scalars as `losses.metrics.summarize` gives them, and `sequence_accuracy`, over all tasks and per task.

        Args:
          params: the student's.
          should_stop: asked once per batch, on every process alike; once it is so, None is returned.
        """
        pending: list[PackedMetrics] = []
        totals: dict[str, np.ndarray] = {}
        for host in self._batches():
            if should_stop():
                return None
            pending.append(self._step(params, self._program.teacher_leaves, *self._place(host)))
            if len(pending) > _AHEAD:
                _add(totals, pending.pop(0))
        for packed in pending:
            _add(totals, packed)
        rows, right = totals.pop("sequences"), totals.pop("sequences_right")
        scalars = summarize(totals, self._task_names)
        scalars["sequence_accuracy"] = float(right.sum() / max(1.0, rows.sum()))
        for name, n, r in zip(self._task_names, rows, right, strict=True):
            if n > 0:
                scalars[f"{name}/sequence_accuracy"] = float(r / n)
        return scalars

    def _batches(self) -> Iterator[HostBatch]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[HostBatch] | None = []
        size = 0
        index, count = data_shard(self._program.mesh)
        batches = make_eval_batches(
            self._dataset, process_index=index, process_count=count, signals=self._signals, prompt=self._prompt
        )
        for host, _ in itertools.islice(batches, self._max_batches):
            yield host
            size += _bytes((host.batch, host.signal))
            if kept is not None:
                kept.append(host)
            if size > _KEPT_BYTES:
                kept = None
        self._kept = kept


def _add(totals: dict[str, np.ndarray], packed: PackedMetrics) -> None:
    for name, value in packed.fetch().items():
        totals[name] = totals.get(name, 0.0) + value


def _bytes(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))
