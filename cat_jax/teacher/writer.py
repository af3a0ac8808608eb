"""`teach`: a frozen model reads an example store and writes what it thinks of every target token."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import jax
from jax.experimental import multihost_utils

from cat_jax.checkpoint.params import GivenModel, Step, find_step, load_model, read_model_file, split_step_dir
from cat_jax.data.beginnings import check_beginnings
from cat_jax.data.layout import split_names
from cat_jax.data.mixture import read_mixture
from cat_jax.data.store import ExampleStore
from cat_jax.errors import UserError
from cat_jax.models.int8 import in_dtype
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.parallel.rules import DEFAULT_RULES, AxisRules
from cat_jax.progress import Progress
from cat_jax.teacher.compute import ShardTeacher
from cat_jax.teacher.forward import make_step
from cat_jax.teacher.layout import SignalLayout, SparseLayout
from cat_jax.teacher.manifest import Manifest, Recipe, TeacherIdentity, read_manifest, signal_directory
from cat_jax.teacher.output import SignalWriter
from cat_jax.teacher.vocabulary import check_teacher_vocabularies


def teach(
    model_dir: str | os.PathLike,
    store_dir: str | os.PathLike,
    mixture_or_task: str,
    output_dir: str | os.PathLike,
    *,
    splits: str | Sequence[str] = ("train",),
    layout: SignalLayout | None = None,
    step: Step = None,
    model: GivenModel = None,
    dtype: str = "float32",
    batch_size: int = 64,
    seed: int = 0,
    mesh: MeshConfig | None = None,
    axis_rules: AxisRules = DEFAULT_RULES,
    overwrite: bool = False,
    process_index: int | None = None,
    process_count: int | None = None,
) -> dict[tuple[str, str], Manifest]:
    """Writes the teacher signal of a prepared task or mixture.

    Shards that are finished, by this or an earlier run with the same settings, are not done again. Each process takes
    every process_count-th shard on a copy of the teacher on its own devices; whoever finishes a task last writes its
    manifest. The bytes are the same for any number of processes and on any mesh: each device has rows of its own, and
    parameters, stored as the rules say, are gathered where they are used.

    Args:
      model_dir: the teacher's run directory, one of its `checkpoints/<step>`, or another program's checkpoint.
      store_dir: the root that `prepare` wrote.
      mixture_or_task: what to teach there.
      output_dir: the root of the signals, a directory of its own for each teacher and layout.
      splits: of the tasks.
      layout: what to keep of each target token; None for `SparseLayout()`.
      step: the teacher's checkpoint: a number, "best", or None for the newest.
      model: its configuration, where the checkpoint does not say it; in gin the name of its file(s).
      dtype: of the teacher's parameters and computation, as of a live one; logits are f32 in any case.
      batch_size: rows that one device computes at a time. It may change roundings, so it is part of the settings.
      seed: of the tail draws.
      mesh: over this process's own devices; None for one copy on each.
      axis_rules: how the teacher's parameters lie on the mesh.
      overwrite: replace signals of other settings, each once its first new shard is there, and check finished shards
        byte by byte.
      process_index: which of the processes this is; by default JAX's.
      process_count: how many there are; by default JAX's.

    Returns:
      The manifests by (task, split): of those that are complete when this process is done.

    Raises:
      UserError: no such model, store or task; vocabularies that differ; a signal of other settings in `output_dir`; a
        disk that refuses.
    """
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    layout = layout or SparseLayout()
    model_dir, step = split_step_dir(model_dir, step)
    step = find_step(model_dir, step)
    if batch_size < 1:
        raise UserError(f"teach.batch_size is {batch_size}", "give a positive whole number")
    if not 0 <= seed < 1 << 32:
        raise UserError(f"teach.seed is {seed}", "give a whole number from 0 to 2**32 - 1")
    writers = []
    for store in _stores(store_dir, mixture_or_task, splits):
        recipe = _recipe(model_dir, step, model, dtype, store, layout, batch_size, seed)
        directory = signal_directory(output_dir, store.task, store.split)
        writers.append((store, SignalWriter(directory, recipe, overwrite)))
    unfinished = [(store, writer) for store, writer in writers if overwrite or not writer.complete()]
    if unfinished:
        local = (mesh or MeshConfig()).build(jax.local_devices())
        config, graphdef, params, _ = load_model(
            model_dir, mesh=local, rules=axis_rules, dtype=dtype, step=step, model=model
        )
        compute = make_step(graphdef, layout, local)
        for store, writer in unfinished:
            teacher = ShardTeacher(store, writer.recipe, compute, params, local, config.prompt)
            _write(store, teacher, writer, range(index, len(store.shards), count))
    if process_count is None and count > 1:
        multihost_utils.sync_global_devices("cat_jax.teach")
    complete = [(store, writer) for store, writer in writers if writer.complete()]
    return {(store.task, store.split): read_manifest(writer.directory) for store, writer in complete}


def _stores(root: str | os.PathLike, mixture_or_task: str, splits: str | Sequence[str]) -> list[ExampleStore]:
    mixture = read_mixture(root, mixture_or_task)
    return [
        ExampleStore.open(root, task.task, split) for split in split_names(splits) for task in mixture.of_split(split)
    ]


def _recipe(
    model_dir: pathlib.Path,
    step: int,
    model: GivenModel,
    dtype: str,
    store: ExampleStore,
    layout: SignalLayout,
    batch_size: int,
    seed: int,
) -> Recipe:
    """What the signal of `store` will be, after checking that teacher and store fit."""
    config, vocabularies = read_model_file(model_dir, model, step)
    manifest = store.manifest
    check_beginnings([store], config)
    in_dtype(config, dtype)  # refuses what is none
    check_teacher_vocabularies(str(model_dir), vocabularies, config.vocab_size, manifest.features, str(store.directory))
    layout.record_dtype(config.vocab_size)  # refuses a layout that the vocabulary is too small for
    return Recipe(
        task=store.task,
        split=store.split,
        store=store.fingerprint,
        vocabulary=manifest.features["targets"].vocabulary,
        vocab_size=config.vocab_size,
        feature_lengths=manifest.feature_lengths,
        teacher=TeacherIdentity.of(model_dir, step, dtype, model),
        layout=layout,
        batch_size=batch_size,
        num_shards=len(store.shards),
        seed=seed,
    )


def _write(store: ExampleStore, teacher: ShardTeacher, writer: SignalWriter, shards: range) -> None:
    """Does those of the process's own shards that are not done, then writes the manifest if nobody's are missing."""
    pending = [shard for shard in shards if not writer.finished(shard)]
    total = sum(store.shards[shard].target_tokens for shard in shards)
    done = total - sum(store.shards[shard].target_tokens for shard in pending)
    progress = Progress(f"teach {store.task} {store.split}", total, "tokens", start=done)

    def report(tokens: int) -> None:
        nonlocal done
        done += tokens
        progress.update(done)

    for shard in pending:
        writer.write(shard, store.shards[shard].num_examples, teacher.run(shard, report))
    manifest = writer.finish()
    if manifest is not None:
        error = "" if manifest.error_per_token is None else f", error {manifest.error_per_token:.3g}"
        progress.close(f"right on {manifest.teacher_accuracy:.1%}, {manifest.bytes_per_token:.3g} bytes a token{error}")
    elif pending:
        progress.close("other processes still at work")
