"""A directory that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from cat_jax.errors import UserError
from cat_jax.files import cannot_write


@contextlib.contextmanager
def whole_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields an empty directory beside `path`, which becomes `path` if nothing goes wrong, and else is removed.

    Raises:
      UserError: there is something at `path` already, or its parent cannot be written.
    """
    path = pathlib.Path(path)
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise UserError(f"{path} is there already", "name another directory, or remove that one")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as e:
        raise cannot_write(path, e) from e
    try:
        yield temporary
        try:
            temporary.chmod(0o755)
            os.replace(temporary, path)
        except OSError as e:
            raise cannot_write(path, e) from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
