"""Bad input of every kind: one line that names the thing and the mend, an exit code, nothing half-written.

Each case runs a command in a copy of a small world (a prepared task, two trained models, signals, tables) in which one
thing is wrong. Commands run in this process, to save the time of starting.
"""

import contextlib
import gc
import logging
import os
import pathlib
import resource
import shutil

import jax
import pytest
from bad_input_cases import BASE, CASCADE, CASES, EVALUATE, TEACH, TRAIN
from jax.experimental.compilation_cache import compilation_cache

from cat_jax.cli import main as cli

pytest.importorskip("seqio")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A directory with store/, teacher/, student/, signal/ (sparse), bits/ and tables/."""
    path = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(path):
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        shutil.copy(pathlib.Path(__file__).parent / "toy_experiment.py.txt", path / "toy_experiment.py")
        patch.syspath_prepend(path)
        (path / "base.gin").write_text(BASE)
        base = ["--gin_file=base.gin"]
        for argv in (
            ["prepare"],
            ["prepare", "--gin.STORE_DIR='other'", "--gin.TASK_FEATURE_LENGTHS={'inputs': 7, 'targets': 4}"],
            ["train", *TRAIN, "--gin.MODEL_DIR='teacher'"],
            ["train", *TRAIN, "--gin.MODEL_DIR='student'", "--gin.SEED=1"],
            ["teach", *TEACH, "--gin.SIGNAL_DIR='signal'"],
            ["teach", *TEACH, "--gin.SIGNAL_DIR='bits'", "--gin.LAYOUT=@BitLayout()"],
            ["evaluate", "--gin.EVAL_MODELS={'teacher': 'teacher', 'student': 'student'}", "--gin.TABLES_DIR='tables'"],
        ):
            assert cli.main([argv[0], *base, *argv[1:]]) == 0
        yield path


def contents(path):
    """Every file below a directory with its bytes."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def check(case, capfd):
    """Runs a case in the current directory and checks what it says and what it leaves."""
    here = pathlib.Path.cwd()
    case.spoil()
    before = contents(here)
    capfd.readouterr()
    base = ["--gin_file=base.gin"] if case.base else []
    code = cli.main([case.argv[0], *base, *case.argv[1:]])
    err = capfd.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("cat-jax")]
    assert len(lines) == 1, err
    assert "error: " in lines[0]
    for word in case.said:
        assert word in lines[0]
    assert "Traceback" not in err
    assert code == case.code, lines[0]
    after = contents(here)
    assert {name for name in before if after.get(name) != before[name]} == set(), "an input was changed"
    new = {pathlib.PurePath(name) for name in after if name not in before}
    assert {str(name) for name in new if not any(name.match(pattern) for pattern in case.left)} == set()


@pytest.fixture
def copy(world, tmp_path, monkeypatch):
    """A copy of the world, in which the test runs."""
    shutil.copytree(world, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    monkeypatch.syspath_prepend(world)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_input(case, copy, capfd):
    check(case, capfd)


def test_there_are_thirty_kinds():
    assert len({case.name for case in CASES}) == len(CASES) >= 30


@contextlib.contextmanager
def small_files(size):
    """No file may grow beyond `size` bytes: a write that does fails, as on a full disk.

    Nothing is kept of what is compiled meanwhile: jax would leave an entry cut off, and never write it again.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    cached = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # jax looks once whether there is one
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        jax.config.update("jax_enable_compilation_cache", cached)
        compilation_cache.reset_cache()


@pytest.mark.parametrize(
    ("argv", "size"),
    [
        (["prepare", "--gin.STORE_DIR='out'"], 20_000),
        (["teach", *TEACH], 5_000),
        (["train", *TRAIN], 5_000),
        (["evaluate", *EVALUATE], 5_000),
        (["cascade", *CASCADE], 5_000),
    ],
    ids=["prepare", "teach", "train", "evaluate", "cascade"],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning")
def test_a_disk_that_fills_up(argv, size, copy, capfd, monkeypatch):
    # What was imported before may have set up logging to stderr, which is a file here, and so as full.
    monkeypatch.setattr(logging.root, "handlers", [])
    # A save that failed in the test before may be collected, and complain, before the command has set up its own.
    monkeypatch.setattr(logging, "lastResort", None)
    before = contents(pathlib.Path.cwd())
    with small_files(size):
        code = cli.main([argv[0], "--gin_file=base.gin", *argv[1:]])
    gc.collect()  # Orbax leaves coroutines of the save that failed, which complain when they are collected
    err = capfd.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("cat-jax")]
    assert len(lines) == 1, err
    assert code == 2, lines[0]
    assert "Traceback" not in err
    assert any(word in lines[0] for word in ("free space", "another disk")), lines[0]
    after = contents(pathlib.Path.cwd())
    assert all(after.get(name) == content for name, content in before.items())
    for name in after.keys() - before.keys():
        assert not name.endswith(("manifest.json", "SEAL.json", ".parquet", "report.html")), name
    # With space again it goes on to the end.
    assert cli.main([argv[0], "--gin_file=base.gin", *argv[1:]]) == 0


def test_overwrite_takes_a_signal_over(copy):
    """`teach --overwrite` is to a signal what `prepare --overwrite` is to a store."""
    assert cli.main(["teach", "--gin_file=base.gin", *TEACH, "--gin.SIGNAL_DIR='bits'", "--overwrite"]) == 0
    taken, sparse = (contents(pathlib.Path(name, "reverse", "train")) for name in ("bits", "signal"))
    for configuration in ("config.gin", "operative_config.gin"):  # they say where they are
        assert b"bits" in taken.pop(configuration)
        assert b"signal" in sparse.pop(configuration)
    assert taken == sparse


def test_no_traceback_without_debug_and_one_with_it(copy, capfd):
    argv = ["train", "--gin_file=base.gin", *TRAIN, "--gin.MODEL_DIR='teacher'", "--gin.SEED=5"]
    assert cli.main(argv) == 2
    assert "Traceback" not in capfd.readouterr().err
    assert cli.main([*argv, "--debug"]) == 2
    assert "Traceback" in capfd.readouterr().err


def test_one_of_several_processes_does_not_prepare(copy, capfd, monkeypatch):
    monkeypatch.setattr("cat_jax.cli.devices.start", lambda multiprocess: True)
    assert cli.main(["train", "--gin_file=base.gin", *TRAIN, "--gin.STORE_DIR='nowhere'"]) == 2
    assert "run `cat-jax prepare` once before a job of several processes" in capfd.readouterr().err
    assert not os.path.exists("nowhere")
