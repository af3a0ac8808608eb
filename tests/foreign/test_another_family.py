"""A family is read and written once it has a table of names and a converter: a Llama of the decoder-only family."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from foreign_cases import load, params_of, write_model

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.checkpoint.params import load_model, read_model_file
from cat_jax.errors import UserError
from cat_jax.foreign import families
from cat_jax.foreign.families import ForeignFamily
from cat_jax.foreign.names import NameTable, Place, Slice, layered, plain
from cat_jax.foreign.safetensors_file import read_header
from cat_jax.models.decoder_config import DecoderConfig
from cat_jax.parallel.mesh import MeshConfig

CONFIG = DecoderConfig(
    vocab_size=45, vocab_multiple=10, embed_dim=16, num_heads=4, num_kv_heads=2, head_dim=4, mlp_dim=24, num_layers=3
)
FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "embed_dim",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "mlp_dim",
    "num_hidden_layers": "num_layers",
}


def names(config):
    def at(name, axes):
        return lambda i: Place(Slice(f"model.layers.{i}.{name}.weight"), axes)

    out, turned, vector = ((1, 2), (0,)), ((1,), (0,)), ((0,),)
    places = {f"attention.{name}.kernel": at(f"self_attn.{name[0]}_proj", out) for name in ("query", "key", "value")}
    places["attention.output.kernel"] = at("self_attn.o_proj", ((2,), (0, 1)))
    places["attention_norm.scale"] = at("input_layernorm", vector)
    places["mlp_norm.scale"] = at("post_attention_layernorm", vector)
    for ours, theirs in (("inputs.0", "gate_proj"), ("inputs.1", "up_proj"), ("output", "down_proj")):
        places[f"mlp.{ours}.kernel"] = at(f"mlp.{theirs}", turned)
    entries = {
        "embedding.table": plain("model.embed_tokens.weight", ((0,), (1,)), vocabulary=0),
        "norm.scale": plain("model.norm.weight", vector),
        "output.kernel": plain("lm_head.weight", turned, vocabulary=1),
        **layered("", config.num_layers, config.scan_layers, places),
    }
    return NameTable(entries, ignored=("*.rotary_emb.inv_freq",))


@pytest.fixture
def _family(monkeypatch):
    monkeypatch.setattr(families, "_REGISTERED", dict(families._REGISTERED))
    families.register(
        ForeignFamily(
            family="decoder",
            model_types=("llama",),
            from_hugging_face=lambda fields: DecoderConfig(**{ours: fields[name] for name, ours in FIELDS.items()}),
            to_hugging_face=lambda config, described: (
                {**described, "model_type": "llama"} | {name: getattr(config, ours) for name, ours in FIELDS.items()}
            ),
            hugging_face_names=names,
            tokenizer_class="LlamaTokenizer",
        )
    )


@pytest.mark.usefixtures("_family")
def test_there_and_back(tmp_path):
    export_checkpoint(write_model(tmp_path / "model", CONFIG), tmp_path / "folder")
    shapes = {name: array.shape for name, array in read_header(tmp_path / "folder" / "model.safetensors").items()}
    assert shapes["model.layers.2.self_attn.k_proj.weight"] == (8, 16)
    assert shapes["lm_head.weight"] == (45, 16)
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["num_key_value_heads"] == 2
    expected = params_of(CONFIG)
    found = load(tmp_path / "folder", CONFIG)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    stacked = load(tmp_path / "folder", dataclasses.replace(CONFIG, scan_layers=True))
    name = "attention.key.kernel"
    np.testing.assert_array_equal(
        stacked[f"layers.{name}"], jnp.stack([expected[f"layers.{i}.{name}"] for i in range(3)])
    )
    assert read_model_file(tmp_path / "folder")[0] == dataclasses.replace(CONFIG, vocab_multiple=1)
    with pytest.raises(UserError, match="T5X has no models of the family 'decoder'"):
        export_checkpoint(tmp_path / "model", tmp_path / "t5x", format="t5x")


@pytest.mark.usefixtures("_family")
def test_it_is_what_transformers_makes(tmp_path):
    transformers = pytest.importorskip("transformers", reason="compared where transformers is installed")
    pytest.importorskip("torch", reason="compared where torch is installed")
    fields = {name: getattr(CONFIG, ours) for name, ours in FIELDS.items()}
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields, tie_word_embeddings=False)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    config, _, params, _ = load_model(tmp_path / "theirs", mesh=MeshConfig().build())
    assert config.num_kv_heads == 2
    kernel = params["layers"][1]["attention"]["query"]["kernel"][...]
    weight = theirs.model.layers[1].self_attn.q_proj.weight.detach().numpy()
    np.testing.assert_array_equal(kernel, weight.T.reshape(16, 4, 4))
