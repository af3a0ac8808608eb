"""`evaluate`: every model on every task of a mixture, one table each."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cat_jax.checkpoint.params import (
    GivenModel,
    checkpoint_fingerprint,
    find_step,
    load_model,
    read_model_file,
    split_step_dir,
)
from cat_jax.data import seqio_task
from cat_jax.data.beginnings import check_beginnings
from cat_jax.data.fingerprint import in_short, is_known_as
from cat_jax.data.layout import safe_name, split_names
from cat_jax.data.mixture import read_mixture
from cat_jax.data.scoring import check_has_metrics
from cat_jax.data.store import ExampleStore
from cat_jax.decode.beam import BeamSearch
from cat_jax.decode.greedy import Greedy
from cat_jax.decode.loop import Decoding
from cat_jax.decode.sample import Sampling
from cat_jax.errors import UserError
from cat_jax.evaluate import text
from cat_jax.evaluate.devices import Devices
from cat_jax.evaluate.generate import Generation
from cat_jax.evaluate.job import EvaluatedModel, Job, Mode, agree, answer
from cat_jax.evaluate.options import encode_options, has_options
from cat_jax.evaluate.report import write_metrics
from cat_jax.evaluate.score import NORMALIZATIONS, Scoring
from cat_jax.files import cannot_write, fingerprint
from cat_jax.models.int8 import in_dtype
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.parallel.rules import DEFAULT_RULES, AxisRules
from cat_jax.table import table_path

logger = logging.getLogger(__name__)

MODES = ("generate", "score", "auto")


def evaluate(
    models: Mapping[str, str] | Sequence[EvaluatedModel],
    store_dir: str,
    mixture_or_task: str,
    output_dir: str,
    module: str | Sequence[str] | None = None,
    splits: str | Sequence[str] = ("validation",),
    mode: str = "generate",
    batch_size: int = 32,
    max_decode_length: int | None = None,
    decoding: Greedy | BeamSearch | Sampling = Greedy(),  # noqa: B008
    option_normalization: str = "sum",
    mesh: MeshConfig = MeshConfig(),  # noqa: B008
    axis_rules: AxisRules = DEFAULT_RULES,
    dtype: str | None = None,
    save_seconds: float = 30.0,
    reproducible: bool = True,
    rescore: bool = False,
    keep_fields: Sequence[str] = (),
    averages: Sequence[str] = (),
    model_configs: Mapping[str, GivenModel] | None = None,
) -> dict[str, Any]:
    """Writes `<output_dir>/<model>/<task>.<split>.parquet`, and the metrics of all tasks beside them.

    Tables that are there and of the same checkpoint, store and settings are left alone; a table that a killed run
    began is finished from where it was. Call it on every process of a job; process 0 writes. If `reproducible` a
    table's bytes do not depend on the number of devices or processes, nor on the mesh.

    Args:
      models: {name: directory of a training run or of one of its checkpoints}, or `EvaluatedModel`s.
      store_dir: the store root that `cat-jax prepare` wrote.
      mixture_or_task: which of its mixtures or tasks.
      output_dir: where the tables go.
      module: modules that register the SeqIO tasks, for texts and metrics.
      splits: of each task; tasks that lack one are left out of it.
      mode: "generate" (as `decoding` says), "score" (choose among the listed options), or "auto": "score" where the
        examples have options.
      batch_size: examples that each device computes at a time (each data x fsdp part, unless `reproducible`).
      max_decode_length: tokens that an answer may have; None for the feature length of the targets.
      decoding: how answers are written; anything that keeps the protocol `decode.loop.Decoding` will do.
      option_normalization: "sum" chooses the likeliest option, "mean" the one with the likeliest tokens on average.
      mesh: the devices.
      axis_rules: how parameters are split.
      dtype: of parameters and computation, as `models.int8.in_dtype` takes it; None keeps the ones of training.
      save_seconds: how often finished answers are written to disk, so that a killed run need not repeat them.
      reproducible: every device answers rows of its own and gathers parameters for every use; False leaves the tensor
        axis to share the work of each layer, which is faster for large models and rounds differently.
      rescore: whether finished tables are scored again, with the task's metrics as they are now; answers are kept.
      keep_fields: raw fields of the examples that the tables' column `fields` keeps as JSON, such as a document's name;
        a finished table gets them when it is scored again.
      averages: registered mixtures of which the metrics' file has the mean over their tasks, as far as evaluated.

      model_configs: {name: configuration} of models whose checkpoints do not say it, T5X's for example; in gin the name
        of its file(s).

    Returns:
      {model: {split: metrics as in the JSON file}} on process 0; {} on the others.

    Raises:
      UserError: no such model, store or task; a model of another vocabulary; examples without options; a full disk.
    """
    entries = _entries(models, model_configs or {})
    _check(mode, option_normalization, batch_size, max_decode_length, decoding)
    devices = Devices.of(mesh.build(), reproducible)
    settings = {
        "max_decode_length": max_decode_length,
        "decoding": decoding.to_dict(),
        "option_normalization": option_normalization,
        "dtype": dtype,
    }
    stores = [store for split in split_names(splits) for store in open_stores(store_dir, mixture_or_task, split)]
    jobs = [_job(model, store, output_dir, mode, settings) for model in entries for store in stores]
    pending = agree(np.array([jax.process_index() == 0 and not job.is_finished() for job in jobs]))
    logger.info("%d of %d tables are finished", len(jobs) - int(pending.sum()), len(jobs))
    groups = groups_of(averages, module) if jax.process_index() == 0 else {}
    if rescore and jax.process_index() == 0:
        seqio_task.load_modules(module)
        for job in itertools.compress(jobs, ~pending):
            text.rescore(job, split_names(keep_fields))
    unfinished = list(itertools.compress(jobs, pending))
    modes = _Modes(unfinished, devices, batch_size, decoding, module)
    _make_tables(unfinished, modes, devices, axis_rules, batch_size, save_seconds, split_names(keep_fields))
    return write_metrics(output_dir, mixture_or_task, jobs, groups) if jax.process_index() == 0 else {}


def groups_of(averages: Sequence[str], module: str | Sequence[str] | None) -> dict[str, list[str]]:
    """{mixture: names of its tasks}.

    Raises:
      UserError: no mixture or task is called so.
    """
    if averages:
        seqio_task.load_modules(module)
    return {
        name: [task.name for task in seqio_task.tasks_of(seqio_task.get_provider(name, "evaluate.averages"))]
        for name in split_names(averages)
    }


def _make_tables(
    jobs: Sequence[Job],
    modes: _Modes,
    devices: Devices,
    rules: AxisRules,
    batch_size: int,
    save_seconds: float,
    keep_fields: Sequence[str],
) -> None:
    """Makes the tables of `jobs`, those of one model after the other."""
    _check_writable(jobs)
    if jobs and devices.reproducible and devices.mesh.shape["tensor"] > 1:
        logger.info(
            "parameters are gathered for every use, so that tables are the same on every mesh; "
            "evaluate.reproducible=False is faster for large models, at the price of differences in the last bits"
        )
    for model, of_model in itertools.groupby(jobs, key=lambda job: job.model):
        config = graphdef = params = None  # lets go of the model before
        for job in of_model:
            if params is None:
                dtype = job.settings["dtype"]
                config, graphdef, params, _ = load_model(
                    model.model_dir, mesh=devices.mesh, rules=rules, dtype=dtype, step=job.step, model=model.model
                )
            answers = answer(job, modes.mode(job), batch_size, graphdef, params, devices, save_seconds)
            if answers is not None:
                text.write_answers(job, answers, config, keep_fields)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("evaluated")


class _Modes:
    """How the examples of each job are answered; made once for all models that answer the same ones.

    Making it looks at all jobs, so that what can be refused is refused before the first model is loaded.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        devices: Devices,
        rows: int,
        decoding: Decoding,
        module: str | Sequence[str] | None,
    ):
        self._devices, self._rows, self._decoding, self._made = devices, rows, decoding, {}
        if jobs and (jax.process_index() == 0 or any(job.mode == "score" for job in jobs)):
            seqio_task.load_modules(module)
            for job in jobs:
                check_has_metrics(seqio_task.get_task(job.store.task))
        for job in jobs:
            self.mode(job)

    def mode(self, job: Job) -> Mode:
        key = (job.store.fingerprint, job.mode, fingerprint(dict(job.settings)))
        if key not in self._made:
            if job.mode == "score":
                options = encode_options(job.store)
                how = job.settings["option_normalization"]
                self._made[key] = Scoring(job.store, options, self._devices, self._rows, how)
            else:
                length = job.settings["max_decode_length"]
                self._made[key] = Generation(job.store, self._devices, self._rows, length, self._decoding)
        return self._made[key]


def _entries(
    models: Mapping[str, str] | Sequence[EvaluatedModel], configs: Mapping[str, GivenModel]
) -> list[EvaluatedModel]:
    """The models in order.

    Raises:
      UserError: there are none, two of one name, a name that is no directory's, or a configuration of none of them.
    """
    mapped = isinstance(models, Mapping)
    entries = [EvaluatedModel(name, path) for name, path in models.items()] if mapped else list(models)
    entries = [dataclasses.replace(entry, model=configs.get(entry.name, entry.model)) for entry in entries]
    names = [entry.name for entry in entries]
    if not names or len(set(names)) < len(names):
        raise UserError(f"the models to evaluate are {names}", "give one or more, each with its own name")
    for name in names:
        if not name or name != safe_name(name):
            raise UserError(f"{name!r} cannot be the name of a model's directory", "use letters, digits, - and _")
    if stray := sorted(configs.keys() - set(names)):
        raise UserError(f"there is a configuration for {stray[0]!r} and no such model", f"name one of {names}")
    return entries


def _check(
    mode: str, option_normalization: str, batch_size: int, max_decode_length: int | None, decoding: Decoding
) -> None:
    if mode not in MODES:
        raise UserError(f"evaluation has no mode {mode!r}", f"use one of {', '.join(MODES)}")
    if option_normalization not in NORMALIZATIONS:
        raise UserError(
            f"options cannot be normalized by {option_normalization!r}", f"use one of {', '.join(NORMALIZATIONS)}"
        )
    for name, value in (("batch_size", batch_size), ("max_decode_length", max_decode_length)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}", "give a number above 0")
    if isinstance(decoding, type) or not callable(getattr(decoding, "to_dict", None)):
        raise UserError(f"decoding cannot be {decoding!r}", "use @Greedy(), @BeamSearch() or @Sampling()")


def _check_writable(jobs: Sequence[Job]) -> None:
    """A read-only or full disk shows now, not after the first hour."""
    if jax.process_index() == 0:
        for directory in dict.fromkeys(job.path.parent for job in jobs):
            try:
                directory.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=directory):
                    pass
            except OSError as e:
                raise cannot_write(directory, e) from e


def open_stores(store_dir: str, mixture_or_task: str, split: str) -> list[ExampleStore]:
    """The stores of all tasks that have the split, in the mixture's order.

    Raises:
      UserError: a store is missing, or has no texts to compare answers with.
    """
    tasks = read_mixture(store_dir, mixture_or_task).of_split(split)
    stores = [ExampleStore.open(store_dir, task.task, split) for task in tasks]
    for store in stores:
        store.require_texts()
    return stores


def _job(model: EvaluatedModel, store: ExampleStore, output_dir: str, mode: str, settings: Mapping[str, Any]) -> Job:
    """The table of a model on a store.

    Raises:
      UserError: there is no such model, or it has another vocabulary, or an encoder and the examples no inputs.
    """
    model_dir, step = split_step_dir(model.model_dir, model.step)
    step = find_step(model_dir, step)
    config, vocabularies = read_model_file(model_dir, model.model, step)
    if settings["dtype"] is not None:
        in_dtype(config, settings["dtype"])  # refuses what is none
    if config.prompt == "encoder" and not store.has_inputs:
        raise UserError(
            f"the examples of {store.directory} have no inputs for the encoder of {model_dir}",
            "evaluate tasks that ask something",
        )
    check_beginnings([store], config)
    for name, feature in store.manifest.features.items():
        if not is_known_as(vocabularies.get(name, feature.vocabulary), feature.vocabulary):
            raise UserError(
                f"{model_dir} was trained on {name} of vocabulary {in_short(vocabularies[name])}, "
                f"and the store {store.directory} has {feature.vocabulary[:12]}",
                "evaluate it on a store prepared with its own vocabulary",
            )
        if feature.vocab_size > config.vocab_size:
            raise UserError(
                f"the {name} of {store.directory} have {feature.vocab_size} ids, {model_dir} knows {config.vocab_size}",
                "evaluate it on a store prepared with its own vocabulary",
            )
        if name not in vocabularies:
            _warn_of_vocabulary(str(model_dir), name)
    mode = ("score" if has_options(store) else "generate") if mode == "auto" else mode
    used = {"dtype": settings["dtype"]}
    if mode == "score":
        used["option_normalization"] = settings["option_normalization"]
    else:
        used["decoding"] = settings["decoding"]
        used["max_decode_length"] = settings["max_decode_length"] or store.manifest.feature_lengths["targets"]
    path = table_path(output_dir, model.name, store.task, store.split)
    return Job(model, store, path, mode, step, checkpoint_fingerprint(model_dir, step, model.model), used)


@functools.cache  # the tables of one model share it
def _warn_of_vocabulary(model: str, feature: str) -> None:
    logger.warning("%s does not say on which vocabulary of %s it was trained: only its size is checked", model, feature)
