"""What a run's directory says it is of, and the refusal to go on with something else."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from cat_jax.checkpoint.params import MODEL_FILE, write_model_file
from cat_jax.checkpoint.retention import checkpoints_dir
from cat_jax.checkpoint.seal import sealed_steps
from cat_jax.errors import UserError
from cat_jax.files import read_json, write_json
from cat_jax.types import ModelConfig

TRAINING_FILE = "training.json"
_PLACES = {"store_dir", "prefetch", "memory_bytes", "memory_examples"}
"""Fields that say where something is or how fast it comes, not what it is: they may change between starts."""
_NAMED = "named"
"""A key beside "fingerprint": what people call the thing. It tells a difference, it never makes one."""


def describe(value: Any) -> Any:
    """JSON of a configuration: dataclasses become their class name and fields, without the fields in `_PLACES`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in _PLACES}
        return {"kind": type(value).__name__, **{name: describe(field) for name, field in fields.items()}}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return getattr(value, "__qualname__", type(value).__name__)


def claim_directory(
    model_dir: str | os.PathLike,
    config: ModelConfig,
    vocabularies: dict[str, str],
    run: Mapping[str, Any],
    sequences: Mapping[str, Any] | None = None,
) -> None:
    """Writes `model.json` and `training.json`, or checks them against what is asked for now.

    They are checked if the directory has a checkpoint; without one nothing would be lost, and they are replaced.

    Args:
      model_dir: the run's directory.
      config: the model.
      vocabularies: fingerprint of each feature's vocabulary.
      run: everything else that decides the numbers, see `describe`.
      sequences: see `write_model_file`.

    Raises:
      UserError: the directory is of another run; names the first difference.
    """
    asked = {
        MODEL_FILE: {"model": describe(config.to_dict()), "vocabularies": vocabularies},
        TRAINING_FILE: describe(run),
    }
    if sealed_steps(checkpoints_dir(model_dir)):
        mend = "take the change back, or name another MODEL_DIR"
        path = pathlib.Path(model_dir) / MODEL_FILE
        found = read_json(path, "model description", mend)
        was = {
            MODEL_FILE: {
                "model": {"family": found.get("family"), **found.get("config", {})},
                "vocabularies": found.get("vocabularies"),
            },
            TRAINING_FILE: read_json(pathlib.Path(model_dir) / TRAINING_FILE, "run description", mend),
        }
        for file, content in asked.items():
            difference = first_difference(was[file], content)
            if difference:
                raise UserError(f"{model_dir} was begun with another configuration: {difference}", mend)
    elif jax.process_index() == 0:
        write_model_file(model_dir, config, vocabularies, sequences)
        write_json(pathlib.Path(model_dir) / TRAINING_FILE, asked[TRAINING_FILE])


def first_difference(before: Any, after: Any, name: str = "") -> str | None:
    """In words, the first place where two JSON values differ; None if nowhere.

    >>> first_difference({"optimizer": {"b1": 0.9}}, {"optimizer": {"b1": 0.8}})
    'optimizer.b1 was 0.9 and is now 0.8'
    >>> first_difference({"fingerprint": "ab", "named": "old"}, {"fingerprint": "cd", "named": "new"}, "teacher")
    'teacher was old (ab) and is now new (cd)'
    """
    if isinstance(before, dict) and isinstance(after, dict):
        if before.get("fingerprint") != after.get("fingerprint") and _NAMED in before and _NAMED in after:
            was, now = (f"{side[_NAMED]} ({side['fingerprint'][:12]})" for side in (before, after))
            return f"{name} was {was} and is now {now}"
        for key in sorted((before.keys() | after.keys()) - {_NAMED}, key=lambda key: (key != "kind", key)):
            inner = f"{name}.{key}" if name else key
            difference = first_difference(before.get(key), after.get(key), inner)
            if difference:
                return difference
        return None
    return None if before == after else f"{name} was {before!r} and is now {after!r}"
