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
    """A configurable.

    Attributes:
      module: where it is.
      attribute: its name there.
      light: importing the module imports no JAX.
      supplied: required parameters that the command can find out by itself.
      optional: macros without which it can do, mostly: None where nobody gives them a value.
      command: of a root, the command that calls it, where it is not called as the root is.
    """

    module: str
    attribute: str
    light: bool = False
    supplied: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    command: str = ""

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module), self.attribute)


ROOTS = {
    "prepare": Name("cat_jax.data.prepare", "prepare", light=True),
    "teach": Name("cat_jax.teacher.writer", "teach"),
    "import_signal": Name("cat_jax.teacher.imported", "import_signal", supplied=("files",), command="teach"),
    "align": Name("cat_jax.teacher.aligned", "align", command="teach"),
    "train": Name("cat_jax.train.loop", "train"),
    "evaluate": Name("cat_jax.evaluate.run", "evaluate"),
    "import_answers": Name("cat_jax.evaluate.imported", "import_answers", supplied=("files",), command="evaluate"),
    "cascade": Name(
        "cat_jax.cascade.experiment",
        "cascade",
        light=True,
        supplied=("tasks",),
        optional=("MIXTURE_OR_TASK_MODULE", "STORE_DIR"),
    ),
    "plan": Name("cat_jax.planning.plan", "plan"),
    "run": Name("cat_jax.cli.run", "run", light=True, supplied=("flags",)),
    "given_model": Name("cat_jax.cli.model_files", "given_model"),
}
"""What the commands call."""

OBJECTS = {
    "AdamW": Name("cat_jax.train.optimizer", "AdamW"),
    "Adafactor": Name("cat_jax.train.optimizer", "Adafactor"),
    "BeamSearch": Name("cat_jax.decode.beam", "BeamSearch"),
    "BitLayout": Name("cat_jax.teacher.layout", "BitLayout"),
    "CheckpointConfig": Name("cat_jax.checkpoint.retention", "CheckpointConfig"),
    "Cost": Name("cat_jax.evaluate.cost", "Cost"),
    "DatasetConfig": Name("cat_jax.data.loader", "DatasetConfig"),
    "DecoderConfig": Name("cat_jax.models.decoder_config", "DecoderConfig"),
    "EvaluatedModel": Name("cat_jax.evaluate.job", "EvaluatedModel"),
    "Experiment": Name("cat_jax.cli.experiment", "Experiment", light=True),
    "FullLayout": Name("cat_jax.teacher.layout", "FullLayout"),
    "Greedy": Name("cat_jax.decode.greedy", "Greedy"),
    "LiveTeacher": Name("cat_jax.teacher.live", "LiveTeacher"),
    "Lora": Name("cat_jax.models.lora", "Lora", light=True),
    "MeshConfig": Name("cat_jax.parallel.mesh", "MeshConfig"),
    "Objective": Name("cat_jax.losses.objective", "Objective"),
    "PrepareConfig": Name("cat_jax.data.prepare", "PrepareConfig", light=True),
    "CosineDecay": Name("cat_jax.train.schedule", "CosineDecay"),
    "LinearDecay": Name("cat_jax.train.schedule", "LinearDecay"),
    "Sampling": Name("cat_jax.decode.sample", "Sampling"),
    "Schedule": Name("cat_jax.train.schedule", "Schedule"),
    "SparseLayout": Name("cat_jax.teacher.layout", "SparseLayout"),
    "StoredTeacher": Name("cat_jax.teacher.store", "StoredTeacher"),
    "TaskMetrics": Name("cat_jax.cli.task_metrics", "TaskMetrics", light=True),
    "T5Config": Name("cat_jax.models.t5_config", "T5Config"),
    "model_from_checkpoint": Name("cat_jax.checkpoint.described", "model_from_checkpoint"),
}
"""What the commands' arguments are made of."""

NAMES = ROOTS | OBJECTS


def signature(name: str) -> inspect.Signature | None:
    """How one of our names is called, what a command supplies being optional; None for a name that is not ours."""
    if name not in NAMES:
        return None
    found = inspect.signature(NAMES[name].load())
    parameters = [
        p.replace(default=None) if p.name in NAMES[name].supplied and p.default is p.empty else p
        for p in found.parameters.values()
    ]
    # Gin passes keywords only, so that an optional parameter may stand before a required one.
    return inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in parameters])


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
