"""LoRA in a model: it starts as its base, has the gradients that the full kernel's gives, and merges."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_cases import INPUTS, TARGETS, batch_of
from decoder_cases import tiny_config as decoder_config
from flax import nnx
from t5_cases import random_batch, tiny_config
from xla_flops import xla_forward_flops

from cat_jax.errors import UserError
from cat_jax.models.adapters import merged
from cat_jax.models.axes import axes_by_name
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


@functools.cache
def built(config):
    """(graphdef, parameters by name, what makes a tree of these)."""
    abstract = nnx.eval_shape(lambda: config.build(KEY))
    graphdef, params = nnx.graphdef(abstract), jax.jit(lambda: nnx.state(config.build(KEY)))()
    return graphdef, flatten_names(params), params


def with_b(params, seed=1):
    """The parameters, B drawn: as after some training."""
    draw = np.random.default_rng(seed)
    drawn = lambda p: jnp.asarray(draw.normal(size=p.shape) * 0.3, p.dtype)  # noqa: E731
    return {name: drawn(p) if name.endswith(".lora_b") else p for name, p in params.items()}


def merge_all(params, factor):
    """The base's parameters, by the formula."""
    found = {name: p for name, p in params.items() if not is_adapter(name)}
    for name in [name for name in params if name.endswith(".lora_a")]:
        kernel, b = name.replace(".lora_a", ".kernel"), name.replace(".lora_a", ".lora_b")
        found[kernel] = merged(params[kernel], params[name], params[b], factor)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_step_is_the_bases_bit_for_bit(family):
    """Operation by operation: a compiler may order what is around the products in another way."""
    config, batch = FAMILIES[family]
    base, model = nnx.eval_shape(lambda: config.build(KEY)), AdaptedConfig(config, LORA)
    graphdef, params, tree = built(model)
    drawn = {name: p for name, p in params.items() if not is_adapter(name)}
    plain = unflatten_names(nnx.state(base), drawn)
    expected = nnx.merge(nnx.graphdef(base), plain)(batch()).hidden
    found = nnx.merge(graphdef, tree)(batch()).hidden
    np.testing.assert_array_equal(found, expected)
    moved = nnx.merge(graphdef, unflatten_names(tree, with_b(params)))(batch()).hidden
    assert np.abs(np.asarray(moved - expected)).max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_follow_from_the_full_kernels(family):
    """In float64: dA = f G B^T and dB = f A^T G, where G is the kernel's gradient; and merged computes the same."""
    config, batch = FAMILIES[family]
    graphdef, params, tree = built(AdaptedConfig(config, LORA))
    params = with_b(params)

    @jax.jit
    def both(params):
        loss = lambda p: jnp.sum(nnx.merge(graphdef, unflatten_names(tree, p))(batch()).hidden ** 2)  # noqa: E731
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
    assert checked == sum(name.endswith(".lora_b") for name in params) > 10
    still = merge_all(params, LORA.factor) | {name: jnp.zeros_like(p) for name, p in params.items() if is_adapter(name)}
    np.testing.assert_allclose(both(still)[0], loss, rtol=1e-5)


def test_stacked_layers_have_the_same_adapters_and_give_the_same():
    graphdef, params, tree = built(AdaptedConfig(DECODER, LORA))
    other, stacked, _ = built(AdaptedConfig(dataclasses.replace(DECODER, scan_layers=True), LORA))
    for name, value in flatten_names(stack_layers(tree)).items():
        np.testing.assert_array_equal(value, stacked[name], err_msg=name)
    tree = unflatten_names(tree, with_b(params))
    one, two = (
        jax.jit(lambda p, g=g: nnx.merge(g, p)(batch_of(INPUTS, TARGETS)).hidden)(p)
        for g, p in ((graphdef, tree), (other, stack_layers(tree)))
    )
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_what_is_drawn_and_how_it_lies():
    sizes = {"embed_dim": 64, "num_heads": 8, "head_dim": 16, "num_decoder_layers": 2}
    wide = dataclasses.replace(T5, **sizes, param_dtype="bfloat16")
    _, params, tree = built(AdaptedConfig(wide, Lora(rank=16, targets=["attention.(query|output)", "mlp.inputs.1"])))
    axes = axes_by_name(tree)
    adapters = {name for name in params if is_adapter(name)}
    assert adapters == {f"{name.rpartition('.')[0]}.lora_{x}" for name in adapters for x in "ab"}
    assert all(".query." in name or ".output." in name or ".inputs.1." in name for name in adapters)
    assert not any("mlp.output" in name or name.startswith("output") for name in adapters)
    assert {params[name].dtype.name for name in adapters} == {"float32"}
    query = "decoder.layers.1.cross_attention.query.lora_"
    assert (axes[query + "a"], axes[query + "b"]) == (("embed", "rank"), ("rank", "heads", "kv"))
    assert axes["encoder.layers.0.attention.output.lora_a"] == ("heads", "kv", "rank")
    assert not np.any(params[query + "b"])
    np.testing.assert_allclose(np.std(params[query + "a"]), 64**-0.5, rtol=0.1)
    assert not np.array_equal(params[query + "a"], params[query.replace("1", "0") + "a"])
    assert frozen_names(params, FROZEN) == params.keys() - adapters


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
