"""A folder of transformers, or a checkpoint of T5X, as teacher: stored or live, the signal of what it holds."""

import dataclasses
import logging

import jax
import pytest
from teacher_cases import CONFIG, contents, write_teacher

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.errors import UserError
from cat_jax.losses.objective import Objective
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.planning.plan import _teacher_config
from cat_jax.teacher.layout import BitLayout
from cat_jax.teacher.live import LiveTeacher
from cat_jax.teacher.manifest import TeacherIdentity
from cat_jax.teacher.store import StoredTeacher
from cat_jax.teacher.writer import teach
from cat_jax.train.teachers import check_live


@pytest.fixture
def folder(world, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    export_checkpoint(world.root / "model", tmp_path / "folder")
    return tmp_path / "folder"


def test_a_folder_teaches_what_its_model_does(world, folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        teach(folder, world.root / "store", "toy:a", tmp_path / "signal", layout=BitLayout(), batch_size=8)
    assert "does not say on which vocabulary of targets it was trained" in caplog.text
    found, expected = contents(tmp_path / "signal"), contents(world.signals["bit"])
    assert found.keys() == expected.keys()
    assert all(found[name] == expected[name] for name in found if name.endswith(".signal"))
    readers = StoredTeacher(str(tmp_path / "signal"), model_dir=str(folder)).readers([world.store])
    assert readers["toy:a"].manifest.recipe.teacher == TeacherIdentity.of(folder, None, "float32")
    other = write_teacher(tmp_path / "other", seed=1)
    export_checkpoint(other, tmp_path / "another")
    with pytest.raises(UserError, match=r"is from the teacher folder at step 0 .* not from another at step 0"):
        StoredTeacher(str(tmp_path / "signal"), model_dir=str(tmp_path / "another")).readers([world.store])


def test_a_live_one(world, folder, tmp_path):
    mesh, objective = MeshConfig(data=1).build(jax.devices()[:1]), Objective(w=0.5)
    live = LiveTeacher(str(folder))
    check_live(live, CONFIG, objective, [world.store])
    loaded = live.load(mesh)
    assert loaded.config == CONFIG
    assert loaded.identity == live.identity()
    with pytest.raises(UserError, match=r"a distribution over 40 ids, the student knows 39"):
        check_live(live, dataclasses.replace(CONFIG, vocab_size=39), objective, [])
    export_checkpoint(world.root / "model", tmp_path / "t5x", format="t5x")
    with pytest.raises(UserError, match="does not say what model it is of"):
        LiveTeacher(str(tmp_path / "t5x")).load(mesh)
    t5x = LiveTeacher(str(tmp_path / "t5x"), model=CONFIG)
    check_live(t5x, CONFIG, objective, [world.store])
    found = t5x.load(mesh)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found.params, loaded.params))
    assert found.identity.step == 7


def test_a_plan_reads_its_configuration(folder):
    assert _teacher_config(LiveTeacher(str(folder)), None) == CONFIG
