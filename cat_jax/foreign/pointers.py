"""Pointers of Git LFS, which stand where a file was not fetched, told from the file."""

from __future__ import annotations

import pathlib

from cat_jax.errors import UserError

_BEGINNING = b"version https://git-lfs"


def refuse_pointer(path: pathlib.Path) -> None:
    """Refuses a pointer.

    Raises:
      UserError: it is one.
    """
    with path.open("rb") as f:
        if f.read(len(_BEGINNING)) == _BEGINNING:
            raise UserError(
                f"{path} is a pointer of Git LFS, not the file that it stands for", "run `git lfs pull` in its clone"
            )
