"""The commands of docs/launch.md are ones that the launchers and `cat-jax` take."""

import importlib
import json
import pathlib
import re
import shlex
import subprocess

import pytest

from cat_jax.cli import configuration
from cat_jax.cli.command import Manual, parse_gin_flags

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "launch.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
LAUNCHES = [block for block in BLOCKS if "cat_jax_launch" in block]


def words(block):
    """The words that bash makes of a block's first command."""
    return shlex.split(block.replace("\\\n", " "), comments=True)


@pytest.mark.parametrize("block", LAUNCHES, ids=lambda block: words(block)[2])
def test_a_launch_can_be_rehearsed(block, host, monkeypatch, capsys):
    python, option, module, *argv = words(block)
    assert (python, option) == ("python", "-m")
    monkeypatch.setenv("PATH", "/nowhere")
    assert importlib.import_module(module).main(["--dry_run", *argv]) == 0
    assert capsys.readouterr().out.count("train") >= 1
    name, *flags = argv[argv.index("--") + 1 :]
    # bash agrees with shlex on what the words are
    command = f'python() {{ cat-jax "$@"; }}\n{block}'
    subprocess.run(["bash", "-c", command], env=host.setting, cwd=host.directory, check=True)
    assert host.notes()[0][0] == [option, module, *argv], json.dumps(argv)
    given, _ = parse_gin_flags(Manual(name=name, what="", macros={}, example=""), flags)
    configuration.check(configuration.of_flags(given), name)


def test_each_launcher_has_a_command():
    assert {words(block)[2] for block in LAUNCHES} == {
        f"cat_jax_launch.{name}" for name in ("tpu_vm", "gke", "slurm", "local")
    }
