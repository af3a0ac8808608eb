"""T5X's checkpoints: one msgpack file, or a directory with an index `checkpoint` and a zarr array per leaf.

Both have version 3, T5X's since June 2021. An early Orbax directory is the second kind with placeholders in its index.
Names are those of T5X's train state: `target/...` the parameters, `state/...` the optimizer.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cat_jax.errors import UserError
from cat_jax.foreign.arrays import Checkpoint, ForeignArray, PiecedArray, RawArray
from cat_jax.foreign.msgpack_file import read_tree
from cat_jax.foreign.zarr_array import ZarrArray, directory, is_dtype

INDEX = "checkpoint"
VERSION = 3
_PLACEHOLDER = "PLACEHOLDER://"
_STEP_DIRECTORY = re.compile(r"checkpoint_(\d+)")
_STEP_FILE = re.compile(r".*\.checkpoint_(\d+)")
_MAP_BYTES = (*range(0x80, 0x90), 0xDE, 0xDF)


def is_checkpoint(path: pathlib.Path) -> bool:
    """Whether `path` looks like such a file or directory."""
    if path.is_dir():
        return (path / INDEX).is_file() and _begins_a_map(path / INDEX)
    return path.is_file() and _begins_a_map(path)


def steps_of(path: pathlib.Path) -> list[int]:
    """The steps of a run's directory `<path>/checkpoint_<step>`, ascending."""
    if not path.is_dir():
        return []
    found = ((_STEP_DIRECTORY.fullmatch(entry.name), entry) for entry in path.iterdir())
    return sorted(int(match[1]) for match, entry in found if match and is_checkpoint(entry))


def step_of(path: pathlib.Path) -> int:
    """The step in a checkpoint's name; 0 if there is none."""
    match = _STEP_DIRECTORY.fullmatch(path.name) or _STEP_FILE.fullmatch(path.name)
    return int(match[1]) if match else int(path.name) if path.name.isdecimal() else 0


def open_checkpoint(path: pathlib.Path) -> Checkpoint:
    """The arrays of a checkpoint; their data is not read.

    Raises:
      UserError: it is damaged, or of another version.
    """
    folder = path if path.is_dir() else None
    tree = read_tree(path / INDEX if folder else path)
    if not isinstance(tree, dict):
        raise UserError(f"{path} is no checkpoint of T5X", "name a directory checkpoint_<step>, or a msgpack file")
    version = tree.pop("version", VERSION if folder else None)
    if version != VERSION:
        raise UserError(
            f"{path} is of version {version} of T5X's checkpoints, and {VERSION} is read",
            "restore and save it with T5X of June 2021 or later",
        )
    arrays = dict(_leaves(tree, (), folder))
    return Checkpoint(str(path), {_short(name): array for name, array in arrays.items()})


def _leaves(tree: Any, path: tuple[str, ...], folder: pathlib.Path | None) -> Iterator[tuple[str, ForeignArray]]:
    name = "/".join(path)
    if isinstance(tree, dict) and folder and {"driver", "kvstore", "metadata"} <= tree.keys():
        yield name, _of_spec(tree, name, folder)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, (*path, key), folder)
    elif isinstance(tree, str) and tree.startswith(_PLACEHOLDER) and folder:
        stored = folder / _inside(tree.removeprefix(_PLACEHOLDER), folder)
        # Orbax leaves out what it need not write, so that holes may mean zeros.
        yield name, ZarrArray("zarr", directory(stored), str(stored), holes_are_zero=True)
    elif isinstance(tree, RawArray | PiecedArray):
        yield name, tree


def _of_spec(spec: Mapping[str, Any], name: str, folder: pathlib.Path) -> ZarrArray:
    """The array of a TensorStore spec, whose path is relative, and which may speak of the bucket it was written to."""
    stored = folder / _inside(str(spec["kvstore"].get("path", spec.get("path", name.replace("/", ".")))), folder)
    assumed = {"metadata": dict(spec["metadata"])}
    if is_dtype(spec.get("dtype")):
        assumed["dtype"] = spec["dtype"]
    return ZarrArray("zarr", directory(stored), str(stored), assumed)


def _inside(name: str, folder: pathlib.Path) -> str:
    last = pathlib.PurePosixPath(name.rstrip("/")).name  # an index that was copied may have the whole path
    if not last or last in (".", ".."):
        raise UserError(f"{folder / INDEX} names an array {name!r}", "copy the checkpoint again")
    return last


def _short(name: str) -> str:
    """Without the wrapper around the train state."""
    for prefix in ("optimizer/", "_optimizer/"):
        name = name.removeprefix(prefix)
    return name


def _begins_a_map(path: pathlib.Path) -> bool:
    with path.open("rb") as f:
        first = f.read(1)
    return bool(first) and first[0] in _MAP_BYTES and path.suffix not in (".json", ".txt")
