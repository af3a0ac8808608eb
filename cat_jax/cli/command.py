"""What the gin-configured commands share: their flags, their help, their configuration."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import NoReturn

from cat_jax.cli.names import suggestion
from cat_jax.errors import UserError

GIN_FLAGS = """\
configuration (docs/gin.md):
  --gin_file=FILE          a gin file: a path, or a bundled one by name (runs/train.gin); repeatable, later ones win
  --gin.NAME=VALUE         one binding or macro; strings in quotes: --gin.MODEL_DIR='"runs/model"'; repeatable
  --gin_search_paths=A,B   directories in which gin files are looked for
  --gin_scope=SCOPE        run as this scope: SCOPE/NAME overrides NAME, for bindings and macros

other:
  --debug                  show the traceback of an error; --debug=unexpected: not of one whose line says the mend
  --help                   this text
"""


MULTIPROCESS = {"--multiprocess": "this is one process of a job; jax finds the others (TPU pod, SLURM)"}


@dataclasses.dataclass(frozen=True)
class GinFlags:
    """The configuration flags of a command, as given."""

    files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    search_paths: tuple[str, ...] = ()
    scope: str = ""

    def arguments(self) -> list[str]:
        """The flags again, for a child process."""
        return [
            *(f"--gin_file={name}" for name in self.files),
            *([f"--gin_search_paths={','.join(self.search_paths)}"] if self.search_paths else []),
            *([f"--gin_scope={self.scope}"] if self.scope else []),
            *(f"--gin.{binding}" for binding in self.bindings),
        ]


class Parser(argparse.ArgumentParser):
    """Raises instead of printing usage, so that an unknown flag is one line like every other error."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, f"see `{self.prog} --help`")


@dataclasses.dataclass(frozen=True)
class Manual:
    """The help of a gin-configured command.

    Attributes:
      name: of the command.
      what: what it does, in a paragraph.
      macros: the macros of its run file: name to meaning.
      example: a command line that works.
      switches: the command's own on/off flags: name to meaning.
      options: its own flags that take a value, repeatable: name to meaning.
      run_file: the bundled run file, where it is not called as the command is.
    """

    name: str
    what: str
    macros: Mapping[str, str]
    example: str
    switches: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    run_file: str = ""

    def text(self) -> str:
        macros = _rows(self.macros)
        switches = _rows({f"{name}=VALUE": what for name, what in self.options.items()} | dict(self.switches), 25)
        return (
            f"usage: cat-jax {self.name} --gin_file=FILE [--gin.NAME=VALUE]...\n\n{textwrap.dedent(self.what).strip()}"
            f"\n\nmacros of runs/{self.run_file or self.name}.gin:\n{macros}\n\nexample:\n"
            f"{textwrap.indent(textwrap.dedent(self.example).strip(), '  ')}\n\n{GIN_FLAGS}"
            + (f"{switches}\n" if switches else "")
        )


def _rows(meanings: Mapping[str, str], width: int = 0) -> str:
    width = width or max(map(len, meanings), default=0) + 2
    return "\n".join(f"  {name:<{width}}{meaning}" for name, meaning in meanings.items())


def parse_gin_flags(manual: Manual, argv: Sequence[str]) -> tuple[GinFlags, dict[str, list[str]]]:
    """The configuration flags in `argv`, and which of the command's own flags were given, with their values.

    Raises:
      UserError: an unknown flag, or no configuration at all.
      SystemExit: help was asked for and printed.
    """
    if any(argument in ("-h", "--help") for argument in argv):
        print(manual.text(), end="")
        raise SystemExit(0)
    files: list[str] = []
    bindings: list[str] = []
    paths: list[str] = []
    scope: str = ""
    given: dict[str, list[str]] = {}
    values = {"--gin_file": files.append, "--gin_search_paths": lambda value: paths.extend(value.split(","))}
    values |= {name: lambda value, name=name: given.setdefault(name, []).append(value) for name in manual.options}
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument.partition("=")
        if flag.startswith("--gin."):
            bindings.append(argument.removeprefix("--gin."))
        elif flag in manual.switches and not equals:
            given[flag] = []
        elif flag in values or flag == "--gin_scope":
            if not equals:
                if not rest or rest[0].startswith("--"):
                    raise UserError(f"{flag} has no value", f"write {flag}=VALUE")
                value = rest.pop(0)
            if flag == "--gin_scope":
                scope = value
            else:
                values[flag](value)
        else:
            known = [*values, "--gin_scope", *manual.switches, "--debug", "--help"]
            mend = suggestion(flag, known, f"see `cat-jax {manual.name} --help`")
            raise UserError(f"unknown flag {argument}", mend)
    if not files and not bindings:
        raise UserError(
            "nothing is configured", f"name a gin file, e.g. --gin_file=runs/{manual.run_file or manual.name}.gin"
        )
    return GinFlags(tuple(files), tuple(bindings), tuple(path for path in paths if path), scope), given
