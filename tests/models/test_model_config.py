"""Configurations: what is refused, what is saved, and the gin files of the published sizes."""

import ast
import json
import pathlib
import re

import pytest
from t5_cases import tiny_config

from cat_jax.errors import UserError
from cat_jax.models.decoder_config import DecoderConfig
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
        ({"family": "gpt"}, "unknown model family 'gpt': give one of decoder, t5"),
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


def config_of(name):
    """The configuration in a bundled gin file."""
    text = (GIN_FILES / f"{name}.gin").read_text()
    config = next(config for config in (T5Config, DecoderConfig) if f"\nMODEL = @{config.__name__}()\n" in text)
    fields = re.findall(rf"^{config.__name__}\.(\w+) = (.+)$", text, re.M)
    return config(**{field: ast.literal_eval(value) for field, value in fields})


@pytest.mark.parametrize(
    ("size", "millions"),
    [("tiny", 25.9), ("small", 77.0), ("base", 247.6), ("large", 783.2), ("xl", 2849.8), ("xxl", 11135.3)],
)
def test_the_gin_files_hold_the_published_sizes(size, millions):
    config = config_of(f"t5_{size}")
    assert parameter_count(config) / 1e6 == pytest.approx(millions, abs=0.1)
    assert config.activations == ("gelu", "linear")
    assert not config.tie_embeddings


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("smollm2_135m", 134_515_008),
        ("smollm2_360m", 361_821_120),
        ("llama3_2_1b", 1_235_814_400),
        ("qwen3_0_6b", 596_049_920),
        ("gemma3_270m", 268_098_176),
        ("gemma3_1b", 999_885_952),
    ],
)
def test_the_gin_files_of_decoders_hold_the_published_sizes(name, parameters):
    """As many parameters as the released files hold, tied tables once."""
    assert parameter_count(config_of(name)) == parameters


DECODER = {"vocab_size": 50, "embed_dim": 16, "num_heads": 4, "head_dim": 6, "mlp_dim": 24, "num_layers": 2}


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"num_layers": 0}, "DecoderConfig.num_layers is 0: give a positive whole number"),
        ({"num_kv_heads": 3}, "DecoderConfig.num_kv_heads is 3: give a divisor of num_heads = 4"),
        ({"num_kv_heads": "2"}, "DecoderConfig.num_kv_heads is '2': give a positive whole number"),
        ({"head_dim": 7}, "DecoderConfig.head_dim 7 x rotary_fraction 1.0 gives 7 dimensions to rotate"),
        ({"rotary_fraction": 0.1}, "x rotary_fraction 0.1 gives 0 dimensions to rotate"),
        ({"rotary_fraction": 2}, "DecoderConfig.rotary_fraction is 2: give a number in (0, 1]"),
        ({"bos_id": 50}, "DecoderConfig.bos_id is 50: give an id below vocab_size = 50, or None"),
        ({"bos_id": True}, "DecoderConfig.bos_id is True"),
        ({"norm_offset": 2}, "DecoderConfig.norm_offset is 2: give 0, or 1 for a Gemma"),
        ({"rope_theta": None}, "DecoderConfig.rope_theta is None: give a number above 0"),
        ({"attention_softcap": 0}, "DecoderConfig.attention_softcap is 0: give a number above 0"),
        ({"layer_pattern": ("local",)}, "DecoderConfig.window is None: give the tokens that a local layer sees"),
        ({"window": 4}, "DecoderConfig.layer_pattern is ('global',): call the layers with window = 4 'local'"),
        ({"layer_pattern": ("sliding",)}, "DecoderConfig.layer_pattern has unknown 'sliding': give one of global, loc"),
        ({"local_rope_theta": 10}, "DecoderConfig.local_rope_theta is 10: leave it out: no layer is local"),
        (
            {"rope_scaling": "ntk"},
            "DecoderConfig.rope_scaling has unknown 'ntk': give one of none, linear, llama3, yarn",
        ),
        ({"rope_factor": 8}, "DecoderConfig.rope_factor is 8: say which rope_scaling, or leave it at 1"),
        (
            {"rope_scaling": "yarn", "rope_factor": 4},
            "DecoderConfig.rope_original_length is None: rope_scaling 'yarn' n",
        ),
        ({"rope_low_frequency_factor": 4}, "DecoderConfig.rope_low_frequency_factor is 4: give less than 4.0"),
        ({"attention": "splash", "prefix_lm": True}, "DecoderConfig.attention 'splash' has no mask for prefix_lm"),
        ({"prefix_lm": 1}, "DecoderConfig.prefix_lm is 1: give True or False"),
        ({"num_head": 2}, "DecoderConfig has no field 'num_head': did you mean num_heads"),
    ],
)
def test_what_no_decoder_can_be_built_from_is_refused(fields, names):
    with pytest.raises(UserError, match=re.escape(names)):
        DecoderConfig.from_dict({**DECODER, **fields})


def test_a_decoder_s_configuration_survives_json():
    fields = {"window": 4, "layer_pattern": ["local", "global"], "rope_theta": 500_000, "bos_id": None}
    config = DecoderConfig(**DECODER, **fields)
    saved = json.loads(json.dumps(config.to_dict()))
    assert config_from_dict(saved) == config
    again = DecoderConfig(**DECODER, **{**fields, "rope_theta": 5e5, "layer_pattern": ("local", "global")})
    assert json.dumps(again.to_dict()) == json.dumps(config.to_dict())  # models are known by it
    assert hash(again) == hash(config)
    assert config.needs_inputs
    assert not DecoderConfig(**DECODER).needs_inputs


def test_what_is_said_or_left_out_is_one_description():
    said = DecoderConfig(**DECODER, num_kv_heads=4, query_pre_attn_scalar=6, rope_theta=10_000)
    assert said == DecoderConfig(**DECODER)
    assert said.kv_heads == 4
