"""Progress of long work on stderr: one rewritten line on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(3.21), duration(75), duration(7384)
    ('3.2s', '1m15s', '2h03m')
    """
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def magnitude(value: float) -> str:
    """A count with a unit prefix.

    >>> magnitude(950), magnitude(12_345), magnitude(3.2e9)
    ('950', '12.3k', '3.2G')
    """
    for unit in ("", "k", "M", "G", "T"):
        if abs(value) < 1000:
            return f"{value:.3g}" if not unit else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}P"


class Progress:
    """Rate-limited progress: `update(done, note)` as often as you like, `close()` at the end.

    Args:
      label: what is being done.
      total: how many units there are, None if unknown.
      unit: what a unit is ("examples", "steps").
      every: seconds between lines where stderr is not a terminal.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str,
        every: float = 10.0,
        stream: TextIO | None = None,
        start: int = 0,
    ):
        self._label, self._total, self._unit = label, total, unit
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._every = 0.2 if self._terminal else every
        self._began = self._last = time.monotonic()
        self._start = self._done = start

    def update(self, done: int, note: str = "") -> None:
        """Says that `done` units are finished; printed only when the last line is old enough."""
        self._done = done
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._print(note, end="")

    def close(self, note: str = "") -> None:
        """Prints the last state, whatever the time since the last line."""
        self._print(note, end="\n" if self._terminal else "")

    def _print(self, note: str, end: str) -> None:
        elapsed = time.monotonic() - self._began
        rate = (self._done - self._start) / elapsed if elapsed > 0 else 0.0
        parts = [f"{self._label}: {self._done}" + (f"/{self._total}" if self._total else "") + f" {self._unit}"]
        parts.append(f"{magnitude(rate)} {self._unit}/s")
        if self._total and rate > 0 and self._done < self._total:
            parts.append(f"ETA {duration((self._total - self._done) / rate)}")
        else:
            parts.append(duration(elapsed))
        if note:
            parts.append(note)
        line = ", ".join(parts)
        self._stream.write(f"\r\033[K{line}{end}" if self._terminal else f"{line}\n")
        self._stream.flush()


@contextlib.contextmanager
def byte_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes how many bytes were done since it was last called; silent where there are few."""
    progress, done = Progress(label, total >> 20, "MiB") if total > _MANY_BYTES else None, 0

    def report(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress.update(done >> 20)

    yield report
    if progress is not None:
        progress.close()


_MANY_BYTES = 1 << 30
