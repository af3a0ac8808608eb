"""A signal has the path of its store below another root: where the roots are the same, neither harms the other."""

import json

import pytest
from teacher_cases import FEATURE, LENGTHS, contents, write_store, write_teacher

from cat_jax.data.layout import store_directory
from cat_jax.data.manifest import Recipe, read_manifest
from cat_jax.data.store import ExampleStore
from cat_jax.data.writer import StoreWriter
from cat_jax.errors import UserError
from cat_jax.teacher.layout import BitLayout
from cat_jax.teacher.store import SignalStore
from cat_jax.teacher.writer import teach


@pytest.fixture
def root(tmp_path):
    """A directory with store/ of one shard, and model/."""
    write_store(tmp_path / "store", "a", num_shards=1, per_shard=3)
    write_teacher(tmp_path / "model")
    return tmp_path


def run(root, output, **options):
    return teach(root / "model", root / "store", "a", output, layout=BitLayout(), batch_size=4, **options)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_signal_never_goes_where_its_store_is(root, overwrite):
    before = contents(root)
    words = r"cannot write the teacher signal to .*store/a/train, which holds other records \(.*name another SIGNAL_DIR"
    with pytest.raises(UserError, match=words):
        run(root, root / "store", overwrite=overwrite)
    assert contents(root) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("gone", ["manifest.json", "shard-00000-of-00001.array_record"])
def test_nor_where_the_rest_of_a_store_is(root, tmp_path, overwrite, gone):
    write_store(tmp_path / "half", "a", num_shards=1, per_shard=3)
    (tmp_path / "half" / "a" / "train" / gone).unlink()
    before = contents(root)
    with pytest.raises(UserError, match=r"half/a/train, which holds other records"):
        run(root, tmp_path / "half", overwrite=overwrite)
    assert contents(root) == before


def test_below_the_store_it_does_no_harm(root):
    before = contents(root / "store" / "a")
    run(root, root / "store" / "signal")
    run(root, root / "store" / "signal", overwrite=True)
    assert contents(root / "store" / "a") == before
    SignalStore.open(root / "store" / "signal", ExampleStore.open(root / "store", "a", "train"))


def test_a_store_never_goes_where_a_signal_is(root):
    run(root, root / "signal")
    before = contents(root)
    recipe = Recipe("a", "train", {"inputs": FEATURE, "targets": FEATURE}, LENGTHS, 1, False)
    words = r"cannot write the example store to .*signal/a/train, which holds other records .*name another STORE_DIR"
    with pytest.raises(UserError, match=words):
        StoreWriter(store_directory(root / "signal", "a", "train"), recipe)
    assert contents(root) == before


def test_nothing_but_its_own_files_is_deleted(root):
    run(root, root / "signal")
    notes = {root / kind / "a" / "train" / "notes.txt": f"about the {kind}" for kind in ("store", "signal")}
    for path, text in notes.items():
        path.write_text(text)
    (root / "signal" / "a" / "train" / "shard-00007-of-00009.signal").write_bytes(b"of another recipe")
    run(root, root / "signal", overwrite=True)
    assert not (root / "signal" / "a" / "train" / "shard-00007-of-00009.signal").exists()
    store = ExampleStore.open(root / "store", "a", "train")
    writer = StoreWriter(store.directory, store.manifest.recipe)
    writer.finish()
    writer.discard()
    assert {path.name for path in store.directory.iterdir()} == {"notes.txt"}
    assert {path: path.read_text() for path in notes} == notes


def test_one_is_not_read_as_the_other(root):
    run(root, root / "signal")
    with pytest.raises(UserError, match=r"is the manifest of an example store, not of a teacher signal: name another"):
        SignalStore.open(root / "store", ExampleStore.open(root / "store", "a", "train"))
    with pytest.raises(UserError, match=r"is the manifest of a teacher signal, not of an example store: name another"):
        read_manifest(root / "signal" / "a" / "train")


def test_a_store_that_does_not_state_its_kind_is_read(root):
    path = root / "store" / "a" / "train" / "manifest.json"
    fields = json.loads(path.read_text())
    assert fields.pop("kind") == "example store"
    path.write_text(json.dumps(fields))
    assert len(ExampleStore.open(root / "store", "a", "train")) == 3
