"""Loading by blocks: into shards, into stacked layers, cast, with a padded vocabulary; and by what a model is known."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from fake_devices import environment
from foreign_cases import CONFIG, abstract_of, configure, equal, load, params_of, rewrite, write_folder

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.checkpoint.imported import import_checkpoint
from cat_jax.checkpoint.params import checkpoint_fingerprint, load_model, load_params, read_model_file
from cat_jax.errors import UserError
from cat_jax.foreign import content
from cat_jax.foreign.arrays import RawArray
from cat_jax.foreign.loading import copy_tiled
from cat_jax.foreign.t5 import from_hugging_face, to_hugging_face
from cat_jax.parallel.mesh import MeshConfig


@pytest.mark.parametrize("block", [100, 1 << 20])
@pytest.mark.parametrize("scan", [False, True], ids=["apart", "stacked"])
def test_exported_and_read_back_is_exact(root, scan, block, monkeypatch):
    monkeypatch.setattr("cat_jax.foreign.arrays.BLOCK_BYTES", block)
    found, expected = load(root / "folder", dataclasses.replace(CONFIG, scan_layers=scan)), params_of()
    if not scan:
        assert equal(found, expected)
        return
    for stack, count in (("encoder", 2), ("decoder", 3)):
        names = [name.partition(f"{stack}.layers.0.")[2] for name in expected if f"{stack}.layers.0." in name]
        for name in names:
            layers = [expected[f"{stack}.layers.{i}.{name}"] for i in range(count)]
            np.testing.assert_array_equal(found[f"{stack}.layers.{name}"], jnp.stack(layers))


def test_cast_on_the_way(root, tmp_path):
    """To bfloat16 as JAX rounds, and from it and float16 without a loss."""
    config = dataclasses.replace(CONFIG, param_dtype="bfloat16")
    found = load(root / "folder", config)
    for name, value in params_of().items():
        np.testing.assert_array_equal(found[name], value.astype(jnp.bfloat16))
    for dtype in (ml_dtypes.bfloat16, np.float16):
        narrow = rewrite(root / "folder", tmp_path / np.dtype(dtype).name, functools.partial(_as, dtype))
        wide = load(narrow)
        for name, value in params_of().items():
            np.testing.assert_array_equal(wide[name], np.asarray(value).astype(dtype).astype(np.float32))


def _as(dtype, tensors):
    return {name: array.astype(dtype) for name, array in tensors.items()}


def test_tiles_cover_everything():
    source = np.arange(130 * 70 * 3, dtype=np.float32).reshape(130, 70, 3)
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)):
        turned = source.transpose(order)
        target = np.zeros(turned.shape, ml_dtypes.bfloat16)
        copy_tiled(target, turned)
        np.testing.assert_array_equal(target, turned.astype(ml_dtypes.bfloat16))


def test_a_padded_vocabulary(root, tmp_path):
    """45 of 50 ids, padded to 48 here and from 45 to 48 there: padding has no number, whatever the file has."""
    config = dataclasses.replace(CONFIG, vocab_size=45, vocab_multiple=16)
    names = ("shared.weight", "lm_head.weight")
    cut = rewrite(root / "folder", tmp_path / "cut", lambda t: t | {name: t[name][:48] for name in names})
    found, expected = load(cut, config), params_of()
    np.testing.assert_array_equal(found["embedding.table"][:45], expected["embedding.table"][:45])
    np.testing.assert_array_equal(found["output.kernel"][:, :45], expected["output.kernel"][:, :45])
    assert not np.any(found["embedding.table"][45:])
    assert not np.any(found["output.kernel"][:, 45:])
    assert found["embedding.table"].shape == (48, 16)
    export_checkpoint(_imported(cut, tmp_path, vocab_size=45, vocab_multiple=16), tmp_path / "again")
    assert read_model_file(tmp_path / "again")[0].vocab_size == 45


def _imported(folder, tmp_path, **options):
    configure(folder, vocab_size=48)
    import_checkpoint(folder, tmp_path / "imported", **options)
    assert read_model_file(tmp_path / "imported")[0].vocab_size == options["vocab_size"]
    return tmp_path / "imported"


def test_tied_weights_may_be_there_twice(root, tmp_path):
    config = dataclasses.replace(CONFIG, tie_embeddings=True)
    folder = write_folder(tmp_path, config)
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    twice = rewrite(folder, tmp_path / "twice", lambda t: t | dict.fromkeys(copies, t["shared.weight"]))
    assert equal(load(twice, config), load(folder, config))
    other = rewrite(
        folder, tmp_path / "other", lambda t: {(copies[0] if n == "shared.weight" else n): a for n, a in t.items()}
    )
    assert equal(load(other, config), load(folder, config))
    untrue = rewrite(folder, tmp_path / "untrue", lambda t: t | {"lm_head.weight": t["shared.weight"] + 1})
    with pytest.raises(UserError, match=r"lm_head.weight differs from shared.weight"):
        load(untrue, config)
    apart = rewrite(other, tmp_path / "apart", lambda t: t | {"lm_head.weight": t[copies[0]] + 1})
    with pytest.raises(UserError, match=r"lm_head.weight differs from encoder.embed_tokens.weight"):
        load(apart, config)


def test_a_head_that_equals_the_table_is_left_out_by_transformers(root, tmp_path):
    folder = rewrite(
        root / "folder", tmp_path / "folder", lambda t: {n: a for n, a in t.items() if n != "lm_head.weight"}
    )
    found = load(folder)
    np.testing.assert_array_equal(found["output.kernel"], found["embedding.table"].T)


def test_each_tensor_is_read_once(root, monkeypatch):
    read = []
    plain = RawArray.read
    monkeypatch.setattr(RawArray, "read", lambda self, *rows: read.append((self.offset, rows)) or plain(self, *rows))
    load(root / "folder", dataclasses.replace(CONFIG, scan_layers=True))
    assert len(read) == len(set(read)) > 50


PROGRAM = """
import json, sys, jax, numpy as np
sys.path.insert(0, sys.argv[1])
from foreign_cases import CONFIG, abstract_of, params_of
from cat_jax.checkpoint.params import load_params
from cat_jax.parallel.mesh import MeshConfig
mesh = MeshConfig(data=1, fsdp=4, tensor=2).build()
found = load_params(sys.argv[2], abstract_of(CONFIG, mesh), model=CONFIG)
expected = params_of()
for name, value in found.items():
    np.testing.assert_array_equal(jax.device_get(value), expected[name])
sizes = lambda arrays: sum(shard.data.size for a in arrays for shard in a.addressable_shards if shard.device.id == 3)
print(json.dumps([len(jax.devices()), sizes(found.values()), sum(a.size for a in found.values())]))
"""


def test_eight_devices_hold_their_shards_alone(root):
    command = [sys.executable, "-c", PROGRAM, str(pathlib.Path(__file__).parent), str(root / "folder")]
    done = subprocess.run(command, env=environment(8), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    devices, held, whole = json.loads(done.stdout)
    assert devices == 8
    assert held < whole / 6  # 8 and what is not split: biases of positions, norms over fsdp alone


# What it is known by.


def test_the_fingerprint_is_of_content(root, tmp_path, monkeypatch):
    folder = shutil.copytree(root / "folder", tmp_path / "moved")
    known = checkpoint_fingerprint(root / "folder")
    assert checkpoint_fingerprint(folder) == known
    export_checkpoint(root / "model", tmp_path / "sharded", shard_bytes=5_000)
    assert checkpoint_fingerprint(tmp_path / "sharded") == known
    changed = rewrite(root / "folder", tmp_path / "changed", lambda t: t | {"shared.weight": t["shared.weight"] * 2})
    assert checkpoint_fingerprint(changed) != known
    assert checkpoint_fingerprint(configure(folder, layer_norm_epsilon=1e-5)) != known


def test_the_digest_is_remembered_until_a_file_changes(root, tmp_path, monkeypatch):
    folder = shutil.copytree(root / "folder", tmp_path / "folder")
    for path in folder.iterdir():
        os.utime(path, ns=(10**18, 10**18))
    known = checkpoint_fingerprint(folder)
    calls = []
    plain = content._digest
    monkeypatch.setattr(content, "_digest", lambda *args: calls.append(args) or plain(*args))
    monkeypatch.setattr(content, "_KNOWN", {})  # as in another process
    assert checkpoint_fingerprint(folder) == known
    assert not calls
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))
    assert checkpoint_fingerprint(folder) != known
    assert len(calls) == 1


# Configurations.


def test_configurations_there_and_back():
    for changes in (
        {},
        {"tie_embeddings": True, "activations": ("relu",)},
        {"activations": ("gelu_exact", "linear"), "norm_epsilon": 1e-5, "relative_buckets": 16},
        {"activations": ("silu",), "relative_max_distance": 64, "dropout_rate": 0.0},
    ):
        config = dataclasses.replace(CONFIG, **changes)
        assert from_hugging_face(to_hugging_face(config, {})) == config


@pytest.mark.parametrize(
    ("fields", "tied"),
    [
        ({}, True),  # the original T5's default
        ({"tie_word_embeddings": False}, False),  # as T5 1.1 lies on the hub
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),  # as transformers 5 writes it
        ({"model_type": "mt5"}, False),
        ({"model_type": "mt5", "tie_word_embeddings": True, "transformers_version": "5.1"}, False),
        ({"model_type": "mt5", "tie_word_embeddings": True, "transformers_version": "4.40"}, True),
    ],
)
def test_whether_the_head_is_tied(fields, tied):
    sizes = {"vocab_size": 9, "d_model": 4, "num_heads": 2, "d_kv": 2, "d_ff": 4, "num_layers": 1}
    assert from_hugging_face({**sizes, **fields}).tie_embeddings == tied


def test_a_given_configuration_must_be_of_the_same_model(root):
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    scanned = dataclasses.replace(CONFIG, scan_layers=True, dropout_rate=0.3)
    assert load_model(root / "folder", mesh=mesh, model=scanned)[0] == scanned
    with pytest.raises(
        UserError, match=r"a model with activations \['gelu', 'linear'\], the configuration has \['relu"
    ):
        load_params(root / "folder", abstract_of(), model=dataclasses.replace(CONFIG, activations=("relu", "linear")))
    with pytest.raises(UserError, match=r"given as 'models/t5_tiny.gin'.*the command reads files"):
        read_model_file(root / "folder", "models/t5_tiny.gin")
