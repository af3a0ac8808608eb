"""Mixtures as the store root knows them: which tasks, and how often each is drawn."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping

from cat_jax.data import layout
from cat_jax.data.store import ExampleStore
from cat_jax.errors import UserError
from cat_jax.files import read_json, write_json

logger = logging.getLogger(__name__)

VERSION = 1


@dataclasses.dataclass(frozen=True)
class MixtureTask:
    """A task of a mixture. `rate` is relative to the other tasks' rates; `splits` are all that the task declares."""

    task: str
    rate: float
    splits: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Tasks in SeqIO's order (by name): the position of a task here is its task id. Rates are resolved numbers."""

    name: str
    tasks: tuple[MixtureTask, ...]

    def of_split(self, split: str) -> tuple[MixtureTask, ...]:
        """The tasks that have `split` and are ever drawn, as SeqIO mixes them.

        Raises:
          UserError: there are none, or a rate is negative.
        """
        for task in self.tasks:
            if task.rate < 0:
                raise UserError(
                    f"task {task.task!r} has the rate {task.rate} in mixture {self.name!r}", "give a rate above 0"
                )
        found = tuple(task for task in self.tasks if split in task.splits and task.rate > 0)
        if not found:
            known = sorted({name for task in self.tasks for name in task.splits})
            raise UserError(
                f"no task of {self.name!r} has a split {split!r}", f"name one of its splits: {', '.join(known)}"
            )
        return found


def write_mixture(root: str | os.PathLike, mixture: Mixture) -> None:
    """Writes `mixtures/<name>.json` below the store root."""
    write_json(layout.mixture_file(root, mixture.name), {"version": VERSION, **dataclasses.asdict(mixture)})


def read_mixture(root: str | os.PathLike, name: str) -> Mixture:
    """The mixture called `name`; a single prepared task counts as a mixture of itself.

    Raises:
      UserError: the store root has neither; the file is broken or of another version.
    """
    path = layout.mixture_file(root, name)
    if not path.exists():
        splits = tuple(layout.prepared_splits(root, name))
        if not splits:
            raise UserError(
                f"no prepared task or mixture {name!r} in {root}",
                "run `cat-jax prepare` for it, or name another STORE_DIR",
            )
        return Mixture(name, (MixtureTask(name, 1.0, splits),))
    mend = "run `cat-jax prepare` again"
    fields = read_json(path, "mixture", mend)
    if fields.get("version") != VERSION:
        raise UserError(f"{path} is of version {fields.get('version')}, this program reads {VERSION}", mend)
    tasks = tuple(MixtureTask(t["task"], float(t["rate"]), tuple(t["splits"])) for t in fields["tasks"])
    return Mixture(fields["name"], tasks)


def open_stores(
    root: str | os.PathLike, name: str, split: str, feature_lengths: Mapping[str, int]
) -> tuple[list[ExampleStore], list[float]]:
    """Opens the stores of a task's or mixture's `split`, in task order, with their rates.

    Raises:
      UserError: a store is missing, holds longer features than `feature_lengths` allows, or the tasks' vocabularies
        or features differ.
    """
    tasks = read_mixture(root, name).of_split(split)
    stores = [ExampleStore.open(root, task.task, split) for task in tasks]
    for store in stores:
        _check_lengths(store, feature_lengths)
        if store.manifest.features != stores[0].manifest.features:
            raise UserError(
                f"the stores {stores[0].directory} and {store.directory} have different features: "
                f"{dict(stores[0].manifest.features)} and {dict(store.manifest.features)}",
                "use the same vocabulary in all tasks of a mixture",
            )
    return stores, [task.rate for task in tasks]


def _check_lengths(store: ExampleStore, feature_lengths: Mapping[str, int]) -> None:
    for feature, prepared in store.manifest.feature_lengths.items():
        if feature not in feature_lengths:
            raise UserError(
                f"the feature lengths {dict(feature_lengths)} lack {feature!r}, which {store.directory} holds",
                f"add {feature!r} to TASK_FEATURE_LENGTHS",
            )
        if feature_lengths[feature] < prepared:
            raise UserError(
                f"{feature} length {feature_lengths[feature]} is below {prepared}, with which the store "
                f"{store.directory} was prepared",
                "raise it in TASK_FEATURE_LENGTHS, or prepare a store of that length in another STORE_DIR",
            )
        cut = store.manifest.total("trimmed").get(feature, 0)
        if feature_lengths[feature] > prepared and cut:
            logger.warning(
                "%s of %d of %d examples in %s were cut to %d tokens when it was prepared, and stay so with a length "
                "of %d: prepare a store of that length in another STORE_DIR to have them whole",
                feature,
                cut,
                store.manifest.num_examples,
                store.directory,
                prepared,
                feature_lengths[feature],
            )
