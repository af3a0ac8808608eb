"""Meshes, axis rules and batches: every way to get them wrong is one clear line at start."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from fake_devices import environment
from flax import nnx
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cat_jax.errors import UserError
from cat_jax.parallel.batches import check_batch_size, data_shard, shard_batch
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.parallel.names import flatten_names, unflatten_names
from cat_jax.parallel.rules import DEFAULT_RULES, param_shardings, partition_spec

MESH = AbstractMesh((2, 2, 4), ("data", "fsdp", "tensor"))


@pytest.mark.parametrize(
    ("config", "devices", "shape"),
    [
        (MeshConfig(), 8, (8, 1, 1)),
        (MeshConfig(data=1, fsdp=-1, tensor=4), 8, (1, 2, 4)),
        (MeshConfig(data=2, fsdp=2, tensor=2), 8, (2, 2, 2)),
    ],
)
def test_mesh_shape(config, devices, shape):
    assert config.shape(devices) == shape


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (MeshConfig(data=-1, fsdp=3), "a multiple of 3 devices and there are 8"),
        (MeshConfig(data=2, fsdp=2, tensor=1), "needs 4 devices and there are 8"),
        (MeshConfig(data=-1, fsdp=-1), "more than one axis open"),
        (MeshConfig(data=0), "no count"),
        (MeshConfig(data=2.0), "no count"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_bad_mesh_is_named(config, word):
    with pytest.raises(UserError, match=word):
        config.shape(8)


@pytest.mark.parametrize(
    ("axes", "shape", "spec"),
    [
        (("embed", "mlp"), (8, 12), P("fsdp", "tensor")),
        (("vocab", "embed"), (16, 8), P("tensor", "fsdp")),
        (("layers", "embed", "heads", "kv"), (3, 8, 4, 5), P(None, "fsdp", "tensor", None)),
        ((), (), P()),
    ],
)
def test_default_rules(axes, shape, spec):
    assert partition_spec(axes, DEFAULT_RULES, shape, MESH) == spec


def test_a_dimension_may_be_split_over_two_mesh_axes():
    rules = (("embed", ("data", "fsdp")),)
    assert partition_spec(("embed", None), rules, (8, 7), MESH) == P(("data", "fsdp"), None)


@pytest.mark.parametrize(
    ("axes", "shape", "rules", "word"),
    [
        (("embed", "novel"), (8, 8), DEFAULT_RULES, "logical axis 'novel' and no rule"),
        (("embed",), (8,), (("embed", "model"),), "'model', which is no mesh axis"),
        (("embed", "embed"), (8, 8), DEFAULT_RULES, "split twice over mesh axis 'fsdp'"),
        (("vocab",), (30,), DEFAULT_RULES, "dimension 'vocab' = 30 of w cannot be split into 4"),
        (("embed",), (6,), (("embed", ("data", "fsdp")),), "data=2, fsdp=2"),
        (("embed",), (8,), (("batch", "data"), ("embed", None)), "map 'batch', and no rule splits rows"),
        (("embed",), (8, 8), DEFAULT_RULES, "1 logical axes"),
        (("embed",), (8,), (("embed", None), ("embed", "fsdp")), "'embed' twice"),
    ],
)
def test_bad_rules_are_named(axes, shape, rules, word):
    with pytest.raises(UserError, match=word):
        partition_spec(axes, rules, shape, MESH, "w")


class Tiny(nnx.Module):
    def __init__(self, key, axes=("embed", "mlp")):
        self.blocks = nnx.List([nnx.Param(jax.random.normal(key, (4, 6)), logical_axes=axes) for _ in range(2)])
        self.plain = nnx.Param(jax.numpy.zeros(4), logical_axes=("embed",))


def test_param_shardings_fit_the_params_and_place_them():
    mesh = MeshConfig(data=1, fsdp=1, tensor=1).build(jax.devices()[:1])
    abstract = nnx.eval_shape(lambda: Tiny(jax.random.key(0)))
    shardings = param_shardings(abstract, mesh)
    assert flatten_names(shardings)["blocks.1"] == NamedSharding(mesh, P("fsdp", "tensor"))
    params = jax.jit(lambda key: nnx.state(Tiny(key)), out_shardings=shardings)(jax.random.key(0))
    assert jax.tree.structure(params) == jax.tree.structure(shardings)
    assert {x.sharding for x in jax.tree.leaves(params)} == set(jax.tree.leaves(shardings))


def test_a_parameter_without_axes_is_named():
    mesh = MeshConfig().build(jax.devices()[:1])
    module = Tiny(jax.random.key(0))
    module.plain = nnx.Param(jax.numpy.zeros(4))
    with pytest.raises(UserError, match=r"parameter plain has no logical axes"):
        param_shardings(module, mesh)


def test_names_round_trip():
    params = nnx.state(Tiny(jax.random.key(0)))
    named = flatten_names(params)
    assert set(named) == {"blocks.0", "blocks.1", "plain"}
    again = unflatten_names(params, {name: x + 1 for name, x in named.items()})
    assert jax.tree.structure(again) == jax.tree.structure(params)
    np.testing.assert_array_equal(again["blocks"][1].get_value(), named["blocks.1"] + 1)


def test_batch_size_must_be_shared_evenly():
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    check_batch_size(12, mesh, 3)
    with pytest.raises(UserError, match="multiple of 5"):
        check_batch_size(12, mesh, 5)
    assert data_shard(mesh) == (0, 1)


EIGHT = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from cat_jax.parallel.activations import by_rows, by_rows_and_heads, rows_over, whole
from cat_jax.parallel.batches import ALL_AXES, ROW_AXES, batch_sharding, data_shard, shard_batch
from cat_jax.parallel.mesh import MeshConfig
mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
x = shard_batch({"x": np.arange(16).reshape(8, 2)}, mesh)["x"]
rows = sorted((s.index[0].start, s.data.shape) for s in x.addressable_shards)
assert rows == [(start, (2, 2)) for start in (0, 0, 2, 2, 4, 4, 6, 6)], rows
np.testing.assert_array_equal(x, np.arange(16).reshape(8, 2))

x = shard_batch({"x": np.arange(16.0).reshape(8, 2)}, mesh, ALL_AXES)["x"]
rows = sorted((s.index[0].start, s.data.shape) for s in x.addressable_shards)
assert rows == [(start, (1, 2)) for start in range(8)], rows
assert data_shard(mesh, ALL_AXES) == (0, 1)

split = NamedSharding(mesh, P("fsdp", "tensor"))
kernel = jax.device_put(np.ones((2, 6)), split)
def placed(axes):
    def place(x, kernel):
        with rows_over(mesh, axes):
            return by_rows(2 * x), whole(kernel)
    return [y.sharding for y in jax.jit(place)(x, kernel)]
all_rows, gathered = placed(ALL_AXES)
assert all_rows == x.sharding and gathered.is_fully_replicated, "no device is left to share a layer"
some_rows, left = placed(ROW_AXES)
assert some_rows == batch_sharding(mesh) and left == split, "the tensor axis shares the layer's columns"

def shared(axes, rows, heads):
    shapes = []
    def kernel(heads, rows):
        shapes.append((heads.shape, rows.shape))
        return heads * rows[:, None, None]
    def run(heads, rows):
        with rows_over(mesh, axes):
            return by_rows_and_heads(kernel, heads, rows)
    heads, rows = np.random.normal(size=(rows, heads, 3, 5)), np.arange(rows * 5.0).reshape(rows, 5)
    np.testing.assert_allclose(jax.jit(run)(heads, rows), heads * rows[:, None, None], rtol=1e-6)
    return shapes
assert shared(ROW_AXES, 8, 4) == [((2, 2, 3, 5), (2, 5))], "rows over data and fsdp, heads over tensor"
assert shared(ROW_AXES, 8, 1) == [((2, 1, 3, 5), (2, 5))], "one head cannot be split"
assert shared(ROW_AXES, 3, 4) == [((3, 2, 3, 5), (3, 5))], "nor can three rows"
assert shared(ALL_AXES, 8, 4) == [((1, 4, 3, 5), (1, 5))], "no axis is left for heads"
"""


def test_rows_are_spread_over_data_and_fsdp_or_all_axes():
    x = shard_batch({"x": np.arange(6).reshape(3, 2)}, MeshConfig(data=1).build(jax.devices()[:1]))["x"]
    np.testing.assert_array_equal(x, np.arange(6).reshape(3, 2))
    subprocess.run([sys.executable, "-c", EIGHT], env=environment(8), check=True)
