"""Optimizer configurations: equal to optax's, first steps by hand, and moments that lie where parameters lie."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cat_jax.errors import UserError
from cat_jax.train.optimizer import Adafactor, AdamW
from cat_jax.train.schedule import Schedule
from cat_jax.train.state import new_state, place_state

PARAMS = {
    "mlp.kernel": jnp.linspace(-1.0, 1.0, 24).reshape(4, 6),
    "norm.scale": jnp.ones(4),
}


def gradients(step):
    return {name: jnp.sin(p * (3 + step)) for name, p in PARAMS.items()}


def run(transform, steps=4):
    params, state = PARAMS, transform.init(PARAMS)
    for step in range(steps):
        updates, state = transform.update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def mask(params):
    return {name: name == "mlp.kernel" for name in params}


@pytest.mark.parametrize(
    ("config", "transform"),
    [
        (
            AdamW(0.1, b2=0.98, weight_decay=0.3, max_grad_norm=0.5),
            optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1, b2=0.98, weight_decay=0.3, mask=mask)),
        ),
        (
            Adafactor(Schedule(warmup_steps=2), min_dim_size_to_factor=2, weight_decay=0.01),
            optax.adafactor(
                Schedule(warmup_steps=2),
                min_dim_size_to_factor=2,
                decay_rate=0.8,
                clipping_threshold=1.0,
                weight_decay_rate=0.01,
                weight_decay_mask=mask,
            ),
        ),
    ],
)
def test_equals_optax(config, transform):
    got, expected = run(config.build()), run(transform)
    for name in PARAMS:
        np.testing.assert_array_equal(got[name], expected[name])
        assert np.abs(got[name] - PARAMS[name]).max() > 1e-3


def test_first_adamw_update_by_hand():
    """With m = 0.1 g, v = 0.001 g^2, both unbiased: g / (|g| + eps) = sign(g); decay 0.5 * p on top."""
    transform = AdamW(0.1, weight_decay=0.5).build()
    params = {"w": jnp.array([2.0, -4.0]), "norm.w": jnp.array([2.0])}
    gradient = {"w": jnp.array([0.3, -7.0]), "norm.w": jnp.array([0.3])}
    updates, _ = transform.update(gradient, transform.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.1 * (1 + 1.0), -0.1 * (-1 - 2.0)], rtol=1e-5)
    np.testing.assert_allclose(updates["norm.w"], [-0.1], rtol=1e-5)


def test_first_adafactor_update_by_hand():
    """Update 1: v = g^2, u = sign(g), rms(u) = 1 is not clipped; times lr 0.1 and rms(p) = 5."""
    transform = Adafactor(0.1).build()
    params = {"w": jnp.array([1.0, -7.0])}
    updates, _ = transform.update({"w": jnp.array([3.0, -0.2])}, transform.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.5, 0.5], rtol=1e-5)


MESH = AbstractMesh((1, 2, 4), ("data", "fsdp", "tensor"))


def test_moments_lie_as_their_parameters():
    shapes = {"w": (8, 256, 128), "square": (128, 128), "b": (8,)}
    shardings = {
        "w": NamedSharding(MESH, P(None, "fsdp", "tensor")),
        "square": NamedSharding(MESH, P("fsdp", "tensor")),
        "b": NamedSharding(MESH, P("tensor")),
    }
    abstract_params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def specs(config, *path):
        abstract = jax.eval_shape(lambda p: new_state(p, config.build(), 0), abstract_params)
        placed = place_state(abstract, shardings, MESH)
        leaves = jax.tree_util.tree_flatten_with_path(placed.opt_state)[0]
        return {
            jax.tree_util.keystr(p): (leaf.shape, leaf.sharding.spec)
            for p, leaf in leaves
            if all(part in jax.tree_util.keystr(p) for part in path)
        }

    assert list(specs(AdamW(), ".mu", "'w'").values()) == [((8, 256, 128), P(None, "fsdp", "tensor"))]
    assert list(specs(AdamW(), ".count").values()) == [((), P())]
    assert list(specs(Adafactor(), ".v_row", "'w'").values()) == [((8, 128), P(None, "tensor"))]
    assert list(specs(Adafactor(), ".v_col", "'w'").values()) == [((8, 256), P(None, "fsdp"))]
    assert list(specs(Adafactor(), ".v_row", "'square'").values()) == [((128,), P())]
    assert [s for shape, s in specs(Adafactor(), ".v[", "'b'").values() if shape == (8,)] == [P("tensor")]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: AdamW(-1.0), "AdamW.learning_rate is -1.0"),
        (lambda: AdamW(b2=1.0), r"AdamW.b2 is 1.0: give a number in \[0, 1\)"),
        (lambda: AdamW(learning_rate="fast"), "AdamW.learning_rate is 'fast'"),
        (lambda: AdamW(decay_exclude=["("]), r"AdamW.decay_exclude has '\('"),
        (lambda: AdamW(decay_exclude="norm"), "is the string 'norm'"),
        (lambda: Adafactor(decay_rate=0), "Adafactor.decay_rate is 0"),
        (lambda: Adafactor(momentum=0), "Adafactor.momentum is 0: give a number above 0, or None"),
        (lambda: Adafactor(max_grad_norm=0), "Adafactor.max_grad_norm is 0"),
    ],
)
def test_bad_numbers_are_named(make, word):
    with pytest.raises(UserError, match=word):
        make()
