"""How T5's parameters are kept: scanned or unrolled, computed again or not, named, and counted without being made."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from t5_cases import biggest_difference, random_batch, run, split, tiny_config

from cat_jax.models.axes import logical_axes
from cat_jax.models.flops import parameter_count
from cat_jax.models.stack import stack_layers, unstack_layers
from cat_jax.models.t5_config import T5Config
from cat_jax.parallel.rules import DEFAULT_RULES

pytestmark = pytest.mark.slow

UNROLLED = tiny_config(dropout_rate=0.3)
SCANNED = dataclasses.replace(UNROLLED, scan_layers=True)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def unrolled():
    return split(UNROLLED)


@pytest.fixture(scope="module")
def scanned():
    return split(SCANNED)


def test_a_seed_gives_the_same_numbers_scanned_or_not(unrolled, scanned):
    assert biggest_difference(stack_layers(unrolled[1]), scanned[1]) == 0.0
    assert biggest_difference(unstack_layers(scanned[1]), unrolled[1]) == 0.0
    assert (
        len({float(jnp.sum(x)) for x in jax.tree.leaves(unrolled[1]) if x.ndim > 1}) == 2 + 2 + 7 + 2 * 11
    )  # all differ


def test_the_scanned_model_equals_the_unrolled_one(unrolled, scanned):
    batch, key = random_batch(), jax.random.key(3)
    for dropout_key in (None, key):
        expected = run(*unrolled, batch, dropout_key)
        found = run(*scanned, batch, dropout_key)
        assert biggest_difference(found, expected) < 5e-6
    assert biggest_difference(run(*unrolled, batch, key), run(*unrolled, batch)) > 0.1  # dropout did something


def graphdef_of(config):
    return nnx.graphdef(nnx.eval_shape(lambda: config.build(KEY)))


@functools.cache
def gradient(config):
    graphdef = graphdef_of(config)

    @jax.jit
    def grads(params):
        def loss(params):
            output = nnx.merge(graphdef, params)(random_batch(), dropout_key=jax.random.key(1))
            return jnp.mean(jnp.square(output.head.logits(output.hidden)))

        return jax.grad(loss)(params)

    return grads(split(dataclasses.replace(config, remat="none"))[1])


@pytest.mark.parametrize(
    ("scan", "remat"),
    [
        (True, "minimal"),
        *(pytest.param(*how, marks=pytest.mark.exhaustive) for how in ((True, "full"), (False, "minimal"))),
    ],
)
def test_rematerialisation_changes_no_gradient(scan, remat):
    config = SCANNED if scan else UNROLLED
    expected = gradient(config)
    assert biggest_difference(gradient(dataclasses.replace(config, remat=remat)), expected) < 2e-5
    assert min(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(expected)) > 0.0  # every parameter is reached


def test_the_gradient_of_the_scanned_model_equals_the_unrolled_one():
    assert biggest_difference(unstack_layers(gradient(SCANNED)), gradient(UNROLLED)) < 2e-5


def test_rematerialisation_keeps_less(unrolled):
    """Of what the forward pass saves for the backward pass: full < minimal < none."""

    def saved_bytes(remat):
        graphdef = graphdef_of(dataclasses.replace(UNROLLED, remat=remat))
        call = lambda params: nnx.merge(graphdef, params)(random_batch(), dropout_key=KEY).hidden  # noqa: E731
        _, pull_back = jax.eval_shape(lambda params: jax.vjp(call, params), unrolled[1])
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pull_back))

    assert saved_bytes("full") < saved_bytes("minimal") < saved_bytes("none")


@pytest.mark.exhaustive
def test_a_model_has_a_forward_mode():
    """The directional derivative that forward mode gives is the one that follows from the gradient."""
    config = tiny_config(scan_layers=True, num_encoder_layers=1, num_decoder_layers=1, remat="minimal")
    graphdef, params = split(config)
    batch = random_batch()

    def loss(params):
        output = nnx.merge(graphdef, params)(batch)
        return jnp.mean(jnp.square(output.head.logits(output.hidden)))

    _, forward = jax.jit(lambda p: jax.jvp(loss, (p,), (p,)))(params)
    gradient = jax.jit(jax.grad(loss))(params)
    backward = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, params)))
    assert float(forward) == pytest.approx(float(backward), rel=1e-4)
    assert abs(float(forward)) > 1e-3


@pytest.mark.parametrize("config", [UNROLLED, SCANNED, tiny_config(tie_embeddings=True)], ids=["plain", "scan", "tied"])
def test_every_parameter_has_logical_axes(config):
    _, params = split(config)
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, nnx.Variable))
    assert all(isinstance(leaf, nnx.Param) for leaf in leaves)  # no generator state, no cache
    axes = logical_axes(params)
    ruled = {logical for logical, _ in DEFAULT_RULES}
    ranks = jax.tree.map(lambda p, a: (p.ndim, len(a), ruled.issuperset(a)), params, axes)
    for rank, names, known in jax.tree.leaves(ranks, is_leaf=lambda x: isinstance(x, tuple)):
        assert rank == names
        assert known
    assert jax.tree.structure(logical_axes(nnx.eval_shape(lambda: config.build(KEY))), is_leaf=_is_names) == (
        jax.tree.structure(axes, is_leaf=_is_names)
    )
    expected = ("layers", "embed", "mlp") if config.scan_layers else ("embed", "mlp")
    layers = axes.encoder.layers if config.scan_layers else axes.encoder.layers[0]
    assert layers.mlp.inputs[1].kernel.get_value() == expected
    assert axes.embedding.table.get_value() == ("vocab", "embed")


def _is_names(x):
    return isinstance(x, tuple)


PUBLISHED = {  # width, heads, MLP, layers, and parameters as published
    "small": (512, 6, 1024, 8, 77e6),
    "base": (768, 12, 2048, 12, 248e6),
    "large": (1024, 16, 2816, 24, 783e6),
    "xl": (2048, 32, 5120, 24, 2.85e9),
    "xxl": (4096, 64, 10240, 24, 11.1e9),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameters_are_counted_without_being_made(size):
    embed_dim, num_heads, mlp_dim, layers, published = PUBLISHED[size]
    config = T5Config(
        vocab_size=32128,
        embed_dim=embed_dim,
        num_heads=num_heads,
        head_dim=64,
        mlp_dim=mlp_dim,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        scan_layers=size in ("xl", "xxl"),
    )
    assert parameter_count(config) == pytest.approx(published, rel=0.005)
