"""`prepare`: runs SeqIO once over a task or mixture and leaves example stores that training reads without it."""

from __future__ import annotations

import dataclasses
import logging
import math
import multiprocessing
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from cat_jax.data import layout, seqio_task
from cat_jax.data.beam import run_units_with_beam
from cat_jax.data.manifest import Manifest, Recipe, read_manifest
from cat_jax.data.mixture import write_mixture
from cat_jax.data.overlap import HeldOut, parse_split
from cat_jax.data.scoring import has_metrics
from cat_jax.data.store import ExampleStore
from cat_jax.data.units import Unit, run_units
from cat_jax.data.vocabulary_file import save_vocabularies
from cat_jax.data.writer import StoreWriter
from cat_jax.errors import DataError, UserError
from cat_jax.lock import locked
from cat_jax.progress import Progress

logger = logging.getLogger(__name__)

KEEP_RAW = ("evaluation", "all", "none")


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """What to prepare.

    Attributes:
      store_dir: the store root.
      mixture_or_task: a registered SeqIO name.
      modules: the modules that register it: names, or one string with commas.
      feature_lengths: tokens to keep of each feature.
      splits: the splits to prepare; None for all that the tasks declare.
      workers: processes; the bytes do not depend on their number.
      examples_per_shard: a split becomes ceil(source examples / this) shards; 1 where the source does not count.
      keep_raw: for which splits the fields that metrics read are kept: "evaluation" (all but train), "all", "none".
      seed: of random preprocessors.
      overwrite: whether a store that is there is made anew; it stays until a first shard of each new one is whole.
      held_out: splits, as `TASK_OR_MIXTURE:SPLIT`, that examples of `train` are compared with (`data.overlap`): the
        manifest says how many they share.
      drop_held_out: whether such examples are left out.
      runner: an Apache Beam runner that writes the shards, such as "DirectRunner"; None for `workers` of our own.
      runner_options: flags for it, as Beam's pipelines have them.
    """

    store_dir: str
    mixture_or_task: str
    modules: str | Sequence[str] | None
    feature_lengths: Mapping[str, int]
    splits: str | Sequence[str] | None = None
    workers: int = 1
    examples_per_shard: int = 1 << 16
    keep_raw: str = "evaluation"
    seed: int = 0
    overwrite: bool = False
    held_out: str | Sequence[str] = ()
    drop_held_out: bool = False
    runner: str | None = None
    runner_options: Sequence[str] = ()


def prepare(config: PrepareConfig) -> list[Manifest]:
    """Prepares every (task, split) that is asked for; finished stores and finished shards are left as they are.

    Raises:
      UserError: an unknown name, module or split; a source that cannot be read; examples that no model can train on;
        a store of other lengths or another vocabulary at the same place.
    """
    if config.keep_raw not in KEEP_RAW:
        raise UserError(f"keep_raw is {config.keep_raw!r}", f"choose one of {', '.join(KEEP_RAW)}")
    if config.workers > 1 and getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker imports the script that started it, which would start all of it again.
        raise UserError(
            "a script prepares while it is imported by a worker", "call it under if __name__ == '__main__':"
        )
    if config.workers < 1 or config.examples_per_shard < 1:
        raise UserError("workers and examples_per_shard count from 1", "give a positive number")
    if config.drop_held_out and not config.held_out:
        raise UserError("drop_held_out says nothing of what is held out", "set PrepareConfig.held_out to some splits")
    seqio_task.load_modules(config.modules)
    provider = seqio_task.get_provider(config.mixture_or_task)
    splits = [parse_split(text) for text in layout.split_names(config.held_out)]
    trains = config.splits is None or "train" in layout.split_names(config.splits)
    held_out = HeldOut.of(splits) if splits and trains else None
    with seqio_task.source_errors(config.mixture_or_task):
        recipes = _recipes(config, provider, held_out)
    root = pathlib.Path(config.store_dir)
    # Where the file system knows no locks, two of them do the same work twice: files appear whole and equal.
    with locked(root / ".prepare.lock", "another prepare", "wait for it", patience=math.inf):
        pending = [recipe for recipe in recipes if _is_pending(root, recipe, config.overwrite)]
        try:
            _write_shards(config, root, pending, held_out)
            manifests = [_finish(root, recipe, recipe in pending) for recipe in recipes]
            save_vocabularies(root, seqio_task.vocabularies_of(provider))
        except DataError as e:
            _forget(root, [recipe for recipe in pending if recipe.task == e.task])
            raise
        if hasattr(provider, "tasks"):
            with seqio_task.source_errors(config.mixture_or_task):
                mixture = seqio_task.resolve_mixture(provider)
            write_mixture(root, mixture)
    return manifests


def _recipes(config: PrepareConfig, provider: Any, held_out: HeldOut | None) -> list[Recipe]:
    """One for each (task, split), tasks in the mixture's order."""
    tasks = seqio_task.tasks_of(provider)
    known = sorted({split for task in tasks for split in task.splits})
    wanted = known if config.splits is None else layout.split_names(config.splits)
    for split in wanted:
        if split not in known:
            raise UserError(
                f"{config.mixture_or_task!r} has no split {split!r}", f"name one of its splits: {', '.join(known)}"
            )
    compared = None
    if held_out is not None:
        names = sorted(layout.split_names(config.held_out))
        compared = {"splits": names, "fingerprint": held_out.fingerprint, "dropped": config.drop_held_out}
    return [
        _recipe(config, task, split, compared if split == "train" else None)
        for task in tasks
        for split in wanted
        if split in task.splits
    ]


def _recipe(config: PrepareConfig, task: Any, split: str, held_out: Mapping[str, Any] | None) -> Recipe:
    features = seqio_task.feature_infos(task)
    for name in features:
        if name not in config.feature_lengths:
            raise UserError(
                f"the feature lengths {dict(config.feature_lengths)} lack {name!r}, which task {task.name!r} has",
                f"add {name!r} to TASK_FEATURE_LENGTHS",
            )
    examples = seqio_task.num_input_examples(task, split)
    return Recipe(
        task=task.name,
        split=split,
        features=features,
        feature_lengths={name: int(config.feature_lengths[name]) for name in features},
        num_shards=-(-examples // config.examples_per_shard) if examples else 1,
        keep_raw=config.keep_raw == "all" or (config.keep_raw == "evaluation" and split != "train"),
        seed=config.seed,
        held_out=held_out,
    )


def _is_pending(root: pathlib.Path, recipe: Recipe, overwrite: bool) -> bool:
    """Whether the store is still to be written.

    Raises:
      UserError: another one is there, or a damaged one, and it may not be overwritten.
    """
    directory = layout.store_directory(root, recipe.task, recipe.split)
    shutil.rmtree(layout.staging_directory(directory), ignore_errors=True)  # of a run that was killed
    finished = (directory / layout.MANIFEST).exists()
    if overwrite:
        writer = StoreWriter(directory, recipe)
        if not finished:
            writer.discard()
        return True
    if not finished:
        return True
    difference = read_manifest(directory).recipe.difference(recipe)
    if difference is not None:
        raise UserError(
            f"the store {directory} is another one: it has {difference}",
            "name another STORE_DIR, or run `cat-jax prepare --overwrite`",
        )
    ExampleStore.open(root, recipe.task, recipe.split)
    return False


def _forget(root: pathlib.Path, recipes: Sequence[Recipe]) -> None:
    """Deletes the shards of unfinished stores: their task is about to be mended, and half of it must not stay."""
    for recipe in recipes:
        directory = layout.store_directory(root, recipe.task, recipe.split)
        if not (directory / layout.MANIFEST).exists():
            StoreWriter(directory, recipe).discard()


def _finish(root: pathlib.Path, recipe: Recipe, written: bool) -> Manifest:
    directory = layout.store_directory(root, recipe.task, recipe.split)
    if not written:
        logger.info("%s is prepared already", directory)
        return read_manifest(directory)
    manifest = StoreWriter(directory, recipe).finish()
    _tell(manifest)
    task = seqio_task.get_task(recipe.task)
    if not has_metrics(task):
        logger.warning("task %r has no metric_fns: models can be trained on it, and not evaluated", recipe.task)
    rows = seqio_task.num_input_examples(task, recipe.split)
    dropped = manifest.shared["normalized"] if manifest.shared and (recipe.held_out or {}).get("dropped") else 0
    made = manifest.num_examples + dropped
    if rows is not None and made < rows:
        words = "task %r, split %r: %d examples of %d rows: the task leaves the others out"
        logger.info(words, recipe.task, recipe.split, made, rows)
    return manifest


def _tell(manifest: Manifest) -> None:
    """Logs what became of examples that were too long, or are held out."""
    where, examples = f"task {manifest.task!r}, split {manifest.split!r}", manifest.num_examples
    at_limit = manifest.total("at_limit")
    for name, count in manifest.total("trimmed").items():
        limit = manifest.feature_lengths[name]
        if count:
            logger.warning("%s: %s of %d of %d examples were cut to %d tokens", where, name, count, examples, limit)
        elif at_limit[name]:
            words = "%s: %s of %d of %d examples fill all %d tokens: the task cut them, if they were longer"
            logger.warning(words, where, name, at_limit[name], examples, limit)
    shared, compared = manifest.shared, manifest.recipe.held_out
    if shared is not None and compared is not None:
        words = "%s: %d examples are in %s, too, %d of them letter for letter%s"
        what = "; they are left out" if compared["dropped"] else ""
        logger.info(words, where, shared["normalized"], ", ".join(compared["splits"]), shared["exact"], what)


def _write_shards(
    config: PrepareConfig, root: pathlib.Path, recipes: Sequence[Recipe], held_out: HeldOut | None
) -> None:
    """Writes all unfinished shards of the stores; where a finished one is there, it is to be replaced."""
    file = root / ".held_out.npz" if held_out is not None else None
    writers = [StoreWriter(layout.store_directory(root, recipe.task, recipe.split), recipe) for recipe in recipes]
    try:
        if held_out is not None and file is not None and writers:
            held_out.save(file)
        _replace(config, [writer for writer in writers if (writer.directory / layout.MANIFEST).exists()], file)
        units = [_unit(writer, shard, writer.directory, file) for writer in writers for shard in writer.pending()]
        _run(config, units, f"prepare {config.mixture_or_task}")
    finally:
        if file is not None:
            file.unlink(missing_ok=True)


def _replace(config: PrepareConfig, writers: Sequence[StoreWriter], held_out: pathlib.Path | None) -> None:
    """Puts the first shard of a new store in the place of each old one, when all of these shards are whole.

    So a source that cannot be read leaves the old stores as they are; and a store never has shards of both.
    """
    places = [layout.staging_directory(writer.directory) for writer in writers]
    units = [_unit(writer, 0, place, held_out) for writer, place in zip(writers, places, strict=True)]
    try:
        _run(config, units, f"prepare {config.mixture_or_task}, first shards")
        for writer in writers:
            writer.take_over()
    finally:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)


def _unit(writer: StoreWriter, shard: int, directory: pathlib.Path, held_out: pathlib.Path | None) -> Unit:
    recipe = writer.recipe
    examples = seqio_task.num_input_examples(seqio_task.get_task(recipe.task), recipe.split)
    expected = examples and -(-(examples - shard) // recipe.num_shards)
    compared = str(held_out) if recipe.held_out is not None else None
    return Unit(str(directory), recipe, shard, expected, compared)


def _run(config: PrepareConfig, units: Sequence[Unit], label: str) -> None:
    if not units:
        return
    counts = [unit.expected for unit in units if unit.expected is not None]
    progress = Progress(label, sum(counts) if len(counts) == len(units) else None, "examples")
    if config.runner is None:
        run_units(units, config.modules, config.workers, progress)
    else:
        run_units_with_beam(units, config.modules, config.runner, config.runner_options)
