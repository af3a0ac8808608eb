"""Which families are read from, and written as, other programs' checkpoints, and with which tables."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cat_jax.errors import UserError
from cat_jax.foreign.arrays import Checkpoint
from cat_jax.foreign.names import NameTable
from cat_jax.types import ModelConfig


@dataclasses.dataclass(frozen=True)
class ForeignFamily:
    """What a family of models gives, to be known outside.

    Attributes:
      family: its name, as `ModelConfig.family`.
      model_types: what its members are called in the `model_type` of a config.json; the first is what is written.
      from_hugging_face: the configuration (a `ModelConfig`) that the fields of a config.json describe.
      to_hugging_face: the fields of a config.json that describe a configuration, made from those that the model came
        with, if any.
      hugging_face_names: where the parameters are in a folder.
      tokenizer_class: in transformers, of a tokenizer that is a SentencePiece model.
      tokenizer_classes: the same of model types that have another.
      tokenizer_file: how its file is called there.
      extra_ids: sentinels that it has beyond its pieces, where the model has room for them.
      t5x_names: the same of one of T5X's checkpoints; None where T5X has no such models.
      t5x_names_to_write: the same of one that is to be written, with layers stacked or not.
    """

    family: str
    model_types: tuple[str, ...]
    from_hugging_face: Callable[[Mapping[str, Any]], Any]
    to_hugging_face: Callable[[Any, Mapping[str, Any]], dict[str, Any]]
    hugging_face_names: Callable[[Any], NameTable]
    tokenizer_class: str
    tokenizer_classes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tokenizer_file: str = "tokenizer.model"
    extra_ids: int = 0
    t5x_names: Callable[[Any, Checkpoint], NameTable] | None = None
    t5x_names_to_write: Callable[[Any, bool], NameTable] | None = None


_BUNDLED = {"decoder": "cat_jax.foreign.decoder", "t5": "cat_jax.foreign.t5"}
"""Modules that register a family, by its name: imported when it is asked for."""

_REGISTERED: dict[str, ForeignFamily] = {}


def register(family: ForeignFamily) -> ForeignFamily:
    """Makes a family known; a later one of the same name replaces it."""
    _REGISTERED[family.family] = family
    return family


def of_config(config: ModelConfig) -> ForeignFamily:
    """The family of a configuration.

    Raises:
      UserError: it is not known outside.
    """
    known = _known()
    if config.family not in known:
        raise UserError(
            f"models of the family {config.family!r} have no other program's names",
            f"use one of {', '.join(sorted(known))}, or register yours with cat_jax.foreign.families.register",
        )
    return known[config.family]


def of_model_type(model_type: Any, label: str) -> ForeignFamily:
    """The family of a config.json's `model_type`.

    Args:
      model_type: the field.
      label: of the file, for the message.

    Raises:
      UserError: there is none.
    """
    known = list(_known().values())
    for family in known:
        if model_type in family.model_types:
            return family
    raise UserError(f"{label} is of model_type {model_type!r}", f"what is read: {', '.join(_model_types(known))}")


def _known() -> Mapping[str, ForeignFamily]:
    for name, module in _BUNDLED.items():
        if name not in _REGISTERED:
            importlib.import_module(module)
    return _REGISTERED


def _model_types(families: Iterable[ForeignFamily]) -> list[str]:
    return sorted(name for family in families for name in family.model_types)
