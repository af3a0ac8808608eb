"""Stores that a command needs and that are not there: prepared on the spot, in a process of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from cat_jax.cli import child
from cat_jax.cli.command import GinFlags
from cat_jax.errors import UserError

logger = logging.getLogger(__name__)


class Dataset(Protocol):
    """Of what `DatasetConfig` says, that which names a store."""

    store_dir: str
    mixture_or_task: str
    split: str
    feature_lengths: Mapping[str, int]


def datasets_in(value: Any) -> list[Dataset]:
    """Every dataset in the arguments of a command, however deep in lists and mappings."""
    if all(hasattr(value, name) for name in ("store_dir", "mixture_or_task", "split", "feature_lengths")):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [found for item in value for found in datasets_in(item)]
    return []


def ensure_prepared(datasets: Iterable[Dataset], flags: GinFlags, multiprocess: bool) -> None:
    """Runs `cat-jax prepare` in a child process for datasets without a store: so no trainer imports TensorFlow.

    Args:
      datasets: what will be read.
      flags: the configuration of this command, which says which module registers the task.
      multiprocess: this is one process of several, which must not all prepare.

    Raises:
      UserError: a store is missing and this is one process of several.
      SystemExit: the child failed; it has said why, and this is its exit code.
    """
    missing: dict[tuple[str, str], list[Dataset]] = {}
    for dataset in datasets:
        if not is_prepared(dataset):
            missing.setdefault((str(dataset.store_dir), dataset.mixture_or_task), []).append(dataset)
    for (store_dir, name), wanted in missing.items():
        splits = list(dict.fromkeys(dataset.split for dataset in wanted))
        if multiprocess:
            raise UserError(
                f"no store of {name!r}, split {', '.join(splits)} in {store_dir}",
                "run `cat-jax prepare` once before a job of several processes",
            )
        logger.info("no store of %s (%s) in %s: preparing it", name, ", ".join(splits), store_dir)
        bindings = {
            "prepare.config": "@PrepareConfig()",
            "PrepareConfig.store_dir": repr(store_dir),
            "PrepareConfig.mixture_or_task": repr(name),
            "PrepareConfig.feature_lengths": repr(dict(wanted[0].feature_lengths)),
            "PrepareConfig.splits": repr(splits),
        }
        given = [f"--gin.{key}={value}" for key, value in bindings.items()]
        code = child.run(["prepare", *flags.arguments(), *given])
        if code:
            raise SystemExit(code)


def is_prepared(dataset: Dataset) -> bool:
    """Whether every task of the dataset has a finished store of its split."""
    from cat_jax.data import layout
    from cat_jax.data.mixture import read_mixture

    try:
        tasks = read_mixture(dataset.store_dir, dataset.mixture_or_task).of_split(dataset.split)
    except UserError:  # prepare will say what is wrong, if anything is
        return False
    directories = [layout.store_directory(dataset.store_dir, task.task, dataset.split) for task in tasks]
    return all((directory / layout.MANIFEST).exists() for directory in directories)
