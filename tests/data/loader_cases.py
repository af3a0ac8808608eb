"""Small stores, a signal for them, and what is compared, for the tests of the loader."""

import numpy as np

from cat_jax.data.loader import DatasetConfig
from cat_jax.data.manifest import FeatureInfo, Recipe
from cat_jax.data.record import Example
from cat_jax.data.store import ExampleStore
from cat_jax.data.writer import write_store
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
