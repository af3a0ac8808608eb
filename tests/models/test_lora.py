"""LoRA in a model: it starts as its base, has the gradients that the full kernel's gives, and merges."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_cases import INPUTS, TARGETS, batch_of, drawn, run
from decoder_cases import tiny_config as decoder_config
from flax import nnx
from t5_cases import random_batch, tiny_config
from xla_flops import xla_forward_flops

from cat_jax.errors import UserError
from cat_jax.models.adapters import attach, merged
from cat_jax.models.axes import axes_by_name
from cat_jax.models.layers import Linear
from cat_jax.models.lora import FROZEN, AdaptedConfig, Lora, adapted, is_adapter
from cat_jax.models.registry import config_from_dict
from cat_jax.models.stack import stack_layers
from cat_jax.parallel.names import flatten_names, unflatten_names
from cat_jax.train.frozen import frozen_names

T5 = tiny_config(num_encoder_layers=1, num_decoder_layers=1)
DECODER = decoder_config("gemma3", num_layers=2, layer_pattern=("local", "global"))
FAMILIES = {"t5": (T5, random_batch), "decoder": (DECODER, lambda: batch_of(INPUTS, TARGETS))}
LORA = Lora(rank=3, alpha=6)
KEY = jax.random.key(0)


def built(config, seed=0):
    """(graphdef, parameters by name, what makes a tree of these) of a model with LoRA, as after some training."""
    graphdef, tree = nnx.graphdef(nnx.eval_shape(lambda: config.build(KEY))), drawn(config, seed)
    return graphdef, flatten_names(tree), tree


def without_b(params):
    """The parameters as before training."""
    return {name: jnp.zeros_like(p) if name.endswith(".lora_b") else p for name, p in params.items()}


def merge_all(params, factor):
    """The adapters in the kernels, by the formula, and zero themselves."""
    found = {name: jnp.zeros_like(p) if is_adapter(name) else p for name, p in params.items()}
    for name in [name for name in params if name.endswith(".lora_a")]:
        kernel, b = name.replace(".lora_a", ".kernel"), name.replace(".lora_a", ".lora_b")
        found[kernel] = merge(params[kernel], params[name], params[b], factor=factor)
    return found


merge = jax.jit(merged, static_argnames="factor")


def test_a_layer_computes_as_without_at_first():
    """Bit for bit, operation by operation: a compiler may order what is around the products in another way."""
    draw = np.random.default_rng(0)
    initial = lambda key, shape, dtype: jnp.asarray(draw.normal(size=shape), dtype)  # noqa: E731
    options = {"initializer": initial, "contract": 2, "bias": True, "param_dtype": "float32"}
    layer = Linear(KEY, (4, 6, 5), ("heads", "kv", "embed"), **options)
    x = jnp.asarray(draw.normal(size=(7, 4, 6)), jnp.float32)
    expected = layer(x)
    attach(layer, LORA, KEY)
    np.testing.assert_array_equal(layer(x), expected)
    layer.lora_b[...] += 0.1
    assert np.abs(np.asarray(layer(x) - expected)).max() > 0.01


def test_a_model_computes_as_its_base_at_first_and_as_the_merged_one_then():
    graphdef, params, tree = built(AdaptedConfig(T5, LORA))
    base = nnx.eval_shape(lambda: T5.build(KEY))
    kernels = {name: p for name, p in params.items() if not is_adapter(name)}
    hidden = lambda named: run(graphdef, unflatten_names(tree, named), random_batch()).hidden  # noqa: E731
    expected = run(nnx.graphdef(base), unflatten_names(nnx.state(base), kernels), random_batch()).hidden
    np.testing.assert_allclose(hidden(without_b(params)), expected, atol=1e-6)
    trained = hidden(params)
    assert np.abs(np.asarray(trained - expected)).max() > 0.01
    np.testing.assert_allclose(hidden(merge_all(params, LORA.factor)), trained, atol=1e-5)


@pytest.mark.parametrize("family", ["decoder", pytest.param("t5", marks=pytest.mark.exhaustive)])
def test_gradients_follow_from_the_full_kernels(family):
    """In float64: dA = f G B^T and dB = f A^T G, where G is the kernel's gradient; and merged computes the same."""
    config = T5 if family == "t5" else decoder_config("gemma3", num_layers=1)
    batch = random_batch() if family == "t5" else batch_of(INPUTS, TARGETS)
    graphdef, params, tree = built(AdaptedConfig(config, LORA))

    @jax.jit
    def both(params):
        loss = lambda p: jnp.sum(nnx.merge(graphdef, unflatten_names(tree, p))(batch).hidden ** 2)  # noqa: E731
        return jax.value_and_grad(loss)(params)

    loss, gradient = both(params)
    checked = 0
    for name in [name for name in params if name.endswith(".lora_a")]:
        stem = name.removesuffix("lora_a")
        a, b = (np.asarray(params[stem + part], np.float64) for part in ("lora_a", "lora_b"))
        a, b = a.reshape(-1, 3), b.reshape(3, -1)
        kernel = np.asarray(gradient[stem + "kernel"], np.float64).reshape(len(a), -1)
        scale = np.abs(kernel).max()
        expected = {"lora_a": 2 * kernel @ b.T, "lora_b": 2 * a.T @ kernel}
        for part, value in expected.items():
            found = np.asarray(gradient[stem + part], np.float64).reshape(value.shape)
            np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5 * scale)
        checked += 1
    assert checked == sum(name.endswith(".lora_b") for name in params) == (18 if family == "t5" else 7)
    np.testing.assert_allclose(both(merge_all(params, LORA.factor))[0], loss, rtol=1e-5)


def test_kernels_are_merged_at_highest_precision():
    """TPUs would round the adapters to bfloat16 otherwise; and NumPy computes the same."""
    draw = np.random.default_rng(0)
    parts = [draw.normal(size=size).astype(np.float32) for size in ((2, 8, 3, 4), (2, 8, 5), (2, 5, 3, 4))]
    assert "precision = [HIGHEST, HIGHEST]" in merge.lower(*parts, factor=2.0).as_text()
    np.testing.assert_allclose(merge(*parts, factor=2.0), merged(*parts, 2.0, np), atol=1e-5)


def test_stacked_layers_compute_the_same():
    graphdef, _, tree = built(AdaptedConfig(DECODER, LORA))
    stacked = AdaptedConfig(dataclasses.replace(DECODER, scan_layers=True), LORA)
    scanned, batch = nnx.graphdef(nnx.eval_shape(lambda: stacked.build(KEY))), batch_of(INPUTS, TARGETS)
    one, two = (run(g, p, batch).hidden for g, p in ((graphdef, tree), (scanned, stack_layers(tree))))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_what_is_drawn_and_how_it_lies():
    """The same for stacked layers."""
    sizes = {"embed_dim": 64, "num_heads": 8, "head_dim": 16, "num_decoder_layers": 2}
    wide = dataclasses.replace(T5, **sizes, param_dtype="bfloat16")
    lora = Lora(rank=16, targets=["cross_attention.(query|output)", "encoder.*mlp.inputs.1"])
    apart, stacked = (AdaptedConfig(dataclasses.replace(wide, scan_layers=scan), lora) for scan in (False, True))
    tree = nnx.state(nnx.eval_shape(lambda: apart.build(KEY)))
    axes, names, params = axes_by_name(tree), flatten_names(tree).keys(), drawn_adapters(apart)
    assert params.keys() == {name for name in names if is_adapter(name)}
    assert params.keys() == {f"{name.rpartition('.')[0]}.lora_{x}" for name in params for x in "ab"}
    assert all(".cross_attention." in name or name.startswith("encoder.layers.0.mlp.inputs.1.") for name in params)
    assert not any(".key." in name or "mlp.output" in name or name.startswith("output") for name in params)
    assert {p.dtype.name for p in params.values()} == {"float32"}
    query = "decoder.layers.1.cross_attention.query.lora_"
    assert (axes[query + "a"], axes[query + "b"]) == (("embed", "rank"), ("rank", "heads", "kv"))
    assert axes["decoder.layers.0.cross_attention.output.lora_a"] == ("heads", "kv", "rank")
    assert not np.any(params[query + "b"])
    np.testing.assert_allclose(np.std(params[query + "a"]), 64**-0.5, rtol=0.1)
    assert not np.array_equal(params[query + "a"], params[query.replace("1", "0") + "a"])
    assert frozen_names(names, FROZEN) == names - params.keys()
    for name, value in drawn_adapters(stacked).items():
        layers = [p for other, p in params.items() if re.sub(r"layers\.\d", "layers", other) == name]
        np.testing.assert_array_equal(value, np.stack(layers), err_msg=name)


def drawn_adapters(config):
    """By name."""
    named = lambda: flatten_names(nnx.state(config.build(KEY))).items()  # noqa: E731
    return jax.jit(lambda: {name: p for name, p in named() if is_adapter(name)})()


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_count_the_adapters(family):
    config, batch = FAMILIES[family]
    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype), batch())
    lengths = (0 if config.prompt == "prefix" else 9, example.decoder_target_tokens.shape[1])

    def counted(config):
        graphdef, params = nnx.split(nnx.eval_shape(lambda: config.build(KEY)))
        return xla_forward_flops(graphdef, params, example)

    model = AdaptedConfig(config, LORA)
    more = model.forward_flops(*lengths) - config.forward_flops(*lengths)
    np.testing.assert_allclose(counted(model) - counted(config), more, rtol=0.1)
    assert more > 0
    assert model.answer_flops(3, 4) == config.answer_flops(3, 4)


def test_a_configuration_survives_being_written():
    for lora in (Lora(), Lora(4, 1, ["query"])):
        config = AdaptedConfig(T5, lora)
        assert config_from_dict(config.to_dict()) == config
    assert config_from_dict(T5.to_dict()) == T5


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"rank": 0}, "Lora.rank is 0: give a positive whole number"),
        ({"rank": 2.0}, "Lora.rank is 2.0: give a positive whole number"),
        ({"rank": True}, "Lora.rank is True"),
        ({"alpha": 0}, "Lora.alpha is 0: give a number above 0"),
        ({"alpha": "16"}, "Lora.alpha is '16'"),
        ({"targets": "query"}, "Lora.targets is 'query': give a list of strings"),
        ({"targets": []}, r"Lora.targets is \[\]: give a list"),
        ({"targets": ["("]}, r"Lora.targets has '\('.*regular expressions"),
        ({"targets": [3]}, "Lora.targets has 3"),
        (
            {"targets": ["query", "q_proj"]},
            r"'q_proj', which is in no kernel's name: they are \w+\.layers\.0\..*kernel",
        ),
        ({"targets": ["^output"]}, "in no kernel's name"),
        ({"targets": ["embedding"]}, "in no kernel's name"),
    ],
)
def test_what_is_refused(fields, line):
    with pytest.raises(UserError, match=line):
        adapted(T5, Lora(**fields))


def test_nothing_is_frozen_beside_it():
    with pytest.raises(UserError, match=r"train.lora and train.frozen are both set: leave FROZEN out"):
        adapted(T5, LORA, ["embedding"])
    assert adapted(T5, None, ["embedding"]) == (T5, ["embedding"])
