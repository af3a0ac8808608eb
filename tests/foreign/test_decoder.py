"""Llama, Mistral, Qwen and Gemma of `transformers`: read, computed with, and written back."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from flax import nnx
from foreign_cases import load, params_of, write_model

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.checkpoint.imported import import_checkpoint
from cat_jax.checkpoint.params import load_model, read_model_file
from cat_jax.cli import configuration
from cat_jax.errors import UserError
from cat_jax.foreign.decoder import from_hugging_face, to_hugging_face
from cat_jax.foreign.model import check_same_model
from cat_jax.foreign.safetensors_file import read_header
from cat_jax.models.decoder_config import GLOBAL, LOCAL, DecoderConfig
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.types import Batch

SIZES = {"vocab_size": 45, "embed_dim": 16, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 24}
GEMMA = {"activations": ("gelu", "linear"), "norm_offset": 1, "embedding_scale": True, "tie_embeddings": True}
GEMMA |= {"bos_id": 2}
WINDOW = {"window": 4, "layer_pattern": (LOCAL, GLOBAL)}
YARN = {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_length": 40}
LLAMA3 = {"rope_scaling": "llama3", "rope_factor": 4, "rope_original_length": 40, "rope_theta": 500}
FAMILIES = {
    "llama": {"bos_id": 1, **LLAMA3},
    "tied_llama": {"bos_id": 1, "tie_embeddings": True, "rope_theta": 1e5},
    "mistral": {"bos_id": 1, "window": 4, "layer_pattern": (LOCAL,), "norm_epsilon": 1e-5},
    "qwen2": {"bos_id": None, "qkv_bias": True, **WINDOW, "rope_scaling": "linear", "rope_factor": 3.0},
    "qwen3": {"bos_id": None, "qk_norm": True, "tie_embeddings": True, **YARN},
    "gemma": GEMMA | {"num_kv_heads": 1},
    "gemma2": {**GEMMA, **WINDOW, "post_norms": True, "attention_softcap": 2.0, "logit_softcap": 3.0},
    "gemma3": {**GEMMA, **WINDOW, "post_norms": True, "qk_norm": True, "rope_theta": 1e6, "local_rope_theta": 100.0},
}
FAMILIES["gemma3"] |= {"rope_scaling": "linear", "rope_factor": 8.0}
for _name in ("gemma2", "gemma3"):
    FAMILIES[_name]["query_pre_attn_scalar"] = 5.0


def config_of(family, **changes):
    return DecoderConfig(**{**SIZES, "num_layers": 3, **FAMILIES[family], **changes})


QUICK = ("llama", "qwen3", "gemma3")


@pytest.mark.parametrize(
    "family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.exhaustive) for f in FAMILIES]
)
def test_there_and_back(tmp_path, family):
    config = config_of(family, vocab_multiple=10)
    export_checkpoint(write_model(tmp_path / "model", config), tmp_path / "folder")
    assert read_model_file(tmp_path / "folder")[0] == config_of(family)
    expected, found = params_of(config), load(tmp_path / "folder", config)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    shapes = {name: array.shape for name, array in read_header(tmp_path / "folder" / "model.safetensors").items()}
    assert shapes["model.layers.2.self_attn.k_proj.weight"] == (8 * config.kv_heads, 16)
    assert shapes["model.embed_tokens.weight"] == (45, 16)
    assert ("lm_head.weight" in shapes) == (not config.tie_embeddings)


def test_layers_may_be_stacked(tmp_path):
    config = config_of("qwen2")
    export_checkpoint(write_model(tmp_path / "model", config), tmp_path / "folder")
    stacked, expected = load(tmp_path / "folder", dataclasses.replace(config, scan_layers=True)), params_of(config)
    for name in ("attention.key.kernel", "attention.query.bias", "mlp.inputs.1.kernel"):
        layers = [expected[f"layers.{i}.{name}"] for i in range(3)]
        np.testing.assert_array_equal(stacked[f"layers.{name}"], np.stack(layers))


@functools.partial(jax.jit, static_argnums=0)
def logits_of(graphdef, params, batch):
    output = nnx.merge(graphdef, params)(batch)
    return output.head.logits(output.hidden)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_made_gives_its_logits_and_goes_back_bit_by_bit(tmp_path, family):
    transformers = pytest.importorskip("transformers", reason="compared where transformers is installed")
    torch = pytest.importorskip("torch", reason="compared where torch is installed")
    torch.manual_seed(0)
    expected = config_of(family)
    fields = {"max_position_embeddings": 160, "pad_token_id": 0, "eos_token_id": None}
    fields = to_hugging_face(expected, fields)
    theirs = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**fields), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            weight.uniform_(0.5, 1.5) if "norm" in name else weight.normal_(0.0, 0.4)
    theirs.save_pretrained(tmp_path / "theirs")
    config, graphdef, params, _ = load_model(tmp_path / "theirs", mesh=MeshConfig().build())
    assert config == expected
    tokens = np.random.default_rng(0).integers(3, 45, (2, 12)).astype(np.int32)
    shifted = np.pad(tokens, [(0, 0), (1, 0)])[:, :-1]
    batch = Batch(tokens, shifted, np.ones((2, 12), np.float32))
    first = [] if config.bos_id is None else [config.bos_id]
    with torch.no_grad():
        wanted = theirs(torch.tensor([[*first, *row[:-1]] for row in tokens.tolist()])).logits.numpy()
    ours = np.asarray(logits_of(graphdef, params, batch))[:, -wanted.shape[1] :]
    np.testing.assert_allclose(ours, wanted, atol=1e-4, rtol=1e-4)
    import_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", tmp_path / "back")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in theirs.state_dict().items())


SMOLLM2 = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000,
    "rope_scaling": None,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "tie_word_embeddings": True,
}


def test_a_configuration_of_version_4():
    config = from_hugging_face(SMOLLM2)
    assert (config.head_dim, config.num_kv_heads, config.rope_theta, config.bos_id) == (64, 3, 1e5, 0)
    scaling = {"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192}
    scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = from_hugging_face({**SMOLLM2, "rope_scaling": scaling, "bos_token_id": 128000 % 49152})
    assert (config.rope_scaling, config.rope_factor, config.rope_original_length) == ("llama3", 32.0, 8192)
    gemma = {"model_type": "gemma3_text", "sliding_window": 512, "sliding_window_pattern": 6, "head_dim": 128}
    gemma |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "hidden_activation": "gelu_pytorch_tanh"}
    config = from_hugging_face({**SMOLLM2, **gemma, "num_hidden_layers": 26})
    assert config.layer_kinds == ((LOCAL,) * 5 + (GLOBAL,)) * 4 + (LOCAL,) * 2
    assert (config.window, config.local_rope_theta, config.query_pre_attn_scalar) == (512, 1e4, 256)
    assert from_hugging_face({**SMOLLM2, "model_type": "qwen2", "sliding_window": 4096}).window is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"hidden_size": "576"}, "has hidden_size '576': give a whole number"),
        ({"mlp_bias": True}, "has mlp_bias"),
        ({"use_bidirectional_attention": True}, "has use_bidirectional_attention"),
        ({"hidden_act": "relu2"}, "has the activation 'relu2'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "rotates a part of each head"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "scales rotary positions by 'longrope'"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 0.7}},
            "by 'yarn' with mscale 0.7: use a model with",
        ),
        ({"layer_types": ["chunked_attention"] * 30}, r"has layer_types \['chunked_attention'\]"),
    ],
)
def test_what_this_decoder_cannot_be_is_named(fields, words):
    with pytest.raises(UserError, match=words):
        from_hugging_face({**SMOLLM2, **fields})


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama", {"qk_norm": True, "qkv_bias": True}, "norms, biases and a scale of embeddings together"),
        ("llama", {"attention_softcap": 5.0}, "softcaps"),
        ("gemma", {"query_pre_attn_scalar": 5.0}, "query_pre_attn_scalar"),
        ("qwen3", {"rotary_fraction": 0.5}, "rotary_fraction"),
        ("llama", WINDOW, "layer_pattern"),
        ("gemma", WINDOW, "layer_pattern"),
        ("gemma2", {"local_rope_theta": 9.0}, "local_rope_theta"),
        ("gemma3", {"local_rope_theta": None}, "local_rope_theta"),
        ("llama", {"prefix_lm": True}, "is a prefix-LM"),
    ],
)
def test_what_would_be_computed_otherwise_there_is_not_exported(family, changes, words):
    with pytest.raises(UserError, match=f"{words}.*cannot be exported"):
        to_hugging_face(config_of(family, **changes), {})


@pytest.mark.parametrize(("family", "bos_id"), [("llama", None), ("llama", 0), ("qwen3", 5), ("qwen3", None)])
def test_what_begins_an_example_survives_an_export(family, bos_id):
    config = config_of(family, bos_id=bos_id)
    fields = json.loads(json.dumps(to_hugging_face(config, {"bos_token_id": 7})))
    assert from_hugging_face(fields) == config
    assert fields["bos_token_id"] == bos_id  # for other programs


def test_what_is_left_out_is_what_each_kind_means_by_it():
    given = {name: value for name, value in SMOLLM2.items() if name != "rope_theta"}
    for kind in ("llama", "qwen2", "gemma2"):
        assert from_hugging_face({**given, "model_type": kind}).rope_theta == 1e4
    del given["num_key_value_heads"]
    gemma = from_hugging_face({**given, "model_type": "gemma3_text", "num_attention_heads": 8})
    assert (gemma.rope_theta, gemma.local_rope_theta, gemma.window) == (1e6, 1e4, 4096)
    assert (gemma.num_kv_heads, gemma.head_dim, gemma.logit_softcap) == (4, 256, None)
    assert from_hugging_face({**SMOLLM2, "model_type": "gemma2"}).logit_softcap == 30


def test_scaled_positions_are_written_for_version_4_too():
    gemma = config_of("gemma3")
    fields = to_hugging_face(gemma, {"max_position_embeddings": 90})
    assert (fields["rope_scaling"], fields["max_position_embeddings"]) == ({"rope_type": "linear", "factor": 8.0}, 90)
    assert from_hugging_face({name: value for name, value in fields.items() if name != "rope_parameters"}) == gemma
    assert to_hugging_face(config_of("qwen3"), {})["max_position_embeddings"] == 160
    stale = {"rope_scaling": {"type": "linear", "factor": 2}}
    assert to_hugging_face(config_of("mistral"), stale)["rope_scaling"] is None


def test_a_gemma_keeps_the_exact_form_of_its_activation():
    config = config_of("gemma", activations=("gelu_exact", "linear"))
    assert from_hugging_face(to_hugging_face(config, {"hidden_activation": "gelu_pytorch_tanh"})) == config


MODELS = sorted(configuration.BUNDLED.glob("models/*.gin"))


@pytest.mark.parametrize("file", [path.stem for path in MODELS if "@DecoderConfig" in path.read_text()])
def test_a_bundled_gin_file_is_of_the_model_that_it_becomes_there(file, tmp_path):
    bindings = configuration.read([f"models/{file}.gin"])
    config = DecoderConfig(**{i.parameter: i.value for i in bindings.merged().values() if i.name == "DecoderConfig"})
    described = from_hugging_face(to_hugging_face(config, {"bos_token_id": 0}))
    check_same_model("a folder", described, config)
    check_same_model("a folder", described, dataclasses.replace(config, bos_id=1, prefix_lm=True))
    with pytest.raises(UserError, match="a folder is of a model with rope_theta"):
        check_same_model("a folder", described, dataclasses.replace(config, rope_theta=7.0))


def test_t5x_has_none(tmp_path):
    with pytest.raises(UserError, match="T5X has no models of the family 'decoder'"):
        export_checkpoint(write_model(tmp_path / "model", config_of("llama")), tmp_path / "t5x", format="t5x")
    assert json.loads(json.dumps(to_hugging_face(config_of("gemma3"), {})))["model_type"] == "gemma3_text"
