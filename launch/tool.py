"""A program of the platform: gcloud, kubectl, sbatch."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

from cat_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Tool:
    """A program that must be there.

    Attributes:
      name: of the program.
      mend: how the user gets it.
    """

    name: str
    mend: str

    def find(self) -> str:
        """Its path.

        Raises:
          UserError: it is not installed.
        """
        path = shutil.which(self.name)
        if path is None:
            raise UserError(f"there is no {self.name} here", self.mend)
        return path

    def run(self, arguments: Sequence[str], text: str | None = None) -> int:
        """Runs it with our output, `text` as its input; returns its exit code."""
        return subprocess.run(self._said(arguments), input=text, text=True, check=False).returncode

    def ask(self, arguments: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
        """Runs it silently with `text` as its input; returns exit code, stdout and stderr."""
        return subprocess.run([self.find(), *arguments], input=text, capture_output=True, text=True, check=False)

    def watch(self, arguments: Sequence[str], line: Callable[[str], None]) -> int:
        """Runs it and hands each line of its output (stderr too) to `line`; returns its exit code.

        A signal from the terminal does not reach it: whoever started it decides what becomes of it.
        """
        with subprocess.Popen(
            self._said(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            for text in process.stdout:
                line(text)
        return process.returncode

    def _said(self, arguments: Sequence[str]) -> list[str]:
        """The command line to run, once the user has read it."""
        path = self.find()
        print(f"$ {shlex.join([self.name, *arguments])}", file=sys.stderr, flush=True)
        return [path, *arguments]
