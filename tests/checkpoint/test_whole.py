"""A directory is there whole or not at all."""

import fcntl
import platform
import shutil
import subprocess
import sys

import pytest

from cat_jax.checkpoint.whole import whole_directory
from cat_jax.errors import UserError

KILLED = """
import os, signal, sys
from cat_jax.checkpoint.whole import whole_directory
with whole_directory(sys.argv[1]) as directory:
    (directory / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_appears_when_it_is_whole_and_else_not(tmp_path):
    with whole_directory(tmp_path / "made") as directory:
        (directory / "file").write_text("whole")
        assert not (tmp_path / "made").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    with pytest.raises(ZeroDivisionError), whole_directory(tmp_path / "other"):
        raise ZeroDivisionError
    with pytest.raises(UserError, match="made is there already"), whole_directory(tmp_path / "made"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / "file").read_text() == "whole"


def test_what_looks_abandoned_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    """Another start may come between the making of a directory and its lock, and take it for one that was left."""
    flock, made = fcntl.flock, []

    def late(descriptor, operation):
        if not made:
            made.extend(tmp_path.iterdir())
            shutil.rmtree(made[0])
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with whole_directory(tmp_path / "made") as directory:
        assert directory not in made
        (directory / "file").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_another_machines_are_left_alone(tmp_path, monkeypatch):
    """Whose locks may not be seen here."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "made")], check=False)
    monkeypatch.setattr(platform, "node", lambda: "another")
    with whole_directory(tmp_path / "made"):
        pass
    assert len(list(tmp_path.iterdir())) == 2


def test_what_one_that_was_killed_has_left_is_removed_by_the_next(tmp_path):
    """What one that lives is making stays, and so does what is another's."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "made")], check=False)
    [left] = tmp_path.iterdir()
    assert (left / "half").exists()
    (tmp_path / ".made.mine").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*made"):
        make_twice(tmp_path / "made", left)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".made.mine", "made"]
    assert (tmp_path / "made" / "file").read_text() == "second"


def make_twice(path, left):
    """The second one comes when the first has begun, and is done before it."""
    with whole_directory(path) as one:
        assert not left.exists()
        with whole_directory(path) as two:
            assert one.exists()
            (two / "file").write_text("second")
        (one / "file").write_text("first")
