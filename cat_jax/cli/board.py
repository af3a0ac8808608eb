"""What a run shows while its stages work: a line for each on a terminal, lines of events and now and then elsewhere."""

from __future__ import annotations

import pathlib
import shutil
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from cat_jax.cli.child import PROMPT
from cat_jax.progress import duration

_TAIL = 4096


def last_lines(log: pathlib.Path, count: int = 1) -> list[str]:
    """The last lines of a log that say something; of a rewritten line what it said last."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - _TAIL))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    lines = [line.split("\r")[-1].replace("\033[K", "").strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith(PROMPT)][-count:]


class Board:
    """Progress of the running stages.

    Args:
      total: the number of stages of the run, finished ones included.
      every: seconds between reports where the stream is not a terminal.
    """

    def __init__(self, total: int, finished: int, stream: TextIO | None = None, every: float = 30.0):
        self._total, self._finished = total, finished
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._every = 0.5 if self._terminal else every
        self._last = time.monotonic()
        self._shown = 0

    def event(self, text: str) -> None:
        """A line that stays."""
        self._erase()
        self._stream.write(f"[{self._finished}/{self._total}] {text}\n")
        self._stream.flush()

    def finish(self, text: str) -> None:
        """An event that is the end of a stage."""
        self._finished += 1
        self.event(text)

    def show(self, running: Mapping[str, tuple[float, pathlib.Path]]) -> None:
        """The running stages: since when (monotonic seconds), and the log whose last line tells how far each is."""
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        lines = []
        for name, (since, log) in running.items():
            said = last_lines(log)
            lines.append(f"{name} {duration(now - since)}" + (f" | {said[0]}" if said else ""))
        self._erase()
        width = shutil.get_terminal_size().columns - 1 if self._terminal else None
        self._stream.write("".join(f"  {line[:width]}\n" for line in lines))
        self._stream.flush()
        self._shown = len(lines) if self._terminal else 0

    def close(self) -> None:
        """Takes the lines of running stages away."""
        self._erase()
        self._stream.flush()

    def _erase(self) -> None:
        if self._shown:
            self._stream.write(f"\033[{self._shown}A\033[J")
            self._shown = 0
