"""GGUF files as models: what they hold, how it is computed, and those that do not open."""

import dataclasses
import shutil
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from foreign_cases import equal, load, rewrite

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.checkpoint.imported import import_checkpoint
from cat_jax.checkpoint.params import checkpoint_fingerprint, load_model, read_model_file
from cat_jax.cli import main as cli
from cat_jax.errors import UserError
from cat_jax.foreign import gguf_file
from cat_jax.foreign.content import content_digest
from cat_jax.foreign.opening import find
from cat_jax.models.decoder_config import DecoderConfig
from cat_jax.models.rope import rope_frequencies
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.types import Batch

gguf = pytest.importorskip("gguf", reason="needs the `gguf` extra")

from gguf_cases import MIXED, tensors_of, write_folder, write_gguf  # noqa: E402

SIZES = {"vocab_size": 45, "embed_dim": 256, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "mlp_dim": 64}
LLAMA = DecoderConfig(**SIZES, num_layers=2, bos_id=None, norm_epsilon=1e-5, rope_theta=500.0)
CONFIGS = {
    "llama": LLAMA,
    "qwen2": dataclasses.replace(LLAMA, qkv_bias=True, tie_embeddings=True),
    "qwen3": dataclasses.replace(LLAMA, qk_norm=True),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of transformers by architecture."""
    root = tmp_path_factory.mktemp("folders")
    return {arch: write_folder(root / arch, config) for arch, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    """A Llama in one file of float32."""
    path = tmp_path_factory.mktemp("whole") / "llama.gguf"
    write_gguf(path, LLAMA, tensors_of(folders["llama"]))
    return path


def test_it_is_what_its_folder_is(folders, whole, tmp_path):
    """In several encodings, queries and keys of grouped heads reordered; and so after an import and an export."""
    stands_for = write_gguf(tmp_path / "mixed.gguf", LLAMA, tensors_of(folders["llama"]), encodings=MIXED)
    folder = rewrite(folders["llama"], tmp_path / "folder", lambda tensors: stands_for)
    assert read_model_file(tmp_path / "mixed.gguf") == read_model_file(folder) == (LLAMA, {})
    for config in (LLAMA, dataclasses.replace(LLAMA, scan_layers=True)):
        assert equal(load(tmp_path / "mixed.gguf", config), load(folder, config))
    assert not equal(load(whole, LLAMA), load(folder, LLAMA))
    assert checkpoint_fingerprint(tmp_path / "mixed.gguf") == checkpoint_fingerprint(folder)
    summary = import_checkpoint(tmp_path / "mixed.gguf", tmp_path / "model")
    assert (summary["kind"], summary["family"]) == ("GGUF", "decoder")
    export_checkpoint(tmp_path / "model", tmp_path / "back")
    back = tensors_of(tmp_path / "back")
    assert all(np.array_equal(back[name], array) for name, array in stands_for.items())


def test_a_file_of_any_name_is_known_by_its_beginning(whole, tmp_path):
    copy = shutil.copyfile(whole, tmp_path / "sha256-blob")
    assert content_digest(find(copy)) == content_digest(find(whole))


def test_rows_are_read_wherever_they_begin(folders, tmp_path):
    write_gguf(tmp_path / "a.gguf", LLAMA, tensors_of(folders["llama"]), encodings=MIXED)
    for array in find(tmp_path / "a.gguf").open().arrays.values():
        count = array.shape[0]
        parts = [array.read(i, min(i + array.chunk_rows * 2, count)) for i in range(0, count, array.chunk_rows * 2)]
        np.testing.assert_array_equal(np.concatenate(parts), array.read(0, count))
        if array.heads:
            np.testing.assert_array_equal(array.read(3, 21), array.read(0, count)[3:21])


TOKENS = np.random.default_rng(0).integers(3, 45, (2, 12)).astype(np.int32)


def logits_of(path):
    """Of the tokens from the second on."""
    config, graphdef, params, _ = load_model(path, mesh=MeshConfig(data=1).build(jax.devices()[:1]))
    shifted = np.pad(TOKENS, [(0, 0), (1, 0)])[:, :-1]
    output = nnx.merge(graphdef, params)(Batch(TOKENS, shifted, np.ones(TOKENS.shape, np.float32)))
    return config, np.asarray(output.head.logits(output.hidden))[:, 1:]


def logits_of_transformers(path, **options):
    torch = pytest.importorskip("torch", reason="compared where torch is installed")
    transformers = pytest.importorskip("transformers", reason="compared where transformers is installed")
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)
    with torch.no_grad():
        return model(torch.tensor(TOKENS[:, :-1].tolist())).logits.numpy()


@pytest.mark.parametrize("arch", CONFIGS)
def test_logits_are_those_of_the_folder_in_transformers(arch, folders, tmp_path):
    write_gguf(tmp_path / "model.gguf", CONFIGS[arch], tensors_of(folders[arch]), arch=arch)
    wanted = logits_of_transformers(folders[arch])
    config, ours = logits_of(tmp_path / "model.gguf")
    assert config == CONFIGS[arch]
    np.testing.assert_allclose(ours, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("arch", CONFIGS)
def test_logits_are_those_of_the_same_file_in_transformers(arch, folders, tmp_path):
    """Which knows names and orders of its own."""
    pytest.importorskip("accelerate", reason="transformers reads GGUF where accelerate is installed")
    write_gguf(tmp_path / "model.gguf", CONFIGS[arch], tensors_of(folders[arch]), arch=arch, encodings=MIXED)
    transformers = pytest.importorskip("transformers", reason="compared where transformers is installed")
    # Not the configuration: transformers 5 does not take a Qwen's head_dim from a file.
    config = transformers.AutoConfig.from_pretrained(folders[arch])
    wanted = logits_of_transformers(tmp_path, gguf_file="model.gguf", config=config)
    np.testing.assert_allclose(logits_of(tmp_path / "model.gguf")[1], wanted, atol=1e-4, rtol=1e-4)


LENGTH = {"rope_original_length": 8192, "rope_factor": 8.0, "rope_theta": 5e5}


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_scaled_positions(kind, folders, tmp_path):
    fields = {"rope_factor": 3.0} if kind == "linear" else LENGTH
    expected = dataclasses.replace(LLAMA, **fields, rope_scaling=kind)

    def more(writer):
        if kind == "llama3":  # of which a file has what each frequency is divided by
            plain, scaled = (rope_frequencies(c, local=False)[0] for c in (unscaled, expected))
            writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))
            return
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(expected.rope_factor)
        if kind == "yarn":
            writer.add_rope_scaling_orig_ctx_len(8192)

    unscaled = dataclasses.replace(LLAMA, rope_theta=expected.rope_theta)
    write_gguf(tmp_path / "a.gguf", expected, tensors_of(folders["llama"]), more=more)
    assert read_model_file(tmp_path / "a.gguf")[0] == expected
    assert load(tmp_path / "a.gguf", expected)["norm.scale"].shape == (256,)


@pytest.mark.parametrize(
    ("arch", "model", "pre", "begins", "expected"),
    [
        ("llama", "llama", "default", None, 1),  # SentencePiece's
        ("llama", "gpt2", "llama-bpe", None, 1),
        ("llama", "gpt2", "smollm", None, None),
        ("llama", "gpt2", "smollm", True, 1),
        ("llama", "gpt2", "llama-bpe", False, None),
        ("qwen2", "gpt2", "qwen2", None, None),
        ("qwen2", "gpt2", "qwen2", True, 1),  # which a folder's bos_token_id would not be
    ],
)
def test_what_begins_an_example_is_said_by_the_tokenizer(arch, model, pre, begins, expected, folders, tmp_path):
    def more(writer):
        writer.add_tokenizer_model(model)
        writer.add_tokenizer_pre(pre)
        writer.add_bos_token_id(1)
        if begins is not None:
            writer.add_add_bos_token(begins)

    write_gguf(tmp_path / "a.gguf", CONFIGS[arch], tensors_of(folders[arch]), arch=arch, more=more)
    assert read_model_file(tmp_path / "a.gguf")[0].bos_id == expected


@pytest.mark.parametrize(
    ("said", "factor"),
    [
        ({"scaling.factor": 4.0}, 4.0),
        ({"scale_linear": 4.0}, 4.0),
        ({"scaling.type": "linear", "scale_linear": 4.0}, 4.0),
        ({"scaling.factor": 0.0, "scale_linear": 4.0}, 1.0),  # the newer key counts, and 0 is for none
        ({"scaling.type": "linear"}, 1.0),
        ({"scaling.type": "none", "scaling.factor": 1.0}, 1.0),
    ],
)
def test_positions_are_scaled_linearly_where_a_file_has_a_factor_alone(said, factor, folders, tmp_path):
    def more(writer):
        for name, value in said.items():
            (writer.add_string if isinstance(value, str) else writer.add_float32)(f"llama.rope.{name}", value)

    write_gguf(tmp_path / "a.gguf", LLAMA, tensors_of(folders["llama"]), more=more)
    found = read_model_file(tmp_path / "a.gguf")[0]
    assert (found.rope_scaling, found.rope_factor) == ("none" if factor == 1 else "linear", factor)


def line_of(argv, capfd):
    """The one line of a command that fails."""
    assert cli.main(argv) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cat-jax")]
    assert len(lines) == 1
    return lines[0]


def test_files_that_do_not_open(whole, tmp_path, capfd):
    content, out = whole.read_bytes(), tmp_path / "out"

    def said(content, *words):
        (tmp_path / "bad.gguf").write_bytes(content)
        line = line_of(["import", str(tmp_path / "bad.gguf"), str(out / "model")], capfd)
        for word in (str(tmp_path / "bad.gguf"), *words):
            assert word in line
        assert not out.exists() or not any(out.rglob("*"))

    for size in (len(content) - 1, len(content) // 2, 900, 30, 4):
        said(content[:size], "cut short", "download it again")
    for beginning in (b"", b"GGU"):
        said(beginning, "is not a GGUF file")
    said(content.replace(b"llama", b"lamda"), "architecture 'lamda'", "llama, qwen2, qwen3")
    said(content[:4] + bytes([77]) + content[5:], "not of a version that is read")
    assert "GGUF files: name one:" in line_of(["import", str(tmp_path), str(out)], capfd)


def test_without_the_library(whole, tmp_path, monkeypatch, capfd):
    gguf_file._read_file.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf", None)
    line = line_of(["import", str(whole), str(tmp_path / "out")], capfd)
    assert f"cannot import gguf, which reads {whole}" in line
    assert "pip install 'cat-jax[gguf]'" in line


def freq(values):
    return lambda writer: writer.add_tensor("rope_freqs.weight", np.array(values, np.float32))


def scaled(kind, *more):
    def add(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(2.0)
        for name, value in more:
            getattr(writer, f"add_rope_scaling_{name}")(value)

    return add


BAD = {
    "bias": (lambda w: w.add_tensor("blk.0.attn_q.bias", np.ones(64, np.float32)), "q_proj.bias.* no such parameter"),
    "unknown": (lambda w: w.add_tensor("blk.1.ffn_sub_norm.weight", np.ones(64, np.float32)), "blk.1.ffn_sub_norm"),
    "experts": (lambda w: w.add_expert_count(8), "mixture of experts"),
    "longrope": (scaled("longrope"), "by 'longrope' and factor, which is not read"),
    "none": (scaled("none"), "by 'none' and factor, which is not read"),
    "twice": (lambda w: (scaled("linear")(w), freq([1] * 8)(w)), "by 'linear' and factor and rope_freqs.weight"),
    "attention": (scaled("yarn", ("yarn_attn_factor", 0.5)), "by 'yarn' and yarn_attn_factor"),
    "factors": (freq([1, 2, 3, 4, 5, 6, 7, 8]), "other rope_freqs.weight than a Llama 3's"),
    "parts": (lambda w: w.add_uint16("split.count", 3), "one of 3 parts.*llama-gguf-split --merge"),
    "integers": (lambda w: w.add_tensor("extra", np.ones(3, np.int32)), "tensors in I32, which gguf cannot decode"),
}


@pytest.mark.parametrize("kind", BAD)
def test_models_that_are_none_here_are_named(kind, folders, tmp_path):
    more, words = BAD[kind]
    write_gguf(tmp_path / "bad.gguf", LLAMA, tensors_of(folders["llama"]), more=more)
    with pytest.raises(UserError, match=f"(?s)bad.gguf.*{words}") as error:
        import_checkpoint(tmp_path / "bad.gguf", tmp_path / "model")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]


def test_tensors_are_checked_as_those_of_a_folder(folders, tmp_path):
    tensors = tensors_of(folders["llama"])
    norm = "model.layers.1.input_layernorm.weight"
    for changed, words in (
        (np.where(np.arange(256) == 3, np.nan, tensors[norm]).astype(np.float32), f"{norm} has numbers that are not"),
        (tensors[norm][:32], rf"{norm} is \(32,\)"),
    ):
        write_gguf(tmp_path / "bad.gguf", LLAMA, {**tensors, norm: changed})
        with pytest.raises(UserError, match=words):
            load(tmp_path / "bad.gguf", LLAMA)
    write_gguf(tmp_path / "bad.gguf", LLAMA, {name: array for name, array in tensors.items() if name != norm})
    with pytest.raises(UserError, match=f"lacks {norm}"):
        load(tmp_path / "bad.gguf", LLAMA)
