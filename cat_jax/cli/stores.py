"""Stores that a command needs and that are not there: prepared on the spot, in a process of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from cat_jax.cli import child
from cat_jax.cli.command import GinFlags
from cat_jax.errors import UserError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A store that a command reads. The lengths matter only if it must be made; None: as of other splits there, or as
    the configuration says.
    """

    store_dir: str
    mixture_or_task: str
    split: str
    feature_lengths: Mapping[str, int] | None = None


def wanted_in(value: Any) -> list[Wanted]:
    """Every dataset in the arguments of a command, however deep in lists and mappings."""
    fields = [field.name for field in dataclasses.fields(Wanted)]
    if all(hasattr(value, name) for name in fields):
        return [Wanted(*(getattr(value, name) for name in fields))]
    if isinstance(value, Mapping):
        value = value.values()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [found for item in value for found in wanted_in(item)]
    return []


def ensure_prepared(wanted: Iterable[Wanted], flags: GinFlags, multiprocess: bool) -> None:
    """Runs `cat-jax prepare` in a child process where a store is missing: so no trainer imports TensorFlow.

    Args:
      wanted: what will be read.
      flags: the configuration of this command, which says which module registers the task.
      multiprocess: this is one process of several, which must not all prepare.

    Raises:
      UserError: a store is missing and this is one process of several.
      SystemExit: the child failed; it has said why, and this is its exit code.
    """
    missing: dict[tuple[str, str], list[Wanted]] = {}
    for store in wanted:
        if not is_prepared(store):
            missing.setdefault((str(store.store_dir), store.mixture_or_task), []).append(store)
    for (store_dir, name), stores in missing.items():
        splits = list(dict.fromkeys(store.split for store in stores))
        if multiprocess:
            raise UserError(
                f"no store of {name!r}, split {', '.join(splits)} in {store_dir}",
                "run `cat-jax prepare` once before a job of several processes",
            )
        there = _lengths_there(store_dir, name)
        logger.info("no store of %s (%s) in %s: preparing it", name, ", ".join(splits), store_dir)
        bindings = {
            "prepare.config": "@PrepareConfig()",
            "PrepareConfig.store_dir": repr(store_dir),
            "PrepareConfig.mixture_or_task": repr(name),
            "PrepareConfig.splits": repr(splits),
        }
        lengths = stores[0].feature_lengths or there
        if lengths:
            bindings["PrepareConfig.feature_lengths"] = repr(dict(lengths))
        given = [f"--gin.{key}={value}" for key, value in bindings.items()]
        # Its own run file first: what the command's files say of it, and how macros are called, is as they know it.
        code = child.run(["prepare", "--gin_file=runs/prepare.gin", *flags.arguments(), *given])
        if code:
            raise SystemExit(code)


def _lengths_there(store_dir: str, name: str) -> dict[str, int]:
    """The feature lengths with which other splits of a task or mixture were prepared; {} if there are none."""
    from cat_jax.data import layout
    from cat_jax.data.manifest import read_manifest
    from cat_jax.data.mixture import read_mixture

    lengths: dict[str, int] = {}
    with contextlib.suppress(UserError):
        for task in read_mixture(store_dir, name).tasks:
            for split in layout.prepared_splits(store_dir, task.task):
                lengths |= read_manifest(layout.store_directory(store_dir, task.task, split)).feature_lengths
    return lengths


def is_prepared(wanted: Wanted) -> bool:
    """Whether every task has a finished store of the split."""
    from cat_jax.data import layout
    from cat_jax.data.mixture import read_mixture

    try:
        tasks = read_mixture(wanted.store_dir, wanted.mixture_or_task).of_split(wanted.split)
    except UserError:  # prepare will say what is wrong, if anything is
        return False
    directories = [layout.store_directory(wanted.store_dir, task.task, wanted.split) for task in tasks]
    return all((directory / layout.MANIFEST).exists() for directory in directories)
