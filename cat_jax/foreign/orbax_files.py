"""Orbax's directories as they are today: a tree of arrays in a database (OCDBT) or in a zarr directory each."""

from __future__ import annotations

import pathlib

from cat_jax.errors import UserError
from cat_jax.files import read_json
from cat_jax.foreign.arrays import Checkpoint, ForeignArray
from cat_jax.foreign.zarr_array import ZarrArray, directory

_METADATA = "_METADATA"
_AGAIN = "copy the checkpoint again"


def find_item(path: pathlib.Path) -> pathlib.Path | None:
    """The directory with the arrays: `path`, or the one item of the step `path`; None if there is none.

    Raises:
      UserError: there are several items.
    """
    if (path / _METADATA).is_file():
        return path
    items = sorted(entry.parent for entry in path.glob(f"*/{_METADATA}")) if path.is_dir() else []
    if len(items) > 1:
        named = {item.name: item for item in items}
        known = [named[name] for name in ("params", "items", "default", "state", "model") if name in named]
        if not known:
            raise UserError(f"{path} has several trees of arrays", f"name one of {', '.join(map(str, items))}")
        return known[0]
    return items[0] if items else None


def open_item(path: pathlib.Path) -> Checkpoint:
    """The arrays of a directory with `_METADATA`, named by their keys.

    Raises:
      UserError: it is damaged.
    """
    content = read_json(path / _METADATA, "description of arrays", _AGAIN)
    try:
        ocdbt, zarr3 = content.get("use_ocdbt", True), content.get("use_zarr3", False)
        whole = bool(content.get("store_array_data_equal_to_fill_value", False))
        arrays: dict[str, ForeignArray] = {}
        for entry in content["tree_metadata"].values():
            if entry["value_metadata"]["value_type"] in ("None", "string", "Dict", "List", "Tuple", "NamedTuple"):
                continue  # no array, or an empty branch of the tree
            keys = [str(key["key"]) for key in entry["key_metadata"]]
            name = ".".join(keys)
            if ocdbt:
                place = {"driver": "ocdbt", "base": f"file://{path.absolute()}/", "path": f"{name}/"}
            else:
                place = directory(path / name)
            arrays["/".join(keys)] = ZarrArray(
                "zarr3" if zarr3 else "zarr", place, f"{path}: {name}", holes_are_zero=not whole
            )
    except (AttributeError, KeyError, TypeError) as e:
        raise UserError(f"{path / _METADATA} does not describe arrays ({e})", _AGAIN) from e
    return Checkpoint(str(path), arrays)
