"""The command line itself: fast help, exit codes, one line for every error."""

import errno
import pathlib
import re
import subprocess
import sys
import time

import pytest

from cat_jax.cli import main as cli
from cat_jax.cli.failures import explain
from cat_jax.errors import NonFiniteError, Preempted, UserError

HEAVY = {"jax", "flax", "optax", "orbax", "grain", "tensorflow", "seqio", "pyarrow", "numpy", "gin"}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"], *([name, "--help"] for name in cli.COMMANDS)])
def test_help_is_fast_and_imports_nothing_heavy(arguments):
    code = f"import sys\nfrom cat_jax.cli.main import main\ncode = main({arguments!r})\n"
    code += f"print('HEAVY', sorted({HEAVY!r} & set(sys.modules)), code)"
    began = time.monotonic()
    done = python(code)
    assert time.monotonic() - began < 1.0
    assert done.stdout.endswith("HEAVY [] 0\n"), done.stdout + done.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_help_has_an_example_and_the_flags(name, capsys):
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: cat-jax {name}" in text
    assert re.search("^examples?:", text, re.MULTILINE)
    assert "--debug" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "cat_jax.cli.main", "trian"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "cat-jax: error: there is no command trian: did you mean train?\n"


def raising(monkeypatch, error):
    def command(name):
        def run(argv):
            raise error

        return run

    monkeypatch.setattr(cli, "_command", command)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no store", "run prepare"), 2, "error: no store: run prepare"),
        (NonFiniteError("loss is nan at step 3", "lower the rate"), 3, "error: loss is nan at step 3: lower the rate"),
        (Preempted("SIGTERM at step 5"), 75, "stopped (SIGTERM at step 5): start the same command again to go on"),
        (KeyboardInterrupt(), 130, "interrupted: start the same command again to go on"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            2,
            "error: /x/y: no space left on the device: free space there, or name a directory on another disk",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/x/y"),
            2,
            "error: /x/y: the file system is read-only: name a directory you may write",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            2,
            "error: /x: permission denied: change its permissions, or name a path you may use",
        ),
        (
            ModuleNotFoundError("No module named 'seqio'", name="seqio"),
            2,
            "error: the package seqio is not installed: pip install 'cat-jax[data]'",
        ),
    ],
)
def test_errors_are_one_line_with_their_exit_code(monkeypatch, capsys, error, code, line):
    raising(monkeypatch, error)
    assert cli.main(["train"]) == code
    captured = capsys.readouterr()
    assert captured.err == f"cat-jax train: {line}\n"
    assert captured.out == ""


def test_an_unexpected_error_names_the_place_in_the_users_own_code(monkeypatch, capsys):
    raising(monkeypatch, RuntimeError("first\nsecond"))
    assert cli.main(["train"]) == 1
    said = re.fullmatch(
        r"cat-jax train: error: RuntimeError: first \((.*) line (\d+)\): run again with --debug for the traceback\n",
        capsys.readouterr().err,
    )
    assert said is not None
    assert said[1] == __file__
    assert "raise error" in pathlib.Path(__file__).read_text().splitlines()[int(said[2]) - 1]


@pytest.mark.parametrize(("error", "shown"), [(UserError("no store", "run prepare"), False), (KeyError("x"), True)])
def test_a_stage_shows_the_traceback_of_what_its_line_does_not_explain(monkeypatch, capsys, error, shown):
    raising(monkeypatch, error)
    cli.main(["train", "--debug=unexpected"])
    assert ("Traceback" in capsys.readouterr().err) == shown


def test_debug_shows_the_traceback_and_then_the_line(monkeypatch, capsys):
    raising(monkeypatch, UserError("no store", "run prepare"))
    assert cli.main(["train", "--debug"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("Traceback")
    assert text.endswith("cat-jax train: error: no store: run prepare\n")


def test_what_was_being_handled_is_not_the_error():
    def fails(first, then):
        try:
            raise first
        except OSError:
            raise then  # noqa: B904 (a fallback of its own that fails)

    with pytest.raises(KeyError) as caught:
        fails(FileNotFoundError(errno.ENOENT, "No such file", "cache.json"), KeyError("x"))
    assert explain(caught.value).line.startswith("error: KeyError: 'x'")
    assert explain(caught.value).exit_code == 1
    with pytest.raises(ValueError, match="finish") as full:
        fails(OSError(errno.ENOSPC, "No space left on device", "out"), ValueError("cannot finish"))
    assert explain(full.value).line.startswith("error: out: no space left on the device")


@pytest.mark.parametrize(("code", "expected", "said"), [(None, 0, ""), (3, 3, ""), ("need DATA", 1, "need DATA")])
def test_a_users_exit_keeps_its_meaning(monkeypatch, capsys, code, expected, said):
    raising(monkeypatch, SystemExit(code))
    assert cli.main(["train"]) == expected
    assert capsys.readouterr().err == (f"cat-jax train: error: {said}\n" if said else "")


def test_a_full_disk_is_found_under_a_librarys_error():
    error = ValueError("checkpoint failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert explain(error).line.startswith("error: no space left on the device")
    assert explain(RuntimeError("INTERNAL: write: No space left on device [x]")).exit_code == 2


def test_out_of_memory_says_what_to_lower():
    assert "lower BATCH_SIZE" in explain(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.")).line


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train"], "nothing is configured: name a gin file, e.g. --gin_file=runs/train.gin"),
        (["train", "--gin_fil=x.gin"], "unknown flag --gin_fil=x.gin: did you mean --gin_file"),
        (["train", "--gin_file"], "--gin_file has no value: write --gin_file=VALUE"),
        (["train", "x.gin"], "unknown flag x.gin: see `cat-jax train --help`"),
        (["train", "--gin.MODEL_DIR=/tmp/x"], "put a string in quotes: --gin.MODEL_DIR='\"/tmp/x\"'"),
        (["train", "--gin_file=nowhere_near.gin"], "no gin file nowhere_near.gin"),
    ],
)
def test_wrong_flags(argv, said, capsys):
    assert cli.main(argv) == 2
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1


def test_tasks_without_a_module_lists_what_is_bundled(capsys):
    """All of it in tests/tasks/test_catalog.py."""
    assert cli.main(["tasks", "pronunciation_say_?n"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "pronunciation_say_en: English words to phonemes"


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_the_examples_of_help_are_shell(name, capsys):
    assert cli.main([name, "--help"]) == 0
    example = re.search(r"^examples?:\n((?:  .*\n)+)", capsys.readouterr().out, re.MULTILINE)
    assert example is not None
    done = subprocess.run(["bash", "-n"], input=example[1], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert example[1].lstrip().startswith(f"cat-jax {name}")


@pytest.mark.parametrize(("flags", "shown"), [([], False), (["--debug"], True)])
def test_what_orbax_raises_after_it_has_logged_it_is_told_once(flags, shown):
    path = "site-packages/orbax/checkpoint/_src/futures/future.py"
    code = f"""
import logging
from cat_jax.cli.main import main
main(["nothing", *{flags!r}])
error = (ValueError, ValueError("no space"), None)
for path, raised in (({path!r}, error), ({path!r}, None), ("site-packages/orbax/other.py", error)):
    text = f"{{path[-9:]}} {{bool(raised)}}"
    logging.getLogger("absl").handle(logging.LogRecord("absl", logging.ERROR, path, 1, text, (), raised))
for path in ({path!r}, "tasks/own.py"):
    try:
        exec(compile("raise ValueError", path, "exec"))
    except ValueError as e:
        for text in ("exception was never retrieved", "a slow callback"):
            logging.getLogger("asyncio").error(f"{{path[-9:]}}: {{text}}", exc_info=e)
"""
    said = python(code).stderr
    assert ("future.py True" in said) == shown
    assert "future.py False" in said
    assert "/other.py True" in said
    assert ("future.py: exception was never retrieved" in said) == shown
    assert "ks/own.py: exception was never retrieved" in said
    assert said.count("a slow callback") == 2
