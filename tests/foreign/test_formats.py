"""Files of other programs as named arrays, held against the libraries that write them."""

import pathlib
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization

from cat_jax.errors import UserError
from cat_jax.foreign.arrays import blocks, read_all
from cat_jax.foreign.msgpack_file import read_tree
from cat_jax.foreign.opening import HUGGING_FACE, ORBAX, T5X, find
from cat_jax.foreign.orbax_files import open_item
from cat_jax.foreign.safetensors_file import SafetensorsWriter, read_header
from cat_jax.foreign.zarr_array import ZarrArray, directory, write_zarr

ZSTD = {"id": "zstd", "level": 1}
RNG = np.random.default_rng(0)
TENSORS = {
    "f32": RNG.normal(size=(5, 3)).astype(np.float32),
    "bf16": RNG.normal(size=(2, 3, 4)).astype(ml_dtypes.bfloat16),
    "f16": RNG.normal(size=7).astype(np.float16),
    "i64": np.arange(6).reshape(3, 2),
    "scalar": np.array(4.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert (array.shape, array.dtype) == (expected[name].shape, expected[name].dtype)
        np.testing.assert_array_equal(read_all(array), expected[name])
        if array.shape and array.shape[0] > 1:
            np.testing.assert_array_equal(array.read(1, 2), expected[name][1:2])


def test_safetensors_are_those_of_the_library(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="the library is in the extra hf")
    path = tmp_path / "theirs.safetensors"
    numpy.save_file(TENSORS, path, metadata={"format": "pt"})
    same(read_header(path), TENSORS)
    writer = SafetensorsWriter(tmp_path / "ours.safetensors", {n: (a.dtype, a.shape) for n, a in TENSORS.items()})
    for name in sorted(TENSORS, reverse=True):  # in any order
        writer.write(name, TENSORS[name])
    writer.close()
    loaded = numpy.load_file(tmp_path / "ours.safetensors")
    for name, array in TENSORS.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_safetensors_are_written_whole(tmp_path):
    writer = SafetensorsWriter(tmp_path / "a.safetensors", {n: (a.dtype, a.shape) for n, a in TENSORS.items()})
    with pytest.raises(ValueError, match=r"f32 is .* and was to be"):
        writer.write("f32", TENSORS["f32"].T)
    with pytest.raises(ValueError, match="were not written"):
        writer.close()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a safetensors file"),
        (b"\xff" * 40, "not a safetensors file"),
        (b"\x40" + b"\0" * 7 + b"{", "cut short"),
        (b"\x02" + b"\0" * 7 + b"[]", "not a safetensors file"),
        (b"\x10" + b"\0" * 7 + b'{"a": {"x": 1}}  ', "not a safetensors file"),
    ],
    ids=["empty", "noise", "short", "no_object", "odd_entry"],
)
def test_what_is_no_safetensors_file(content, said, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_header(path)


def test_a_dtype_that_is_not_read_is_named(tmp_path):
    header = b'{"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}'
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"ab")
    with pytest.raises(UserError, match=r"w is of dtype F8_E4M3.*float32, bfloat16 or float16"):
        read_header(tmp_path / "a.safetensors")


def test_msgpack_is_that_of_flax(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 24)  # else only above a GiB
    many = {f"k{i}": np.float32(i) for i in range(20)}  # more than a small map takes
    tree = {"version": 3, "a": {**TENSORS, **many}, "text": "x" * 300, "none": None, "numbers": [1, -5, 2.5, 70000]}
    (tmp_path / "file").write_bytes(serialization.msgpack_serialize(tree))
    found = read_tree(tmp_path / "file")
    assert (found["version"], found["text"], found["none"]) == (3, "x" * 300, None)
    assert found["numbers"] == [1, -5, 2.5, 70000]
    assert len(found["a"]["bf16"].pieces) == 2
    same(found["a"], {**TENSORS, **{name: np.asarray(value) for name, value in many.items()}})


def test_msgpack_that_is_cut_short(tmp_path):
    whole = serialization.msgpack_serialize({"a": TENSORS["f32"], "b": TENSORS["f32"]})
    for size in (1, 20, len(whole) - 1):
        (tmp_path / "file").write_bytes(whole[:size])
        with pytest.raises(UserError, match="cut short"):
            read_tree(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"\x81\xa1a\xc1")
    with pytest.raises(UserError, match="not a msgpack file"):
        read_tree(tmp_path / "file")


@pytest.mark.parametrize("kind", ["database", "zarr3", "directories"])
def test_orbax_of_today(kind, tmp_path):
    tree = {"params": {"a": jnp.asarray(TENSORS["bf16"]), "list": [jnp.arange(3.0), jnp.zeros((2, 3))]}}
    options = {"use_ocdbt": kind != "directories", "use_zarr3": kind == "zarr3"}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(tmp_path / "step", args=ocp.args.PyTreeSave(tree))
    found = find(tmp_path / "step")
    assert found.kind == ORBAX
    expected = {"params/a": TENSORS["bf16"], "params/list/0": np.arange(3, dtype=np.float32)}
    same(found.open().arrays, {**expected, "params/list/1": np.zeros((2, 3), np.float32)})


def test_a_missing_chunk_is_no_zero(tmp_path):
    write_zarr(tmp_path / "a", np.ones((4, 2), np.float32), {"shape": [4, 2], "chunks": [2, 2]})
    array = ZarrArray("zarr", directory(tmp_path / "a"), str(tmp_path / "a"))
    np.testing.assert_array_equal(read_all(array), np.ones((4, 2)))
    (tmp_path / "a" / "1.0").unlink()
    np.testing.assert_array_equal(array.read(0, 2), np.ones((2, 2)))
    with pytest.raises(UserError, match="a cannot be read"):
        read_all(array)


def test_blocks_end_at_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("cat_jax.foreign.arrays.BLOCK_BYTES", 50)
    write_zarr(tmp_path / "a", np.ones((14, 2), np.float32), {"shape": [14, 2], "chunks": [3, 2]})
    array = ZarrArray("zarr", directory(tmp_path / "a"), "a")
    assert list(blocks(array)) == [(0, 6), (6, 12), (12, 14)]
    assert list(blocks(array, 2)) == [(0, 6), (6, 12), (12, 14)]
    assert list(blocks(array, 4)) == [(0, 12), (12, 14)]


def test_what_is_not_opened(tmp_path):
    for name in ("pytorch_model.bin", "model.pt", "weights.pth", "a.ckpt"):
        (tmp_path / name).write_bytes(b"\x80\x02")
        for path in (tmp_path / name, tmp_path):
            with pytest.raises(UserError, match=rf"{name} is a PyTorch pickle.*safetensors"):
                find(path)
        (tmp_path / name).unlink()
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="name its folder"):
        find(tmp_path / "model.safetensors")
    assert find(tmp_path) is None
    assert find(tmp_path / "nothing") is None


# T5X's own files.


def test_the_file_of_a_tiny_t5(fixtures):
    found = find(fixtures / "test_t5_tiny.checkpoint_0")
    assert (found.kind, found.step) == (T5X, 0)
    arrays = found.open().arrays
    assert sum(a.shape[0] > 0 for a in arrays.values() if a.shape) == len(arrays) - 1
    assert arrays["target/token_embedder/embedding"].shape == (32128, 8)
    raw = serialization.msgpack_restore((fixtures / "test_t5_tiny.checkpoint_0").read_bytes())
    expected = raw["optimizer"]["target"]["decoder"]["layers_1"]["mlp"]["wo"]["kernel"]
    np.testing.assert_array_equal(read_all(arrays["target/decoder/layers_1/mlp/wo/kernel"]), expected)


def test_a_directory_of_t5x(fixtures):
    """Its .zarray files are missing, as they are in T5X's repository: the index has what they say."""
    for path in (fixtures / "tiny_t5" / "checkpoint_1", fixtures / "tiny_t5"):
        found = find(path)
        assert (found.kind, found.step) == (T5X, 1)
        arrays = {name: read_all(array) for name, array in found.open().arrays.items()}
        np.testing.assert_array_equal(arrays["state/param_states/bias"], np.ones(5, np.float32))
        assert arrays["state/param_states/kernel"].dtype == np.float64
        assert arrays["state/param_states/kernel"].shape == (10, 5)
        assert arrays["state/param_states/step"] == arrays["state/step"] == 1
    with pytest.raises(UserError, match="no checkpoint of step 7: use one of 1"):
        find(fixtures / "tiny_t5", 7)


def test_an_early_directory_of_orbax(fixtures, tmp_path):
    """Its .zarray files are missing, too, and here nothing else has what they say."""
    early = shutil.copytree(fixtures / "tiny_orbax" / "1", tmp_path / "1")
    arrays = find(early).open().arrays
    assert set(arrays) == {
        f"state/{name}" for name in ("step", *(f"param_states/{p}" for p in ("bias", "kernel", "step")))
    }
    with pytest.raises(UserError, match=r"bias does not say its shape.*hidden files"):
        read_all(arrays["state/param_states/bias"])
    for name, (shape, dtype) in {
        "param_states.bias": ([5], "<f4"),
        "param_states.kernel": ([10, 5], "<f8"),
        "param_states.step": ([], "<i4"),
        "step": ([], "<i4"),
    }.items():
        stored = early / f"_optimizer.state.{name}"
        stored.chmod(0o755)
        write_zarr(tmp_path / name, np.zeros(shape, dtype), {"shape": shape, "chunks": shape, "compressor": ZSTD})
        shutil.copyfile(tmp_path / name / ".zarray", stored / ".zarray")
    arrays = {name: read_all(array) for name, array in find(early).open().arrays.items()}
    np.testing.assert_array_equal(arrays["state/param_states/bias"], np.ones(5, np.float32))
    assert arrays["state/param_states/kernel"].shape == (10, 5)
    assert arrays["state/step"] == 1


def test_a_version_that_is_not_read(tmp_path):
    (tmp_path / "old").write_bytes(serialization.msgpack_serialize({"version": 2, "optimizer": {}}))
    with pytest.raises(UserError, match="of version 2 of T5X's checkpoints, and 3 is read"):
        find(tmp_path / "old").open()


def test_kinds_are_told_apart(root):
    assert find(root / "folder").kind == HUGGING_FACE
    assert find(pathlib.Path(root / "model")) is None
    assert open_item(root / "model" / "checkpoints" / "7" / "params").arrays["encoder.norm.scale"].shape == (16,)
