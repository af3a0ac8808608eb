"""Gin files that say what a checkpoint is of, in the arguments of the commands that read it."""

import pytest

from cat_jax.cli import configuration, main
from cat_jax.cli.command import GinFlags
from cat_jax.cli.model_files import model_of, resolved
from cat_jax.errors import UserError
from cat_jax.evaluate.job import EvaluatedModel

STORE = ("MIXTURE_OR_TASK_NAME='x'", "STORE_DIR='s'")
PREPARED = ("MIXTURE_OR_TASK_MODULE='x'", "TASK_FEATURE_LENGTHS={}")


def resolved_of(root, files, *bindings):
    flags = GinFlags((f"runs/{root}.gin", *files), (*STORE, *bindings))
    return resolved(configuration.configure(configuration.of_flags(flags), root), flags)


def test_of_a_live_teacher():
    teacher = ("TEACHER=@LiveTeacher()", "TEACHER_DIR='t5x'", "TEACHER_MODEL='models/t5_base.gin'")
    run = (*PREPARED, "MODEL_DIR='m'", "TRAIN_STEPS=1", "T5Config.vocab_size=64", "teacher/T5Config.vocab_size=128")
    files = ("models/t5_tiny.gin", "objectives/cat_xent.gin")
    found = resolved_of("train", files, *teacher, *run)["teacher"].model
    assert (found.embed_dim, found.vocab_size) == (768, 128)
    assert resolved_of("train", files, *teacher[:2], *run)["teacher"].model is None


def test_of_teach_and_of_evaluated_models():
    found = resolved_of("teach", (), "TEACHER_DIR='t5x'", "SIGNAL_DIR='g'", "TEACHER_MODEL=['models/t5_small.gin']")
    assert found["model"].embed_dim == 512
    models = ("EVAL_MODELS={'a': 'x', 'b': 'y'}", "TABLES_DIR='t'")
    found = resolved_of("evaluate", (), *PREPARED, *models, "EVAL_MODEL_FILES={'b': 'models/t5_tiny.gin'}")
    assert {name: config.embed_dim for name, config in found["model_configs"].items()} == {"b": 256}
    one = (
        "EVAL_MODELS=[@EvaluatedModel()]",
        "EvaluatedModel.name='b'",
        "EvaluatedModel.model_dir='y'",
        "TABLES_DIR='t'",
    )
    (entry,) = resolved_of("evaluate", (), *PREPARED, *one, "EvaluatedModel.model='models/t5_tiny.gin'")["models"]
    assert isinstance(entry, EvaluatedModel)
    assert entry.model.embed_dim == 256


def test_a_file_without_a_model():
    with pytest.raises(UserError, match=r"no gin file models/t5_huge\.gin"):
        model_of("models/t5_huge.gin", GinFlags())
    with pytest.raises(UserError, match="given_model needs a value for MODEL"):
        model_of("objectives/xent.gin", GinFlags())


def test_import_takes_them_as_flags(tmp_path, capfd):
    assert main.main(["import", str(tmp_path), str(tmp_path / "out"), "--gin.T5Config.dropout_rate=0"]) == 2
    assert "changes a model that is given by gin files: name one with --gin_file" in capfd.readouterr().err
