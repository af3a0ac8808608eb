"""From SeqIO to a store: the same examples, the same bytes, and one clear line where that cannot be."""

import dataclasses
import fcntl
import itertools
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from cat_jax.data import layout, seqio_task
from cat_jax.data.loader import DatasetConfig, make_train_iterator
from cat_jax.data.mixture import read_mixture
from cat_jax.data.prepare import PrepareConfig, prepare
from cat_jax.data.store import ExampleStore
from cat_jax.errors import UserError

pytest.importorskip("seqio", reason="SeqIO is not installed")
pytestmark = pytest.mark.usefixtures("toy_tasks")

HERE = pathlib.Path(__file__).parent
DATA = pathlib.Path(os.environ.get("CAT_JAX_TEST_DATA", HERE.parents[2] / "shared" / "data"))
LENGTHS = {"inputs": 16, "targets": 8}


def config(root, name="toy", **fields):
    return PrepareConfig(
        **{
            "store_dir": str(root),
            "mixture_or_task": name,
            "modules": "toy_tasks",
            "feature_lengths": LENGTHS,
            "examples_per_shard": 100,
            **fields,
        }
    )


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(pathlib.Path(root).rglob("*"))
        if path.is_file() and path.name != ".prepare.lock"
    }


def assert_store_equals_seqio(root, name, split, lengths):
    """Every example under its id: tokens as SeqIO trims them, raw fields as SeqIO leaves them."""
    import tensorflow_datasets as tfds

    task = seqio_task.get_task(name)
    pipeline = task.get_dataset(sequence_length=lengths, split=split, shuffle=False, num_epochs=1, seed=None)
    expected = list(tfds.as_numpy(pipeline))
    store = ExampleStore.open(root, name, split)
    found = {example.example_id: example for example in store}
    assert sorted(found, key=int) == [str(k) for k in range(len(expected))]
    for k, want in enumerate(expected):
        got = found[str(k)]
        for feature in task.output_features:
            np.testing.assert_array_equal(getattr(got, feature), want[feature], err_msg=f"{name} {split} {k} {feature}")
        if got.raw is not None:
            others = {key for key in want if key not in task.output_features}
            assert set(got.raw) == others | {f"{f}_pretokenized" for f in task.output_features}
            for key in others:
                assert got.raw[key] == as_plain(want[key])
    return store


def as_plain(value):
    """Written apart from the code under test."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return [as_plain(item) for item in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.parametrize("name", ["toy", "toy_seedless"])
def test_the_store_holds_what_seqio_gives(tmp_path, name):
    train, validation = prepare(config(tmp_path, name))
    assert (train.num_examples, len(train.shards)) == (230, 3)
    assert (validation.num_examples, len(validation.shards)) == (23, 1)
    for split in ("train", "validation"):
        store = assert_store_equals_seqio(tmp_path, name, split, LENGTHS)
        assert (store[0].raw is None) == (split == "train")
    assert train.features["targets"].vocab_size == 259
    assert train.features["targets"].eos_id == 1
    assert train.total("trimmed") == {"inputs": 0, "targets": 0}
    assert validation.total("trimmed") == {"inputs": 23, "targets": 0}
    assert validation.total("at_limit") == {"inputs": 23, "targets": 0}


def test_raw_fields_of_every_kind(tmp_path):
    [manifest] = prepare(config(tmp_path, splits=["validation"]))
    assert manifest.recipe.keep_raw
    assert ExampleStore.open(tmp_path, "toy", "validation")[3].raw == {
        "answers": ["9", "=3"],
        "even": False,
        "inputs_pretokenized": "validation 3 äß",
        "label": 0,
        "targets_pretokenized": "9",
        "weight": 1.5,
    }
    for keep_raw, kept in (("all", [True, True]), ("none", [False, False])):
        manifests = prepare(config(tmp_path / keep_raw, keep_raw=keep_raw))
        assert [m.recipe.keep_raw for m in manifests] == kept
        assert (ExampleStore.open(tmp_path / keep_raw, "toy", "train")[0].raw is not None) == kept[0]
    prepare(config(tmp_path, "toy_textless", splits=["validation"]))
    assert ExampleStore.open(tmp_path, "toy_textless", "validation")[3].raw["targets_pretokenized"] == "9"


def test_ids_stay_unique_where_a_task_filters_doubles_or_names(tmp_path, caplog):
    caplog.set_level("INFO")
    for name, count in (("toy_filtered", 153), ("toy_doubled", 460), ("toy_ids", 230), ("toy_lm", 230)):
        [manifest] = prepare(config(tmp_path, name, splits=["train"]))
        ids = [example.example_id for example in ExampleStore.open(tmp_path, name, "train")]
        assert len(set(ids)) == len(ids) == count == manifest.num_examples
        told = f"task {name!r}, split 'train': 153 examples of 230 rows: the task leaves the others out"
        assert (told in caplog.text) == (name == "toy_filtered")
        if name == "toy_ids":
            assert sorted(ids, key=lambda i: int(i.split()[1])) == [f"id {k}" for k in range(230)]
        if name == "toy_lm":
            assert list(manifest.feature_lengths) == ["targets"]


@pytest.mark.parametrize("name", ["toy_random", "toy_random_seedless"])
def test_random_preprocessors_repeat(tmp_path, name):
    first = prepare(config(tmp_path / "a", name, splits=["train"]))
    again = prepare(config(tmp_path / "b", name, splits=["train"]))
    other = prepare(config(tmp_path / "c", name, splits=["train"], seed=1))
    assert first[0].fingerprint == again[0].fingerprint
    assert first[0].shards != other[0].shards
    undropped = sum(len(str(k * k)) + 1 for k in range(230))
    assert first[0].total("tokens")["targets"] < 0.8 * undropped


def test_mixtures_resolve_rates_and_train(tmp_path):
    manifests = prepare(config(tmp_path, "toy_mixture", splits=["train"]))
    assert [m.task for m in manifests] == ["toy", "toy_random", "toy_small"]
    mixture = read_mixture(tmp_path, "toy_mixture")
    assert [(t.task, t.rate) for t in mixture.tasks] == [("toy", 100.0), ("toy_random", 50.0), ("toy_small", 20.0)]
    assert [t.task for t in mixture.of_split("validation")] == ["toy", "toy_random"]
    iterator = make_train_iterator(DatasetConfig(str(tmp_path), "toy_mixture", "train", LENGTHS, 170, prefetch=0))
    tasks = np.concatenate([next(iterator).tasks for _ in range(10)])
    assert np.abs(np.bincount(tasks) - [1000, 500, 200]).max() <= 1


KILLED = f"""
import sys
from cat_jax.data.prepare import PrepareConfig, prepare
if __name__ == "__main__":  # spawned workers import this again
    prepare(PrepareConfig(sys.argv[1], "toy_big", "toy_tasks", {LENGTHS}, None, int(sys.argv[2]), 1000))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed", "workers"), [(1, 1), *(pytest.param(2, n, marks=pytest.mark.exhaustive) for n in (1, 2))]
)
def test_workers_and_kills_do_not_change_a_byte(tmp_path, capfd, killed, workers):
    """Killed while one process or two workers write, and gone on with by others or none."""
    settings = config(tmp_path / "whole", "toy_big", examples_per_shard=1000)
    prepare(settings)
    expected = contents(tmp_path / "whole")
    directory = layout.store_directory(tmp_path / "killed", "toy_big", "train")
    (tmp_path / "killed.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(HERE), "JAX_PLATFORMS": "cpu"}
    child = subprocess.Popen(
        [sys.executable, tmp_path / "killed.py", tmp_path / "killed", str(killed)], env=environment
    )
    deadline = time.monotonic() + 180
    while not list(directory.glob("shard-*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    time.sleep(2)  # its workers notice, and go
    finished = {path: path.stat().st_mtime_ns for path in directory.glob("shard-*.json")}
    assert 1 <= len(finished) < 11
    assert not (directory / layout.MANIFEST).exists()
    for path in directory.glob("shard-*"):
        assert path.read_bytes() == expected[str(path.relative_to(tmp_path / "killed"))]
    capfd.readouterr()
    prepare(dataclasses.replace(settings, store_dir=str(tmp_path / "killed"), workers=workers))
    assert contents(tmp_path / "killed") == expected
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "a finished shard was redone"
    said = capfd.readouterr().err
    rest = 10_500 - sum(954 + (n < 6) for n in numbers(finished))
    assert f"{rest}/{rest} examples" in said
    assert not re.search("oneDNN|cuInit|absl::Init", said), "TensorFlow greets in every worker"


def numbers(paths):
    return [int(path.name.split("-")[1]) for path in paths]


def test_a_finished_store_is_left_alone(tmp_path):
    prepare(config(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}
    content = contents(tmp_path)
    prepare(config(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")} == before
    prepare(config(tmp_path, overwrite=True))
    assert contents(tmp_path) == content
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")} != before


def test_two_prepares_of_one_store_take_turns(tmp_path):
    with open(tmp_path / ".prepare.lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = threading.Thread(target=prepare, args=(config(tmp_path),))
        second.start()
        second.join(1.5)
        assert second.is_alive()
        assert not list(tmp_path.rglob("shard-*"))
    second.join(60)
    assert len(ExampleStore.open(tmp_path, "toy", "train")) == 230


@pytest.mark.parametrize(("error", "left"), [(ValueError("a bug"), False), (ConnectionError("a cable"), True)])
def test_shards_of_a_task_that_failed_are_not_mixed_with_its_mended_code(tmp_path, monkeypatch, error, left):
    """What was made before a source could not be reached may stay."""
    calls, arrays = itertools.count(), seqio_task.arrays

    def third_shard_fails(pipeline):
        if next(calls) == 2:
            raise error
        return arrays(pipeline)

    with monkeypatch.context() as patch:
        patch.setattr(seqio_task, "arrays", third_shard_fails)
        with pytest.raises(UserError, match=rf"task 'toy', split 'train' cannot be re.*{error}"):
            prepare(config(tmp_path, examples_per_shard=50))
    assert bool(list(tmp_path.rglob("shard-*.json"))) == left
    assert len(prepare(config(tmp_path, examples_per_shard=50))[0].shards) == 5


def test_a_worker_that_imports_the_script_does_not_prepare_again(tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(UserError, match="under if __name__ == '__main__'"):
        prepare(config(tmp_path, workers=2))


def test_another_store_at_the_same_place(tmp_path):
    prepare(config(tmp_path))
    with pytest.raises(UserError) as e:
        prepare(config(tmp_path, feature_lengths={"inputs": 16, "targets": 9}))
    assert "feature_lengths {'inputs': 16, 'targets': 8}, asked for {'inputs': 16, 'targets': 9}" in e.value.problem
    assert e.value.mend == "name another STORE_DIR, or run `cat-jax prepare --overwrite`"
    train = prepare(config(tmp_path, feature_lengths={"inputs": 16, "targets": 9}, overwrite=True))[0]
    assert train.feature_lengths["targets"] == 9
    next((tmp_path / "toy" / "train").glob("*.array_record")).unlink()
    with pytest.raises(UserError, match=r"array_record is missing: run `cat-jax prepare --overwrite`"):
        prepare(config(tmp_path, feature_lengths={"inputs": 16, "targets": 9}))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"name": "toyy"},
            r"no task or mixture 'toyy' is registered \(close: toy, .*name the module .* MIXTURE_OR",
        ),
        ({"modules": "no_such_module"}, "no module 'no_such_module': check MIXTURE_OR_TASK_MODULE"),
        ({"modules": "toy_broken_module"}, r"'toy_broken_module' fails when imported \(ZeroDivisionError: "),
        ({"splits": ["test"]}, "'toy' has no split 'test': name one of its splits: train, validation"),
        ({"name": "toy_mixture", "splits": ["dev"]}, "'toy_mixture' has no split 'dev'"),
        ({"feature_lengths": {"targets": 4}}, r"lack 'inputs', which task 'toy' has: add 'inputs' to TASK_FEATURE_LEN"),
        ({"name": "toy_empty"}, "example 0 of task 'toy_empty', split 'train' has an empty target"),
        ({"name": "toy_beyond"}, r"'targets' of example 0 .* holds the token id 301, but its vocabulary has 259"),
        ({"name": "toy_zero"}, r"'inputs' of example 0 .* holds id 0 at position \d+, and id 0 is padding: drop"),
        ({"name": "toy_no_targets"}, "task 'toy_no_targets', split 'train' cannot be read .*missing expected output"),
        ({"name": "toy_other_features"}, "'toy_other_features' has the output features extra, inputs, targets"),
        ({"name": "toy_nothing"}, "task 'toy_nothing' has no examples in split 'train'"),
        (
            {"name": "toy_broken"},
            r"task 'toy_broken', split 'train' cannot be read \(OSError: disk on fire; .*toy_tasks.py line \d+\)",
        ),
        (
            {"name": "toy_bug"},
            r"task 'toy_bug', split 'train' cannot be read \(KeyError: 'lable'; .*toy_tasks.py line \d+\)",
        ),
        ({"name": "toy_no_model"}, "nowhere/spiece.model.*: check the path of its vocabulary; CAT_JAX_VOCABULARY"),
        ({"name": "toy_late"}, "task 'toy_late', split 'train' cannot be read .*label too large"),
        ({"name": "toy_named"}, r"example id 'row/0' occurs 77 times in task 'toy_named', split 'train'"),
        ({"name": "toy_pairs"}, r"'targets' of example 0 .* is int32\[\d, 2\], not a sequence of token ids"),
        ({"keep_raw": "some"}, "keep_raw is 'some': choose one of evaluation, all, none"),
        ({"workers": 0}, "count from 1"),
    ],
)
def test_user_errors(tmp_path, monkeypatch, fields, problem):
    (tmp_path / "toy_broken_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=problem):
        prepare(config(tmp_path / "store", **{"splits": ["train"], **fields}))
    assert not list((tmp_path / "store").rglob(layout.MANIFEST))


def test_a_store_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*free space there, or name a directory you may write"):
        prepare(config(tmp_path / "file" / "store"))


def test_fingerprints_of_vocabularies():
    import seqio
    from toy_tasks import VOCABULARY

    from cat_jax.data.fingerprint import vocabulary_fingerprint

    assert vocabulary_fingerprint(seqio.ByteVocabulary()) == vocabulary_fingerprint(VOCABULARY)
    assert vocabulary_fingerprint(seqio.ByteVocabulary(extra_ids=5)) != vocabulary_fingerprint(VOCABULARY)
    ab, ba = (seqio.UnigramVocabulary(list(letters)) for letters in ("ab", "ba"))
    assert vocabulary_fingerprint(ab) != vocabulary_fingerprint(ba)
    assert vocabulary_fingerprint(ab) == vocabulary_fingerprint(seqio.UnigramVocabulary(["a", "b"]))
    spiece = DATA / "tokenizers" / "t5_spiece.model"
    if spiece.exists():
        plain, extra = (seqio.SentencePieceVocabulary(str(spiece), extra_ids=n) for n in (0, 100))
        assert vocabulary_fingerprint(plain) != vocabulary_fingerprint(extra)
        assert vocabulary_fingerprint(extra) == vocabulary_fingerprint(
            seqio.SentencePieceVocabulary(str(spiece), extra_ids=100)
        )


@pytest.mark.parametrize("prompt", ["encoder", "prefix"])
def test_batches_equal_seqios_feature_converter(tmp_path, prompt):
    import seqio
    import tensorflow_datasets as tfds

    prepare(config(tmp_path, splits=["validation"]))
    settings = DatasetConfig(str(tmp_path), "toy", "validation", LENGTHS, 23, shuffle=False, num_epochs=1, prefetch=0)
    [batch] = [host.batch for host in make_train_iterator(settings, prompt=prompt)]
    pipeline = seqio_task.get_task("toy").get_dataset(LENGTHS, "validation", shuffle=False)
    converter = {"encoder": seqio.EncDecFeatureConverter, "prefix": seqio.PrefixLMFeatureConverter}[prompt]
    converted = list(tfds.as_numpy(converter(pack=False)(pipeline, LENGTHS)))
    names = ["decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights"]
    for name in names + ["encoder_input_tokens"] * (prompt == "encoder"):
        np.testing.assert_array_equal(getattr(batch, name), np.stack([row[name] for row in converted]), err_msg=name)


@pytest.mark.parametrize("prompt", ["encoder", "prefix"])
def test_packed_rows_equal_seqios_feature_converter(tmp_path, prompt):
    """One row at a time SeqIO fills rows in order; so do we where nothing may wait."""
    import seqio
    import tensorflow_datasets as tfds

    from cat_jax.data.assemble import Assembler
    from cat_jax.data.columns import columns
    from cat_jax.data.order import ExampleOrder
    from cat_jax.data.packing import Packer, PackState

    prepare(config(tmp_path, splits=["validation"]))
    lengths = {"inputs": 40, "targets": 16}
    converter, capacity = {
        "encoder": (seqio.EncDecFeatureConverter, (40, 16)),
        "prefix": (seqio.PrefixLMFeatureConverter, (0, 56)),
    }[prompt]
    store = ExampleStore.open(tmp_path, "toy", "validation")
    order = ExampleOrder([len(store)], [1.0], ["toy"], None, 1)
    packer = Packer(order, [columns(store.lengths, prompt)], 1, capacity, patience=1)
    assembler, state, rows = Assembler([store], lengths, prompt=prompt), PackState(), []
    while (planned := packer.plan(state)) is not None:
        placement, state = planned
        rows.append(assembler.packed(placement, 1).batch)
    pipeline = seqio_task.get_task("toy").get_dataset(LENGTHS, "validation", shuffle=False)
    converted = list(tfds.as_numpy(converter(pack=True, use_custom_packing_ops=False)(pipeline, lengths)))
    assert len(rows) == len(converted) > 5
    for ours, theirs in zip(rows, converted, strict=True):
        theirs.pop("decoder_causal_attention", None)
        for name, value in theirs.items():
            np.testing.assert_array_equal(getattr(ours, name)[0], value, err_msg=name)


REAL = [
    ("cb", {"inputs": 128, "targets": 4}, {"train": 250, "validation": 56}),
    ("sst2", {"inputs": 64, "targets": 4}, {"test": 872}),
    ("multi30k_en_de", {"inputs": 40, "targets": 40}, {"validation": 1014, "test": 1000}),
]


@pytest.mark.skipif(not (DATA / "tfds").is_dir(), reason="no real data: set CAT_JAX_TEST_DATA")
@pytest.mark.parametrize(("name", "lengths", "sizes"), REAL)
def test_real_tasks_equal_seqio(tmp_path, name, lengths, sizes):
    seqio_task.load_modules("real_tasks")
    for split, size in sizes.items():
        settings = PrepareConfig(
            str(tmp_path), name, "real_tasks", lengths, splits=[split], examples_per_shard=300, keep_raw="all"
        )
        [manifest] = prepare(settings)
        assert manifest.num_examples == size
        assert_store_equals_seqio(tmp_path, name, split, lengths).verify()
        assert all(shard.longest["targets"] >= 2 for shard in manifest.shards)
