"""What every host of a job runs: one `cat-jax` command, and what goes before and after it."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from cat_jax.errors import UserError

COMMANDS = ("prepare", "teach", "train", "evaluate", "cascade", "plan", "tasks", "import", "export", "run")
"""Of `cat-jax`: a host would find out only after it was made."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_WATCH = """\
told=
trap 'told=1' TERM INT
{line} &
child=$!
trap 'kill -s TERM "$child" 2> /dev/null' TERM INT
[ -z "$told" ] || kill -s TERM "$child"
wait "$child"
while kill -0 "$child" 2> /dev/null; do wait "$child"; done  # a signal ends a wait before the child does
wait "$child"
code=$?
trap : TERM INT"""


def watched(line: str) -> str:
    """Shell that runs a command line, passes SIGTERM on to it once, and keeps its exit code in `code`.

    A signal that comes after its end does nothing: what is still to be done is done.
    """
    return _WATCH.format(line=line)


@dataclasses.dataclass(frozen=True)
class Command:
    """A `cat-jax` command as the user gave it, to be run on every host.

    Attributes:
      arguments: of `cat-jax`: the command and its flags, gin flags included, one string each.
      program: what is run with them; words of a command line.
      environment: variables that it sees.
      before: shell commands that each host runs first, each in a shell of its own; one that fails ends the job.
      after: the same afterwards, however the command ended; they find its exit code in CAT_JAX_EXIT_CODE.
    """

    arguments: tuple[str, ...]
    program: tuple[str, ...] = ("cat-jax",)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        """The program and its arguments."""
        return (*self.program, *self.arguments)

    def multiprocess(self) -> Command:
        """The same with `--multiprocess`, for where jax finds the other processes by itself."""
        if "--multiprocess" in self.arguments:
            return self
        name, *flags = self.arguments
        return dataclasses.replace(self, arguments=(name, "--multiprocess", *flags))

    def exports(self) -> list[str]:
        """Lines of shell that set the environment."""
        return [f"export {name}={shlex.quote(value)}" for name, value in self.environment.items()]

    def script(self, setup: Sequence[str] = ()) -> str:
        """Bash for one host: everything above, in order; ends with the command's exit code.

        SIGTERM reaches the command also where this shell is a container's first process or `ssh`'s child, which get
        it alone.

        Args:
          setup: lines of shell that the platform needs before all else.
        """
        lines = ["trap 'exit 143' TERM INT", *self.exports(), *setup]
        lines += [line for text in self.before for line in ("(", text, ") || exit")]
        lines += [watched(shlex.join(self.argv)), *after_lines(self.after), "exit $code"]
        return "\n".join(lines) + "\n"


def after_lines(commands: Sequence[str], wrap: Callable[[str], str] = lambda text: f"(\n{text}\n)") -> list[str]:
    """Shell that runs commands after `code` is set; one that fails is the exit code only where the rest went well."""
    if not commands:
        return []
    fall = '|| { failed=$?; [ "$code" -ne 0 ] || code=$failed; }'
    return ["export CAT_JAX_EXIT_CODE=$code", *(f"{wrap(text)} {fall}" for text in commands)]


class Parser(argparse.ArgumentParser):
    """A launcher's flags. What follows `--` is the command; mistakes are a `UserError` of one line."""

    def __init__(self, name: str, description: str, flags: str):
        super().__init__(
            prog=f"python -m cat_jax_launch.{name}",
            description=description,
            usage=f"%(prog)s {flags} -- COMMAND [FLAGS]",
            allow_abbrev=False,
        )
        self.add_argument("--dry_run", action="store_true", help="print what would be run, and run nothing")

    def add_hosts_flags(self, program: str) -> None:
        """The flags of every platform but this machine: what else a host runs, and with which program."""
        self.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable; repeatable")
        self.add_argument("--before", action="append", default=[], metavar="SHELL", help="each host runs it first")
        self.add_argument("--after", action="append", default=[], metavar="SHELL", help="each host runs it afterwards")
        self.add_argument("--program", default=program, help="what is run in place of `%(default)s`")

    def error(self, message: str) -> NoReturn:
        raise UserError(message, f"see `{self.prog} --help`")

    def read(self, argv: Sequence[str]) -> tuple[argparse.Namespace, Command]:
        """The flags, and the command after `--`.

        Raises:
          UserError: an unknown flag, no command, or a variable that is none.
        """
        argv = list(argv)
        cut = argv.index("--") if "--" in argv else len(argv)
        args = self.parse_args(argv[:cut])
        arguments = tuple(argv[cut + 1 :])
        if not arguments:
            raise UserError("no command", "end with e.g. `-- train --gin_file=runs/train.gin`")
        if arguments[0].startswith("-"):
            raise UserError(
                f"the command after -- begins with {arguments[0]}", "name it first: `-- train --gin_file=...`"
            )
        if arguments[0] == "cat-jax":
            raise UserError("the command after -- begins with cat-jax, which is put before it", "write `-- train ...`")
        if arguments[0] not in COMMANDS and getattr(args, "program", "cat-jax") == "cat-jax":
            close = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
            mend = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}"
            raise UserError(f"cat-jax has no command {arguments[0]}", mend)
        program = tuple(shlex.split(getattr(args, "program", "cat-jax")))
        if not program:
            raise UserError("--program is empty", "name the program, e.g. cat-jax")
        setting = dict(_variable(text) for text in getattr(args, "env", ()))
        before, after = (tuple(getattr(args, name, ())) for name in ("before", "after"))
        return args, Command(arguments, program, setting, before, after)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise UserError(f"--env {text} sets no variable", "give NAME=VALUE")
    return name, value


def run_launcher(name: str, work: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Runs a launcher; returns its exit code. An error that the user can mend becomes one line."""
    try:
        return work(sys.argv[1:] if argv is None else argv)
    except UserError as e:
        sys.stdout.flush()
        print(f"{name}: {e}", file=sys.stderr, flush=True)
        return e.exit_code
    except KeyboardInterrupt:
        return 130
