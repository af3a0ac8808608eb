r"""A job on a TPU VM slice: one process a host, started over `gcloud ... ssh --worker=all`.

    python -m cat_jax_launch.tpu_vm --name pod --zone us-west4-a --type v5litepod-256 --spot --create \
      --copy dist --install '"$(echo dist/*.whl)[tpu]"' -- train --gin_file=runs/train.gin ...

Makes the slice where it is asked to, installs cat-jax, starts the command on every host and prints what they print.
A job that saved (exit code 75) is started again; a spot slice that was taken away is deleted and asked for anew.
Ctrl-C and SIGTERM stop the job, which saves; the slice stays.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import secrets
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from cat_jax.errors import UserError

from .command import Command, Parser, run_launcher
from .restart import Restarts, of_hosts
from .tool import Tool
from .topology import Slice, slice_of
from .tpu_host import ENDED, IDLE, SAVING_SECONDS, start_script, stop_script

GCLOUD = Tool("gcloud", "install the Google Cloud CLI and `gcloud auth login`; --dry_run needs neither")

_POLL_SECONDS, _PAUSE_SECONDS = 15.0, 15.0
_TELL_SECONDS = 5.0
_TRIES = 4
_SSH_FAILED = 255
_MISSING = "NOT_FOUND"
_READY = ("READY", "ACTIVE")
_GONE = (_MISSING, "PREEMPTED", "TERMINATED", "STOPPED", "SUSPENDED", "SUSPENDING", "FAILED")
"""States of a node, or of the request for it, that do not become READY or ACTIVE by themselves."""

_ENDED_LINE = re.compile(rf"{ENDED} (\d+)$")

_PYTHON = '"$HOME/.cat-jax/bin/python"'
_INSTALL = """\
set -e
export PIP_BREAK_SYSTEM_PACKAGES=1  # --user leaves the system's packages alone
[ -x {python} ] || {{ python3 -m pip install --quiet --user uv && python3 -m uv venv --python 3.12 "$HOME/.cat-jax"; }}
python3 -m uv pip install --python {python} {what}"""
"""The images' own Python is older than 3.11, which cat-jax needs: uv brings one, into a place of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """A TPU VM slice, and the command lines of gcloud that deal with it.

    Attributes:
      name: of the node, and of the request for it.
      zone: where it is.
      kind: what it is.
      project: of Google Cloud; empty: gcloud's own setting.
      runtime: its image; empty: that of its kind.
      spot: whether it may be taken away, for a lower price.
      internal_ip: whether ssh goes to addresses inside the network.
    """

    name: str
    zone: str
    kind: Slice
    project: str = ""
    runtime: str = ""
    spot: bool = False
    internal_ip: bool = False

    def create(self) -> list[str]:
        """Asks for it; a spot slice through the queue, as capacity comes and goes."""
        runtime = self.runtime or self.kind.runtime
        if not self.spot:
            return self._on("tpu-vm", "create", f"--accelerator-type={self.kind.type}", f"--version={runtime}")
        wanted = (f"--node-id={self.name}", f"--accelerator-type={self.kind.type}", f"--runtime-version={runtime}")
        return self._on("queued-resources", "create", *wanted, "--spot")

    def delete(self) -> list[str]:
        """Deletes it, and the request for it."""
        if not self.spot:
            return self._on("tpu-vm", "delete", "--quiet")
        return self._on("queued-resources", "delete", "--quiet", "--force")

    def describe(self) -> list[str]:
        """Prints its state."""
        return self._on("tpu-vm", "describe", "--format=value(state)")

    def describe_request(self) -> list[str]:
        """Prints the state of the request for it."""
        return self._on("queued-resources", "describe", "--format=value(state.state)")

    def ssh(self, script: str) -> list[str]:
        """Runs a script on every host at once."""
        hosts = (
            "--worker=all",
            "--batch-size=all",
            *self._inside(),
        )  # in smaller batches the first would wait for ever
        return self._on("tpu-vm", "ssh", *hosts, f"--command=bash -c {shlex.quote(script)}")

    def copy(self, path: str) -> list[str]:
        """Copies a file or a directory into the home of every host."""
        place = f"--zone={self.zone}", *([f"--project={self.project}"] if self.project else [])
        files = ["--recurse", path, f"{self.name}:~/"]
        return ["compute", "tpus", "tpu-vm", "scp", *files, "--worker=all", *self._inside(), *place]

    def _inside(self) -> list[str]:
        return ["--internal-ip"] if self.internal_ip else []

    def _on(self, group: str, verb: str, *flags: str) -> list[str]:
        place = f"--zone={self.zone}", *([f"--project={self.project}"] if self.project else [])
        return ["compute", "tpus", group, verb, self.name, *flags, *place]


class Job:
    """A command on a slice, from the first start to the last.

    Args:
      node: the slice.
      command: what its hosts run.
      setup: command lines of gcloud that a new slice needs: files, packages.
      create: whether to make a slice that is not there.
      restarts: how often it may fail.
    """

    def __init__(self, node: Node, command: Command, setup: Sequence[list[str]], create: bool, restarts: Restarts):
        self._node, self._setup, self._create, self._restarts = node, setup, create, restarts
        token = secrets.token_hex(8)
        self._start = node.ssh(start_script(node.name, token, command))
        self._stop = node.ssh(stop_script(node.name, token))
        self._stopped = self._started = False
        self._ended = threading.Event()
        self._teller: threading.Thread | None = None

    def plan(self) -> list[list[str]]:
        """The command lines of a first start that goes well."""
        return [*([self._node.create()] if self._create else []), *self._setup, self._start]

    def run(self) -> int:
        """Runs it to its end; returns its exit code.

        Raises:
          UserError: the slice is not there, or cannot be made or set up.
        """
        ready = False
        with self._signals():
            while True:
                ready = self._make(ready)
                code = self._once()
                if self._stopped:
                    self._wait_for_teller()
                    return code
                gone = code != 0 and self._state() in _GONE
                if gone and not self._create:
                    raise UserError(f"{self._node.name} was taken away", "with --create it is made anew")
                if not gone and not self._restarts.again(code):
                    return code
                _say(f"{'the slice was taken away' if gone else f'exit code {code}'}: starting again")
                time.sleep(_PAUSE_SECONDS)

    def _make(self, ready: bool) -> bool:
        """Makes and sets up the slice where that is needed; returns True once it is ready."""
        state = self._state()
        if state in _GONE:
            if not self._create:
                raise UserError(f"the slice {self._node.name} is {state}", "make it with --create")
            if state != _MISSING:
                self._must(self._node.delete(), "cannot delete the slice that was taken away")
            self._must(self._node.create(), "cannot make the slice")
            ready = self._started = False
        while (state := self._state()) not in _READY:
            if state in _GONE:
                raise UserError(f"the slice {self._node.name} is {state}", "see `gcloud compute tpus` for why")
            self._check_stopped()
            time.sleep(_POLL_SECONDS)
        for arguments in [] if ready else self._setup:
            self._must(arguments, "cannot set up the hosts")
        self._check_stopped()
        return True

    def _check_stopped(self) -> None:
        if self._stopped:
            self._wait_for_teller()
            raise KeyboardInterrupt

    def _state(self) -> str:
        """Of the slice. A spot slice is gone where it or the request for it says so: either lags behind the other."""
        if not self._node.spot:
            return _ask_state(self._node.describe())
        request = _ask_state(self._node.describe_request())
        if request != "ACTIVE":
            return request
        return _ask_state(self._node.describe())

    def _must(self, arguments: list[str], problem: str) -> None:
        if code := GCLOUD.run(arguments):
            raise UserError(f"{problem} (gcloud ended with {code})", "mend what it says above")

    def _once(self) -> int:
        """Starts the command and waits; returns its exit code, or that of a broken connection."""
        codes: list[int] = []

        def line(text: str) -> None:
            if found := _ENDED_LINE.search(text.rstrip()):
                codes.append(int(found[1]))
            sys.stdout.write(text)
            sys.stdout.flush()

        self._started = True  # from here on a signal goes to the hosts
        self._check_stopped()
        code = GCLOUD.watch(self._start, line)
        # gcloud's own code is no host's where there are several; a host that says nothing was lost, or runs on.
        if len(codes) < self._node.kind.hosts:
            return of_hosts([*codes, code or _SSH_FAILED])
        self._ended.set()
        return of_hosts(codes)

    def _tell(self) -> None:
        """Tells the hosts to stop, again and again until each has said that nothing runs there."""
        deadline = time.monotonic() + SAVING_SECONDS
        while not self._ended.is_set() and time.monotonic() < deadline:
            if GCLOUD.ask(self._stop).stdout.count(IDLE) >= self._node.kind.hosts:
                self._ended.set()
            self._ended.wait(_TELL_SECONDS)

    def _wait_for_teller(self) -> None:
        if self._teller is None:
            return
        self._teller.join()
        if not self._ended.is_set():
            _say("not every host has said that it ended: the job may still run there")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C stop the job on its hosts; a second one leaves it alone there and ends this program."""

        def stop(number: int, frame: object) -> None:
            if self._stopped:
                raise KeyboardInterrupt
            self._stopped = True
            if self._started:
                _say("telling the hosts to save and stop")
                self._teller = threading.Thread(target=self._tell, daemon=True)
                self._teller.start()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _ask_state(arguments: list[str]) -> str:
    """The state that gcloud prints; a network that fails for a moment is no slice that is gone.

    Raises:
      UserError: gcloud fails again and again.
    """
    answer = GCLOUD.ask(arguments)
    for _ in range(_TRIES):
        if answer.returncode == 0:
            return answer.stdout.strip()
        if _MISSING in answer.stderr:
            return _MISSING
        time.sleep(_PAUSE_SECONDS)
        answer = GCLOUD.ask(arguments)
    reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
    raise UserError(f"gcloud cannot describe the slice ({reason})", "mend that: `gcloud auth login`, --project, --zone")


def _say(text: str) -> None:
    print(f"tpu_vm: {text}", file=sys.stderr, flush=True)


def _parser() -> Parser:
    flags = "--name N --zone Z --type T [--create [--spot]] [FLAGS]"
    parser = Parser("tpu_vm", "Run one cat-jax command on a TPU VM slice, through preemptions.", flags)
    add = parser.add_argument
    add("--name", required=True, help="the slice's name")
    add("--zone", required=True, help="its zone")
    add("--type", required=True, help="its accelerator type, e.g. v5litepod-256")
    add("--project", default="", help="of Google Cloud (default: gcloud's own)")
    add("--create", action="store_true", help="make it where it is not there")
    add("--spot", action="store_true", help="a spot slice, asked for through the queue; with --create, asked for anew")
    add("--runtime_version", default="", help="its image (default: the one for its type)")
    add("--internal_ip", action="store_true", help="ssh to addresses inside the network")
    add("--copy", action="append", default=[], metavar="PATH", help="copied to the home of every host; repeatable")
    add(
        "--install",
        default="",
        metavar="WHAT",
        help="what pip installs there; a word of shell",
    )
    add("--max_restarts", type=int, default=5, help="how often it may fail other than by preemption (default: 5)")
    parser.add_hosts_flags("cat-jax")
    return parser


def _job(args: argparse.Namespace, command: Command) -> Job:
    kind = slice_of(args.type)
    node = Node(
        name=args.name,
        zone=args.zone,
        kind=kind,
        project=args.project,
        runtime=args.runtime_version,
        spot=args.spot,
        internal_ip=args.internal_ip,
    )
    setup = [node.copy(path) for path in args.copy]
    if args.install:
        setup.append(node.ssh(_INSTALL.format(python=_PYTHON, what=args.install)))
    command = command.multiprocess() if kind.hosts > 1 else command
    return Job(node, command, setup, args.create, Restarts(args.max_restarts))


def _work(argv: Sequence[str]) -> int:
    args, command = _parser().read(argv)
    job = _job(args, command)
    if args.dry_run:
        print("\n".join(shlex.join(["gcloud", *arguments]) for arguments in job.plan()))
        return 0
    GCLOUD.find()
    return job.run()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return run_launcher("tpu_vm", _work, argv)


if __name__ == "__main__":
    sys.exit(main())
