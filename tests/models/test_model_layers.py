"""The blocks of all families, against hand-computed numbers and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cat_jax.models import initializers
from cat_jax.models.attention import Attention, attend
from cat_jax.models.axes import axes_of, parameter
from cat_jax.models.dropout import draw_keep, dropout
from cat_jax.models.layers import ACTIVATIONS, MLP, Embedding, RMSNorm
from cat_jax.models.linear import linear
from cat_jax.models.relative import RelativeBias, relative_buckets
from cat_jax.models.t5_config import ACTIVATION_NAMES

KEY = jax.random.key(0)


def test_rms_norm_by_hand():
    norm = RMSNorm(2, epsilon=0.5, param_dtype="float32")
    norm.scale[...] = jnp.array([1.0, 10.0])
    # Mean square of (3, 4) is 12.5; with epsilon 13; 3 / sqrt(13) and 40 / sqrt(13).
    np.testing.assert_allclose(norm(jnp.array([3.0, 4.0])), [0.8320503, 11.0940039], rtol=1e-6)


def test_rms_norm_squares_in_f32():
    norm = RMSNorm(2, epsilon=1e-6, param_dtype="float32")
    found = norm(jnp.array([300.0, 400.0], jnp.float16))  # 400 squared is beyond float16
    np.testing.assert_allclose(found, [0.8485281, 1.1313708], rtol=1e-3)
    assert found.dtype == jnp.float16


def test_activations_by_hand():
    x = jnp.array([-1.0, 0.5])
    expected = {
        "gelu": [-0.1588080, 0.3457140],
        "gelu_exact": [-0.1586553, 0.3457312],
        "relu": [0.0, 0.5],
        "silu": [-0.2689414, 0.3112297],
        "linear": [-1.0, 0.5],
    }
    assert tuple(ACTIVATIONS) == ACTIVATION_NAMES == tuple(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(ACTIVATIONS[name](x), values, atol=1e-6, err_msg=name)


def test_the_gated_mlp_by_hand():
    mlp = MLP(KEY, 1, 1, ("relu", "linear"), 0.0, param_dtype="float32")
    for layer, weight in zip([*mlp.inputs, mlp.output], [2.0, 3.0, 5.0], strict=True):
        layer.kernel[...] = jnp.array([[weight]])
    np.testing.assert_allclose(mlp(jnp.array([[[4.0], [-4.0]]])), [[[5 * 8 * 12.0], [0.0]]])


def test_attention_against_float64():
    rng = np.random.default_rng(0)
    query, keys, values = (rng.normal(size=shape) for shape in [(2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4)])
    bias, mask = rng.normal(size=(2, 3, 5)), rng.random((2, 1, 3, 5)) < 0.6
    mask[:, :, :, 0] = True
    logits = np.einsum("bhtk,bhsk->bhts", query, keys) + bias
    weights = np.where(mask, np.exp(logits), 0.0)
    expected = np.einsum("bhts,bhsk->bhtk", weights / weights.sum(-1, keepdims=True), values)
    as_f32 = [jnp.array(x, jnp.float32) for x in (query, keys, values)]
    found = attend(*as_f32, bias=jnp.array(bias, jnp.float32), mask=jnp.array(mask))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_query_that_sees_no_key_gets_zero_and_gives_no_gradient():
    rng = np.random.default_rng(0)
    query, keys, values = (jnp.array(rng.normal(size=(1, 2, 3, 4)), jnp.float32) for _ in range(3))
    mask = jnp.array([[True, False, True], [False] * 3, [True] * 3])[None, None]

    def of(query, keys, values):
        return attend(query, keys, values, bias=None, mask=mask)

    found = np.array(of(query, keys, values))
    assert not found[:, :, 1].any()
    assert found[:, :, ::2].all()
    blind = jax.grad(lambda *qkv: jnp.sum(of(*qkv)[:, :, 1]), (0, 1, 2))(query, keys, values)
    assert not any(np.array(g).any() for g in blind)
    grads = jax.grad(lambda *qkv: jnp.sum(of(*qkv) ** 2), (0, 1, 2))(query, keys, values)
    assert all(np.isfinite(g).all() and np.array(g).any() for g in grads)


def test_dropout_drops_at_its_rate_and_keeps_the_mean():
    keep = draw_keep(KEY, 0.25, 4, {"first": (1, 1000), "second": (3, 1, 500)})
    assert {name: value.shape for name, value in keep.items()} == {"first": (4, 1, 1000), "second": (4, 3, 1, 500)}
    found = np.array(dropout(jnp.ones((4, 7, 1000)), 0.25, keep["first"]))
    assert set(np.unique(found)) == {0.0, np.float32(1 / 0.75)}
    assert (found == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert (found == found[:, :1]).all()  # one draw for all positions
    assert not (found[0] == found[1]).all()
    assert not (keep["first"][:, 0, :500] == keep["second"][:, 0, 0]).all()
    x = jnp.ones(3)
    assert dropout(x, 0.25, None) is x


def test_dropout_keeps_the_dtype():
    assert dropout(jnp.ones(2, jnp.bfloat16), 0.5, jnp.array([True, False])).dtype == jnp.bfloat16


@pytest.mark.parametrize("kind", ["normal", "truncated_normal", "uniform"])
def test_initialisers_have_the_spread_they_promise(kind):
    draws = np.array(getattr(initializers, kind)(0.3)(KEY, (300, 300), "float32"))
    spread = 0.3 / 3**0.5 if kind == "uniform" else 0.3
    assert draws.std() == pytest.approx(spread, rel=0.02)
    assert draws.mean() == pytest.approx(0.0, abs=0.01)
    if kind == "truncated_normal":
        assert np.abs(draws).max() < 2 * 0.3 / 0.8796


@pytest.mark.parametrize("kind", ["normal", "truncated_normal", "uniform"])
def test_a_large_draw_gives_the_numbers_of_a_flat_one(kind, monkeypatch):
    """So that parameters do not depend on which way they were drawn."""
    draw = getattr(initializers, kind)(0.3)
    flat = draw(KEY, (3, 4, 5), "float32")
    monkeypatch.setattr(initializers, "_FLAT", 0)
    np.testing.assert_array_equal(draw(KEY, (3, 4, 5), "float32"), flat)
    assert draw(KEY, (3, 4, 5), "bfloat16").dtype == jnp.bfloat16


def test_kernels_start_at_t5_scales():
    attention = Attention(KEY, 64, 4, 32, 0.0, param_dtype="float32")
    spread = {
        name: float(jnp.std(getattr(attention, name).kernel[...])) for name in ("query", "key", "value", "output")
    }
    assert spread["query"] == pytest.approx((64 * 32) ** -0.5, rel=0.05)
    assert spread["key"] == pytest.approx(64**-0.5, rel=0.05)
    assert spread["value"] == pytest.approx(64**-0.5, rel=0.05)
    assert spread["output"] == pytest.approx((4 * 32) ** -0.5, rel=0.05)
    mlp = MLP(KEY, 64, 128, ("gelu", "linear"), 0.0, param_dtype="float32")
    assert float(jnp.std(mlp.inputs[0].kernel[...])) == pytest.approx(64**-0.5, rel=0.05)
    assert float(jnp.std(mlp.output.kernel[...])) == pytest.approx(128**-0.5, rel=0.05)
    assert not (mlp.inputs[0].kernel[...] == mlp.inputs[1].kernel[...]).any()
    assert float(jnp.std(Embedding(KEY, 200, 64, param_dtype="float32").table[...])) == pytest.approx(1.0, rel=0.05)


LINEAR = {
    "widens": ((2, 5), (3,), (4, 2)),
    "joins": ((5,), (4, 3), (2,)),
    "narrows": ((2, 5), (8,), (3,)),
    "one_vector": ((), (3,), (4,)),
}


@pytest.mark.parametrize("shapes", LINEAR.values(), ids=LINEAR)
def test_a_linear_map_and_its_gradient(shapes):
    """The gradient is written by hand: against float64."""
    outer, inner, result = shapes
    rng = np.random.default_rng(0)
    x, kernel, grad = (
        rng.normal(size=(*outer, *inner)),
        rng.normal(size=(*inner, *result)),
        rng.normal(size=(*outer, *result)),
    )
    n, i, o = (int(np.prod(shape)) for shape in (outer, inner, result))
    flat_x, flat_kernel, flat_grad = x.reshape(n, i), kernel.reshape(i, o), grad.reshape(n, o)
    as_f32 = [jnp.array(a, jnp.float32) for a in (x, kernel, grad)]
    found, pull_back = jax.vjp(lambda x, kernel: linear(x, kernel, len(inner)), *as_f32[:2])
    grad_x, grad_kernel = pull_back(as_f32[2])
    np.testing.assert_allclose(found, (flat_x @ flat_kernel).reshape(*outer, *result), atol=1e-5)
    np.testing.assert_allclose(grad_x, (flat_grad @ flat_kernel.T).reshape(x.shape), atol=1e-5)
    np.testing.assert_allclose(grad_kernel, (flat_x.T @ flat_grad).reshape(kernel.shape), atol=1e-5)


TRANSFORMATIONS = {
    "forward": lambda f, x, k, xs, ks: jax.jvp(f, (x, k), (xs[1], ks[1])),
    "over_rows": lambda f, x, k, xs, ks: jax.vmap(jax.grad(f, (0, 1)), (0, None))(xs, k),
    "over_rows_behind": lambda f, x, k, xs, ks: jax.vmap(f, (-1, None))(jnp.moveaxis(xs, 0, -1), k),
    "over_kernels": lambda f, x, k, xs, ks: jax.vmap(jax.grad(f, (0, 1)), (None, 0))(x, ks),
    "over_both": lambda f, x, k, xs, ks: jax.vmap(jax.grad(f, (0, 1)))(xs, ks),
    "forward_over_reverse": lambda f, x, k, xs, ks: jax.jvp(jax.grad(f, (0, 1)), (x, k), (xs[1], ks[1])),
    "reverse_over_reverse": lambda f, x, k, xs, ks: jax.grad(lambda k: jnp.sum(jax.grad(f)(x, k) ** 2))(k),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
@pytest.mark.parametrize("shapes", [LINEAR["widens"], LINEAR["joins"]], ids=["widens", "joins"])
def test_every_transformation_of_a_linear_map_is_that_of_the_product(shapes, name):
    outer, inner, result = shapes
    rng = np.random.default_rng(0)
    xs, ks = (jnp.array(rng.normal(size=(2, *s)), jnp.float32) for s in ((*outer, *inner), (*inner, *result)))
    found, expected = (
        jax.jit(
            lambda product=product: TRANSFORMATIONS[name](
                lambda x, k: jnp.sum(jnp.sin(product(x, k))), xs[0], ks[0], xs, ks
            )
        )()
        for product in (lambda x, k: linear(x, k, len(inner)), lambda x, k: jnp.tensordot(x, k, len(inner)))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


def test_axes_must_name_every_dimension():
    with pytest.raises(ValueError, match="do not name"):
        parameter(jnp.zeros((2, 3)), ("embed",))
    assert axes_of(parameter(jnp.zeros((2,)), ("width",))) == ("width",)  # a family's own; the rules must know it


def test_buckets_by_hand():
    """8 buckets, largest distance 16. One direction: 0..3 exact, then log-spaced up to 16."""
    distances = np.array([2, 0, -1, -3, -4, -5, -6, -8, -11, -12, -16, -99])
    found = relative_buckets(distances, bidirectional=False, num_buckets=8, max_distance=16)
    # 4 + floor(4 log(d / 4) / log 4): 5 -> 4.64, 6 -> 5.17, 8 -> 6, 11 -> 6.92, 12 -> 7.17.
    assert found.tolist() == [0, 0, 1, 3, 4, 4, 5, 6, 6, 7, 7, 7]
    found = relative_buckets(distances, bidirectional=True, num_buckets=8, max_distance=16)
    # Both: 0, 1 exact; 2 + floor(2 log(d / 2) / log 8); keys after the query start at 4.
    assert found.tolist() == [6, 0, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (1, 4), (6, 2), (1, 1), (3, 40)])
def test_the_bias_is_the_table_at_each_pair_s_bucket(bidirectional, queries, keys):
    options = {"bidirectional": bidirectional, "num_buckets": 8, "max_distance": 16}
    bias = RelativeBias(KEY, 3, param_dtype="float32", **options)
    distances = np.arange(keys)[None, :] - np.arange(queries)[:, None]
    expected = np.array(bias.table[...])[:, relative_buckets(distances, **options)]
    np.testing.assert_array_equal(bias(queries, keys), expected)
    if queries <= keys:
        rows = bias.rows(jnp.arange(queries)[::-1], keys)
        np.testing.assert_array_equal(rows, np.moveaxis(expected, 1, 0)[::-1])
