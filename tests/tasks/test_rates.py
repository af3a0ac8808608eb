"""A mixture with caps, from its declaration to what the loader draws."""

import numpy as np
import pytest

seqio = pytest.importorskip("seqio", reason="needs the `data` extra")

import tensorflow as tf  # noqa: E402
from cat_jax_tasks import rates  # noqa: E402

from cat_jax.data.loader import DatasetConfig, make_train_iterator  # noqa: E402
from cat_jax.data.mixture import read_mixture  # noqa: E402
from cat_jax.data.prepare import PrepareConfig, prepare  # noqa: E402

EXAMPLES = {"capped_a": 40, "capped_b": 700, "capped_c": 2_999, "capped_d": 3_000, "capped_e": 90_000}
"""What each task declares; its rows are few."""

CAP, DRAWS, BATCH = 3_000, 100_000, 1_000
LENGTHS = {"inputs": 4, "targets": 4}


def _rows(split, shuffle_files, seed=None):
    texts = [str(k) for k in range(20)]
    return tf.data.Dataset.from_tensor_slices({"inputs": texts, "targets": texts})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    features = {name: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for name in ("inputs", "targets")}
    steps = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    for name, count in EXAMPLES.items():
        source = seqio.FunctionDataSource(_rows, splits=["train"], num_input_examples={"train": count})
        seqio.TaskRegistry.add(name, source, preprocessors=steps, output_features=features)
    seqio.MixtureRegistry.add("capped", list(EXAMPLES), default_rate=rates.examples_up_to(CAP))
    root = tmp_path_factory.mktemp("stores")
    prepare(PrepareConfig(str(root), "capped", None, LENGTHS))
    yield root
    seqio.MixtureRegistry.remove("capped")
    for name in EXAMPLES:
        seqio.TaskRegistry.remove(name)


def drawn(iterator, draws):
    tasks = np.concatenate([next(iterator).tasks for _ in range(draws // BATCH)])
    return np.bincount(tasks, minlength=len(EXAMPLES))


def test_a_hundred_thousand_draws_have_the_declared_rates_also_after_a_resume(store):
    declared = {task.task: task.rate for task in read_mixture(store, "capped").tasks}
    assert declared == {name: min(count, CAP) for name, count in EXAMPLES.items()}
    share = np.array(list(declared.values())) / sum(declared.values())
    config = DatasetConfig(str(store), "capped", "train", LENGTHS, BATCH, prefetch=0)
    iterator = make_train_iterator(config)
    first = drawn(iterator, DRAWS // 2)
    state = iterator.get_state()
    second = drawn(iterator, DRAWS // 2)
    resumed = make_train_iterator(config)
    resumed.set_state(state)
    np.testing.assert_array_equal(drawn(resumed, DRAWS // 2), second)
    np.testing.assert_allclose((first + second) / DRAWS, share, rtol=0.01)
    assert np.abs(first + second - share * DRAWS).max() <= 1, "every task is within one example of its share"


def test_a_task_without_training_rows_counts_for_nothing():
    class Task:
        splits = ("test",)

    assert rates.examples_up_to(CAP)(Task()) == 1.0
