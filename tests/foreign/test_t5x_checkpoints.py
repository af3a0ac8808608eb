"""T5X's layout of a T5: written and read back exactly, layers apart or stacked along either axis; and its own file."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from foreign_cases import CONFIG, abstract_of, equal, load, params_of, write_model

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.checkpoint.imported import import_checkpoint
from cat_jax.checkpoint.params import find_step, load_model, read_model_file
from cat_jax.errors import UserError
from cat_jax.foreign import t5
from cat_jax.foreign.arrays import Checkpoint, read_all
from cat_jax.foreign.loading import load as load_arrays
from cat_jax.foreign.opening import find
from cat_jax.models.t5_config import T5Config
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.types import Batch

TINY = T5Config(
    vocab_size=32100,
    vocab_multiple=128,
    embed_dim=8,
    num_heads=4,
    head_dim=3,
    mlp_dim=16,
    num_encoder_layers=2,
    num_decoder_layers=2,
)


@pytest.fixture(scope="module", params=["t5x", "t5x_scanned"])
def written(request, root, tmp_path_factory):
    """(format, the run's directory that holds checkpoint_7)."""
    path = tmp_path_factory.mktemp("t5x") / "run"
    summary = export_checkpoint(root / "model", path, format=request.param)
    assert (summary["step"], summary["dtype"]) == (7, "float32")
    return request.param, path


@pytest.mark.parametrize("scan", [False, True], ids=["apart", "stacked"])
def test_written_and_read_back_is_exact(written, scan):
    _, path = written
    config = dataclasses.replace(CONFIG, scan_layers=scan)
    found = load(path, config)
    assert find_step(path) == 7
    expected = params_of()
    for name, value in found.items():
        stack, _, rest = name.partition(".layers.")
        if scan and rest:
            layers = CONFIG.num_encoder_layers if stack == "encoder" else CONFIG.num_decoder_layers
            one = jnp.stack([expected[f"{stack}.layers.{i}.{rest}"] for i in range(layers)])
        else:
            one = expected[name]
        np.testing.assert_array_equal(value, one)


def test_names_and_shapes_are_those_of_t5x(written):
    format, path = written
    shapes = {name: array.shape for name, array in find(path).open().arrays.items()}
    assert shapes["state/step"] == ()
    assert shapes["target/token_embedder/embedding"] == (50, 16)
    assert shapes["target/decoder/logits_dense/kernel"] == (16, 50)
    if format == "t5x":  # as in its examples/t5: kernels are matrices, a bias belongs to a stack
        assert shapes["target/decoder/layers_2/encoder_decoder_attention/out/kernel"] == (12, 16)
        assert shapes["target/encoder/relpos_bias/rel_embedding"] == (4, 32)
        assert shapes["target/encoder/layers_1/pre_attention_layer_norm/scale"] == (16,)
    else:  # as in scalable_t5: heads apart, layers on the second axis, a bias in each layer
        assert shapes["target/decoder/decoder/encoder_decoder_attention/out/kernel"] == (4, 3, 3, 16)
        assert shapes["target/encoder/encoder/attention/query/kernel"] == (16, 2, 4, 3)
        assert shapes["target/encoder/encoder/relpos_bias/rel_embedding"] == (4, 2, 32)
        assert shapes["target/encoder/encoder/pre_attention_layer_norm/scale"] == (16, 2)


class Held:
    """An array in memory as one of a file."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.chunk_rows = array, array.shape, array.dtype, 1

    def read(self, start, stop):
        return self.array[start:stop] if self.shape else self.array


def test_layers_stacked_on_the_first_axis(written, monkeypatch):
    format, path = written
    if format != "t5x_scanned":
        pytest.skip("only what is stacked can be stacked otherwise")
    arrays = {name: read_all(array) for name, array in find(path).open().arrays.items()}
    stacked = ("/encoder/encoder/", "/decoder/decoder/")
    moved = {n: np.moveaxis(a, 1, 0) if any(s in n for s in stacked) else a for n, a in arrays.items()}
    monkeypatch.setattr("cat_jax.foreign.arrays.BLOCK_BYTES", 64)  # layers come in blocks of their own
    for config in (CONFIG, dataclasses.replace(CONFIG, scan_layers=True)):
        held = Checkpoint("held", {name: Held(array) for name, array in moved.items()})
        found = load_arrays(held, t5.t5x_names(config, held), abstract_of(config), config.vocab_size)
        assert equal(found, load(path, config))


def test_a_bias_in_each_layer_must_be_one(written, tmp_path):
    format, path = written
    if format != "t5x_scanned":
        pytest.skip("where a bias belongs to a stack there is one")
    arrays = {name: read_all(array) for name, array in find(path).open().arrays.items()}
    arrays["target/encoder/encoder/relpos_bias/rel_embedding"][:, 1] += 1
    held = Checkpoint("held", {name: Held(array) for name, array in arrays.items()})
    with pytest.raises(UserError, match=r"rel_embedding of layer 1 differs from .*rel_embedding"):
        load_arrays(held, t5.t5x_names(CONFIG, held), abstract_of(), CONFIG.vocab_size)


def test_tied_and_plain(tmp_path):
    """The original T5's one input kernel and no head; in bfloat16, which is written as such."""
    config = dataclasses.replace(
        CONFIG, tie_embeddings=True, activations=("relu",), param_dtype="bfloat16", vocab_size=45, vocab_multiple=10
    )
    export_checkpoint(write_model(tmp_path / "model", config), tmp_path / "run", format="t5x")
    arrays = find(tmp_path / "run").open().arrays
    assert arrays["target/token_embedder/embedding"].shape == (45, 16)  # its padding stays here
    assert arrays["target/encoder/layers_0/mlp/wi/kernel"].dtype == jnp.bfloat16
    assert equal(load(tmp_path / "run", config), params_of(config))


def test_the_tiny_t5_of_t5x_gives_a_forward_pass(fixtures):
    """Its 32128 rows are 32100 ids and padding, which has no probability."""
    path = fixtures / "test_t5_tiny.checkpoint_0"
    config, graphdef, params, step = load_model(path, mesh=MeshConfig(data=1).build(jax.devices()[:1]), model=TINY)
    assert (config, step) == (TINY, 0)
    tokens = jnp.asarray([[5, 32099, 1]])
    batch = Batch(tokens, jnp.asarray([[0, 5, 32099]]), jnp.ones((1, 3)), tokens)

    @jax.jit
    def logits_of(params):
        output = nnx.merge(graphdef, params)(batch)
        return output.head.logits(output.hidden)

    logits = np.asarray(logits_of(params))
    assert np.isfinite(logits[..., :32100]).all()
    assert np.ptp(logits[..., :32100]) > 1
    assert (logits[..., 32100:] == -np.inf).all()
    raw = find(path).open().arrays
    kernel = read_all(raw["target/decoder/layers_1/encoder_decoder_attention/out/kernel"])
    ours = params["decoder"]["layers"][1]["cross_attention"]["output"]["kernel"][...]
    np.testing.assert_array_equal(ours, kernel.reshape(4, 3, 8))


def test_it_needs_a_configuration(fixtures, tmp_path):
    path = fixtures / "test_t5_tiny.checkpoint_0"
    with pytest.raises(UserError, match=r"does not say what model it is of.*TEACHER_MODEL.*EVAL_MODEL_FILES"):
        read_model_file(path)
    summary = import_checkpoint(path, tmp_path / "model", model=TINY)
    assert (summary["kind"], summary["vocab_size"], summary["vocabulary"]) == ("T5X", 32100, None)
    assert read_model_file(tmp_path / "model")[0] == TINY
