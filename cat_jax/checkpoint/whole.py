"""A directory that is there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import platform
import shutil
import tempfile
from collections.abc import Iterator

from cat_jax.errors import UserError
from cat_jax.files import cannot_write


@contextlib.contextmanager
def whole_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields an empty directory beside `path`, which becomes `path` if nothing goes wrong, and else is removed.

    What one that was killed has left there is removed, too.

    Raises:
      UserError: there is something at `path` already, or its parent cannot be written.
    """
    path = pathlib.Path(path)
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise UserError(f"{path} is there already", "name another directory, or remove that one")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary, held = _make(path)
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
        os.close(held)


def _make(path: pathlib.Path) -> tuple[pathlib.Path, int]:
    """(a new directory beside `path`, a descriptor that holds its lock)."""
    while True:
        made = pathlib.Path(tempfile.mkdtemp(_suffix(), f".{path.name}.", path.parent))
        # Between these lines it looks abandoned: whoever removes it then, removes it before it is held.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(made, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system that knows no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if made.exists():
                return made, descriptor
            os.close(descriptor)


def _suffix() -> str:
    """Of this machine's directories alone: on some file systems a lock is not seen by others."""
    return f".{platform.node()}.unfinished"


def _remove_abandoned(path: pathlib.Path) -> None:
    """Removes directories whose makers live no more: theirs are locked."""
    for left in path.parent.iterdir():
        if not (left.name.startswith(f".{path.name}.") and left.name.endswith(_suffix())):
            continue
        with contextlib.suppress(OSError):  # held, gone in the meantime, or on a file system that knows no locks
            descriptor = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(descriptor)
