"""Runs the stages of a run: several at a time, each a child process, until all are finished or one has failed."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from cat_jax.cli import child
from cat_jax.cli.board import Board, last_lines
from cat_jax.cli.stages import Ledger, Stage, fingerprints
from cat_jax.errors import EXIT_NONFINITE, EXIT_PREEMPTED, EXIT_USER_ERROR, Preempted, UserError
from cat_jax.progress import duration

_POLL_SECONDS = 0.1


class StageFailed(UserError):
    """A stage ended with an error; carries its exit code on."""

    def __init__(self, problem: str, mend: str, exit_code: int):
        super().__init__(problem, mend)
        self.exit_code = exit_code


class Runner:
    """Runs pending stages in the order of their needs.

    A stage that fails stops only what needs it. SIGTERM and Ctrl-C are passed on to the children as SIGTERM.

    Args:
      stages: all stages of the run, each after what it needs.
      ledger: the record of the run directory.
      run_dir: where the logs go.
      jobs: how many stages run at once; peers share the cores.
      lock: a file descriptor that children inherit.
    """

    def __init__(self, stages: Sequence[Stage], ledger: Ledger, run_dir: pathlib.Path, jobs: int, lock: int):
        self._stages, self._ledger, self._jobs, self._lock = stages, ledger, jobs, lock
        self._logs = run_dir / "logs"
        self._prints = fingerprints(stages)
        self._cores = child.usable_cores()
        self._waiting: dict[str, Stage] = {}
        self._running: dict[str, _Running] = {}
        self._failed: list[tuple[Stage, int]] = []
        self._signal: int | None = None
        self._acknowledged = False

    def run(self, rerun_changed: bool = False) -> None:
        """Runs until every stage is finished.

        Raises:
          UserError: a configuration has changed (see `cli.stages`).
          StageFailed: a stage failed; the others went as far as they could.
          Preempted: SIGTERM came, and every child has ended.
          KeyboardInterrupt: Ctrl-C came, and every child has ended.
        """
        pending = self._ledger.pending(self._stages, rerun_changed)
        self._waiting = {stage.name: stage for stage in pending}
        self._board = Board(len(self._stages), len(self._stages) - len(pending))
        with self._signals():
            while self._waiting or self._running:
                if self._signal is None:
                    self._launch()
                if not self._running:
                    break
                time.sleep(_POLL_SECONDS)
                self._acknowledge()
                self._reap()
                self._board.show({name: (job.since, job.log) for name, job in self._running.items()})
        self._board.close()
        self._conclude()

    def _launch(self) -> None:
        ready = [stage for stage in self._waiting.values() if not self._blocked(stage)]
        for stage in ready[: self._jobs - len(self._running)]:
            if self._signal is not None:
                break
            self._start(stage)

    def _blocked(self, stage: Stage) -> bool:
        unfinished = {*self._waiting, *self._running, *(failed.name for failed, _ in self._failed)}
        return any(name in unfinished for name in stage.needs)

    def _cores_of(self, stage: Stage) -> list[int]:
        """The cores for a stage: as many as its peers leave it, the ones that are used least.

        The number depends on the plan alone, not on what happens to run: XLA splits work by the number of cores, and
        a stage that is resumed must compute what it would have computed undisturbed.
        """
        count = max(1, len(self._cores) // min(self._jobs, stage.peers))
        used = collections.Counter(core for job in self._running.values() for core in job.cores)
        return sorted(self._cores, key=lambda core: used[core])[:count]

    def _start(self, stage: Stage) -> None:
        del self._waiting[stage.name]
        cores = self._cores_of(stage)
        log = self._logs / f"{stage.file_name}.log"
        self._ledger.begin(stage, self._prints)
        self._board.event(f"{stage.name}: started, log {log}")
        process = child.start(stage.arguments, log, cores, keep_open=[self._lock])
        self._running[stage.name] = _Running(stage, process, log, cores)
        if self._signal is not None:  # it came while the stage started, which nobody has told
            _tell(process, signal.SIGTERM)

    def _reap(self) -> None:
        for name, job in list(self._running.items()):
            code = job.process.poll()
            if code is None:
                continue
            del self._running[name]
            code = 128 - code if code < 0 else code
            missing = [path for path in job.stage.outputs if not path.exists()] if code == 0 else []
            seconds = time.monotonic() - job.since
            self._ledger.end(job.stage, code if not missing else 1, seconds)
            if code == 0 and not missing:
                self._board.finish(f"{name}: finished in {duration(self._ledger.seconds(job.stage))}")
                continue
            self._failed.append((job.stage, code or 1))
            what = "stopped" if code == EXIT_PREEMPTED or self._signal else f"failed (exit code {code})"
            self._board.event(f"{name}: {what}, log {job.log}")
            # Of an error that its one line explains, that line is said at the end.
            if what != "stopped" and code not in (EXIT_USER_ERROR, EXIT_NONFINITE):
                lines = [f"it left no {path}" for path in missing] or last_lines(job.log, 12)
                sys.stderr.write("".join(f"    {line}\n" for line in lines))

    def _acknowledge(self) -> None:
        """Answers a signal at once: the stages may take a while to save."""
        if self._signal is not None and not self._acknowledged:
            self._acknowledged = True
            name = signal.Signals(self._signal).name
            self._board.event(f"{name}: waiting until {' and '.join(self._running)} has saved; once more kills")

    def _conclude(self) -> None:
        unfinished = self._waiting or self._failed
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None and unfinished:
            raise Preempted("SIGTERM; the stages have saved what they had")
        failures = []
        for stage, code in self._failed:
            if code == EXIT_PREEMPTED:
                raise Preempted(f"stage {stage.name} was stopped")
            log = self._logs / f"{stage.file_name}.log"
            said = re.sub(r"^cat-jax \S+: error: ", "", (last_lines(log) or ["nothing in its log"])[-1])
            mend = f"see {log}; started again, the run goes on from here"
            failures.append(StageFailed(f"stage {stage.name} failed: {said}", mend, code))
        for failure in failures[1:]:
            self._board.event(failure.problem)
        if failures:
            raise failures[0]

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Passes SIGTERM and SIGINT on while the stages run; a second one kills them."""

        def pass_on(number: int, frame: FrameType | None) -> None:
            again = self._signal is not None
            self._signal = number
            for job in self._running.values():
                _tell(job.process, signal.SIGKILL if again else signal.SIGTERM)

        before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _tell(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


class _Running:
    """A stage at work."""

    def __init__(self, stage: Stage, process: subprocess.Popen, log: pathlib.Path, cores: Sequence[int]):
        self.stage, self.process, self.log, self.cores = stage, process, log, list(cores)
        self.since = time.monotonic()
