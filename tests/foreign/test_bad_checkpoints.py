"""Checkpoints that do not fit: one line each, which names the thing and the mend."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from foreign_cases import CONFIG, configure, load, rewrite

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.checkpoint.imported import import_checkpoint
from cat_jax.checkpoint.params import find_step, read_model_file
from cat_jax.cli import main as cli
from cat_jax.errors import UserError

NORM = "encoder.block.1.layer.0.layer_norm.weight"


def renamed(tensors):
    return {("encoder.block.1.layer.0.norm.weight" if name == NORM else name): a for name, a in tensors.items()}


def with_nan(tensors):
    return tensors | {NORM: np.where(np.arange(16) == 3, np.nan, tensors[NORM]).astype(np.float32)}


CHANGES = {
    "renamed": (
        renamed,
        [NORM, "encoder.layers.1.attention_norm.scale", "encoder.block.1.layer.0.norm.weight", "renamed"],
    ),
    "missing": (lambda t: {n: a for n, a in t.items() if n != NORM}, [f"lacks {NORM}", "attention_norm.scale"]),
    "superfluous": (
        lambda t: t | {"decoder.extra": np.ones(3, np.float32)},
        ["has decoder.extra", "no such parameter"],
    ),
    "shape": (lambda t: t | {NORM: np.ones(15, np.float32)}, [f"{NORM} is (15,)", "attention_norm.scale is (16,)"]),
    "nan": (with_nan, [f"{NORM} has numbers that are not finite"]),
    "infinity": (lambda t: t | {NORM: np.full(16, np.inf, np.float16)}, [f"{NORM} has numbers that are not finite"]),
    "integers": (lambda t: t | {NORM: np.ones(16, np.int32)}, [f"{NORM} is of dtype int32"]),
    "fewer_ids": (lambda t: t | {"shared.weight": t["shared.weight"][:40]}, ["of 40 token ids", "of 50", "vocab_size"]),
    "more_ids": (lambda t: t | {"shared.weight": np.ones((57, 16), np.float32)}, ["of 57 token ids", "of 50"]),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_tensors(kind, root, tmp_path):
    change, said = CHANGES[kind]
    folder = rewrite(root / "folder", tmp_path / "folder", change)
    with pytest.raises(UserError) as error:
        load(folder)
    for word in (str(folder), *said):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_another_model_is_named_by_its_first_missing_tensor(root):
    deeper = dataclasses.replace(CONFIG, num_decoder_layers=4)
    with pytest.raises(UserError, match=r"num_decoder_layers 3, the configuration has 4"):
        load(root / "folder", deeper)


@pytest.fixture
def sharded(root, tmp_path):
    export_checkpoint(root / "model", tmp_path / "sharded", shard_bytes=6_000)
    return tmp_path / "sharded"


def line_of(argv, capfd):
    """The one line of a command that fails."""
    assert cli.main(argv) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cat-jax")]
    assert len(lines) == 1
    return lines[0]


def test_files(root, sharded, tmp_path, capfd):
    """Through the command, which leaves nothing behind."""

    def said(folder, *words):
        line = line_of(["import", str(folder), str(tmp_path / "out" / "model")], capfd)
        for word in words:
            assert word in line
        assert not any((tmp_path / "out").rglob("*"))

    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    said(sharded, str(shard), "cut short", "download it again")
    shard.write_bytes(whole[:30])
    said(sharded, str(shard), "cut short")
    shard.unlink()
    said(sharded, str(shard), "is missing, shard 2 of", "model.safetensors.index.json")
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    name, file = next(item for item in index["weight_map"].items() if item[1] != shard.name)
    index["weight_map"] = {name: file, "lm_head.weights": file}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    said(sharded, file, "lacks lm_head.weights")
    (sharded / "model.safetensors.index.json").write_text("[]")
    said(sharded, "no weight_map")
    pickled = shutil.copytree(root / "folder", tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    said(pickled, "neither model.safetensors nor model.safetensors.index.json")
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    said(pickled, "pytorch_model.bin is a PyTorch pickle", "safetensors", "save_pretrained")
    said(pickled / "pytorch_model.bin", "pytorch_model.bin is a PyTorch pickle")
    (pickled / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    said(pickled, "model.safetensors is a pointer of Git LFS", "git lfs pull")
    (tmp_path / "adapters").mkdir()
    (tmp_path / "pointer.gguf").write_bytes((pickled / "model.safetensors").read_bytes())
    said(tmp_path / "pointer.gguf", "pointer.gguf is a pointer of Git LFS")
    for name in ("adapters", "pickled"):  # the one has a config.json
        (tmp_path / name / "adapter_config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").unlink(missing_ok=True)
        said(tmp_path / name, "adapters of PEFT", "merge_and_unload")
    said(tmp_path / "nowhere", "no checkpoint at", "nowhere")
    said(root, "no checkpoint that is read", "config.json")
    said(root / "model", "a model of cat-jax already")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "umt5"}, "config.json is of model_type 'umt5': what is read: .*mt5, .*t5"),
        ({"d_model": None}, "config.json lacks d_model"),
        ({"feed_forward_proj": "gated-tanh", "dense_act_fn": "tanh"}, "feed_forward_proj 'gated-tanh'"),
        ({"decoder_start_token_id": 5}, "decoder_start_token_id 5"),
        ({"vocab_size": 32}, "of 50 token ids, and the model .* of 32"),
    ],
)
def test_configurations(fields, said, root, tmp_path):
    folder = configure(shutil.copytree(root / "folder", tmp_path / "folder"), **fields)
    with pytest.raises(UserError, match=said):
        import_checkpoint(folder, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_rows_that_the_tokenizer_has_a_use_for_are_no_padding(root, tmp_path):
    folder = shutil.copytree(root / "folder", tmp_path / "folder")
    vocabulary = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], *([f"p{i}", -1.0] for i in range(3, 46))]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary}}))
    with pytest.raises(UserError, match=r"vocab_size is 45, and the tokenizer in .* has 46 ids: give 46 or more"):
        import_checkpoint(folder, tmp_path / "model", vocab_size=45)
    assert not (tmp_path / "model").exists()
    vocabulary += [[f"p{i}", -1.0] for i in range(46, 60)]  # a tokenizer may have ids that its model lacks
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary}}))
    assert import_checkpoint(folder, tmp_path / "model", vocab_size=50)["vocab_size"] == 50


def test_addresses(root, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for argv in (
        ["import", str(root / "folder"), "gs://bucket/model"],
        ["import", "s3://bucket/folder", "model"],
        ["export", str(root / "model"), "gs://bucket/folder"],
        ["export", "gs://bucket/model", "folder"],
        ["export", str(root / "model"), "folder", "--tokenizer=gs://bucket/spiece.model"],
    ):
        line = line_of(argv, capfd)
        assert "://bucket/" in line
        assert "local directories only: mount the bucket" in line
    assert not list(tmp_path.iterdir())


def test_steps(root):
    assert find_step(root / "folder") == find_step(root / "folder", 0) == 0
    with pytest.raises(UserError, match=r"is one checkpoint, and step 'best' of it is asked for: leave the step out"):
        find_step(root / "folder", "best")


def test_what_is_there_stays(root, tmp_path, capfd):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    for argv in (["import", str(root / "folder")], ["export", str(root / "model")]):
        assert "taken is there already" in line_of([*argv, str(tmp_path / "taken")], capfd)
    assert (tmp_path / "taken" / "file").read_text() == "mine"


def test_exports_that_cannot_be(root, tmp_path, capfd):
    model, out = str(root / "model"), str(tmp_path / "out")
    assert "no model description at" in line_of(["export", str(tmp_path), out], capfd)
    assert "import it first" in line_of(["export", str(root / "folder"), out], capfd)
    assert "no checkpoint of step 3" in line_of(["export", model, out, "--step=3"], capfd)
    assert "--step is 'last'" in line_of(["export", model, out, "--step=last"], capfd)
    assert "no tokenizer at" in line_of(["export", model, out, f"--tokenizer={out}"], capfd)
    assert "has 259 ids, the model 50" in line_of(["export", model, out, "--tokenizer=bytes"], capfd)
    assert not (tmp_path / "out").exists()
    damaged = shutil.copytree(root / "model", tmp_path / "damaged")
    file = next(path for path in (damaged / "checkpoints" / "7" / "params").rglob("d/*") if path.is_file())
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert f"{file} is damaged" in line_of(["export", str(damaged), out], capfd)
    with pytest.raises(UserError, match="the format to export is 'gguf'"):
        export_checkpoint(model, out, format="gguf")


def test_a_description_of_a_directory_must_be_there(root, tmp_path):
    with pytest.raises(UserError, match="no model description"):
        read_model_file(tmp_path)
