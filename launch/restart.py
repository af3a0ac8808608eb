"""When a job is started again: the exit codes that every platform acts on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from cat_jax.errors import EXIT_NONFINITE, EXIT_PREEMPTED, EXIT_USER_ERROR

EXIT_SIGTERM = 143
"""Ended by SIGTERM before it could take notice of it, while it still started: nothing is lost by starting again."""

AGAIN = (EXIT_PREEMPTED, EXIT_SIGTERM)
"""Exit codes of a job that was preempted: it is started again, however often."""

NEVER = (EXIT_USER_ERROR, EXIT_NONFINITE)
"""Exit codes that would come again: bad input, numbers that are not finite."""

TELLING = (*NEVER, *AGAIN)
"""Exit codes that say why a job of several processes ended, the most telling first: the others fail for want of it."""


@dataclasses.dataclass
class Restarts:
    """Counts what failed.

    Attributes:
      failures: how often a job may fail for a reason that may pass: a lost machine, a broken connection.

    >>> restarts = Restarts(failures=1)
    >>> [restarts.again(code) for code in (75, 143, 1, 75, 1, 0, 2)]
    [True, True, True, True, False, False, False]
    """

    failures: int = 0

    def again(self, code: int) -> bool:
        """Whether a job that ended with `code` is to be started again."""
        if code in AGAIN:
            return True
        if code == 0 or code in NEVER or self.failures < 1:
            return False
        self.failures -= 1
        return True


def of_hosts(codes: Iterable[int]) -> int:
    """The exit code of a job from those of its hosts.

    Where one host has bad input, or was preempted, the others fail for want of it: they do not say why.

    >>> of_hosts([0, 0]), of_hosts([1, 75, 134]), of_hosts([75, 2]), of_hosts([0, 134])
    (0, 75, 2, 134)
    """
    codes = tuple(codes)
    return next((code for code in TELLING if code in codes), max(codes, default=0))
