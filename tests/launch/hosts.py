"""Stand-ins for hosts: arguments that no shell may touch, a `cat-jax` that notes them, and programs of a platform."""

import json
import os
import shlex
import stat
import sys

AWKWARD = (
    "train",
    "--gin_file=runs/train.gin",
    "--gin.MODEL_DIR='\"gs://bucket/a run\"'",
    '--gin.MODEL_DIR="/mnt/it\'s"',
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 128}",
    "--gin.TEACHER=@LiveTeacher()",
    "--gin.A='$HOME $(touch pwned) $(A) $$ ${B} `touch pwned` \\ * ? ~ # ! % & | ; < > {{c}}'",
    "--gin.B='line\nanother: - \"x\"\t'",
    "--gin.C='Größe 😀'",
    "--gin.D='ends in \\\\'\\",
    "",
    "--",
    "- #",
)

# Appends what it was given to the file `notes`, and ends with the next exit code of the file `codes`; without, with 0.
PROGRAM = """\
import json, os, pathlib, sys
here = pathlib.Path(os.environ.get("CAT_JAX_TEST", {here!r}))
with (here / "notes").open("a") as f:
    setting = {{k: v for k, v in os.environ.items() if k.startswith("CAT_JAX_") and k != "CAT_JAX_TEST_DATA"}}
    f.write(json.dumps([sys.argv[1:], setting]) + "\\n")
codes = here / "codes"
left = codes.read_text().split() if codes.exists() else []
codes.write_text(" ".join(left[1:]))
sys.exit(int(left[0]) if left else 0)
"""


def write_program(directory, name, text):
    """An executable in `directory`; text that begins with no `#!` is Python."""
    path = directory / name
    path.write_text(text if text.startswith("#!") else f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class Host:
    """A directory with a `bin` of stand-ins, in front of everything else on PATH."""

    def __init__(self, directory):
        self.directory, self.bin = directory, directory / "bin"
        self.bin.mkdir()
        write_program(self.bin, "cat-jax", PROGRAM.format(here=str(directory)))
        self.setting = {**os.environ, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "HOME": str(directory)}

    def codes(self, *codes):
        """What the next runs of `cat-jax` end with."""
        (self.directory / "codes").write_text(" ".join(map(str, codes)))

    def notes(self):
        """[(arguments, variables)] of the runs of `cat-jax` so far."""
        path = self.directory / "notes"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def log(self, name):
        """Shell that appends a stand-in's arguments to the file `name`."""
        return f"{{ printf '%s\\0' \"$@\"; printf '\\036'; }} >> {shlex.quote(str(self.directory / name))}"

    def lines(self, name):
        """What `log` wrote: a list of arguments for each call."""
        path = self.directory / name
        return [call.split("\0")[:-1] for call in path.read_text().split("\036")[:-1]] if path.exists() else []
