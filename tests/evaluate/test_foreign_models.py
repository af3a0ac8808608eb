"""A folder of transformers, and a checkpoint of T5X, are evaluated as the model that they hold."""

import dataclasses
import logging

import pytest
import small_world

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.errors import UserError
from cat_jax.evaluate.run import evaluate
from cat_jax.table import read_table


@pytest.fixture(autouse=True)
def _texts(monkeypatch, tmp_path):
    for module, name in small_world.PATCHED:
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small_world.without_seqio()


def test_they_answer_as_the_model_does(tmp_path, caplog):
    small_world.write_examples(tmp_path / "store", 11, "letters", longest=12)
    tasks = (small_world.MixtureTask("letters", 1.0, ("test",)),)
    small_world.write_mixture(tmp_path / "store", small_world.Mixture("one", tasks))
    model = small_world.save_model(tmp_path / "model")
    export_checkpoint(model, tmp_path / "folder")
    export_checkpoint(model, tmp_path / "t5x", format="t5x")
    models = {"ours": str(model), "folder": str(tmp_path / "folder"), "t5x": str(tmp_path / "t5x" / "checkpoint_3")}
    settings = {"mixture_or_task": "one", "splits": ("test",), "batch_size": 4}
    settings |= {"models": models, "store_dir": str(tmp_path / "store"), "output_dir": str(tmp_path / "tables")}
    with pytest.raises(UserError, match="checkpoint_3 does not say what model it is of"):
        evaluate(**settings)
    with pytest.raises(UserError, match="a configuration for 't5' and no such model"):
        evaluate(**settings, model_configs={"t5": small_world.CONFIG})
    with caplog.at_level(logging.WARNING):
        evaluate(**settings, model_configs={"t5x": small_world.CONFIG})
    assert f"{tmp_path / 'folder'} does not say on which vocabulary of inputs it was trained" in caplog.text
    assert f"{model} does not say" not in caplog.text
    tables = {name: read_table(tmp_path / "tables" / name / "letters.test.parquet") for name in models}
    rows, info = tables["ours"]
    assert len(set(rows["prediction"].to_pylist())) > 3
    for name in ("folder", "t5x"):
        other, other_info = tables[name]
        assert other["prediction"].to_pylist() == rows["prediction"].to_pylist()
        assert other["token_logprobs"].to_pylist() == rows["token_logprobs"].to_pylist()
        assert other_info.checkpoint not in ("", info.checkpoint)
    assert [tables[name][1].step for name in models] == [3, 0, 3]
    before = {name: (tmp_path / "tables" / name / "letters.test.parquet").stat().st_mtime_ns for name in models}
    evaluate(**settings, model_configs={"t5x": small_world.CONFIG})  # they are known again
    assert before == {name: (tmp_path / "tables" / name / "letters.test.parquet").stat().st_mtime_ns for name in models}


def test_a_model_of_fewer_ids_is_refused(tmp_path):
    small_world.write_examples(tmp_path / "store", 3, "letters", longest=12)
    tasks = (small_world.MixtureTask("letters", 1.0, ("test",)),)
    small_world.write_mixture(tmp_path / "store", small_world.Mixture("one", tasks))
    small = dataclasses.replace(small_world.CONFIG, vocab_size=28)
    export_checkpoint(small_world.save_model(tmp_path / "model", config=small), tmp_path / "folder")
    models = {"folder": str(tmp_path / "folder")}
    with pytest.raises(UserError, match=r"inputs of .* have 30 ids, .*folder knows 28"):
        evaluate(models, str(tmp_path / "store"), "one", str(tmp_path / "tables"), splits=("test",))
