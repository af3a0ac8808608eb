"""A stored signal through the loader, and what is refused before the first step."""

import json
import shutil

import numpy as np
import pytest
from teacher_cases import reference_logits, write_store, write_teacher

from cat_jax.checkpoint.params import checkpoint_fingerprint
from cat_jax.data.loader import DatasetConfig, make_train_iterator
from cat_jax.data.manifest import FeatureInfo
from cat_jax.errors import UserError
from cat_jax.teacher import shard as shard_module
from cat_jax.teacher.layout import BitLayout, FullLayout, SparseLayout
from cat_jax.teacher.store import SignalStore, StoredTeacher
from cat_jax.teacher.writer import teach


def batches(world, layout, count, **options):
    options = {"batch_size": 6, "feature_lengths": {"inputs": 14, "targets": 23}, "prefetch": 0, **options}
    config = DatasetConfig(str(world.root / "store"), "toy:a", "train", **options)
    readers = StoredTeacher(str(world.signals[layout])).readers([world.store])
    iterator = make_train_iterator(config, signals=readers)
    return [next(iterator) for _ in range(count)]


def rows_of(batch):
    """(row, columns, target tokens) of each example in a batch, packed or not."""
    tokens, segments = batch.decoder_target_tokens, batch.decoder_segment_ids
    segments = (tokens > 0).astype(int) if segments is None else segments
    for row in range(len(tokens)):
        for segment in range(1, segments[row].max() + 1):
            [columns] = np.nonzero(segments[row] == segment)
            yield row, columns, tokens[row, columns]


@pytest.mark.parametrize("pack", [False, True])
def test_signals_align_with_targets_after_shift_padding_and_packing(world, pack):
    expected = {tuple(e.targets): reference_logits(world.model, e) for e in world.store}
    lengths = {"inputs": 30, "targets": 50} if pack else {"inputs": 14, "targets": 23}
    seen = packed = 0
    full = batches(world, "full", 4, pack=pack, feature_lengths=lengths)
    sparse = batches(world, "sparse", 4, pack=pack, feature_lengths=lengths)
    for host, other in zip(full, sparse, strict=True):
        places = list(rows_of(host.batch))
        packed += len(places) - len({row for row, _, _ in places})
        for row, columns, targets in places:
            logits = expected[tuple(targets)]
            np.testing.assert_allclose(host.signal.logits[row, columns], logits, atol=2e-5)
            top = logits.argmax(-1)
            assert (host.signal.top1_correct[row, columns] == (top == targets)).all()
            assert (other.signal.top1_correct[row, columns] == (top == targets)).all()
            assert (other.signal.sparse.token_ids[row, columns, 0] == top).all()
            seen += len(targets)
        assert host.batch.decoder_loss_weights.sum() == sum(len(columns) for _, columns, _ in places)
        assert not host.signal.top1_correct[host.batch.decoder_loss_weights == 0].any()
    assert seen > 200
    assert (packed > 0) == pack


def test_the_first_targets_alone_can_be_read(world):
    reader = SignalStore.open(world.signals["sparse"], world.store)
    index = int(np.argmax(world.store.lengths[:, 1]))
    shard, within = divmod(index, 20)
    whole, part = reader.read(shard, within, 20), reader.read(shard, within, 3)
    assert len(part["top1_correct"]) == 3
    assert (part["records"] == whole["records"][:3]).all()
    with pytest.raises(UserError, match=f"example {within} of shard {shard} has 20 targets in the signal .* 21 in"):
        reader.read(shard, within, 21)


def test_the_targets_probabilities_are_there_if_asked_for(world, tmp_path):
    layout = SparseLayout(top_k=4, tail_draws=6, draw_mass=1 / 16, target_log_probability=True)
    teach(world.root / "model", world.root / "store", "toy:a", tmp_path, layout=layout, batch_size=8)
    reader = SignalStore.open(tmp_path, world.store)
    for index in (0, 25, 59):
        example = world.store[index]
        records = reader.read(*divmod(index, 20), len(example.targets))["records"]
        logits = reference_logits(world.model, example)
        expected = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[
            np.arange(len(logits)), example.targets
        ]
        np.testing.assert_allclose(layout.target_log_probabilities(records, 40), expected, atol=3e-4)


@pytest.mark.parametrize("layout", ["bit", "sparse", "full"])
@pytest.mark.parametrize("block", [7, 1 << 18])
def test_mapped_reads_equal_loaded_ones(world, layout, block, tmp_path, monkeypatch):
    """With blocks smaller than a record, and with one block a file."""
    monkeypatch.setattr(shard_module, "BLOCK_BYTES", block)
    directory = world.signals[layout]
    if block == 7:  # the manifest's checksums are of blocks of another size: write them anew
        directory = tmp_path
        options = {
            "bit": BitLayout(),
            "sparse": SparseLayout(top_k=4, tail_draws=6, draw_mass=1 / 16),
            "full": FullLayout(),
        }
        teach(world.root / "model", world.root / "store", "toy:a", tmp_path, layout=options[layout], batch_size=8)
    loaded = SignalStore.open(directory, world.store)
    mapped = SignalStore.open(directory, world.store, memory_bytes=0)
    assert loaded.bytes_in_memory > 0
    assert mapped.bytes_in_memory == 0
    order = np.random.default_rng(0).permutation(60)[:31]
    args = (*world.store.locate(order), world.store.lengths[order, 1])
    one, two = loaded.read_batch(*args), mapped.read_batch(*args)
    assert set(one) == set(two)
    for name in one:
        assert (one[name] == two[name]).all()


@pytest.fixture
def damaged(world, tmp_path):
    """A copy of the sparse signal, and its directory."""
    shutil.copytree(world.signals["sparse"], tmp_path / "signal")
    return tmp_path / "signal", tmp_path / "signal" / "toy%3Aa" / "train"


def change(path, offset, bit=4):
    content = bytearray(path.read_bytes())
    content[offset] ^= bit
    path.write_bytes(content)


@pytest.mark.parametrize("offset", [0, 10, 60, 1000, -1])
def test_a_flipped_bit_is_found_on_open_or_on_reading(world, damaged, offset):
    root, directory = damaged
    change(directory / "shard-00001-of-00003.signal", offset)
    words = "shard-00001-of-00003.signal was changed.*run `cat-jax teach --overwrite`"
    with pytest.raises(UserError, match=words):
        SignalStore.open(root, world.store)
    mapped = SignalStore.open(root, world.store, memory_bytes=0)
    assert len(mapped.read(0, 3, 1)["records"]) == 1  # the other shards are good
    with pytest.raises(UserError, match=words):
        mapped.read(1, 3, 1)
    with pytest.raises(UserError, match=words):
        mapped.verify()
    SignalStore.open(world.signals["sparse"], world.store).verify()


def test_missing_truncated_and_rewritten_files_are_refused(world, damaged):
    root, directory = damaged
    path = directory / "shard-00002-of-00003.signal"
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    with pytest.raises(UserError, match=f"shard-00002.* has {len(content) - 3} bytes instead of {len(content)}"):
        SignalStore.open(root, world.store)
    path.unlink()
    with pytest.raises(UserError, match=r"shard-00002-of-00003.signal is missing"):
        SignalStore.open(root, world.store)
    path.write_bytes(content)
    manifest = json.loads((directory / "manifest.json").read_text())
    for wrong in ({"store": "0" * 64}, {"teacher_accuracy": 0.9}, {"shards": manifest["shards"][:2]}):
        (directory / "manifest.json").write_text(json.dumps(manifest | wrong))
        with pytest.raises(UserError, match=r"manifest .*was changed"):
            SignalStore.open(root, world.store)
    for text, words in (
        ("{}", "of version None, this program reads 3"),
        (json.dumps({"version": 3}), "is not a signal manifest"),
        ("{", "cannot read the teacher signal's manifest"),
        (json.dumps(manifest | {"layout": {"kind": "wavelet"}}), "unknown signal layout"),
    ):
        (directory / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=words):
            SignalStore.open(root, world.store)
    (directory / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"no teacher signal's manifest at .*run `cat-jax teach`"):
        SignalStore.open(root, world.store)


def test_another_store_vocabulary_or_teacher_is_refused(world, tmp_path):
    other = write_store(tmp_path / "a", seed=5)
    with pytest.raises(UserError, match=f"of the store {world.store.fingerprint[:12]}.* is {other.fingerprint[:12]}"):
        SignalStore.open(world.signals["bit"], other)
    renamed = write_store(tmp_path / "b", feature=FeatureInfo("w" * 64, 40, 1, True))
    with pytest.raises(UserError, match=r"vocabulary vvvvvvvvvvvv,.*over wwwwwwwwwwww"):
        SignalStore.open(world.signals["bit"], renamed)
    write_teacher(tmp_path / "other", seed=1)
    print_of_other = checkpoint_fingerprint(tmp_path / "other")[:12]
    with pytest.raises(
        UserError, match=rf"teacher model at step 7 \(.*, not from other at step 7 \({print_of_other}\)"
    ):
        StoredTeacher(str(world.signals["bit"]), model_dir=str(tmp_path / "other")).readers([world.store])
    StoredTeacher(str(world.signals["bit"]), model_dir=str(world.root / "model"), step=7).readers([world.store])


def test_too_little_for_the_objective_is_refused(world, tmp_path):
    stored = {name: StoredTeacher(str(path)) for name, path in world.signals.items()}
    assert list(stored["bit"].readers([world.store], temperature=2.0)) == ["toy:a"]
    with pytest.raises(UserError, match=r"\(bit layout\) has no distribution, and the objective has w < 1: teach with"):
        stored["bit"].readers([world.store], needs_distribution=True)
    stored["full"].readers([world.store], needs_distribution=True, temperature=2.0)
    with pytest.raises(UserError, match="taught at temperature 1, the objective asks for 2: set the objective's"):
        stored["sparse"].readers([world.store], needs_distribution=True, temperature=2.0)


def test_tasks_of_unequal_signals_are_refused(world, tmp_path):
    stores = [write_store(tmp_path / "store", task, num_shards=1, per_shard=2, seed=ord(task)) for task in "ab"]
    args = (world.root / "model", tmp_path / "store")
    teach(*args, "a", tmp_path / "signal", layout=BitLayout(), batch_size=8)
    teach(*args, "b", tmp_path / "signal", layout=FullLayout(), batch_size=8)
    with pytest.raises(UserError, match=r"differ in layout: BitLayout\(\) and FullLayout\(\)"):
        StoredTeacher(str(tmp_path / "signal")).readers(stores)
    teach(*args, "a", tmp_path / "signal", layout=FullLayout(), batch_size=8, overwrite=True)
    readers = StoredTeacher(str(tmp_path / "signal")).readers(stores, memory_bytes=1700)
    assert list(readers) == ["a", "b"]
    assert [readers[task].bytes_in_memory > 0 for task in "ab"] == [
        True,
        False,
    ]  # 10 tokens of 161 bytes leave no room for 4
