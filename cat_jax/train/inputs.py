"""Opens the data of a run: stores, stored signals, vocabularies; all that does not fit is refused before step one."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from cat_jax.checkpoint.params import read_vocabularies
from cat_jax.data.assemble import HostBatch
from cat_jax.data.beginnings import check_beginnings
from cat_jax.data.fingerprint import in_short, is_known_as
from cat_jax.data.loader import DatasetConfig, TrainIterator, make_train_iterator
from cat_jax.data.manifest import FeatureInfo
from cat_jax.data.mixture import open_stores
from cat_jax.errors import UserError
from cat_jax.losses.objective import Objective
from cat_jax.parallel.batches import data_shard, shard_batch
from cat_jax.teacher.store import SignalStore, StoredTeacher
from cat_jax.train.teachers import Teacher, check_signals
from cat_jax.types import Batch, ModelConfig, Prompt, TeacherSignal

logger = logging.getLogger(__name__)

Place = Callable[[HostBatch], tuple[Batch, TeacherSignal | None]]


def open_signals(
    dataset: DatasetConfig, teacher: Teacher | None, objective: Objective, model: ModelConfig
) -> Mapping[str, SignalStore] | None:
    """The readers of the stored signal of a dataset, by task; None where the teacher is live or absent.

    Raises:
      UserError: there is no teacher and the objective needs one; see `StoredTeacher.readers` and `check_signals`.
    """
    if teacher is None and objective.needs_teacher:
        raise UserError(
            f"the objective {objective.name} needs a teacher and there is none",
            "set TEACHER to @StoredTeacher() or @LiveTeacher(), or train xent",
        )
    if not isinstance(teacher, StoredTeacher):
        return None
    stores, _ = open_stores(dataset.store_dir, dataset.mixture_or_task, dataset.split, dataset.feature_lengths)
    distribution = {"needs_distribution": objective.needs_distribution, "temperature": objective.temperature}
    signals = teacher.readers(stores, **distribution)
    check_signals(signals, model, objective)
    return signals


def open_training_data(
    dataset: DatasetConfig, signals: Mapping[str, SignalStore] | None, mesh: Mesh, prompt: Prompt
) -> TrainIterator:
    """This process's part of the training batches as the student reads them, with the stored signals if there are any.

    Raises:
      UserError: the stores or the batch size do not fit.
    """
    index, count = data_shard(mesh)
    return make_train_iterator(dataset, process_index=index, process_count=count, signals=signals, prompt=prompt)


def check_vocabularies(
    model: ModelConfig, features: Mapping[str, FeatureInfo], others: Mapping[str, str | None]
) -> dict[str, str]:
    """{feature: vocabulary fingerprint}, after checking that they fit the model and other trained models.

    Args:
      model: the student.
      features: of the stores.
      others: {what it is: directory of a trained model, or None} that must be of the same vocabularies, as far as
        they say: of what does not, only numbers of ids can be compared, and it is told.

    Raises:
      UserError: naming both sides.
    """
    for name, feature in features.items():
        if model.vocab_size < feature.vocab_size:
            raise UserError(
                f"the model's vocabulary has {model.vocab_size} ids and feature {name!r} of the data has "
                f"{feature.vocab_size}",
                f"set vocab_size to at least {feature.vocab_size}",
            )
    vocabularies = {name: feature.vocabulary for name, feature in features.items()}
    for what, directory in others.items():
        if directory is None:
            continue
        trained_on = read_vocabularies(directory)
        for name in vocabularies.keys() - trained_on.keys():
            logger.warning("the %s %s does not say on which vocabulary of %s it was trained", what, directory, name)
        for name, theirs in trained_on.items():
            if name in vocabularies and not is_known_as(theirs, vocabularies[name]):
                raise UserError(
                    f"the {what} {directory} has the vocabulary {in_short(theirs)} for {name!r}, "
                    f"the data has {vocabularies[name][:12]}",
                    "use a model that was trained with the vocabulary of this data",
                )
    return vocabularies


def check_evaluation(
    model: ModelConfig, dataset: DatasetConfig, trained: DatasetConfig, vocabularies: Mapping[str, str]
) -> None:
    """Refuses evaluation data of other vocabularies than the training data, or that the model cannot read.

    Args:
      model: the student.
      dataset: of the evaluation.
      trained: of the training.
      vocabularies: of the training data, as `check_vocabularies` returns them.

    Raises:
      UserError: naming both stores.
    """
    stores, _ = open_stores(dataset.store_dir, dataset.mixture_or_task, dataset.split, dataset.feature_lengths)
    check_beginnings(stores, model)
    for store in stores:
        check_vocabularies(model, store.manifest.features, {})
        for name, feature in store.manifest.features.items():
            known = vocabularies.get(name)
            if known is not None and known != feature.vocabulary:
                raise UserError(
                    f"{store.directory}, which is to be evaluated on, has the vocabulary {feature.vocabulary[:12]} for "
                    f"{name!r}, the training data in {trained.store_dir} has {known[:12]}",
                    "prepare both with the same vocabulary",
                )


def make_place(mesh: Mesh, objective: Objective) -> Place:
    """A function from this process's rows to what the step takes.

    On one device the step takes the NumPy arrays as they are: jit moves them faster than `device_put` would.
    """
    alone = jax.process_count() == 1 and mesh.size == 1

    def place(host: HostBatch) -> tuple[Batch, TeacherSignal | None]:
        signal = host.signal
        if signal is not None and not objective.needs_distribution:
            signal = dataclasses.replace(signal, logits=None, output=None, sparse=None)
        pair: Any = (host.batch, signal)
        return pair if alone else shard_batch(pair, mesh)

    return place
