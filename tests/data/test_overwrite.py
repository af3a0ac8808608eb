"""`prepare --overwrite`: an old store stays until there is something to put in its place, and never mixes with that."""

import os
import pathlib
import shutil

import pytest

from cat_jax.data import layout, seqio_task
from cat_jax.data.prepare import PrepareConfig, prepare
from cat_jax.errors import UserError

pytest.importorskip("seqio", reason="SeqIO is not installed")
pytestmark = pytest.mark.usefixtures("toy_tasks")

HERE = pathlib.Path(__file__).parent


def run(root, overwrite=False, **fields):
    """A store of three shards."""
    settings = {"splits": ["validation"], "examples_per_shard": 8, **fields}
    lengths = {"inputs": 16, "targets": 8}
    return prepare(PrepareConfig(str(root), "toy", "toy_tasks", lengths, overwrite=overwrite, **settings))


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".prepare.lock"
    }


def backwards(pipeline, arrays=seqio_task.arrays):
    """What the task's code made before it was changed: a change that the recipe does not show."""
    for element in arrays(pipeline):
        yield {**element, "targets": element["targets"][::-1]}


@pytest.fixture(scope="module")
def old(toy_tasks, tmp_path_factory):
    root = tmp_path_factory.mktemp("old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seqio_task, "arrays", backwards)
        run(root)
    return root


@pytest.fixture(scope="module")
def new(toy_tasks, tmp_path_factory):
    root = tmp_path_factory.mktemp("new")
    run(root)
    return contents(root)


@pytest.mark.parametrize("error", [ConnectionError("a cable"), ValueError("a bug")])
def test_a_source_that_cannot_be_read_leaves_all_old_stores(tmp_path, monkeypatch, error):
    """The second of two: the first one's new shard was whole."""
    both = {"splits": ["train", "validation"], "examples_per_shard": 1000}
    run(tmp_path, **both)
    before, arrays, calls = contents(tmp_path), seqio_task.arrays, []

    def second_fails(pipeline):
        calls.append(pipeline)
        if len(calls) == 2:
            raise error
        return arrays(pipeline)

    monkeypatch.setattr(seqio_task, "arrays", second_fails)
    with pytest.raises(UserError, match=str(error)):
        run(tmp_path, overwrite=True, **both)
    assert len(calls) == 2
    assert contents(tmp_path) == before


def test_another_number_of_shards(old, new, tmp_path):
    shutil.copytree(old, tmp_path / "store")
    run(tmp_path / "store", overwrite=True, examples_per_shard=12)
    assert len(list(tmp_path.rglob("*.array_record"))) == 2
    run(tmp_path / "store", overwrite=True)
    assert contents(tmp_path / "store") == new


class Killed(BaseException):
    pass


def killed_at(instant, monkeypatch):
    """Nothing is renamed or deleted from the `instant`-th such call on; returns the calls."""
    calls = []

    def until_then(function, name):
        def call(*args, **options):
            calls.append((name, str(args[0])))
            if len(calls) > instant:
                raise Killed
            return function(*args, **options)

        return call

    for holder, name in ((os, "replace"), (pathlib.Path, "unlink"), (shutil, "rmtree")):
        monkeypatch.setattr(holder, name, until_then(getattr(holder, name), name))
    return calls


def overwrite_killed_at(instant, root):
    with pytest.MonkeyPatch.context() as patch:
        calls = killed_at(instant, patch)
        try:
            run(root, overwrite=True)
        except Killed:
            return None
    return calls


def resumed(root):
    """What is there after running again, or None if that is refused."""
    try:
        run(root)
    except UserError as error:
        return None if "--overwrite" in str(error) else {}
    return contents(root)


@pytest.mark.parametrize(
    ("finished", "every"),
    [(True, False), *(pytest.param(f, True, marks=pytest.mark.exhaustive) for f in (True, False))],
)
def test_killed_at_any_instant_old_and_new_shards_do_not_mix(old, new, tmp_path, finished, every):
    """A rename or a deletion is an instant; if not every, two of those in which the old store goes."""
    before = contents(old)

    def copy(name):
        shutil.copytree(old, tmp_path / name)
        if not finished:
            (layout.store_directory(tmp_path / name, "toy", "validation") / layout.MANIFEST).unlink()
        return tmp_path / name

    calls = overwrite_killed_at(1000, copy("all"))
    assert contents(tmp_path / "all") == new
    names = [pathlib.Path(path).name for _, path in calls]
    going = [i for i, (kind, path) in enumerate(calls) if kind == "unlink" and "/.new" not in path]
    going = [i for i in going if names[i].startswith(("shard-", layout.MANIFEST))]
    assert len(going) == 10
    seen = []
    for instant in range(len(calls)) if every else (going[2], going[-1]):
        root = copy(str(instant))
        assert overwrite_killed_at(instant, root) is None
        shutil.copytree(root, tmp_path / "again")
        found = resumed(tmp_path / "again")
        assert found in (None, before, new)
        seen.append(found is None)
        run(root, overwrite=True)
        assert contents(root) == new
        shutil.rmtree(tmp_path / "again")
    assert any(seen)
