"""Configurations: what is refused, what is saved, and the gin files of the published sizes."""

import ast
import json
import pathlib
import re

import pytest
from t5_cases import tiny_config

from cat_jax.errors import UserError
from cat_jax.models.flops import parameter_count
from cat_jax.models.registry import MODEL_FAMILIES, config_from_dict
from cat_jax.models.t5_config import T5Config

GIN_FILES = pathlib.Path(__file__).parents[2] / "gin_configs" / "models"


@pytest.mark.parametrize(
    ("field", "value", "names"),
    [
        ("embed_dim", 0, "T5Config.embed_dim is 0: give a positive whole number"),
        ("num_heads", -2, "T5Config.num_heads is -2"),
        ("mlp_dim", 3.5, "T5Config.mlp_dim is 3.5"),
        ("vocab_size", "32128", "T5Config.vocab_size is '32128'"),
        ("vocab_multiple", 0, "T5Config.vocab_multiple is 0: give a positive whole number"),
        ("num_decoder_layers", True, "T5Config.num_decoder_layers is True"),
        ("activations", ("gelu", "swish"), "T5Config.activations has unknown 'swish': give one of gelu, "),
        ("activations", (), "T5Config.activations is ()"),
        ("activations", "gelu", "T5Config.activations is 'gelu'"),
        ("dtype", "int8", "T5Config.dtype has unknown 'int8': give one of float32, bfloat16"),
        ("param_dtype", "f32", "T5Config.param_dtype has unknown 'f32'"),
        ("remat", "some", "T5Config.remat has unknown 'some': give one of none, minimal, full"),
        ("dropout_rate", 1.0, "T5Config.dropout_rate is 1.0: give a number in [0, 1)"),
        ("dropout_rate", None, "T5Config.dropout_rate is None"),
        ("norm_epsilon", 0, "T5Config.norm_epsilon is 0"),
        ("scan_layers", "yes", "T5Config.scan_layers is 'yes': give True or False"),
        ("relative_buckets", 30, "T5Config.relative_buckets is 30: give a multiple of 4"),
        ("relative_max_distance", 16, "T5Config.relative_max_distance 16 is within the exact buckets"),
    ],
)
def test_what_no_model_can_be_built_from_is_refused(field, value, names):
    with pytest.raises(UserError, match=re.escape(names)):
        tiny_config(**{field: value})


def test_a_configuration_survives_json():
    config = tiny_config(activations=("relu",), dtype="bfloat16", scan_layers=True, remat="full")
    saved = json.loads(json.dumps(config.to_dict()))
    assert saved["family"] == "t5"
    again = config_from_dict(saved)
    assert again == config
    assert hash(again) == hash(config)
    assert MODEL_FAMILIES["t5"] is T5Config


def test_a_description_from_before_vocab_multiple_is_of_the_same_model():
    """Models are known by the fingerprint of their description: it must not change under those that are there."""
    before = tiny_config().to_dict()
    assert "vocab_multiple" not in before
    assert config_from_dict(before) == tiny_config(vocab_multiple=1)
    padded = tiny_config(vocab_multiple=8)
    assert config_from_dict(padded.to_dict()) == padded


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"family": "gpt"}, "unknown model family 'gpt': give one of t5"),
        ({"family": None}, "unknown model family None"),
        ({"embed_dims": 3}, "T5Config has no field 'embed_dims': did you mean embed_dim"),
        ({"zzz": 3}, "T5Config has no field 'zzz': its fields are vocab_size, "),
    ],
)
def test_a_damaged_description_is_refused(change, names):
    with pytest.raises(UserError, match=re.escape(names)):
        config_from_dict({**tiny_config().to_dict(), **change})


def test_a_missing_size_is_named():
    fields = tiny_config().to_dict()
    del fields["mlp_dim"], fields["head_dim"]
    with pytest.raises(UserError, match="T5Config lacks head_dim, mlp_dim"):
        config_from_dict(fields)


@pytest.mark.parametrize(
    ("size", "millions"),
    [("tiny", 25.9), ("small", 77.0), ("base", 247.6), ("large", 783.2), ("xl", 2849.8), ("xxl", 11135.3)],
)
def test_the_gin_files_hold_the_published_sizes(size, millions):
    text = (GIN_FILES / f"t5_{size}.gin").read_text()
    assert "\nMODEL = @T5Config()\n" in text
    fields = {name: ast.literal_eval(value) for name, value in re.findall(r"^T5Config\.(\w+) = (.+)$", text, re.M)}
    config = T5Config(**fields)
    assert parameter_count(config) / 1e6 == pytest.approx(millions, abs=0.1)
    assert config.activations == ("gelu", "linear")
    assert not config.tie_embeddings
