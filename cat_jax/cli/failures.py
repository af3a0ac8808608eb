"""One line and an exit code for anything that can be raised, ours or a library's."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
import sysconfig
import traceback

import cat_jax
from cat_jax.errors import Preempted, UserError

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130

_SYSTEM = {
    errno.ENOSPC: ("no space left on the device", "free space there, or name a directory on another disk"),
    errno.EDQUOT: ("the disk quota is used up", "free space there, or name a directory on another disk"),
    errno.EROFS: ("the file system is read-only", "name a directory you may write"),
    errno.EACCES: ("permission denied", "change its permissions, or name a path you may use"),
    errno.EPERM: ("operation not permitted", "change its permissions, or name a path you may use"),
    errno.ENOENT: ("no such file or directory", "check the path"),
    errno.ENOTDIR: ("a file stands where a directory should be", "move the file away, or name another directory"),
    errno.EISDIR: ("a directory stands where a file should be", "move the directory away, or name another file"),
    errno.EMFILE: ("too many open files", "raise the limit with `ulimit -n`"),
}

_EXTRAS = {
    **dict.fromkeys(["seqio", "tensorflow", "tensorflow_text", "tensorflow_datasets", "sacrebleu"], "data"),
    **dict.fromkeys(["gruut_lang_en", "gruut_lang_de", "gruut_lang_fr"], "demo"),
    **dict.fromkeys(["transformers", "safetensors"], "hf"),
}


@dataclasses.dataclass(frozen=True)
class Failure:
    """What the user sees of an error: a line (empty: nothing) and the exit code."""

    line: str
    exit_code: int


def explain(error: BaseException, debug: bool = False) -> Failure:
    """The one line for an error.

    >>> explain(UserError("no store at data", "run `cat-jax prepare`")).line
    'error: no store at data: run `cat-jax prepare`'
    >>> explain(ZeroDivisionError("division by zero")).line
    'error: ZeroDivisionError: division by zero: run again with --debug for the traceback'
    """
    if isinstance(error, UserError):
        return Failure(f"error: {error.problem}: {error.mend}", error.exit_code)
    if isinstance(error, Preempted):
        return Failure(f"stopped ({_first_line(error)}): start the same command again to go on", error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure("interrupted: start the same command again to go on", EXIT_INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return Failure("", EXIT_FAILURE)
    for cause in _chain(error):
        known = _known(cause)
        if known is not None:
            return Failure(f"error: {' '.join(known[0].split())}: {known[1]}", UserError.exit_code)
    message = f"{type(error).__name__}: {_first_line(error)}{_place(error)}"
    return Failure(f"error: {message}" + ("" if debug else ": run again with --debug for the traceback"), EXIT_FAILURE)


def _known(error: BaseException) -> tuple[str, str] | None:
    """Problem and mend of a library's error that a user can do something about."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("cat_jax"):
        extra = _EXTRAS.get(error.name.split(".")[0])
        problem = f"the package {error.name} is not installed"
        if extra:
            return problem, f"pip install 'cat-jax[{extra}]'"
        return problem + _place(error), f"install it for {sys.executable}"
    if isinstance(error, OSError) and error.errno in _SYSTEM:
        problem, mend = _SYSTEM[error.errno]
        return (f"{error.filename}: {problem}" if error.filename else problem), mend
    text = str(error)
    if "No space left on device" in text:
        return _SYSTEM[errno.ENOSPC]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return (
            f"out of memory ({_first_line(error)})",
            "lower BATCH_SIZE or raise the number of microbatches, use remat, or a mesh with more fsdp or tensor",
        )
    return None


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what caused it; what was being handled when it was raised only where the machine had run out."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        handled = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or (handled if handled is not None and _ran_out(handled) else None)
    return found


def _ran_out(error: BaseException) -> bool:
    """Of disk or memory: what fails after that fails because of it."""
    of_disk = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = str(error)
    return of_disk or isinstance(error, MemoryError) or "No space left" in text or "RESOURCE_EXHAUSTED" in text


def _place(error: BaseException) -> str:
    """Where in the user's own code an error came from, if it did: not in ours, nor in an installed package's."""
    libraries = [
        *map(os.path.realpath, sysconfig.get_paths().values()),
        os.path.realpath(os.path.dirname(cat_jax.__file__)),
    ]
    frames = [frame for cause in _chain(error) for frame in traceback.extract_tb(cause.__traceback__)]
    own = [
        frame
        for frame in frames
        if os.path.exists(frame.filename)
        and not any(os.path.realpath(frame.filename).startswith(f"{library}{os.sep}") for library in libraries)
    ]
    return f" ({own[-1].filename} line {own[-1].lineno})" if own else ""


def _first_line(error: BaseException) -> str:
    """The first line of a message that says something; gin's additions come after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
