"""Output directories: checked before long work, and told how they came about."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cat_jax.cli import names
from cat_jax.errors import UserError
from cat_jax.files import atomic_write, cannot_write

if TYPE_CHECKING:
    from cat_jax.cli.configuration import Command

CONFIGURATION = "config.gin"
OPERATIVE = "operative_config.gin"
BEGUN = "training.json"
"""What `train` writes once it has accepted its configuration."""


def check_writable(directory: str | os.PathLike, what: str) -> None:
    """Makes sure that files can be written to `directory`, so that a mistake shows before hours of work.

    What is refused later leaves nothing: a directory that is not there is not made, its nearest parent is tried.

    Args:
      directory: it or its parents.
      what: the macro or parameter that names it, for the message.

    Raises:
      UserError: it is no directory, cannot be made or written, or the disk is full.
    """
    path = pathlib.Path(directory)
    try:
        there = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
        with tempfile.NamedTemporaryFile(dir=there, prefix=".check.") as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except (FileExistsError, NotADirectoryError) as e:
        raise UserError(f"{path} ({what}) is not a directory", f"move that file away, or set {what} to another") from e
    except OSError as e:
        raise cannot_write(path, e) from e


def save_configuration(
    directory: str | os.PathLike,
    command: Command,
    stem: str = "",
    flags: Sequence[str] = (),
    after: Sequence[str] = (),
) -> None:
    """Writes what the command used, and the same with all defaults, into `directory`; each whole or not at all.

    Args:
      directory: where the results are.
      command: as it was configured.
      stem: of the results' file names, where those of other commands lie beside them.
      flags: of the command's own that it was given, to be given again.
      after: flags to be given again after the saved file: those that win over files which the command reads later.
    """
    files = (f"{stem}.{name}" if stem else name for name in (CONFIGURATION, OPERATIVE))
    configuration, operative = (pathlib.Path(directory) / name for name in files)
    words = [names.ROOTS[command.root].command or command.root, *flags, f"--gin_file={configuration}", *after]
    again = f"# Do it again: cat-jax {shlex.join(words)}\n"
    built = f"# What `cat-jax {command.root}` was built from, defaults included.\n"
    atomic_write(configuration, (again + command.configuration).encode())
    atomic_write(operative, (built + command.operative).encode())


@contextlib.contextmanager
def recorded(model_dir: str | os.PathLike, command: Command) -> Iterator[None]:
    """Around a training: its configuration lies in its directory from the start, and is brought up to date at the end.

    What an earlier start has left there stays until this one has succeeded: `train` refuses a directory that was begun
    with another configuration. A start that was refused leaves nothing.
    """
    path = pathlib.Path(model_dir)
    fresh = not (path / BEGUN).exists()
    if fresh:
        save_configuration(model_dir, command)
    try:
        yield
    except BaseException:
        if fresh and not (path / BEGUN).exists():
            for name in (CONFIGURATION, OPERATIVE):
                (path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.rmdir()  # if it is empty
        raise
    save_configuration(model_dir, command)
