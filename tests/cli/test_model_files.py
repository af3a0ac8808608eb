"""Gin files that say what a checkpoint is of, in the arguments of the commands that read it."""

import json

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
    with pytest.raises(UserError, match=r"no MODEL is set by objectives/xent\.gin: name a gin file"):
        model_of("objectives/xent.gin", GinFlags())


def test_import_takes_them_as_flags(tmp_path, capfd):
    assert main.main(["import", str(tmp_path), str(tmp_path / "out"), "--gin.T5Config.dropout_rate=0"]) == 2
    assert "changes a model that is given by gin files: name one with --gin_file" in capfd.readouterr().err


LLAMA = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": 3, "hidden_act": "silu",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path / "hf"


def test_a_checkpoint_may_say_what_model_is_trained(folder):
    """The path of a start is enough; what is computed and fed otherwise is said beside it."""
    files = ("models/from_checkpoint.gin", "objectives/xent.gin")
    job = (*STORE, *PREPARED, "MODEL_DIR='m'", "TRAIN_STEPS=1", f"INITIAL_CHECKPOINT_PATH='{folder}'")
    changes = "model_from_checkpoint.changes={'bos_id': None, 'scan_layers': True}"

    def arguments(*bindings):
        flags = GinFlags(("runs/finetune.gin", *files), (*job, *bindings))
        return configuration.configure(configuration.of_flags(flags), "train").arguments

    found = arguments()
    assert found["initial_checkpoint_path"] == str(folder)
    assert (found["model"].embed_dim, found["model"].bos_id, found["model"].scan_layers) == (16, 3, False)
    changed = arguments(changes)["model"]
    assert (changed.embed_dim, changed.bos_id, changed.scan_layers) == (16, None, True)
    with pytest.raises(UserError, match=r"DecoderConfig has no field 'scan_layer': did you mean scan_layers\?"):
        arguments("model_from_checkpoint.changes={'scan_layer': True}")
    with pytest.raises(UserError, match=r"no model at .*nowhere: nothing is there"):
        arguments("INITIAL_CHECKPOINT_PATH='nowhere'")


def test_a_checkpoint_may_say_what_a_teacher_is_beside_a_change(folder, tmp_path):
    (tmp_path / "chat.gin").write_text(
        f"include 'models/from_checkpoint.gin'\nteacher/model_from_checkpoint.path = '{folder}'\n"
        "teacher/model_from_checkpoint.changes = {'bos_id': None}\n"
    )
    found = resolved_of(
        "teach",
        (),
        f"TEACHER_DIR='{folder}'",
        "SIGNAL_DIR='g'",
        f"TEACHER_MODEL='{tmp_path}/chat.gin'",
        "model_from_checkpoint.changes={'scan_layers': True}",  # a student's flag
    )
    assert (found["model"].embed_dim, found["model"].bos_id, found["model"].scan_layers) == (16, None, False)
    with pytest.raises(UserError, match=r"path cannot be None \(--gin\.INITIAL_CHECKPOINT_PATH=None\)"):
        model_of("models/from_checkpoint.gin", GinFlags(bindings=("INITIAL_CHECKPOINT_PATH=None",)))


def test_files_that_set_a_macro_are_named_where_it_is_missing():
    flags = GinFlags(("runs/train.gin",), STORE)
    with pytest.raises(
        UserError, match=r"each in a gin file or as a flag, MODEL by --gin_file=models/NAME.gin \(from_che.*, e.g."
    ):
        configuration.configure(configuration.of_flags(flags), "train")
