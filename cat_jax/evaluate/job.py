"""One table to make: what it is of, whether it is there already, and the answers that go into it."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
import pyarrow as pa
from jax.experimental import multihost_utils

from cat_jax.checkpoint.params import GivenModel
from cat_jax.data.store import ExampleStore
from cat_jax.errors import NonFiniteError, UserError
from cat_jax.evaluate.answers import Parts, count_not_finite
from cat_jax.evaluate.devices import Devices
from cat_jax.evaluate.plan import Chunk, batches, places
from cat_jax.progress import Progress
from cat_jax.table import read_table

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate.

    Attributes:
      name: of the directory that its tables go to.
      model_dir: of its training run, one of the run's `checkpoints/<step>`, or another program's checkpoint.
      step: a step number, "best", or None for the newest.
      model: its configuration, where the checkpoint does not say it; in gin the name of its file(s).
    """

    name: str
    model_dir: str
    step: int | str | None = None
    model: GivenModel = None


class Mode(Protocol):
    """How the examples of a store are answered: `Generation` or `Scoring`. R is rows of a batch of this process."""

    chunks: list[Chunk]
    """Every example of the store in exactly one chunk: a function of the store, not of the devices."""

    def program(self, graphdef: Any) -> Callable[..., Any]:
        """A jitted function (params, arrays) -> results, a pytree whose leaves have all processes' rows first.

        The arrays are those of `arrays`, rows split over the mesh; every process gets all results. Models of an equal
        `graphdef` share one function, so that it is compiled once.
        """
        ...

    def arrays(self, examples: np.ndarray, input_length: int) -> dict[str, np.ndarray]:
        """What the program is fed: [R, ...] each, and always `examples` i32[R] as they came.

        Args:
          examples: i64[R] indices in the store; -1 for a row that only fills up, which `answers` leaves out.
          input_length: what inputs are padded to; no input among `examples` is longer.

        Raises:
          UserError: the store is damaged.
        """
        ...

    def answers(self, results: Any) -> pa.Table:
        """Rows of `evaluate.answers.ANSWERS`, one for each row of `results` (as NumPy arrays) that is an example's."""
        ...


@dataclasses.dataclass(frozen=True)
class Job:
    """A table to make; `checkpoint` and `settings` are JSON-able and decide, with the store, the answers."""

    model: EvaluatedModel
    store: ExampleStore
    path: pathlib.Path
    mode: str
    step: int
    checkpoint: str
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What is done, for people: in progress lines and errors."""
        return f"evaluate {self.model.name} on {self.store.task} ({self.store.split})"

    @property
    def parts_dir(self) -> pathlib.Path:
        """Where answers are kept until the table is whole."""
        return self.path.with_suffix(".parts")

    def identity(self) -> dict[str, Any]:
        """The fields of the table's `TableInfo` that tell whether it is of this job."""
        return {
            "task": self.store.task,
            "split": self.store.split,
            "model": self.model.name,
            "mode": self.mode,
            "step": self.step,
            "checkpoint": self.checkpoint,
            "store_fingerprint": self.store.fingerprint,
            "settings": dict(self.settings),
        }

    def is_finished(self) -> bool:
        """Whether the table is there and of the same model, store and settings; says why one is made again."""
        if not self.path.exists():
            return False
        try:
            table, info = read_table(self.path)
        except UserError as e:
            logger.warning("%s; it is made again", e.problem)
            return False
        changed = [name for name, value in self.identity().items() if getattr(info, name) != value]
        if changed:
            logger.info("%s is of another %s; it is made again", self.path, " and ".join(changed))
        return not changed and len(table) == len(self.store)


def answer(
    job: Job, mode: Mode, rows: int, graphdef: Any, params: Any, devices: Devices, save_seconds: float
) -> pa.Table | None:
    """Answers all examples of a job, on all processes together; goes on where a killed run left off.

    Args:
      job: the table to make.
      mode: how examples are answered; its chunks have `rows` rows.
      rows: examples of a chunk.
      graphdef: of the model.
      params: of the model, on the mesh of `devices`.
      devices: of all processes.
      save_seconds: how often finished answers are written to disk.

    Returns:
      Rows of `ANSWERS` by example index, on process 0; None on the others.

    Raises:
      NonFiniteError: on all processes, for the same batch.
      UserError: the disk is full or read-only.
    """
    first = jax.process_index() == 0
    if first:
        sweep(job.path)
    identity = {**job.identity(), "rows": rows, "reproducible": devices.reproducible}
    parts = Parts(job.parts_dir, identity) if first else None
    done = np.zeros(len(job.store), bool)
    if parts is not None:
        done[parts.indices()] = True
    done = agree(done)
    progress = Progress(job.label, len(done), "examples", start=int(done.sum())) if first else None
    chunks = [chunk for chunk in mode.chunks if not done[chunk.examples].all()]
    count, saved = int(done.sum()), time.monotonic()
    for results in _results(mode, chunks, rows, mode.program(graphdef), params, devices):
        answered = mode.answers(results) if first else None
        found = [0, 0] if answered is None else [count_not_finite(answered), len(answered)]
        # One process that leaves alone would let the others wait for it in the next batch.
        bad, total = agree(np.array(found, np.int32)).tolist()
        if bad:
            if parts is not None:
                parts.save()
            raise NonFiniteError(
                f"{job.label}: the log-probabilities of {bad} of {total} examples are not finite",
                "choose another checkpoint of it, or evaluate.dtype='float32'",
            )
        if parts is None or progress is None or answered is None:
            continue
        parts.add(answered)
        count += len(answered)
        progress.update(count)
        if time.monotonic() - saved >= save_seconds:
            parts.save()
            saved = time.monotonic()
    if progress is not None:
        progress.close()
    return parts.all() if parts is not None else None


def sweep(path: pathlib.Path) -> None:
    """Deletes the half-written temporaries that killed writers of `path` left beside it."""
    if path.parent.exists():
        for left in path.parent.iterdir():
            if left.name.startswith(f".{path.name}."):
                left.unlink(missing_ok=True)


def agree(values: np.ndarray) -> np.ndarray:
    """What process 0 says, on every process."""
    return values if jax.process_count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(values))


def _results(
    mode: Mode, chunks: Sequence[Chunk], rows: int, program: Callable[..., Any], params: Any, devices: Devices
) -> Any:
    """The program's results batch by batch, as NumPy; one batch is computed while the one before is looked at."""
    part, parts = devices.part()
    room = devices.chunks
    running = None
    for batch in batches(chunks, room):
        local = places(batch, rows, part, parts, room)
        started = program(params, devices.place(mode.arrays(local, batch[0].input_length)))
        if running is not None:
            yield jax.device_get(running)
        running = started
    if running is not None:
        yield jax.device_get(running)
