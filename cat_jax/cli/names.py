"""The names that gin files may use, and where each lives: imported only when a configuration uses it."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Name:
    """A configurable: `module:attribute`; `light` if importing the module imports no JAX."""

    module: str
    attribute: str
    light: bool = False

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module), self.attribute)


ROOTS = {
    "prepare": Name("cat_jax.data.prepare", "prepare", light=True),
    "teach": Name("cat_jax.teacher.writer", "teach"),
    "train": Name("cat_jax.train.loop", "train"),
    "evaluate": Name("cat_jax.evaluate.run", "evaluate"),
    "cascade": Name("cat_jax.cascade.run", "cascade", light=True),
    "run": Name("cat_jax.cli.experiment", "run", light=True),
}
"""What the commands call."""

OBJECTS = {
    "AdamW": Name("cat_jax.train.optimizer", "AdamW"),
    "Adafactor": Name("cat_jax.train.optimizer", "Adafactor"),
    "BitLayout": Name("cat_jax.teacher.layout", "BitLayout"),
    "CheckpointConfig": Name("cat_jax.checkpoint.manager", "CheckpointConfig"),
    "DatasetConfig": Name("cat_jax.data.loader", "DatasetConfig"),
    "Experiment": Name("cat_jax.cli.experiment", "Experiment", light=True),
    "FullLayout": Name("cat_jax.teacher.layout", "FullLayout"),
    "LiveTeacher": Name("cat_jax.teacher.live", "LiveTeacher"),
    "MeshConfig": Name("cat_jax.parallel.mesh", "MeshConfig"),
    "Objective": Name("cat_jax.losses.objective", "Objective"),
    "SparseLayout": Name("cat_jax.teacher.layout", "SparseLayout"),
    "StoredTeacher": Name("cat_jax.teacher.store", "StoredTeacher"),
    "T5Config": Name("cat_jax.models.t5_config", "T5Config"),
}
"""What the commands' arguments are made of."""

NAMES = ROOTS | OBJECTS


def signature(name: str) -> inspect.Signature | None:
    """The constructor or function behind one of our names; None for a name that is not ours."""
    return inspect.signature(NAMES[name].load()) if name in NAMES else None


def suggestion(word: str, known: Iterable[str], otherwise: str) -> str:
    """A mend for a misspelt word.

    >>> suggestion("AdmaW", ["AdamW", "Adafactor"], "see the docs")
    'did you mean AdamW?'
    """
    close = difflib.get_close_matches(word, list(known), n=2, cutoff=0.6)
    if not close:
        lower = {name.lower(): name for name in known}
        close = [lower[word.lower()]] if word.lower() in lower else []
    return f"did you mean {' or '.join(close)}?" if close else otherwise
