"""A run may start from another program's checkpoint, as from one of ours."""

import dataclasses
import json

import pytest
import training_world as world

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.errors import UserError
from cat_jax.train.loop import train


def losses_of(model_dir):
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def test_the_start_is_that_of_our_own(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = world.write_world(tmp_path / "store")
    short = {"train_steps": 1, "eval_dataset": None, "log_period": 1}
    train(**world.arguments(tmp_path / "before", root, **short))
    export_checkpoint(tmp_path / "before", tmp_path / "folder")
    for name in ("before", "folder"):
        start = str(tmp_path / name)
        train(**world.arguments(tmp_path / f"from_{name}", root, initial_checkpoint_path=start, **short))
    assert losses_of(tmp_path / "from_folder") == losses_of(tmp_path / "from_before") != losses_of(tmp_path / "before")
    assert f"{tmp_path / 'folder'} does not say on which vocabulary of targets it was trained" in caplog.text
    other = {"model": dataclasses.replace(world.model(), activations=("silu", "linear"))}
    arguments = world.arguments(tmp_path / "other", root, initial_checkpoint_path=str(tmp_path / "folder"), **other)
    with pytest.raises(UserError, match="a model with activations"):
        train(**arguments)
    assert not (tmp_path / "other").exists()
