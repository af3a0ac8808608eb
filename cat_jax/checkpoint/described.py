"""The configuration of a model by its checkpoint, to be changed in how it is computed and fed."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import Any

from cat_jax.checkpoint.params import read_model_file, split_step_dir
from cat_jax.errors import UserError


def model_from_checkpoint(path: str | os.PathLike, changes: Mapping[str, Any] | None = None) -> Any:
    """The configuration that a checkpoint says it is of.

    Args:
      path: a folder of `transformers`, a GGUF file, a run's directory or one of its `checkpoints/<step>`.
      changes: {field: value} in place of what is there: {"dropout_rate": 0.1, "scan_layers": True, "bos_id": None}.
        Whoever loads the parameters refuses one that makes another model of it.

    Raises:
      UserError: there is none, it does not say its model (as T5X's), or the model has no such field.
    """
    model_dir, step = split_step_dir(path)
    config, _ = read_model_file(model_dir, step=step)
    fields = [field.name for field in dataclasses.fields(config)]
    for name in changes or {}:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            mend = f"did you mean {close[0]}?" if close else f"it has {', '.join(fields)}"
            raise UserError(f"model_from_checkpoint.changes: {type(config).__name__} has no field {name!r}", mend)
    return dataclasses.replace(config, **(changes or {}))
