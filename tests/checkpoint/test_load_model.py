"""A trained model comes back from its directory alone: any step, dtype, and with a name of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat_jax.checkpoint.manager import CheckpointManager
from cat_jax.checkpoint.params import checkpoint_fingerprint, find_step, load_model, write_model_file
from cat_jax.checkpoint.retention import CheckpointConfig
from cat_jax.errors import UserError
from cat_jax.models.t5_config import T5Config
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.parallel.names import flatten_names

CONFIG = T5Config(
    vocab_size=12, embed_dim=4, num_heads=2, head_dim=2, mlp_dim=6, num_encoder_layers=1, num_decoder_layers=1
)


def params_of(seed):
    return flatten_names(nnx.state(CONFIG.build(jax.random.key(seed))))


def write_run(model_dir, seeds=(5, 6, 7)):
    write_model_file(model_dir, CONFIG, {"targets": "abc"})
    config = CheckpointConfig(keep=3, keep_best=True, best_metric="right")
    with CheckpointManager(model_dir, config) as manager:
        for seed in seeds:
            manager.save(seed, params_of(seed), {"step": jnp.asarray(seed)}, None, {"right": -abs(seed - 6)})
    return model_dir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def mesh():
    return MeshConfig(data=1).build(jax.devices()[:1])


@pytest.mark.parametrize(("step", "seed"), [(None, 7), ("best", 6), (5, 5)])
def test_load_model_by_step(run, mesh, step, seed):
    config, graphdef, params, got = load_model(run, mesh=mesh, step=step)
    assert (config, got) == (CONFIG, seed)
    expected = params_of(seed)
    for name, value in flatten_names(params).items():
        np.testing.assert_array_equal(value, expected[name])
    assert nnx.merge(graphdef, params).head().vocab_size == 12


def test_a_step_directory_is_a_name_too(run, mesh):
    assert load_model(run / "checkpoints" / "5", mesh=mesh)[3] == 5
    assert checkpoint_fingerprint(run / "checkpoints" / "5") == checkpoint_fingerprint(run, 5)


def test_dtype_is_of_parameters_and_computation(run, mesh):
    config, _, params, _ = load_model(run, mesh=mesh, dtype="bfloat16")
    assert config.dtype == config.param_dtype == "bfloat16"
    expected = params_of(7)
    for name, value in flatten_names(params).items():
        assert value.dtype == jnp.bfloat16
        np.testing.assert_array_equal(value, expected[name].astype(jnp.bfloat16))


def test_fingerprint_is_of_content_not_of_files(run, tmp_path):
    again = write_run(tmp_path, (7,))
    assert checkpoint_fingerprint(again) == checkpoint_fingerprint(run)
    assert checkpoint_fingerprint(run, 5) != checkpoint_fingerprint(run)


def test_what_is_not_there_is_named(run, mesh, tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint of step 4 .* use one of 5, 6, 7"):
        find_step(run, 4)
    with pytest.raises(UserError, match="no finished checkpoint in"):
        find_step(tmp_path)
    with pytest.raises(UserError, match="no model description at"):
        load_model(tmp_path, mesh=mesh)
    with CheckpointManager(tmp_path) as manager:
        manager.save(1, params_of(1), {"step": jnp.asarray(1)}, None)
    with pytest.raises(UserError, match="did not keep a best checkpoint"):
        find_step(tmp_path, "best")
