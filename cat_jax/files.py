"""Whole files or none: atomic writes, checksums, and JSON with errors that name the file."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import tempfile
from typing import Any

from cat_jax.errors import UserError


def atomic_write(path: str | os.PathLike, content: bytes) -> None:
    """Writes `content` to a temporary file beside `path`, syncs it to disk and renames it: all of it or nothing.

    Raises:
      UserError: the directory cannot be written, or the disk is full.
    """
    path = pathlib.Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as e:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise cannot_write(path, e) from e


def cannot_write(path: str | os.PathLike, error: OSError) -> UserError:
    """The one line for a write that the operating system refused."""
    return UserError(f"cannot write {path} ({error.strerror})", "free space there, or name a directory you may write")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Atomic, sorted, indented: two writes of equal values are equal bytes."""
    atomic_write(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: str | os.PathLike, what: str, mend: str) -> Any:
    """The JSON in `path`.

    Args:
      path: the file.
      what: what the file is, for the error message ("store manifest").
      mend: what the user can do when it is missing or broken.

    Raises:
      UserError: the file is missing or not JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_text())
    except FileNotFoundError as e:
        raise UserError(f"no {what} at {path}", mend) from e
    except (OSError, ValueError) as e:
        raise UserError(f"cannot read the {what} at {path} ({e})", mend) from e


def checksum(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in blocks."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON-able value, the same for equal values whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
