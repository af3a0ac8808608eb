"""Child processes that run one `cat-jax` command each, end with their parent, and keep to their cores."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

PROMPT = "$ "
"""How a log begins: with the command line, to be repeated as it stands."""

_PARENT = "CAT_JAX_PARENT"
_PR_SET_PDEATHSIG = 1

# Keeps freed memory in the process: on CPU the step's large buffers are otherwise given back and faulted in again.
_ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


def command_line(arguments: Sequence[str]) -> list[str]:
    """The command line of `cat-jax ARGUMENTS` with this Python."""
    return [sys.executable, "-m", "cat_jax.cli.main", *arguments]


def environment() -> dict[str, str]:
    """This process's environment, with what a child needs; settings of the user win."""
    return {**_ALLOCATOR, **os.environ, _PARENT: str(os.getpid())}


def is_child() -> bool:
    """Whether another `cat-jax` command or launcher has started this process."""
    return _PARENT in os.environ


def usable_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def start(
    arguments: Sequence[str],
    log: pathlib.Path,
    cores: Sequence[int] | None = None,
    keep_open: Sequence[int] = (),
) -> subprocess.Popen:
    """Starts `cat-jax ARGUMENTS`, its output appended to `log`.

    Args:
      arguments: the command and its flags.
      log: the file for stdout and stderr.
      cores: the cores that the child may use; None: all of ours.
      keep_open: file descriptors that the child inherits.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream, _on_cores(cores):
        stream.write(f"{PROMPT}cat-jax {shlex.join(arguments)}\n".encode())
        stream.flush()
        # A session of its own: Ctrl-C in the terminal reaches the parent only, which passes SIGTERM on.
        return subprocess.Popen(
            command_line(arguments),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment(),
            pass_fds=tuple(keep_open),
            start_new_session=True,
        )


def run(arguments: Sequence[str]) -> int:
    """Runs `cat-jax ARGUMENTS` to its end with our output; returns its exit code."""
    sys.stderr.flush()
    return subprocess.run(command_line(arguments), stdin=subprocess.DEVNULL, env=environment(), check=False).returncode


def follow_parent() -> None:
    """In a child: SIGTERM when the parent ends, however it ends, so that nobody writes on behind its back."""
    parent = os.environ.pop(_PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        raise SystemExit(128 + signal.SIGTERM)  # it ended before we could ask


@contextlib.contextmanager
def _on_cores(cores: Sequence[int] | None) -> Iterator[None]:
    """A child started inside may use these cores only: it inherits them."""
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
