"""Gin files that say what model a checkpoint is of, which does not say it itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cat_jax.cli import configuration
from cat_jax.cli.bindings import REQUIRED
from cat_jax.cli.command import GinFlags
from cat_jax.cli.configuration import Command
from cat_jax.errors import UserError
from cat_jax.types import ModelConfig

TEACHER = "teacher"
"""The scope in which a teacher's files are read, as in `cat-jax run`."""


def given_model(model: ModelConfig) -> ModelConfig:
    """What a configuration makes of MODEL."""
    return model


def model_of(files: str | Sequence[str], flags: GinFlags, scope: str = "") -> Any:
    """The configuration that gin files make of MODEL, read after those of the command.

    Args:
      files: as `--gin_file` takes them.
      flags: of the command, whose own bindings win.
      scope: in which they are read.

    Raises:
      UserError: a file is missing or wrong, or sets no MODEL.
    """
    named = (files,) if isinstance(files, str) else tuple(files)
    flagged = (*flags.bindings, "given_model.model=%MODEL")
    bindings = configuration.read((*flags.files, *named), flagged, flags.search_paths).in_scope(scope)
    item = bindings.merged().get("MODEL")
    if item is None or item.value == REQUIRED:
        raise UserError(f"no MODEL is set by {', '.join(named)}", "name a gin file that sets it, as models/t5_base.gin")
    return configuration.configure(bindings, "given_model").arguments["model"]


def resolved(command: Command, flags: GinFlags) -> dict[str, Any]:
    """The arguments of a command that name gin files of models, with the configurations in their place.

    Raises:
      UserError: as `model_of`.
    """
    changes: dict[str, Any] = {}
    arguments = command.arguments
    if _are_files(arguments.get("model")):
        changes["model"] = model_of(arguments["model"], flags, TEACHER)
    if "teacher" in arguments:
        changes["teacher"] = _resolved(arguments["teacher"], flags, TEACHER)
    models = arguments.get("models")
    if isinstance(models, list | tuple):
        changes["models"] = [_resolved(model, flags, getattr(model, "name", "")) for model in models]
    configs = arguments.get("model_configs")
    if isinstance(configs, Mapping):
        changes["model_configs"] = {
            name: model_of(files, flags, name) if _are_files(files) else files for name, files in configs.items()
        }
    return changes


def _resolved(owner: Any, flags: GinFlags, scope: str) -> Any:
    """A teacher, or an `EvaluatedModel`."""
    files: Any = getattr(owner, "model", None)
    return dataclasses.replace(owner, model=model_of(files, flags, scope)) if _are_files(files) else owner


def _are_files(value: Any) -> bool:
    return isinstance(value, str | list | tuple)
