"""Whole runs: stopped and resumed, spoiled, refused, fine-tuned, with stored and live teachers."""

import dataclasses
import json
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from flax import nnx
from training_world import (
    CAT_DIST,
    CAT_XENT,
    FEATURE,
    arguments,
    dataset,
    model,
    records,
    steps_and_digest,
    write_world,
)

import cat_jax.checkpoint.manager
import cat_jax.train.loop
from cat_jax.checkpoint.params import check_start, load_model, read_sequences
from cat_jax.checkpoint.retention import CheckpointConfig
from cat_jax.checkpoint.seal import read_seal
from cat_jax.errors import NonFiniteError, Preempted, UserError
from cat_jax.lock import locked
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.parallel.names import flatten_names
from cat_jax.teacher.layout import FullLayout
from cat_jax.teacher.live import LiveTeacher
from cat_jax.teacher.store import StoredTeacher
from cat_jax.teacher.writer import teach
from cat_jax.train.evaluation import Evaluator
from cat_jax.train.loop import train
from cat_jax.train.optimizer import Adafactor, AdamW
from cat_jax.train.window import MetricWindow

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, root):
    """An undisturbed run: dropout, packing, two microbatches, everything that has a state to restore."""
    model_dir = tmp_path_factory.mktemp("finished")
    train(**lively(model_dir, root))
    return model_dir


def lively(model_dir, root, **fields):
    return arguments(
        model_dir,
        root,
        model=model(dropout_rate=0.1),
        train_dataset=dataset(root, pack=True, batch_size=4),
        num_microbatches=2,
        **fields,
    )


def test_a_run_leaves_what_it_should(finished, root):
    assert steps_and_digest(finished)[0] == [3, 6]
    assert sorted(p.name for p in finished.iterdir()) == [
        ".train.lock", "checkpoints", "metrics.jsonl", "model.json", "tensorboard", "training.json",
    ]  # fmt: skip
    sequences = read_sequences(finished)  # for other programs
    assert sequences == {"eos_id": 1, "length": sum(dataset(root).feature_lengths.values())}
    log = records(finished)
    assert [(r["step"], "train/loss" in r) for r in log] == [(2, True), (4, True), (4, False), (6, True), (6, False)]
    assert log[0]["train/kept_fraction"] == 1
    assert 2.0 < log[0]["train/loss"] < 5.0
    assert log[0]["train/copy/target_tokens"] + log[0]["train/reverse/target_tokens"] == log[0]["train/target_tokens"]
    assert log[-1]["eval/target_tokens"] == 83
    assert 0 <= log[-1]["eval/sequence_accuracy"] <= log[-1]["eval/student_accuracy"]
    assert train(**lively(finished, root)).metrics["loss"] == log[-1]["eval/loss"], "a finished run does nothing"
    assert records(finished) == log


def send_at(monkeypatch, step, number):
    """Sends this process a signal when the metrics of `step` are taken."""
    add = MetricWindow.add

    def add_and_send(window, at, metrics):
        add(window, at, metrics)
        if at == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(MetricWindow, "add", add_and_send)


def send_in_evaluation(monkeypatch):
    """Sends this process a signal when an evaluation begins."""
    batches = Evaluator._batches

    def send_and_begin(evaluator):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from batches(evaluator)

    monkeypatch.setattr(Evaluator, "_batches", send_and_begin)


@pytest.mark.parametrize(
    ("step", "number", "evaluated"),
    [(1, signal.SIGTERM, 4), pytest.param(5, signal.SIGINT, 6, marks=pytest.mark.exhaustive)],
)
def test_told_to_stop_it_saves_and_goes_on_bit_for_bit(monkeypatch, tmp_path, root, finished, step, number, evaluated):
    """After a step, and then in an evaluation: that is given up, made by the next start, and so in the checkpoint."""
    send_at(monkeypatch, step, number)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match=f"SIG.* after step {step}, which is saved"):
        train(**lively(tmp_path, root))
    assert steps_and_digest(tmp_path)[0][-1] == step
    assert signal.getsignal(signal.SIGTERM) is handler
    monkeypatch.undo()
    send_in_evaluation(monkeypatch)
    with pytest.raises(Preempted, match=f"SIGTERM after step {evaluated}, which is saved"):
        train(**lively(tmp_path, root))
    assert read_seal(tmp_path / "checkpoints" / str(evaluated)).metrics == {}
    monkeypatch.undo()
    result = train(**lively(tmp_path, root))
    seal = read_seal(tmp_path / "checkpoints" / "6")
    assert result.metrics == seal.metrics == read_seal(finished / "checkpoints" / "6").metrics
    assert steps_and_digest(tmp_path)[1] == steps_and_digest(finished)[1]
    assert records(tmp_path) == records(finished)


def test_a_second_trainer_waits_and_then_is_refused(monkeypatch, tmp_path, root):
    """It would delete the checkpoint that the first one is writing."""
    monkeypatch.setattr(cat_jax.train.loop, "_SAVING_SECONDS", 0.3)
    unsealed = tmp_path / "run" / "checkpoints" / "7"
    unsealed.mkdir(parents=True)
    with (
        locked(tmp_path / "run" / ".train.lock", "me", "wait", patience=0),
        pytest.raises(UserError, match="in use by"),
    ):
        train(**arguments(tmp_path / "run", root))
    assert unsealed.exists()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".train.lock", "checkpoints"]
    train(**arguments(tmp_path / "run", root, train_steps=1, eval_dataset=None))
    assert not unsealed.exists()


def test_told_to_stop_at_the_last_step_it_has_finished(monkeypatch, tmp_path, root):
    """Also while the last checkpoint is being written: the process must not end before that."""
    came, write_seal = [], cat_jax.checkpoint.manager.write_seal

    def send_and_write(directory, seal):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        write_seal(directory, seal)

    monkeypatch.setattr(cat_jax.checkpoint.manager, "write_seal", send_and_write)
    send_at(monkeypatch, 3, signal.SIGTERM)
    before = signal.signal(signal.SIGTERM, lambda *_: came.append("after the training"))
    try:
        assert train(**arguments(tmp_path, root, train_steps=3, eval_dataset=None)).step == 3
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == []
    assert steps_and_digest(tmp_path)[0] == [3]


def test_a_nan_stops_and_names_the_step(tmp_path, root):
    """The first update throws the parameters far out: finite, but the next loss is not."""
    with pytest.raises(NonFiniteError, match=r"the (loss|gradient norm) of step 2 is not finite"):
        train(**arguments(tmp_path, root, optimizer=AdamW(1e30), checkpoint=CheckpointConfig(period=2)))
    assert not list((tmp_path / "checkpoints").iterdir())


def test_parameters_that_are_not_finite_are_never_saved(tmp_path, root):
    with pytest.raises(NonFiniteError, match="a parameter is not finite after step 1"):
        train(**arguments(tmp_path, root, optimizer=AdamW(3e38, weight_decay=9.0), train_steps=1, eval_dataset=None))
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_flipped_byte_in_the_checkpoint_is_named_and_the_one_before_serves(tmp_path, root, finished):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    files = (tmp_path / "checkpoints" / "6" / "params").rglob("*")
    victim = max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[-5] ^= 16
    victim.write_bytes(content)
    with pytest.raises(UserError) as error:
        train(**lively(tmp_path, root))
    assert f"{victim} is damaged" in str(error.value)
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    train(**lively(tmp_path, root))
    assert steps_and_digest(tmp_path)[1] == steps_and_digest(finished)[1]
    assert records(tmp_path) == records(finished)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mesh": MeshConfig(data=3)}, ["mesh data=3", "needs 3 devices and there are 1"]),
        ({"num_microbatches": 3}, ["batch of 4 rows", "3 microbatches", "a multiple of 3"]),
        ({"train_steps": 0}, ["train.train_steps is 0"]),
        ({"seed": -1}, ["train.seed is -1"]),
        ({"model": model(vocab_size=12)}, ["vocabulary has 12 ids", "has 16", "at least 16"]),
        ({"model": model(dropout_rate=0.2)}, ["begun with another", "model.dropout_rate was 0.1 and is now 0.2"]),
        ({"optimizer": AdamW(0.02)}, ["optimizer.learning_rate was 0.01 and is now 0.02", "another MODEL_DIR"]),
        ({"optimizer": Adafactor(0.01)}, ["optimizer.kind was 'AdamW' and is now 'Adafactor'"]),
        ({"seed": 5}, ["seed was 0 and is now 5"]),
        ({"objective": CAT_XENT}, ["objective cat_xent needs a teacher"]),
        ({"axis_rules": [("embed", "fsdp")]}, ["logical axis", "no rule maps it"]),
        ({"eval_dataset": None, "checkpoint": CheckpointConfig(keep_best=True)}, ["keep_best needs evaluations"]),
        ({"initial_checkpoint_path": "nowhere"}, ["no model at nowhere: nothing is there"]),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(finished, root, changes, words):
    before = steps_and_digest(finished), records(finished)
    with pytest.raises(UserError) as error:
        train(**{**lively(finished, root), **changes})
    for word in words:
        assert word in str(error.value)
    assert (steps_and_digest(finished), records(finished)) == before


def test_another_batch_size_is_refused(finished, root):
    """The data could go on, but the numbers would be of neither run."""
    before = steps_and_digest(finished)
    with pytest.raises(UserError, match=r"train_dataset\.batch_size was 4 and is now 8: take the change back"):
        train(**lively(finished, root) | {"train_dataset": dataset(root, pack=True, batch_size=8)})
    assert steps_and_digest(finished) == before


def test_another_vocabulary_is_refused_naming_both(tmp_path, finished):
    other = write_world(tmp_path / "store", dataclasses.replace(FEATURE, vocabulary="vocabulary-b"))
    with pytest.raises(UserError, match=r"vocabularies\.inputs was 'vocabulary-a' and is now 'vocabulary-b'"):
        train(**lively(finished, other))
    with pytest.raises(UserError, match=r"initial checkpoint .* has the vocabulary vocabulary-a .* vocabulary-b"):
        train(**arguments(tmp_path / "new", other, initial_checkpoint_path=str(finished)))


def test_evaluation_data_of_another_vocabulary_is_refused_naming_both(tmp_path, root):
    other = write_world(tmp_path / "other", dataclasses.replace(FEATURE, vocabulary="vocabulary-b"))
    said = r"other/copy/validation, .* vocabulary vocabulary-b for 'inputs', the training data in .* has vocabulary-a"
    with pytest.raises(UserError, match=said):
        train(**arguments(tmp_path / "run", root, eval_dataset=dataset(other, split="validation")))
    assert not (tmp_path / "run").exists()


def test_a_best_metric_that_the_evaluation_lacks_is_named_and_nothing_is_lost(tmp_path, root):
    keep = CheckpointConfig(period=2, keep=1, keep_best=True, best_metric="accuracy")
    with pytest.raises(UserError, match=r"best_metric is 'accuracy'.*sequence_accuracy"):
        train(**arguments(tmp_path, root, train_steps=4, checkpoint=keep))
    assert steps_and_digest(tmp_path)[0] == [2]


def test_a_resumed_stretch_counts_the_tokens_of_its_own_steps(tmp_path, root):
    """The window goes on from before the stop, the clock does not: three steps of the window, one of the clock."""
    checkpoint = CheckpointConfig(period=3, keep=2)
    fields = {"train_steps": 4, "log_period": 4, "checkpoint": checkpoint, "eval_dataset": None}
    tokens_per_step = []
    for _ in range(2):
        train(**arguments(tmp_path, root, **fields))
        timing = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["timing"]
        tokens_per_step.append(timing["tokens_per_second"] / timing["steps_per_second"])
        shutil.rmtree(tmp_path / "checkpoints" / "4")
    assert tokens_per_step[1] == pytest.approx(tokens_per_step[0])


def test_a_read_only_place_is_refused(root):
    with pytest.raises(UserError, match="cannot write /proc/nowhere"):
        train(**arguments("/proc/nowhere", root))


def test_keeps_the_best_by_an_evaluation_at_every_save(tmp_path, root):
    """With a rate that wrecks the model after two steps, the best is not the last."""
    keep = CheckpointConfig(period=1, keep=1, keep_best=True, best_metric="loss", best_mode="min")
    train(**arguments(tmp_path, root, train_steps=4, optimizer=AdamW(0.5), checkpoint=keep))
    losses = {r["step"]: r["eval/loss"] for r in records(tmp_path) if "eval/loss" in r}
    assert sorted(losses) == [1, 2, 3, 4]
    best = min(losses, key=lambda step: losses[step])
    assert steps_and_digest(tmp_path)[0] == sorted({best, 4})
    assert read_seal(tmp_path / "checkpoints" / "4").metrics["loss"] == losses[4]


def test_fine_tuning_starts_from_the_given_parameters(tmp_path, root, finished):
    """At rate 0 the parameters stay what they were; another model is refused."""
    fields = {"train_steps": 1, "optimizer": AdamW(0.0), "eval_dataset": None}
    train(**arguments(tmp_path / "a", root, initial_checkpoint_path=str(finished), **fields))
    assert steps_and_digest(tmp_path / "a") == ([1], steps_and_digest(finished)[1])
    for path in (finished, finished / "checkpoints" / "6"):
        for field, value in (("mlp_dim", 16), ("norm_epsilon", 0.1), ("activations", ("silu", "linear"))):
            with pytest.raises(UserError, match=rf"model.json is of a model with {field} .*, the configuration has "):
                check_start(path, model(**{field: value}))
        check_start(path, model(dropout_rate=0.2, dtype="bfloat16", remat="full", scan_layers=True))
    with pytest.raises(UserError, match="of a model with mlp_dim 8, the configuration has 16"):
        train(
            **arguments(tmp_path / "b", root, initial_checkpoint_path=str(finished), model=model(mlp_dim=16), **fields)
        )
    assert not (tmp_path / "b").exists()


def test_a_run_with_frozen_parameters_goes_on_as_it_was(tmp_path, root):
    """Killed and resumed == never killed; what is frozen is what the seed drew; freezing something else is refused."""
    fields = {"frozen": ["^encoder", "embedding"], "eval_dataset": None}
    train(**arguments(tmp_path / "whole", root, **fields))
    train(**arguments(tmp_path / "parts", root, train_steps=3, **fields))
    train(**arguments(tmp_path / "parts", root, **fields))
    assert steps_and_digest(tmp_path / "parts") == steps_and_digest(tmp_path / "whole")
    config, _, params, _ = load_model(tmp_path / "whole", mesh=MeshConfig().build())
    drawn = flatten_names(nnx.state(config.build(jax.random.key(0))))
    for name, value in flatten_names(params).items():
        same = np.allclose(value, drawn[name], rtol=1e-5, atol=1e-7)  # jitted or not, the last bit may differ
        assert same == (name.startswith("encoder") or "embedding" in name), name
    with pytest.raises(UserError, match=r"frozen was .* and is now None"):
        train(**arguments(tmp_path / "whole", root, eval_dataset=None))


def test_a_run_without_checkpoints_may_be_changed(tmp_path, root):
    with pytest.raises(NonFiniteError):
        train(**arguments(tmp_path, root, optimizer=AdamW(1e30)))
    assert train(**arguments(tmp_path, root, train_steps=1, eval_dataset=None)).step == 1


def test_the_end_of_the_data_is_the_end_of_the_run(tmp_path, root):
    """40 examples, two epochs: 10 batches of 8."""
    fields = {"train_dataset": dataset(root, "copy", num_epochs=2), "train_steps": 99, "log_period": 100}
    assert train(**arguments(tmp_path, root, **fields)).step == 10
    assert [r["step"] for r in records(tmp_path) if "train/loss" in r] == [10]


@pytest.fixture(scope="module")
def signal_dir(tmp_path_factory, root, finished):
    directory = tmp_path_factory.mktemp("signal")
    teach(finished, root, "both", directory, layout=FullLayout(), batch_size=8)
    return directory


@pytest.mark.exhaustive
@pytest.mark.parametrize("objective", [CAT_XENT, CAT_DIST])
def test_a_live_teacher_and_its_stored_signal_train_alike(tmp_path, root, finished, signal_dir, objective):
    teachers = {"live": LiveTeacher(str(finished)), "stored": StoredTeacher(str(signal_dir), str(finished))}
    logs = {}
    for name, teacher in teachers.items():
        train(**arguments(tmp_path / name, root, objective=objective, teacher=teacher, train_steps=4))
        logs[name] = records(tmp_path / name)
    live, stored = logs["live"], logs["stored"]
    assert 0 < live[0]["train/kept_fraction"] < 1
    cells = [live[0][f"train/cells/{c}"] for c in ("both_right", "student_only_right", "teacher_only_right")]
    assert sum(cells) == pytest.approx(live[0]["train/kept_fraction"])
    for one, other in zip([r for r in live if "train/loss" in r], stored, strict=False):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == pytest.approx(value, rel=2e-5, abs=1e-6), key
    assert "eval/cells/both_right" in live[-1]
    assert "eval/cells/both_right" not in stored[-1], "the signal does not cover validation"
    assert stored[-1]["eval/kept_fraction"] == 1


def test_the_teacher_is_not_in_the_checkpoint(tmp_path, root, finished):
    teacher = LiveTeacher(str(finished))
    train(**arguments(tmp_path, root, objective=CAT_XENT, teacher=teacher, train_steps=1, eval_dataset=None))
    seal = read_seal(tmp_path / "checkpoints" / "1")
    config, _, params, _ = load_model(finished, mesh=MeshConfig(data=1).build())
    assert len(seal.arrays["params"]) == len(jax.tree.leaves(params))
    assert not [name for name in seal.arrays["state"] if "teacher" in name]
    assert config == model(dropout_rate=0.1)
