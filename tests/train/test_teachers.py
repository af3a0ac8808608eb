"""The teacher of a run: known again by content, and refused before step one where the student cannot follow it."""

import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from training_world import CAT_DIST, CAT_XENT, FEATURE, arguments, model, records, steps_and_digest, write_world

from cat_jax.checkpoint.manager import CheckpointManager
from cat_jax.checkpoint.params import write_model_file
from cat_jax.errors import NonFiniteError, UserError
from cat_jax.parallel.names import flatten_names
from cat_jax.teacher.layout import FullLayout, SparseLayout
from cat_jax.teacher.live import LiveTeacher
from cat_jax.teacher.store import StoredTeacher
from cat_jax.teacher.writer import teach
from cat_jax.train.loop import train

pytestmark = pytest.mark.slow

SPARSE = SparseLayout(top_k=4, tail_draws=4)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("store"))


def write_model(directory, seed=0, step=5, spoil="", **fields):
    """A model that nobody has trained; of the first parameter whose name begins with `spoil`, one number is NaN."""
    config = model(**fields)
    write_model_file(directory, config, dict.fromkeys(("inputs", "targets"), FEATURE.vocabulary))
    params = flatten_names(nnx.state(config.build(jax.random.key(seed))))
    if spoil:
        name = min(name for name in params if name.startswith(spoil))
        params[name] = params[name].at[(0,) * params[name].ndim].set(np.nan)
    with CheckpointManager(directory) as manager:
        manager.save(step, params, {"step": np.zeros(())}, None)
    return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Teachers of the data's 16 ids, and of more."""
    path = tmp_path_factory.mktemp("models")
    return {
        "one": write_model(path / "one"),
        "other": write_model(path / "other", seed=1),
        "wide": write_model(path / "wide", vocab_size=24),
    }


@pytest.fixture(scope="module")
def signals(tmp_path_factory, models, root):
    """Sparse signals of each model."""
    path = tmp_path_factory.mktemp("signals")
    for name, directory in models.items():
        teach(directory, root, "both", path / name, layout=SPARSE, batch_size=8)
    return path


def run(model_dir, root, teacher, steps, **fields):
    fields = {"objective": CAT_XENT, "eval_dataset": None, "log_period": 1, **fields}
    return train(**arguments(model_dir, root, teacher=teacher, train_steps=steps, **fields))


def refused(model_dir, words, *args, **fields):
    before = steps_and_digest(model_dir)
    with pytest.raises(UserError, match=words):
        run(model_dir, *args, **fields)
    assert steps_and_digest(model_dir) == before


def test_another_stored_teacher_is_refused_and_the_same_elsewhere_is_not(tmp_path, root, models, signals):
    run(tmp_path / "run", root, StoredTeacher(str(signals / "one")), 1)
    words = (
        r"teacher.signals.copy was the sparse signal of one at step 5 \(\w{12}\) and is now the sparse signal of other "
        r"at step 5 \(\w{12}\): take the change back, or name another MODEL_DIR"
    )
    refused(tmp_path / "run", words, root, StoredTeacher(str(signals / "other")), 2)
    shutil.copytree(signals / "one", tmp_path / "moved")
    assert run(tmp_path / "run", root, StoredTeacher(str(tmp_path / "moved")), 2).step == 2
    shutil.copytree(models["one"], tmp_path / "renamed")
    teach(tmp_path / "renamed", root, "both", tmp_path / "again", layout=SPARSE, batch_size=8)
    again = StoredTeacher(str(tmp_path / "again"), str(tmp_path / "renamed"))
    assert run(tmp_path / "run", root, again, 3).step == 3


@pytest.mark.exhaustive
def test_another_live_teacher_is_refused_and_the_same_elsewhere_is_not(tmp_path, root, models, signals):
    shutil.copytree(models["one"], tmp_path / "teacher")
    run(tmp_path / "run", root, LiveTeacher(str(tmp_path / "teacher")), 1)
    words = r"teacher was teacher at step 5 \(\w{12}\) and is now other at step 5 \(\w{12}\)"
    refused(tmp_path / "run", words, root, LiveTeacher(str(models["other"])), 2)
    refused(
        tmp_path / "run", r"teacher.dtype was 'float32'", root, LiveTeacher(str(models["one"]), None, "bfloat16"), 2
    )
    refused(tmp_path / "run", r"teacher.kind was 'LiveTeacher'", root, StoredTeacher(str(signals / "one")), 2)
    assert run(tmp_path / "run", root, LiveTeacher(str(models["one"])), 2).step == 2
    write_model(tmp_path / "teacher", seed=3, step=8)  # trained on: its newest checkpoint is another model
    teacher = LiveTeacher(str(tmp_path / "teacher"))
    refused(tmp_path / "run", r"teacher at step 5 .* is now teacher at step 8", root, teacher, 3)
    assert run(tmp_path / "run", root, LiveTeacher(str(models["one"] / "checkpoints" / "5")), 3).step == 3


def test_a_teacher_trained_anew_in_place_is_refused_with_its_old_signal(tmp_path, root):
    write_model(tmp_path / "teacher")
    teach(tmp_path / "teacher", root, "both", tmp_path / "signal", layout=SPARSE, batch_size=8)
    shutil.rmtree(tmp_path / "teacher")
    write_model(tmp_path / "teacher", seed=1)
    stored = StoredTeacher(str(tmp_path / "signal"), model_dir=str(tmp_path / "teacher"))
    words = r"from the teacher teacher at step 5 \(\w{12}, float32\), not from teacher at step 5 \(\w{12}\)"
    with pytest.raises(UserError, match=words):
        run(tmp_path / "run", root, stored, 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stored", [False, True])
def test_ids_that_the_student_lacks_are_refused_where_it_must_follow_them(tmp_path, root, models, signals, stored):
    teacher = StoredTeacher(str(signals / "wide")) if stored else LiveTeacher(str(models["wide"]))
    words = r"wide.* has a distribution over 24 ids, the student knows 16: set the student's vocab_size to at least 24"
    with pytest.raises(UserError, match=words):
        run(tmp_path / "dist", root, teacher, 1, objective=CAT_DIST)
    assert not (tmp_path / "dist").exists()
    assert run(tmp_path / "xent", root, teacher, 1, objective=CAT_XENT).step == 1


@pytest.mark.exhaustive
def test_a_student_may_have_ids_that_its_teacher_lacks(tmp_path, root, models):
    teach(models["one"], root, "both", tmp_path / "full", layout=FullLayout(), batch_size=8)
    wide = {"objective": CAT_DIST, "model": model(vocab_size=24)}
    run(tmp_path / "live", root, LiveTeacher(str(models["one"])), 2, **wide)
    run(tmp_path / "stored", root, StoredTeacher(str(tmp_path / "full")), 2, **wide)
    live, stored = records(tmp_path / "live"), records(tmp_path / "stored")
    for one, other in zip(live, stored, strict=True):
        assert one["train/distillation"] == pytest.approx(other["train/distillation"], rel=2e-5)
        assert 2 < one["train/distillation"] < 5


def test_a_live_teacher_that_lacks_ids_of_the_data_is_refused(tmp_path, root):
    write_model(tmp_path / "narrow", vocab_size=12)
    words = r"the inputs of .*copy.train have 16 ids, the teacher .*narrow knows 12"
    with pytest.raises(UserError, match=words):
        run(tmp_path / "run", root, LiveTeacher(str(tmp_path / "narrow")), 1)
    assert not (tmp_path / "run").exists()


def test_a_live_teacher_of_another_vocabulary_is_refused(tmp_path, root, models):
    shutil.copytree(models["one"], tmp_path / "teacher")
    write_model_file(tmp_path / "teacher", model(), dict.fromkeys(("inputs", "targets"), "vocabulary-b"))
    with pytest.raises(UserError, match=r"teacher was trained on the inputs vocabulary vocabulary-b, .* vocabulary-a"):
        run(tmp_path / "run", root, LiveTeacher(str(tmp_path / "teacher")), 1)


@pytest.mark.parametrize("spoil", ["output", pytest.param("decoder", marks=pytest.mark.exhaustive)])
def test_a_live_teacher_whose_numbers_are_not_finite_ends_the_run(tmp_path, root, spoil):
    """Its bit is false everywhere, which is finite: the loss alone would not tell."""
    write_model(tmp_path / "broken", spoil=spoil)
    words = (
        r"the teacher broken at step 5 \(\w{12}, float32\) gives numbers that are not finite for .* of step 1: choose"
    )
    with pytest.raises(NonFiniteError, match=words):
        run(tmp_path / "run", root, LiveTeacher(str(tmp_path / "broken")), 2, num_microbatches=2)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_nor_can_it_be_taught(tmp_path, root):
    with pytest.raises(UserError, match=r"broken at step 5 .* gives numbers that are not finite for example"):
        teach(write_model(tmp_path / "broken", spoil="output"), root, "both", tmp_path / "signal", batch_size=8)
