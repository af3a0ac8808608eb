"""Output directories: checked before long work, and told how they came about."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cat_jax.errors import UserError
from cat_jax.files import atomic_write, cannot_write

if TYPE_CHECKING:
    from cat_jax.cli.configuration import Command

CONFIGURATION = "config.gin"
OPERATIVE = "operative_config.gin"
BEGUN = "training.json"
"""What `train` writes once it has accepted its configuration."""


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path names a bucket, which the file system knows nothing of.

    >>> is_remote("gs://bucket/model"), is_remote("runs/model")
    (True, False)
    """
    return "://" in str(path)


def check_writable(directory: str | os.PathLike, what: str) -> None:
    """Makes sure that files can be written to `directory`, so that a mistake shows before hours of work.

    Args:
      directory: it and its parents are made.
      what: the macro or parameter that names it, for the message.

    Raises:
      UserError: it is no directory, cannot be made or written, or the disk is full.
    """
    if is_remote(directory):
        return
    path = pathlib.Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as e:
        raise UserError(f"{path} ({what}) is not a directory", f"move that file away, or set {what} to another") from e
    except OSError as e:
        raise cannot_write(path, e) from e
    try:
        with tempfile.NamedTemporaryFile(dir=path, prefix=".check.") as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as e:
        raise cannot_write(path, e) from e


def save_configuration(directory: str | os.PathLike, command: Command) -> None:
    """Writes what the command used, and the same with all defaults, into `directory`; each whole or not at all."""
    again = f"# Do it again: cat-jax {command.root} --gin_file={pathlib.PurePosixPath(directory) / CONFIGURATION}\n"
    built = f"# What `cat-jax {command.root}` was built from, defaults included.\n"
    _write(directory, CONFIGURATION, again + command.configuration)
    _write(directory, OPERATIVE, built + command.operative)


@contextlib.contextmanager
def recorded(model_dir: str | os.PathLike, command: Command) -> Iterator[None]:
    """Around a training: its configuration lies in its directory from the start, and is brought up to date at the end.

    What an earlier start has left there stays until this one has succeeded: `train` refuses a directory that was begun
    with another configuration. A start that was refused leaves nothing.
    """
    path = pathlib.Path(model_dir)
    fresh = is_remote(model_dir) or not (path / BEGUN).exists()
    if fresh:
        save_configuration(model_dir, command)
    try:
        yield
    except BaseException:
        if fresh and not is_remote(model_dir) and not (path / BEGUN).exists():
            for name in (CONFIGURATION, OPERATIVE):
                (path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.rmdir()  # if it is empty
        raise
    save_configuration(model_dir, command)


def _write(directory: str | os.PathLike, name: str, text: str) -> None:
    if is_remote(directory):
        from etils import epath

        epath.Path(directory).mkdir(parents=True, exist_ok=True)
        (epath.Path(directory) / name).write_text(text)
    else:
        atomic_write(pathlib.Path(directory) / name, text.encode())
