"""A folder as `transformers` saves it: config.json, and safetensors in one file or several with an index."""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from cat_jax.errors import UserError
from cat_jax.files import read_json
from cat_jax.foreign.arrays import Checkpoint, RawArray
from cat_jax.foreign.pickles import refuse_pickles_of
from cat_jax.foreign.safetensors_file import read_header

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_ADAPTERS = "adapter_config.json"
GENERATION = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What may be of a tokenizer: handed on as it is."""

_AGAIN = "copy or download the folder again, with all of its files"


def is_folder(path: pathlib.Path) -> bool:
    """Whether `path` looks like such a folder."""
    return (path / CONFIG).is_file() and not (path / "model.json").exists()


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """The fields of config.json.

    Raises:
      UserError: it is missing, or no JSON object.
    """
    fields = read_json(path / CONFIG, "model configuration", _AGAIN)
    if not isinstance(fields, dict):
        raise UserError(f"{path / CONFIG} does not describe a model", _AGAIN)
    return fields


def check_numbers(fields: Mapping[str, Any], names: Collection[str]) -> None:
    """Refuses a config.json in which one of these is not there, or is no whole number.

    Raises:
      UserError: so it is; names the field.
    """
    lacking = [name for name in names if fields.get(name) is None]
    if lacking:
        raise UserError(f"its config.json lacks {', '.join(lacking)}", "copy or download the folder again")
    for name in names:
        if not isinstance(fields[name], int):
            raise UserError(f"its config.json has {name} {fields[name]!r}", "give a whole number")


def refuse_adapters(path: pathlib.Path) -> None:
    """Refuses a folder that PEFT has written.

    Raises:
      UserError: it is one.
    """
    if (path / _ADAPTERS).is_file():
        raise UserError(
            f"{path} holds adapters of PEFT ({_ADAPTERS}) without their model",
            "merge them into it first (merge_and_unload) and save that",
        )


def open_folder(path: pathlib.Path) -> Checkpoint:
    """The tensors of a folder; their data is not read.

    Raises:
      UserError: there are none, a shard is missing or cut short, or the weights are pickles.
    """
    if (path / INDEX).is_file():
        return Checkpoint(str(path), _sharded(path))
    if (path / WEIGHTS).is_file():
        return Checkpoint(str(path), read_header(path / WEIGHTS))
    refuse_adapters(path)
    refuse_pickles_of(path)
    raise UserError(f"{path} has neither {WEIGHTS} nor {INDEX}", _AGAIN)


def _sharded(path: pathlib.Path) -> dict[str, RawArray]:
    index = read_json(path / INDEX, "index of shards", _AGAIN)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise UserError(f"{path / INDEX} has no weight_map", _AGAIN)
    found: dict[str, RawArray] = {}
    files = sorted(set(places.values()))
    for number, file in enumerate(files):
        if pathlib.PurePath(file).name != file:
            raise UserError(f"{path / INDEX} names {file}, which is not in the folder", _AGAIN)
        if not (path / file).is_file():
            raise UserError(f"{path / file} is missing, shard {number + 1} of {len(files)} in {INDEX}", _AGAIN)
        found |= read_header(path / file)
    lacking = sorted(places.keys() - found.keys())
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UserError(f"{path / places[lacking[0]]} lacks {lacking[0]}{more}, which {INDEX} says it has", _AGAIN)
    return found
