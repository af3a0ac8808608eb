"""The shell that every host runs: signals reach the command once, whenever they come."""

import subprocess

import pytest
from cat_jax_launch.command import COMMANDS, Command, Parser, watched

from cat_jax.cli import main
from cat_jax.errors import UserError


def run(script):
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)


def test_a_command_that_names_cat_jax_itself_is_refused_before_it_is_queued():
    with pytest.raises(UserError, match="begins with cat-jax"):
        Parser("slurm", "", "").read(["--dry_run", "--", "cat-jax", "train"])


def test_a_misspelt_command_is_refused_before_it_is_queued():
    with pytest.raises(UserError, match="cat-jax has no command trian: did you mean train"):
        Parser("slurm", "", "").read(["--dry_run", "--", "trian", "--gin_file=x.gin"])
    assert set(COMMANDS) == set(main.COMMANDS)


def test_a_signal_that_comes_after_the_command_leaves_the_rest_to_be_done():
    command = Command(("exit 75",), program=("bash", "-c"), after=("kill -s TERM $$; echo after",))
    done = run(command.script())
    assert (done.returncode, done.stdout) == (75, "after\n")


def test_a_signal_that_comes_while_the_command_is_started_reaches_it():
    lines = watched("bash -c 'trap \"exit 75\" TERM; for i in $(seq 100); do sleep 0.1; done'").splitlines()
    lines.insert(lines.index("child=$!"), "sleep 0.5; kill -s TERM $$")
    done = run("\n".join(["trap 'exit 143' TERM", *lines, "exit $code"]))
    assert (done.returncode, done.stderr) == (75, "")
