"""The decoder-only family goes through training, teaching and evaluation, with a start of its own and without."""

import os
import signal as signals

import causal_world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat_jax.checkpoint.params import load_model, read_model_file
from cat_jax.data.loader import DatasetConfig, make_train_iterator
from cat_jax.data.store import ExampleStore
from cat_jax.errors import Preempted, UserError
from cat_jax.evaluate.run import evaluate
from cat_jax.losses.objective import Objective
from cat_jax.models.decoder_config import DecoderConfig
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.table import read_table
from cat_jax.teacher.layout import FullLayout
from cat_jax.teacher.live import LiveTeacher
from cat_jax.teacher.store import StoredTeacher
from cat_jax.teacher.writer import teach
from cat_jax.train.loop import train
from cat_jax.train.optimizer import AdamW
from cat_jax.train.window import MetricWindow
from cat_jax.types import Batch

LARGE = DecoderConfig(
    vocab_size=10,
    embed_dim=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=64,
    num_layers=2,
    bos_id=0,
    prefix_lm=True,
    qk_norm=True,
    tie_embeddings=True,
    window=4,
    layer_pattern=("local", "global"),
    scan_layers=True,
)
SMALL = DecoderConfig(
    vocab_size=10, embed_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_layers=1, bos_id=None, dropout_rate=0.1
)
XENT, CAT_XENT = Objective(w=1.0, keep="all"), Objective(w=1.0, keep="either")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Stores of words to be written backwards; the first word of `all` is empty, and none of `asked`."""
    root = tmp_path_factory.mktemp("world")
    causal_world.write_words(root / "store", "all")
    causal_world.write_words(root / "store", "asked", empty=False)
    return root


def dataset(root, split="train", task="all", **fields):
    return DatasetConfig(str(root / "store"), task, split, causal_world.LENGTHS, 16, **fields)


def trained(root, name, model, objective, steps, task, **fields):
    evaluated = dataset(root, "validation", task)
    data = dataset(root, task=task, pack=True)
    return train(root / name, model, objective, data, steps, evaluated, optimizer=AdamW(0.01), **fields).metrics


@pytest.fixture(scope="module")
def large(root):
    """Directory and the metrics of the last evaluation."""
    return root / "large", trained(root, "large", LARGE, XENT, 200, "all")


def test_it_learns(root, large):
    directory, metrics = large
    assert read_model_file(directory)[0] == LARGE
    assert metrics["loss"] < 1.2  # an untrained model has log 10 = 2.3


@pytest.mark.exhaustive
def test_a_student_without_a_start_learns_from_its_signal(root, large):
    teach(large[0], root / "store", "asked", root / "signal", splits=("train", "validation"), layout=FullLayout())
    signal = StoredTeacher(str(root / "signal"))
    store = ExampleStore.open(root / "store", "asked", "train")
    readers = signal.readers([store], needs_distribution=True)
    host = next(make_train_iterator(dataset(root, task="asked", pack=True), prompt="prefix", signals=readers))
    counted, output = host.batch.decoder_loss_weights > 0, model_of(large[0])(host.batch)
    logits = np.array(output.head.logits(output.hidden))
    np.testing.assert_allclose(host.signal.logits[counted], logits[counted], rtol=1e-4, atol=1e-4)
    metrics = trained(root, "small", SMALL, CAT_XENT, 60, "asked", teacher=signal)
    assert metrics["loss"] < 2.2
    assert 0 < metrics["kept_fraction"] < 1


def test_stopped_and_resumed_is_never_stopped(root, monkeypatch):
    """A packed run with dropout, bit for bit: told to stop after step 3, and gone on with."""
    add = MetricWindow.add

    def add_and_stop(window, step, metrics):
        add(window, step, metrics)
        if step == 3:
            os.kill(os.getpid(), signals.SIGTERM)

    whole = trained(root, "whole", SMALL, XENT, 6, "asked")
    with monkeypatch.context() as patch:
        patch.setattr(MetricWindow, "add", add_and_stop)
        with pytest.raises(Preempted, match="after step 3, which is saved"):
            trained(root, "stopped", SMALL, XENT, 6, "asked")
    assert trained(root, "stopped", SMALL, XENT, 6, "asked") == whole
    found, expected = (loaded(root / name)[1] for name in ("stopped", "whole"))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_what_it_writes_is_the_teacher_forced_argmax(root, large):
    with pytest.MonkeyPatch.context() as patch:
        causal_world.without_seqio(patch)
        evaluate({"large": str(large[0])}, str(root / "store"), "all", str(root / "tables"), splits=("test",))
    rows = read_table(root / "tables" / "large" / "all.test.parquet")[0].to_pylist()
    store = {e.example_id: e for e in ExampleStore.open(root / "store", "all", "test")}
    inputs = [store[row["example_id"]].inputs.tolist() for row in rows]
    assert min(map(len, inputs)) == 0
    batch = teacher_forced(inputs, [row["prediction_tokens"] for row in rows])
    output = model_of(large[0])(batch)
    best = np.array(jnp.argmax(output.head.logits(output.hidden), axis=-1))
    for r, row in enumerate(rows):
        here = slice(len(inputs[r]), len(inputs[r]) + len(row["prediction_tokens"]))
        assert best[r, here].tolist() == row["prediction_tokens"]
        assert row["flops"] == LARGE.answer_flops(len(inputs[r]), len(row["prediction_tokens"]))


def test_where_nothing_begins_them_examples_without_inputs_are_refused(root, large):
    """By training, evaluation within it, live and stored teachers, and evaluation."""
    problem = r"1 of \d+ examples of .*all.* have no inputs, .* its bos_id is None: set bos_id to the id of its token"
    with pytest.raises(UserError, match=problem):
        train(root / "refused", SMALL, XENT, dataset(root), 1)
    with pytest.raises(UserError, match=problem):
        train(root / "refused", SMALL, XENT, dataset(root, task="asked"), 1, dataset(root))
    assert not (root / "refused").exists()
    train(root / "startless", SMALL, XENT, dataset(root, task="asked"), 1)
    with pytest.raises(UserError, match=problem):
        train(root / "refused", LARGE, CAT_XENT, dataset(root), 1, teacher=LiveTeacher(str(root / "startless")))
    with pytest.raises(UserError, match=problem):
        teach(root / "startless", root / "store", "all", root / "refused", splits=("train",))
    with pytest.raises(UserError, match=problem):
        evaluate(
            {"startless": str(root / "startless")}, str(root / "store"), "all", str(root / "refused"), splits=("test",)
        )
    assert not (root / "refused").exists()


def loaded(directory):
    """(graph definition, parameters)."""
    return load_model(directory, mesh=MeshConfig(data=1).build(jax.devices()[:1]))[1:3]


def model_of(directory):
    return jax.jit(nnx.merge(*loaded(directory)))


def teacher_forced(inputs, targets):
    """Rows of inputs and targets, as training pads them."""
    columns = max(len(i) + len(t) for i, t in zip(inputs, targets, strict=True))
    tokens, weights = np.zeros((2, len(inputs), columns), np.int32)
    for row, (i, t) in enumerate(zip(inputs, targets, strict=True)):
        tokens[row, : len(i) + len(t)] = [*i, *t]
        weights[row, len(i) : len(i) + len(t)] = 1
    return Batch(tokens, np.pad(tokens, [(0, 0), (1, 0)])[:, :-1], weights.astype(np.float32))
