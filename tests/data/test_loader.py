"""Batches by hand, resumes anywhere, any number of hosts, padded and packed, with a teacher signal beside."""

import dataclasses
import json
import subprocess
import sys

import grain
import numpy as np
import pytest
from loader_cases import (
    FEATURE,
    ToyBatchReader,
    ToyReader,
    arrays,
    assert_same,
    config,
    examples,
    hand_made,
    readers,
    recipe,
    take,
)

from cat_jax.data.layout import store_directory
from cat_jax.data.loader import make_eval_batches, make_train_iterator
from cat_jax.data.mixture import Mixture, MixtureTask, write_mixture
from cat_jax.data.store import ExampleStore
from cat_jax.data.writer import StoreWriter, write_store
from cat_jax.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    write_store(root, recipe("a"), examples(23, 100, 0))
    write_store(root, recipe("b"), examples(11, 200, 1))
    tasks = (MixtureTask("a", 3.0, ("train", "test")), MixtureTask("b", 1.0, ("train",)))
    write_mixture(root, Mixture("mix", tasks))
    return root


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
def test_another_batch_size_goes_on_with_the_next_example(root, pack):
    """An example of task a is one number, 100 + k, at each of its inputs."""
    first, then = (make_train_iterator(config(root, "a", batch_size=n, pack=pack, num_epochs=1)) for n in (3, 8))
    batches = take(first, 2)
    then.set_state(first.get_state())
    batches += list(then)
    rows = np.concatenate([batch.batch.encoder_input_tokens for batch in batches])
    assert sorted(set(rows[rows > 0].tolist())) == list(range(100, 123))
    in_order = make_train_iterator(config(root, "a", batch_size=23, num_epochs=1))
    expected = next(in_order).batch.encoder_input_tokens
    for number in range(100, 123):
        assert (rows == number).sum() == (expected == number).sum(), "once"
    if not pack:
        assert [row[0] for row in rows if row[0]] == expected[:, 0].tolist()


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


def test_tokens_that_were_cut_off_do_not_come_back(tmp_path, caplog):
    writer = StoreWriter(store_directory(tmp_path, "a", "train"), recipe("a", num_shards=1))
    with writer.shard(0, example_ids="feature") as out:
        for example in examples(3, 100, 0):
            out.write(example, ("inputs",))
    writer.finish()
    write_mixture(tmp_path, Mixture("mix", (MixtureTask("a", 1.0, ("train",)),)))
    for length, told in ((6, []), (7, ["inputs of 3 of 3 examples"])):
        caplog.clear()
        next(make_train_iterator(config(tmp_path, feature_lengths={"inputs": length, "targets": 9})))
        assert [record.getMessage()[:25] for record in caplog.records] == told


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
