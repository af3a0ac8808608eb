"""The work of `prepare` in units of one shard, done here or in other processes; the bytes are the same."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import logging
import multiprocessing
import os
import pathlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from cat_jax.data import seqio_task
from cat_jax.data.convert import Converter
from cat_jax.data.manifest import Recipe
from cat_jax.data.overlap import HeldOut, content_of
from cat_jax.data.writer import StoreWriter
from cat_jax.errors import UserError
from cat_jax.progress import Progress

_REPORT_EVERY = 256


@dataclasses.dataclass(frozen=True)
class Unit:
    """One shard to write. `expected` examples, if the source says how many it has; `held_out`: a file of `HeldOut`."""

    directory: str
    recipe: Recipe
    shard: int
    expected: int | None
    held_out: str | None = None


def run_units(units: Sequence[Unit], modules: str | Sequence[str] | None, workers: int, progress: Progress) -> None:
    """Writes all the shards, in `workers` processes of this machine.

    Raises:
      UserError: the first error of any unit; the other units are given up, finished shards stay.
    """
    if workers == 1:
        done = 0
        for unit in units:
            for count in write_shard(unit):
                done += count
                progress.update(done)
    else:
        _run_elsewhere(units, modules, min(workers, len(units)), progress)
    progress.close()


_BUILDING = threading.Lock()


def _pipeline(recipe: Recipe, shard: int) -> Any:
    """The tf.data pipeline of a shard.

    Raises:
      UserError: SeqIO or the source refuses.
    """
    # SeqIO's and TensorFlow's seeds are of the whole process, and a Beam worker may make several shards in threads.
    with _BUILDING, seqio_task.source_errors(recipe.task, recipe.split):
        task = seqio_task.get_task(recipe.task)
        return seqio_task.dataset(task, recipe.split, shard, recipe.num_shards, recipe.feature_lengths, recipe.seed)


def write_shard(unit: Unit) -> Iterator[int]:
    """Writes one shard; yields from time to time how many examples came since the last yield.

    Raises:
      UserError: the source cannot be read, or an example is refused.
    """
    recipe = unit.recipe
    task = seqio_task.get_task(recipe.task)
    if seqio_task.feature_infos(task) != dict(recipe.features):
        raise UserError(
            f"task {recipe.task!r} has another vocabulary in the worker of shard {unit.shard} than where it began",
            "give every worker the same module and environment",
        )
    vocabularies = {name: task.output_features[name].vocabulary for name in recipe.features}
    convert = Converter(recipe, unit.shard, vocabularies)
    source = _pipeline(recipe, unit.shard)
    held_out = None if unit.held_out is None else HeldOut.load(pathlib.Path(unit.held_out))
    drops = bool(recipe.held_out and recipe.held_out["dropped"])
    example_ids = "feature" if "example_id" in source.element_spec else "position"
    k = -1
    with StoreWriter(unit.directory, recipe).shard(unit.shard, example_ids) as out:
        for k, element in enumerate(_elements(source, recipe)):
            example, trimmed = convert(k, element)
            is_shared = False
            if held_out is not None:
                is_exact, is_shared = held_out.shares(content_of(element))
                out.count_shared(is_exact, is_shared)
            if not (drops and is_shared):
                out.write(example, trimmed)
            if k % _REPORT_EVERY == _REPORT_EVERY - 1:
                yield _REPORT_EVERY
    yield (k + 1) % _REPORT_EVERY


def _elements(source: Any, recipe: Recipe) -> Iterator[dict[str, Any]]:
    with seqio_task.source_errors(recipe.task, recipe.split):
        yield from seqio_task.arrays(source)


def _run_elsewhere(
    units: Sequence[Unit], modules: str | Sequence[str] | None, workers: int, progress: Progress
) -> None:
    context = multiprocessing.get_context("spawn")  # a forked TensorFlow hangs
    counter = context.Value("q", 0)
    with concurrent.futures.ProcessPoolExecutor(workers, context, _begin, (modules, counter)) as pool:
        futures = {pool.submit(_count_shard, unit): unit for unit in units}
        waiting = set(futures)
        try:
            while waiting:
                finished, waiting = concurrent.futures.wait(
                    waiting, timeout=0.5, return_when=concurrent.futures.FIRST_COMPLETED
                )
                progress.update(counter.value)
                for future in finished:
                    future.result()
        except concurrent.futures.process.BrokenProcessPool as e:
            raise UserError(
                "a worker of prepare was killed or could not start",
                "give the machine more memory or use fewer workers; finished shards are kept",
            ) from e
        finally:
            for future in waiting:
                future.cancel()


_counter: Any = None


def _begin(modules: str | Sequence[str] | None, counter: Any) -> None:
    """Starts a worker: TensorFlow is imported once, and nothing outlives the parent."""
    global _counter
    _counter = counter
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # SeqIO imports jax; the accelerators belong to others
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    with contextlib.suppress(Exception):  # the first unit meets the same error and reports it
        seqio_task.load_modules(modules)


def _count_shard(unit: Unit) -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)
    for count in write_shard(unit):
        with _counter.get_lock():
            _counter.value += count
