"""One writer at a time: a lock that goes with its process, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import pathlib
import time
from collections.abc import Iterator

from cat_jax.errors import UserError
from cat_jax.files import cannot_write

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1


@contextlib.contextmanager
def locked(
    path: str | os.PathLike, who: str, mend: str, *, patience: float, wait_for_living: bool = True
) -> Iterator[int]:
    """Holds the lock file `path`; yields its descriptor, which a child process may inherit to hold it on.

    Where the file system knows no locks it holds nothing, and says so in the log.

    Args:
      path: the lock file, in the directory that it is of; both are made.
      who: whoever holds it, as in "in use by WHO".
      mend: what the user can do who will not wait.
      patience: seconds to wait for it.
      wait_for_living: False refuses at once while the process that took it lives; only children of a dead one are
        waited for.

    Raises:
      UserError: somebody else holds it, or the directory cannot be written.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise cannot_write(path, e) from e
    try:
        _take(descriptor, f"{path.parent} is in use by {who}", mend, patience, wait_for_living)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int, busy: str, mend: str, patience: float, wait_for_living: bool) -> None:
    began, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as e:
            holder = os.pread(descriptor, 20, 0).decode() or "unknown"
            refuse = not wait_for_living and os.path.exists(f"/proc/{holder}")
            if refuse or time.monotonic() - began > patience:
                raise UserError(f"{busy} (process {holder})", mend) from e
            if not told:
                limit = "" if math.isinf(patience) else f" for {patience:.0f} s at most"
                logger.warning("%s (process %s): waiting%s", busy, holder, limit)
            told = True
            time.sleep(_POLL_SECONDS)
        except OSError:
            logger.info("%s, or by nobody: its file system knows no locks", busy)
            return
