"""Written, killed, damaged: what a store gives back, and what it says."""

import contextlib
import itertools
import multiprocessing
import os
import pathlib
import re
import resource
import signal
import time

import numpy as np
import pytest

from cat_jax.data import layout
from cat_jax.data.manifest import FeatureInfo, Recipe, read_manifest
from cat_jax.data.record import Example, encode, parts
from cat_jax.data.store import ExampleStore
from cat_jax.data.writer import StoreWriter
from cat_jax.errors import UserError

FEATURE = FeatureInfo(vocabulary="v" * 8, vocab_size=300, eos_id=1, add_eos=True)
RECIPE = Recipe("task:a", "train", {"inputs": FEATURE, "targets": FEATURE}, {"inputs": 8, "targets": 4}, 3, True)


def example(shard, k, shards=3):
    n = 1 + (k % 4)
    return Example(
        str(k * shards + shard),
        np.arange(k % 8, dtype=np.int32),
        np.arange(100 * shard, 100 * shard + n, dtype=np.int32),
        {"targets_pretokenized": f"row {k} é", "answers": ["a", "b"], "label": k, "weight": 0.5},
    )


def write_shard(writer, shard, count=20):
    with writer.shard(shard) as out:
        for k in range(count):
            out.write(example(shard, k), trimmed=("inputs",) if k == 3 else ())


def write_store(root, recipe=RECIPE, count=20):
    writer = StoreWriter(layout.store_directory(root, recipe.task, recipe.split), recipe)
    for shard in writer.pending():
        write_shard(writer, shard, count)
    writer.finish()
    return ExampleStore.open(root, recipe.task, recipe.split)


def contents(directory):
    return {path.name: path.read_bytes() for path in pathlib.Path(directory).iterdir()}


def test_reads_what_was_written(tmp_path):
    store = write_store(tmp_path)
    assert len(store) == 60
    for index, (shard, k) in enumerate((s, k) for s in range(3) for k in range(20)):
        got, want = store[index], example(shard, k)
        assert (got.example_id, got.raw) == (want.example_id, want.raw)
        np.testing.assert_array_equal(got.inputs, want.inputs)
        np.testing.assert_array_equal(got.targets, want.targets)
        assert got.targets.dtype == got.inputs.dtype == np.int32
        assert store.lengths[index].tolist() == [len(want.inputs), len(want.targets)]
    assert [e.example_id for e in store.read([41, 0, 20])] == ["5", "0", "1"]
    assert store.manifest.total("trimmed") == {"inputs": 3, "targets": 0}
    assert store.manifest.total("at_limit") == {"inputs": 0, "targets": 15}
    assert store.manifest.total("tokens")["targets"] == store.lengths[:, 1].sum()
    store.verify()
    with pytest.raises(IndexError):
        store[60]


def test_targets_only_and_wide_ids(tmp_path):
    wide = FeatureInfo("v", 100_000, None, False)
    recipe = Recipe("lm", "train", {"targets": wide}, {"targets": 4}, 1, False)
    writer = StoreWriter(layout.store_directory(tmp_path, "lm", "train"), recipe)
    with writer.shard(0) as out:
        out.write(Example("0", None, np.array([99_999, 7], np.int32)))
    writer.finish()
    [got] = ExampleStore.open(tmp_path, "lm", "train")
    assert got.inputs is None
    assert got.raw is None
    assert got.targets.tolist() == [99_999, 7]


def test_a_record_is_crc_and_msgpack():
    record = encode(Example("7", np.array([2], np.int32), np.array([258, 1], np.int32)), RECIPE.features)
    # [ "7", bin 02 00, bin 02 01 01 00, nil ] with its CRC-32 before it.
    assert record[4:] == bytes.fromhex("94 a1 37 c4 02 02 00 c4 04 02 01 01 00 c0".replace(" ", ""))
    assert parts(record) == ["7", b"\x02\x00", b"\x02\x01\x01\x00", None]


def _write_slowly(directory, begun):
    begun.set()
    writer = StoreWriter(directory, RECIPE)
    for shard in writer.pending():
        with writer.shard(shard) as out:
            for k in range(20):
                out.write(example(shard, k), trimmed=("inputs",) if k == 3 else ())
                time.sleep(0.0005)
    writer.finish()


def test_killed_anywhere_and_resumed_gives_the_same_bytes(tmp_path):
    expected = contents(write_store(tmp_path / "whole").directory)
    directory = layout.store_directory(tmp_path / "killed", RECIPE.task, RECIPE.split)
    context = multiprocessing.get_context("forkserver")  # children start fast, and never from a process with jax
    context.set_forkserver_preload(["cat_jax.data.writer"])
    kills = 0
    for attempt in itertools.count():
        begun = context.Event()
        child = context.Process(target=_write_slowly, args=(directory, begun))
        child.start()
        assert begun.wait(60)
        child.join(0.004 * (attempt % 12 + 1) * (1 + attempt / 20))  # in the end a slow machine gets there too
        with contextlib.suppress(ProcessLookupError):  # it ended this instant, and the fork server has reaped it
            if child.exitcode is None:
                os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        kills += child.exitcode == -signal.SIGKILL
        for path in directory.iterdir() if directory.exists() else ():
            if not path.name.startswith("."):
                assert path.read_bytes() == expected[path.name], "a half-written file has a final name"
        if (directory / layout.MANIFEST).exists():
            break
    assert kills >= 3
    assert contents(directory) == expected


def test_a_finished_shard_is_not_redone(tmp_path):
    directory = tmp_path / "s"
    writer = StoreWriter(directory, RECIPE)
    write_shard(writer, 1)
    before = {p.name: p.stat().st_mtime_ns for p in directory.iterdir()}
    assert StoreWriter(directory, RECIPE).pending() == [0, 2]
    other = Recipe("task:a", "train", RECIPE.features, {"inputs": 9, "targets": 4}, 3, True)
    assert StoreWriter(directory, other).pending() == [0, 1, 2]
    for shard in (0, 2):
        write_shard(writer, shard)
    writer.finish()
    assert {name: (directory / name).stat().st_mtime_ns for name in before} == before


def test_an_error_while_writing_leaves_nothing(tmp_path):
    writer = StoreWriter(tmp_path / "s", RECIPE)

    def fail():
        with writer.shard(0) as out:
            out.write(example(0, 0))
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert list((tmp_path / "s").iterdir()) == []
    with pytest.raises(UserError, match=r"shard-00000-of-00003.array_record is not finished: run `cat-jax prepare`"):
        writer.finish()


def test_leftovers_of_other_recipes_go(tmp_path):
    directory = tmp_path / "s"
    write_shard(StoreWriter(directory, Recipe(**{**vars(RECIPE), "num_shards": 2})), 0)
    (directory / ".shard-00000-of-00003.array_record.abc").write_bytes(b"half")
    writer = StoreWriter(directory, RECIPE)
    for shard in range(3):
        write_shard(writer, shard)
    writer.finish()
    assert len(list(directory.iterdir())) == 3 * 3 + 1
    assert read_manifest(directory).num_examples == 60


def test_duplicate_ids_are_named(tmp_path):
    recipe = Recipe(**{**vars(RECIPE), "num_shards": 1})
    writer = StoreWriter(tmp_path / "s", recipe)
    with writer.shard(0, example_ids="feature") as out:
        for k in (0, 1, 1):
            out.write(example(0, k, shards=1))
    with pytest.raises(UserError, match=r"example id '1' occurs 2 times in task 'task:a', split 'train'"):
        writer.finish()
    assert not (tmp_path / "s" / layout.MANIFEST).exists()


def flip(path, at, bit=1):
    content = bytearray(path.read_bytes())
    content[at] ^= bit
    path.write_bytes(content)


def test_every_flipped_byte_of_a_record_is_named(tmp_path):
    store = write_store(tmp_path)
    path = store.directory / store.shards[1].file
    at = path.read_bytes().index(b"row 7 ")
    flip(path, at)
    damaged = ExampleStore.open(tmp_path, "task:a", "train")
    with pytest.raises(UserError, match=r"record 7 of .*shard-00001-of-00003.array_record is damaged") as e:
        damaged.read(np.arange(20, 40))
    assert "cat-jax prepare --overwrite" in e.value.mend
    assert damaged[26].example_id == "19"
    with pytest.raises(UserError, match=r"shard-00001-of-00003.array_record was changed"):
        damaged.verify()


def test_a_wrong_record_is_caught_by_its_own_checksum(tmp_path):
    """ArrayRecord's hashes would not see a writer's mistake: the record has its own."""
    store = write_store(tmp_path)
    record = store.read_records(np.array([3]))[0]
    with pytest.raises(ValueError, match="checksum does not fit"):
        parts(record[:-1] + bytes([record[-1] ^ 1]))


def test_damaged_files_are_named(tmp_path):
    store = write_store(tmp_path)
    path = store.directory / store.shards[2].file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"shard-00002-of-00003.array_record has \d+ bytes instead of \d+"):
        ExampleStore.open(tmp_path, "task:a", "train")
    path.write_bytes(bytes(len(whole)))
    with pytest.raises(UserError, match=r"shard-00002-of-00003.array_record"):
        ExampleStore.open(tmp_path, "task:a", "train").read([45])
    path.unlink()
    with pytest.raises(UserError, match=r"shard .*shard-00002-of-00003.array_record is missing"):
        ExampleStore.open(tmp_path, "task:a", "train")
    path.write_bytes(whole)
    lengths = store.directory / store.shards[0].lengths_file
    lengths.write_bytes(b"no")
    with pytest.raises(UserError, match=r"token counts .*shard-00000-of-00003.lengths.npy"):
        _ = ExampleStore.open(tmp_path, "task:a", "train").lengths


def test_manifest_troubles_are_named(tmp_path):
    store = write_store(tmp_path)
    manifest = store.directory / layout.MANIFEST
    text = manifest.read_text()
    manifest.write_text(text.replace('"num_shards": 3', '"num_shards": 4'))
    with pytest.raises(UserError, match=r"manifest.json was changed"):
        ExampleStore.open(tmp_path, "task:a", "train")
    manifest.write_text(text.replace('"version": 1', '"version": 9'))
    with pytest.raises(UserError, match=r"version 9, this program reads 1"):
        ExampleStore.open(tmp_path, "task:a", "train")
    manifest.write_text("{")
    with pytest.raises(UserError, match=r"cannot read the store manifest at .*manifest.json"):
        ExampleStore.open(tmp_path, "task:a", "train")
    manifest.unlink()
    with pytest.raises(UserError, match=r"an unfinished store of task 'task:a', split 'train'"):
        ExampleStore.open(tmp_path, "task:a", "train")
    with pytest.raises(UserError, match=r"no store of task 'task:b', split 'test'"):
        ExampleStore.open(tmp_path, "task:b", "test")
    manifest.write_text(text)
    with pytest.raises(UserError, match=r"no store of task 'task:a', split 'test' .*there are: train"):
        ExampleStore.open(tmp_path, "task:a", "test")


def test_read_only_directory(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"cannot write .*shard-00000"), StoreWriter(blocked / "s", RECIPE).shard(0):
        pass


def _write_too_much(directory, results):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))  # refuses as a full disk does
    try:
        write_shard(StoreWriter(directory, RECIPE), 0, 20_000)
    except UserError as e:
        results.put(str(e))


def test_a_full_disk(tmp_path):
    context = multiprocessing.get_context("forkserver")
    results = context.Queue()
    child = context.Process(target=_write_too_much, args=(tmp_path / "s", results))
    child.start()
    message = results.get(timeout=60)
    child.join()
    assert re.match(r"cannot write .*shard-00000-of-00003.array_record \(.*\): free space there, or", message)
    assert list((tmp_path / "s").iterdir()) == []


def test_fingerprint_follows_content(tmp_path):
    first = write_store(tmp_path / "a").fingerprint
    assert write_store(tmp_path / "b").fingerprint == first
    assert write_store(tmp_path / "c", count=19).fingerprint != first
    other = Recipe(**{**vars(RECIPE), "feature_lengths": {"inputs": 9, "targets": 4}})
    assert write_store(tmp_path / "d", other).fingerprint != first
