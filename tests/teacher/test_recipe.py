"""What decides a signal, and what does not."""

import json
import shutil

import numpy as np
import pytest
from teacher_cases import CONFIG, contents, teacher_params, write_store, write_teacher

from cat_jax.checkpoint.manager import CheckpointManager
from cat_jax.checkpoint.params import write_model_file
from cat_jax.errors import UserError
from cat_jax.teacher.layout import BitLayout, SparseLayout
from cat_jax.teacher.manifest import read_manifest
from cat_jax.teacher.store import SignalStore, StoredTeacher
from cat_jax.teacher.writer import teach

SPARSE = SparseLayout(top_k=4, tail_draws=6, draw_mass=1 / 16)


@pytest.fixture
def root(tmp_path):
    """store/ of tasks a and b, whose examples are the same, in splits train and validation; and model/."""
    for task in "ab":
        for split in ("train", "validation"):
            write_store(tmp_path / "store", task, split, num_shards=2, per_shard=4)
    write_teacher(tmp_path / "model")
    return tmp_path


def run(root, task="a", model="model", **options):
    options = {"layout": BitLayout(), "batch_size": 4, **options}
    return teach(root / model, root / "store", task, root / "signal", **options)


def test_a_renamed_teacher_finds_its_finished_signal(root):
    run(root)
    before = contents(root / "signal")
    (root / "model").rename(root / "renamed")
    [manifest] = run(root, model="renamed").values()
    assert manifest.recipe.teacher.name == "model"
    assert contents(root / "signal") == before


def test_a_renamed_teacher_goes_on_with_its_unfinished_signal(root):
    run(root, process_index=0, process_count=2)
    first = root / "signal" / "a" / "train" / "shard-00000-of-00002.json"
    before = first.stat().st_mtime_ns
    (root / "model").rename(root / "renamed")
    assert list(run(root, model="renamed")) == [("a", "train")]
    assert first.stat().st_mtime_ns == before


def test_neither_name_nor_step_make_another_signal(root):
    [one] = run(root).values()
    write_model_file(root / "again", CONFIG, {})
    with CheckpointManager(root / "again") as manager:
        manager.save(9, teacher_params(), {"step": np.zeros(())}, None)
    run(root, "b", model="again")
    shutil.rmtree(root / "signal" / "a")
    [two] = run(root, model="again").values()
    assert (one.recipe.teacher.step, two.recipe.teacher.step) == (7, 9)
    assert one.fingerprint == two.fingerprint
    stores = [write_store(root / "store", task, num_shards=2, per_shard=4) for task in "ab"]
    assert list(StoredTeacher(str(root / "signal"), str(root / "model")).readers(stores)) == ["a", "b"]


def test_another_dtype_does(root):
    [one] = run(root).values()
    with pytest.raises(UserError, match=r"has teacher model at step 7 .*float32\), asked for model .*bfloat16\)"):
        run(root, dtype="bfloat16")
    [two] = run(root, dtype="bfloat16", overwrite=True).values()
    assert one.fingerprint != two.fingerprint


def test_tasks_and_splits_have_draws_of_their_own(root):
    records = {}
    for task in "ab":
        for split in ("train", "validation"):
            run(root, task, splits=[split], layout=SPARSE)
            store = write_store(root / "store", task, split, num_shards=2, per_shard=4)
            reader = SignalStore.open(root / "signal", store)
            every = (*store.locate(np.arange(8)), store.lengths[:, 1])
            records[task, split] = reader.read_batch(*every)["records"].view("<u2")
    first, *others = records.values()
    for number, other in enumerate(others):
        assert (other[:, :9] == first[:, :9]).all(), "the same examples have the same top"
        assert (other[:, 9:] != first[:, 9:]).any(axis=1).mean() > 0.5
        assert (others[number - 1][:, 9:] != other[:, 9:]).any(axis=1).mean() > 0.5


@pytest.mark.parametrize("finished", [True, False])
def test_a_signal_of_an_earlier_version_is_refused(root, finished):
    run(root, **({} if finished else {"process_index": 0, "process_count": 2}))
    for path in (root / "signal").rglob("*.json"):
        fields = json.loads(path.read_text())
        fields.get("recipe", fields)["version"] = 1
        path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"version 1, (this program reads|asked for) 3.*teach --overwrite"):
        run(root)
    run(root, overwrite=True)
    assert read_manifest(root / "signal" / "a" / "train").recipe.version == 3
