"""Several processes on this machine that work as one job through `jax.distributed`.

    python -m cat_jax_launch.local --processes 2 --devices_per_process 4 -- train --gin_file=runs/train.gin ...

Each process runs the same `cat-jax` command; its lines are marked with its number. SIGTERM and Ctrl-C reach all of
them. When one fails the others are stopped, and its exit code is the launcher's. When one is preempted (exit code 75)
and the launcher was not told to stop, all are started again.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType

from cat_jax.errors import UserError

from .command import Parser, run_launcher
from .restart import AGAIN, Restarts

_SAVING_SECONDS = 120.0
"""How long processes that were told to stop may take: they save a checkpoint."""

_ORPHAN_SECONDS = 10.0
"""How long they may take once one of them has failed: they cannot save without it."""

_POLL_SECONDS = 0.1
_PROGRAM = (sys.executable, "-m", "cat_jax.cli.main")


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(process: int, processes: int, port: int, devices: int | None) -> dict[str, str]:
    """What `cat-jax` reads to join the job, beside this process's environment.

    Args:
      process: the number of the process, from 0.
      processes: how many there are.
      port: where process 0 coordinates.
      devices: fake CPU devices of each process; None leaves the devices as they are.
    """
    result = {
        **os.environ,
        "CAT_JAX_PARENT": str(os.getpid()),  # they end with this process, however it ends
        "CAT_JAX_COORDINATOR": f"127.0.0.1:{port}",
        "CAT_JAX_NUM_PROCESSES": str(processes),
        "CAT_JAX_PROCESS_ID": str(process),
    }
    if devices is not None:
        flags = [flag for flag in result.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
        result["XLA_FLAGS"] = " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"])
        result["JAX_PLATFORMS"] = "cpu"
    return result


def launch(arguments: Sequence[str], processes: int, devices: int | None = None) -> int:
    """Runs `cat-jax ARGUMENTS` in every process of a job, again after each preemption that is not the launcher's own.

    Returns:
      0, or the exit code of the first process that failed.
    """
    restarts = Restarts()
    while True:
        code, stopped = _launch_once(arguments, processes, devices)
        if stopped or not restarts.again(code):
            return code
        print(f"local: exit code {code}: starting again", file=sys.stderr, flush=True)


def _launch_once(arguments: Sequence[str], processes: int, devices: int | None) -> tuple[int, bool]:
    """(exit code, whether the launcher was told to stop)."""
    port = free_port()
    job, lock = _Job(), threading.Lock()
    readers = []
    try:
        with job.signals():
            for index in range(processes):
                process = job.start(arguments, environment(index, processes, port, devices))
                readers.append(threading.Thread(target=_echo, args=(index, process, lock)))
                readers[-1].start()
            return job.wait(), job.stopped
    finally:
        job.kill()
        for reader in readers:
            reader.join(timeout=5)


class _Job:
    """The processes. At the first failure or signal the others are told to stop, and killed after a grace time."""

    def __init__(self):
        self._processes: list[subprocess.Popen] = []
        self._deadline: float | None = None
        self.stopped = False
        """Whether a signal told all of them to stop."""

    def start(self, arguments: Sequence[str], setting: Mapping[str, str]) -> subprocess.Popen:
        process = subprocess.Popen(
            [*_PROGRAM, *arguments],
            env=setting,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._processes.append(process)
        if self._deadline is not None:  # the signal came while it started
            process.send_signal(signal.SIGTERM)
        return process

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C tell all processes to stop, those to come included."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.stopped = True
            self._tell(_SAVING_SECONDS)

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self) -> int:
        """Waits for all; returns 0, or the exit code of the first that failed."""
        first = 0
        while None in (codes := [process.poll() for process in self._processes]):
            first = first or _first_failure(codes)
            if first and self._deadline is None:  # after a signal to all, each ends by itself with the same code
                self._tell(_SAVING_SECONDS if first in AGAIN else _ORPHAN_SECONDS)
            if self._deadline is not None and time.monotonic() > self._deadline:
                self.kill()
            time.sleep(_POLL_SECONDS)
        return first or _first_failure(process.returncode for process in self._processes)

    def kill(self) -> None:
        """Ends what still runs."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()

    def _tell(self, seconds: float) -> None:
        self._deadline = min(self._deadline or float("inf"), time.monotonic() + seconds)
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)


def _first_failure(codes: Iterable[int | None]) -> int:
    """The first that is not 0, as a shell has it, where a process ended by signal N has 128 + N; else 0.

    >>> _first_failure([0, None, -15, 2])
    143
    """
    code = next((code for code in codes if code), 0)
    return 128 - code if code < 0 else code


def _echo(index: int, job: subprocess.Popen, lock: threading.Lock) -> None:
    """Copies a process's output, each line marked with its number."""
    assert job.stdout is not None
    for line in job.stdout:
        if line.startswith("[Gloo] Rank"):  # XLA's CPU collectives greet each other, some hundred times
            continue
        with lock:
            sys.stdout.write(f"[{index}] {line}")
            sys.stdout.flush()


def _dry_run(command: Sequence[str], processes: int, devices: int | None) -> None:
    """Prints a line of shell for each process."""
    port = free_port()
    for index in range(processes):
        setting = environment(index, processes, port, devices)
        setting.pop("CAT_JAX_PARENT")  # these have another
        changed = [f"{name}={value}" for name, value in setting.items() if os.environ.get(name) != value]
        print(shlex.join(["env", *changed, *_PROGRAM, *command]))


def _work(argv: Sequence[str]) -> int:
    description = "Run one cat-jax command in several processes of this machine, joined by jax.distributed."
    parser = Parser("local", description, "[--processes N] [--devices_per_process D]")
    parser.add_argument("--processes", type=int, default=2, help="how many processes (default: 2)")
    parser.add_argument(
        "--devices_per_process", type=int, help="fake CPU devices of each; default: the devices that are there"
    )
    args, command = parser.read(argv)
    if args.processes < 1 or (args.devices_per_process is not None and args.devices_per_process < 1):
        raise UserError("--processes or --devices_per_process is below 1", "give 1 or more")
    if args.dry_run:
        _dry_run(command.arguments, args.processes, args.devices_per_process)
        return 0
    return launch(command.arguments, args.processes, args.devices_per_process)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return run_launcher("local", _work, argv)


if __name__ == "__main__":
    sys.exit(main())
