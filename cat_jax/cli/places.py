"""Places are on a file system: nothing here reads or writes a bucket by its address."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cat_jax.cli.bindings import Binding, Macro
from cat_jax.errors import UserError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def refuse_addresses(item: Binding, merged: Mapping[str, Binding]) -> None:
    """Refuses an address (`gs://...`) in the value of a binding, or in a macro that it refers to.

    Args:
      item: of one of our names, whose parameters know no addresses.
      merged: the bindings that count, by key: where macros are looked up.

    Raises:
      UserError: there is one; names the macro or the parameter.
    """
    for key, text in _texts(item.key, item.value, merged, ()):
        refuse_address(key, text)


def refuse_address(name: str, place: str) -> None:
    """Refuses an address (`gs://...`) where a local path should be.

    Raises:
      UserError: it is one; names what it is given as.
    """
    if _ADDRESS.match(place):
        raise UserError(
            f"{name} is {place}, and cat-jax works on local directories only",
            "mount the bucket (gcsfuse, s3fs) or copy what is there, and give the directory",
        )


def _texts(key: str, value: Any, merged: Mapping[str, Binding], seen: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(what it is called, string) for every string in a value, through macros."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Macro):
        if value.name in merged and value.name not in seen:
            yield from _texts(value.name, merged[value.name].value, merged, (*seen, value.name))
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from _texts(key, pair, merged, seen)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(key, part, merged, seen)
