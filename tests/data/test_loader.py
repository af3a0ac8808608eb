"""Batches by hand, resumes anywhere, any number of hosts, padded and packed, with a teacher signal beside."""

import dataclasses
import json
import subprocess
import sys

import grain
import numpy as np
import pytest

from cat_jax.data.loader import DatasetConfig, make_eval_batches, make_train_iterator
from cat_jax.data.manifest import FeatureInfo, Recipe
from cat_jax.data.mixture import Mixture, MixtureTask, write_mixture
from cat_jax.data.record import Example
from cat_jax.data.store import ExampleStore
from cat_jax.data.writer import write_store
from cat_jax.errors import UserError
from cat_jax.types import TeacherSignal

FEATURE = FeatureInfo("v", 1000, 1, True)
LENGTHS = {"inputs": 6, "targets": 4}


def recipe(task, **fields):
    return Recipe(
        **{
            "task": task,
            "split": "train",
            "features": {"inputs": FEATURE, "targets": FEATURE},
            "feature_lengths": LENGTHS,
            "num_shards": 2,
            "keep_raw": False,
            **fields,
        }
    )


def examples(count, base, seed):
    draw = np.random.default_rng(seed)
    for k in range(count):
        inputs = np.full(draw.integers(1, 7), base + k, np.int32)
        targets = np.append(np.full(draw.integers(0, 4), base + k), 1).astype(np.int32)
        yield Example(str(k), inputs, targets)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    write_store(root, recipe("a"), examples(23, 100, 0))
    write_store(root, recipe("b"), examples(11, 200, 1))
    tasks = (MixtureTask("a", 3.0, ("train", "test")), MixtureTask("b", 1.0, ("train",)))
    write_mixture(root, Mixture("mix", tasks))
    return root


def config(root, name="mix", **fields):
    return DatasetConfig(
        **{
            "store_dir": str(root),
            "mixture_or_task": name,
            "split": "train",
            "feature_lengths": LENGTHS,
            "batch_size": 4,
            "prefetch": 0,
            **fields,
        }
    )


class ToyReader:
    """A signal that can be told from the example: probability = the target's id + its position / 10."""

    def __init__(self, store):
        self.store = store

    def read(self, shard, index_in_shard, num_targets):
        example = self.store[int(self.store.offsets[shard]) + index_in_shard]
        assert len(example.targets) == num_targets
        value = example.targets + np.arange(num_targets) / 10
        return {"right": np.ones(num_targets, bool), "values": np.stack([value, -value], axis=1).astype(np.float32)}

    def assemble(self, padded):
        return TeacherSignal(top1_correct=padded["right"], logits=padded["values"])


class ToyBatchReader(ToyReader):
    """The same through the faster method."""

    def read_batch(self, shards, indices_in_shard, num_targets):
        each = [
            self.read(*key)
            for key in zip(shards.tolist(), indices_in_shard.tolist(), num_targets.tolist(), strict=True)
        ]
        return {name: np.concatenate([signal[name] for signal in each]) for name in each[0]}


def readers(root, reader=ToyReader):
    return {task: reader(ExampleStore.open(root, task, "train")) for task in ("a", "b")}


def arrays(host_batch):
    """Every array of a host batch by name."""
    found = {f"batch.{k}": v for k, v in vars(host_batch.batch).items()}
    if host_batch.signal is not None:
        found |= {f"signal.{k}": v for k, v in vars(host_batch.signal).items()}
    return {k: v for k, v in found.items() if v is not None}


def assert_same(left, right):
    left, right = arrays(left), arrays(right)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
        assert left[name].dtype == right[name].dtype


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def hand_made(tmp_path):
    rows = [([5, 6, 7], [8, 9, 1]), ([10], [11, 1]), ([12, 13], [1]), ([14, 15, 16, 17], [18, 19, 20, 1])]
    made = [Example(str(k), np.array(i, np.int32), np.array(t, np.int32)) for k, (i, t) in enumerate(rows)]
    write_store(tmp_path, recipe("hand", num_shards=1), made)
    return tmp_path


def test_padded_batch_by_hand(tmp_path):
    root = hand_made(tmp_path)
    iterator = make_train_iterator(config(root, "hand", shuffle=False, batch_size=3))
    got = next(iterator)
    batch = got.batch
    assert batch.encoder_input_tokens.tolist() == [[5, 6, 7, 0, 0, 0], [10, 0, 0, 0, 0, 0], [12, 13, 0, 0, 0, 0]]
    assert batch.decoder_target_tokens.tolist() == [[8, 9, 1, 0], [11, 1, 0, 0], [1, 0, 0, 0]]
    assert batch.decoder_input_tokens.tolist() == [[0, 8, 9, 1], [0, 11, 1, 0], [0, 1, 0, 0]]
    assert batch.decoder_loss_weights.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    assert batch.task_ids.tolist() == [[0] * 4] * 3
    assert batch.decoder_segment_ids is None
    assert batch.encoder_positions is None
    assert got.examples.tolist() == [0, 1, 2]
    dtypes = {k: str(v.dtype) for k, v in arrays(got).items()}
    assert dtypes.pop("batch.decoder_loss_weights") == "float32"
    assert set(dtypes.values()) == {"int32"}
    assert next(iterator).batch.encoder_input_tokens[1].tolist() == [5, 6, 7, 0, 0, 0], "the next epoch follows on"
    assert iterator.task_names == ("hand",)
    assert iterator.features["targets"].eos_id == 1


def test_packed_batch_by_hand(tmp_path):
    """Capacity 6 + 4. Row 0: examples 0 (3+3) and 2 (2+1); row 1: 1 (1+2), then 3 (4+4) has no room anywhere."""
    root = hand_made(tmp_path)
    settings = config(root, "hand", shuffle=False, batch_size=2, pack=True, num_epochs=1)
    first, second = list(make_train_iterator(settings))
    batch = first.batch
    assert batch.encoder_input_tokens.tolist() == [[5, 6, 7, 12, 13, 0], [10, 0, 0, 0, 0, 0]]
    assert batch.encoder_segment_ids.tolist() == [[1, 1, 1, 2, 2, 0], [1, 0, 0, 0, 0, 0]]
    assert batch.encoder_positions.tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 0, 0, 0, 0]]
    assert batch.decoder_target_tokens.tolist() == [[8, 9, 1, 1], [11, 1, 0, 0]]
    assert batch.decoder_input_tokens.tolist() == [[0, 8, 9, 0], [0, 11, 0, 0]]
    assert batch.decoder_loss_weights.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.decoder_segment_ids.tolist() == [[1, 1, 1, 2], [1, 1, 0, 0]]
    assert batch.decoder_positions.tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert second.batch.decoder_target_tokens.tolist() == [[18, 19, 20, 1], [0, 0, 0, 0]]
    assert second.batch.decoder_segment_ids.tolist() == [[1] * 4, [0] * 4]


def test_longer_feature_lengths_only_pad_more(root):
    wide = {"inputs": 9, "targets": 8}
    short = take(make_train_iterator(config(root)), 3)
    for s, w in zip(short, take(make_train_iterator(config(root, feature_lengths=wide)), 3), strict=True):
        np.testing.assert_array_equal(w.batch.encoder_input_tokens[:, :6], s.batch.encoder_input_tokens)
        assert not w.batch.encoder_input_tokens[:, 6:].any()
        np.testing.assert_array_equal(w.batch.decoder_loss_weights[:, :4], s.batch.decoder_loss_weights)
        assert w.batch.decoder_target_tokens.shape == (4, 8)


def test_task_ids_and_rates(root):
    batches = take(make_train_iterator(config(root, batch_size=8)), 50)
    tasks = np.concatenate([b.tasks for b in batches])
    assert abs((tasks == 0).mean() - 0.75) < 0.01
    for b in batches:
        tokens, weights = b.batch.decoder_target_tokens, b.batch.decoder_loss_weights
        own = (tokens >= 200).astype(int)[(tokens > 1)]
        np.testing.assert_array_equal(b.batch.task_ids[tokens > 1], own)
        np.testing.assert_array_equal(b.batch.task_ids[weights > 0], np.repeat(b.tasks, weights.sum(1).astype(int)))


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_resumed_anywhere_equals_never_stopped(root, pack, prefetch):
    settings = config(root, pack=pack, prefetch=prefetch, seed=5)
    whole = take(make_train_iterator(settings, signals=readers(root)), 25)
    walker, seen = make_train_iterator(settings, signals=readers(root)), 0
    for stop in (0, 1, 7, 8, 20):
        take(walker, stop - seen)
        seen = stop
        state = json.loads(json.dumps(walker.get_state()))
        resumed = make_train_iterator(settings, signals=readers(root))
        resumed.set_state(state)
        for got, want in zip(take(resumed, 5), whole[stop : stop + 5], strict=True):
            assert_same(got, want)
        resumed.close()
    walker.set_state(state)  # an iterator that has already run goes back as well
    assert_same(next(walker), whole[20])
    walker.close()


@pytest.mark.parametrize("pack", [False, True])
def test_any_number_of_hosts_sees_the_same_global_batches(root, pack):
    settings = config(root, batch_size=8, pack=pack, num_epochs=2)
    whole = list(make_train_iterator(settings, signals=readers(root)))
    for hosts in (2, 4):
        parts = [
            list(make_train_iterator(settings, process_index=h, process_count=hosts, signals=readers(root)))
            for h in range(hosts)
        ]
        assert {len(part) for part in parts} == {len(whole)}
        for step, want in enumerate(whole):
            rows = [arrays(part[step]) for part in parts]
            for name, value in arrays(want).items():
                np.testing.assert_array_equal(np.concatenate([r[name] for r in rows]), value, err_msg=name)
    # A state of one host serves two.
    one = make_train_iterator(settings)
    take(one, 2)
    half = make_train_iterator(settings, process_index=1, process_count=2)
    half.set_state(one.get_state())
    np.testing.assert_array_equal(next(half).batch.decoder_target_tokens, next(one).batch.decoder_target_tokens[4:])


@pytest.mark.parametrize("pack", [False, True])
def test_epochs_are_complete(root, pack):
    settings = config(root, "a", num_epochs=3, pack=pack)
    store = ExampleStore.open(root, "a", "train")
    seen = [b.batch.encoder_input_tokens for b in make_train_iterator(settings)]
    tokens = np.concatenate([s[s > 0] for s in seen])
    want = np.repeat([e.inputs[0] for e in store], [3 * len(e.inputs) for e in store])
    assert sorted(tokens.tolist()) == sorted(want.tolist())


@pytest.mark.parametrize("pack", [False, True])
def test_files_and_memory_give_the_same_batches(root, pack):
    memory = take(make_train_iterator(config(root, pack=pack)), 20)
    for limits in ({"memory_bytes": 0}, {"memory_examples": 15}):  # none in memory; only the smaller task
        for got, want in zip(take(make_train_iterator(config(root, pack=pack, **limits)), 20), memory, strict=True):
            assert_same(got, want)


@pytest.mark.parametrize("reader", [ToyReader, ToyBatchReader])
@pytest.mark.parametrize("pack", [False, True])
def test_the_signal_stays_with_its_tokens(root, pack, reader):
    iterator = make_train_iterator(config(root, pack=pack), signals=readers(root, reader))
    for got in take(iterator, 20):
        tokens, weights = got.batch.decoder_target_tokens, got.batch.decoder_loss_weights
        positions = got.batch.decoder_positions if pack else np.tile(np.arange(4), (4, 1))
        want = np.where(weights > 0, tokens + positions / 10, 0).astype(np.float32)
        np.testing.assert_allclose(got.signal.logits[..., 0], want, rtol=1e-6)
        np.testing.assert_allclose(got.signal.logits[..., 1], -want, rtol=1e-6)
        np.testing.assert_array_equal(got.signal.top1_correct, weights > 0)
        assert got.signal.logits.shape == (4, 4, 2)


def test_packing_loses_nothing_and_fills_rows(root):
    settings = config(root, pack=True, batch_size=16, feature_lengths={"inputs": 24, "targets": 24})
    batches = take(make_train_iterator(settings), 30)
    for b in batches:
        segments, positions = b.batch.encoder_segment_ids, b.batch.encoder_positions
        starts = (positions == 0) & (segments > 0)
        np.testing.assert_array_equal(np.cumsum(starts, axis=1) * (segments > 0), segments)
        assert (b.batch.decoder_segment_ids.max(axis=1) == segments.max(axis=1)).all(), "one segment on both sides"
    assert np.mean([(b.batch.encoder_segment_ids > 0).mean() for b in batches]) > 0.9
    seen = np.concatenate([b.batch.encoder_input_tokens[b.batch.encoder_segment_ids > 0] for b in batches])
    assert len(np.unique(seen)) == 23 + 11


def test_eval_batches_cover_everything_once_in_order(root):
    for hosts in (1, 2):
        rows = [list(make_eval_batches(config(root), process_index=h, process_count=hosts)) for h in range(hosts)]
        assert len({len(r) for r in rows}) == 1
        tasks = [np.concatenate([r[step][0].tasks for r in rows]) for step in range(len(rows[0]))]
        indices = [np.concatenate([r[step][1] for r in rows]) for step in range(len(rows[0]))]
        tasks, indices = np.concatenate(tasks), np.concatenate(indices)
        assert indices.tolist() == [*range(23), *range(11), -1, -1]
        assert tasks.tolist() == [0] * 23 + [1] * 11 + [-1] * 2
        last = rows[-1][-1][0].batch
        assert not last.decoder_loss_weights[-2:].any()
        assert not last.encoder_input_tokens[-2:].any()


def test_eval_batches_of_chosen_examples_with_a_signal(root):
    chosen = [20, 3, 3, 0, 7]
    batches = list(make_eval_batches(config(root, "a"), indices=chosen, signals=readers(root), process_count=4))
    assert [indices.tolist() for _, indices in batches] == [[20], [7]]
    batches = list(make_eval_batches(config(root, "a"), indices=chosen, signals=readers(root)))
    store = ExampleStore.open(root, "a", "train")
    assert [int(row[0]) for b, _ in batches for row in b.batch.encoder_input_tokens] == [
        *(int(store[i].inputs[0]) for i in chosen),
        *[0] * 3,
    ]
    # A host whose rows are all padding has the signal's arrays all the same.
    *_, (last, indices) = make_eval_batches(
        config(root, "a"), indices=chosen, signals=readers(root), process_index=3, process_count=4
    )
    assert indices.tolist() == [-1]
    assert last.signal.logits.shape == (1, 4, 2)
    assert not last.signal.top1_correct.any()


PREFIX_LENGTHS = {"inputs": 4, "targets": 4}
PREFIX = recipe("prefix", feature_lengths=PREFIX_LENGTHS, num_shards=1)
"""Example 0 is [5, 6] -> [7, 1], example 1 has no inputs and the target [8, 9, 1], example 2 is [4] -> [1]."""


def write_prefix_store(root):
    rows = [([5, 6], [7, 1]), ([], [8, 9, 1]), ([4], [1])]
    examples = [Example(str(k), *(np.array(side, np.int32) for side in row)) for k, row in enumerate(rows)]
    write_store(root, PREFIX, examples)


def test_inputs_as_a_prefix_by_hand(tmp_path):
    write_prefix_store(tmp_path)
    settings = config(tmp_path, "prefix", shuffle=False, batch_size=3, num_epochs=1, feature_lengths=PREFIX_LENGTHS)
    reader = {"prefix": ToyReader(ExampleStore.open(tmp_path, "prefix", "train"))}
    [host] = make_train_iterator(settings, prompt="prefix", signals=reader)
    batch = host.batch
    assert batch.decoder_target_tokens.shape == (3, 8)
    assert batch.encoder_input_tokens is None
    assert batch.decoder_positions is None

    def columns(array):
        assert not np.any(array[:, 4:])
        return array[:, :4].tolist()

    assert columns(batch.decoder_target_tokens) == [[5, 6, 7, 1], [8, 9, 1, 0], [4, 1, 0, 0]]
    assert columns(batch.decoder_loss_weights) == [[0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 0, 0]]
    shifted = batch.decoder_input_tokens
    assert [row[:n].tolist() for row, n in zip(shifted, (4, 3, 2), strict=True)] == [[0, 5, 6, 7], [0, 8, 9], [0, 4]]
    # The signal of target j of example k stands at that target, and nowhere else.
    unprefixed = next(make_train_iterator(settings, signals=reader)).signal.logits
    expected = np.zeros_like(host.signal.logits)
    for row, (prefix, count) in enumerate([(2, 2), (0, 3), (1, 1)]):
        expected[row, prefix : prefix + count] = unprefixed[row, :count]
    assert unprefixed.any()
    np.testing.assert_array_equal(host.signal.logits, expected)


def test_packed_rows_of_prefixes_by_hand(tmp_path):
    """A row has inputs + targets columns, for either: the first two examples fill seven of eight."""
    write_prefix_store(tmp_path)
    settings = config(
        tmp_path, "prefix", shuffle=False, batch_size=2, pack=True, num_epochs=1, feature_lengths=PREFIX_LENGTHS
    )
    [host] = make_train_iterator(settings, prompt="prefix")
    batch = host.batch
    assert batch.decoder_target_tokens.tolist() == [[5, 6, 7, 1, 8, 9, 1, 0], [4, 1, 0, 0, 0, 0, 0, 0]]
    assert batch.decoder_input_tokens.tolist() == [[0, 5, 6, 7, 0, 8, 9, 0], [0, 4, 0, 0, 0, 0, 0, 0]]
    assert batch.decoder_loss_weights.tolist() == [[0, 0, 1, 1, 1, 1, 1, 0], [0, 1, 0, 0, 0, 0, 0, 0]]
    assert batch.decoder_segment_ids.tolist() == [[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    assert batch.decoder_positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0], [0, 1, 0, 0, 0, 0, 0, 0]]
    state = make_train_iterator(settings, prompt="prefix").get_state()
    with pytest.raises(UserError, match="of other data"):
        make_train_iterator(settings).set_state(state)


def test_a_store_without_inputs_has_no_encoder_fields(tmp_path):
    lm = recipe("lm", features={"targets": FEATURE}, feature_lengths={"targets": 4}, num_shards=1)
    write_store(tmp_path, lm, [Example("0", None, np.array([7, 8, 1], np.int32))])
    for pack in (False, True):
        settings = config(tmp_path, "lm", pack=pack, batch_size=2)
        batch = next(make_train_iterator(settings, prompt="prefix")).batch
        assert batch.encoder_input_tokens is None
        assert batch.encoder_segment_ids is None
        assert batch.decoder_input_tokens.tolist() == [[0, 7, 8, 0 if pack else 1]] * 2
        with pytest.raises(UserError, match="have no inputs for the model's encoder to read: use a decoder-only model"):
            make_train_iterator(settings)


def test_the_position_travels_in_a_checkpoint(root, tmp_path):
    import orbax.checkpoint as ocp

    settings = config(root, pack=True, prefetch=2)
    iterator = make_train_iterator(settings)
    take(iterator, 3)
    with ocp.CheckpointManager(tmp_path / "c", item_names=("data",)) as manager:
        manager.save(1, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
        manager.wait_until_finished()
        other = make_train_iterator(settings)
        manager.restore(1, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(other)))
    assert_same(next(other), next(iterator))
    other.close()
    iterator.close()


def test_user_errors(root, tmp_path):
    def message(**fields):
        with pytest.raises(UserError) as e:
            next(make_train_iterator(config(root, **fields)))
        return str(e.value)

    assert "no prepared task or mixture 'mixx'" in message(name="mixx")
    assert "no task of 'mix' has a split 'dev': name one of its splits: test, train" in message(split="dev")
    assert "no store of task 'a', split 'test'" in message(split="test")
    assert "inputs length 5 is below 6, with which the store" in message(feature_lengths={"inputs": 5, "targets": 4})
    assert "lack 'inputs'" in message(feature_lengths={"targets": 4})
    with pytest.raises(UserError, match="4 rows does not divide among 3 hosts"):
        make_train_iterator(config(root), process_index=0, process_count=3)
    other = dataclasses.replace(FEATURE, vocabulary="w")
    features = {"inputs": other, "targets": other}
    write_store(tmp_path, recipe("a"), examples(3, 100, 0))
    write_store(tmp_path, recipe("c", features=features), examples(3, 100, 0))
    write_mixture(tmp_path, Mixture("mix", tuple(MixtureTask(t, 1.0, ("train",)) for t in "ac")))
    with pytest.raises(UserError, match=r"have different features: .*use the same vocabulary"):
        make_train_iterator(config(tmp_path))
    negative = (MixtureTask("a", -1.0, ("train",)),)
    write_mixture(tmp_path, Mixture("mix", negative))
    with pytest.raises(UserError, match=r"task 'a' has the rate -1.0 in mixture 'mix'"):
        make_train_iterator(config(tmp_path))


@pytest.mark.parametrize("change", [{"seed": 1}, {"shuffle": False}, {"pack": True}, {"name": "a"}])
def test_a_position_of_other_data_is_refused(root, change):
    iterator = make_train_iterator(config(root))
    other = make_train_iterator(config(root, **change))
    with pytest.raises(UserError, match="the saved data position is of other data"):
        other.set_state(iterator.get_state())


def test_damage_reaches_the_user_through_the_prefetch_thread(tmp_path):
    write_store(tmp_path, recipe("a", num_shards=1), examples(20, 100, 0))
    path = next((tmp_path / "a" / "train").glob("*.array_record"))
    content = bytearray(path.read_bytes())
    at = content.index(np.full(2, 107, "<u2").tobytes())
    content[at] ^= 4
    path.write_bytes(content)
    iterator = make_train_iterator(config(tmp_path, "a", memory_bytes=0, prefetch=2))
    with pytest.raises(UserError, match=r"record 7 of .*shard-00000-of-00001.array_record is damaged"):
        take(iterator, 20)


def test_reading_needs_neither_tensorflow_nor_seqio():
    program = (
        "import sys; sys.modules.update(tensorflow=None, seqio=None)\n"
        "from cat_jax.data import loader, mixture, store, writer\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
