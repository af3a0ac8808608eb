"""Kernels in int8: how far they are from what they were, how a model computes with them, what they take."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_cases import INPUTS, TARGETS, batch_of, drawn, run
from decoder_cases import tiny_config as decoder_config
from flax import nnx
from t5_cases import tiny_config

from cat_jax.errors import UserError
from cat_jax.models.axes import axes_by_name
from cat_jax.models.decoder_config import DecoderConfig
from cat_jax.models.int8 import Int8Config, in_dtype, quantized
from cat_jax.parallel.names import flatten_names, unflatten_names

KEY = jax.random.key(0)


def rounded(config, state):
    """The parameters of the same model in int8."""
    wanted, found = nnx.state(nnx.eval_shape(lambda: Int8Config(config).build(KEY))), flatten_names(state)
    shapes = {name: want.shape for name, want in flatten_names(wanted).items() if name.endswith("kernel_scale")}
    kernels = {name: name.removesuffix("_scale") for name in shapes}
    quantize = lambda found: {name: quantized(found[kernels[name]], shape) for name, shape in shapes.items()}  # noqa: E731
    made = jax.jit(quantize)(found)
    for name, kernel in kernels.items():
        found[kernel], found[name] = made[name]
    return unflatten_names(wanted, found)


def test_every_kernel_is_within_half_a_scale():
    """Of each layer on its own, where they are stacked; `scan` counts their axis."""
    scan, config = 1, tiny_config(num_encoder_layers=1, num_decoder_layers=2, scan_layers=True)
    state = drawn(config)
    exact, tree = flatten_names(state), rounded(config, state)
    found, axes, checked = flatten_names(tree), axes_by_name(tree), 0
    for name, kernel in exact.items():
        scale = found.get(name + "_scale")
        if scale is None:
            assert name.split(".")[-1] in ("scale", "table") or name == "output.kernel"
            continue
        checked += 1
        assert (found[name].dtype, scale.dtype) == (jnp.int8, jnp.float32)
        error = np.abs(np.asarray(found[name], np.float64) * scale - kernel)
        assert np.all(error <= np.asarray(scale) / 2 + 1e-7)
        assert np.abs(found[name]).max() == 127
        contract = 2 if "attention.output" in name else 1
        assert scale.shape == (*kernel.shape[:scan], *(1,) * contract, *kernel.shape[scan + contract :])
        assert axes[name + "_scale"] == (*axes[name][:scan], *(None,) * contract, *axes[name][scan + contract :])
    assert checked == len([name for name in exact if "attention" in name or "mlp." in name if "kernel" in name])


def test_zeros_stay_zeros():
    rounded, scale = jax.jit(quantized, static_argnums=1)(np.zeros((3, 2), np.float32), (1, 2))
    assert not np.any(rounded)
    assert not np.any(scale)


def test_the_model_computes_with_them():
    """As with the kernels that they stand for, and near what it was."""
    config, batch = decoder_config("qwen2", num_layers=1), batch_of(INPUTS, TARGETS)
    exact = drawn(config)
    tree = rounded(config, exact)
    named = flatten_names(tree)
    whole = {name: np.asarray(x) for name, x in named.items()}
    scaled = {name: x * whole[f"{name}_scale"] for name, x in whole.items() if f"{name}_scale" in whole}
    states = {
        "exact": (config, exact),
        "meant": (config, unflatten_names(exact, named | scaled)),
        "int8": (Int8Config(config), tree),
    }
    hidden = {}
    for name, (c, state) in states.items():
        graphdef = nnx.graphdef(nnx.eval_shape(lambda c=c: c.build(KEY)))
        hidden[name] = np.asarray(run(graphdef, state, batch).hidden)
    np.testing.assert_allclose(hidden["int8"], hidden["meant"], atol=2e-5)
    gap = np.abs(hidden["int8"] - hidden["exact"])
    assert gap.max() > 1e-4
    assert gap.mean() < 0.02 * np.abs(hidden["exact"]).mean()


def test_a_new_model_in_int8_is_one_of_the_same_draws():
    config = decoder_config(num_layers=1)

    def build():
        kernel = config.build(KEY).layers[0].mlp.output.kernel[...]
        return Int8Config(config).build(KEY), quantized(kernel, (1, 16))[0]

    graphdef = nnx.graphdef(nnx.eval_shape(lambda: Int8Config(config).build(KEY)))
    model, expected = nnx.jit(build)()
    assert nnx.graphdef(model) == graphdef
    np.testing.assert_array_equal(model.layers[0].mlp.output.kernel[...], expected)
    assert np.abs(expected).max() == 127


def test_it_takes_a_quarter():
    """Of a model whose layers are most of it: nothing is allocated."""
    config = DecoderConfig(
        vocab_size=2048, embed_dim=512, num_heads=8, head_dim=64, mlp_dim=2048, num_layers=12, scan_layers=True
    )

    def size(config):
        leaves = jax.tree.leaves(nnx.state(nnx.eval_shape(lambda: config.build(KEY))))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    assert 0.25 < size(in_dtype(config, "int8")) / size(config) < 0.27
    half = in_dtype(config, "bfloat16")
    assert half == dataclasses.replace(config, dtype="bfloat16", param_dtype="bfloat16")
    assert in_dtype(config, "int8") == Int8Config(half)


def test_kernels_are_converted_one_at_a_time():
    """A stack needs room for less than two layers in f32; without one, each kernel waits for what it multiplies."""
    batch, count = batch_of(INPUTS[:1], TARGETS[:1]), 8

    def lowered(scan):
        config = decoder_config(embed_dim=64, mlp_dim=512, num_layers=count, scan_layers=scan)
        graphdef, params = nnx.split(nnx.eval_shape(lambda: in_dtype(config, "int8").build(KEY)))
        return jax.jit(lambda p: nnx.merge(graphdef, p)(batch).hidden).lower(params)

    sizes = lowered(True).compile().memory_analysis()
    assert sizes.temp_size_in_bytes < 2 * 4 * sizes.argument_size_in_bytes / count
    assert lowered(False).as_text().count("optimization_barrier") == 7 * count


def test_another_dtype_is_refused():
    with pytest.raises(UserError, match="cannot be loaded as 'int4': give one of float32, bfloat16, int8"):
        in_dtype(tiny_config(), "int4")
