"""Optimizer configurations: equal to optax's, first steps by hand, and moments that lie where parameters lie."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cat_jax.errors import UserError
from cat_jax.losses.objective import Objective
from cat_jax.models.t5_config import T5Config
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.train.optimizer import Adafactor, AdamW
from cat_jax.train.program import build_program
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


@pytest.mark.parametrize("config", [AdamW(), Adafactor(min_dim_size_to_factor=2, momentum=0.9)])
def test_an_update_leaves_dtypes_as_they_are(config):
    """Of half precision, too, where gradients are f32: else a restored run would go on with rounded moments."""
    params = {"a": jnp.ones((4, 4), jnp.bfloat16), "b": jnp.ones((4,), jnp.float32)}
    optimizer = config.build()
    state = new_state(params, optimizer, 0)
    gradient = {name: jnp.ones(p.shape) for name, p in params.items()}
    _, after = optimizer.update(gradient, state.opt_state, params)
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state.opt_state)


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
        placed = place_state(abstract, shardings, MESH, {})
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


HEADS = {
    "query": ("embed", "heads", "kv"),
    "output": ("heads", "kv", "embed"),
    "scan": ("layers", "embed", "heads", "kv"),
}
SHAPES = {"query": (256, 8, 64), "output": (8, 64, 256), "scan": (3, 256, 8, 64)}
MATRICES = {"query": (256, 512), "output": (512, 256), "scan": (3, 256, 512)}


def test_adafactor_factors_attention_kernels_as_matrices():
    """As t5x stores them: the updates are optax's of the matrices, and no second moment is kept whole."""
    draw = np.random.default_rng(0)
    params, gradient = (
        {name: jnp.array(draw.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()} for _ in range(2)
    )
    flat = lambda tree: {name: x.reshape(MATRICES[name]) for name, x in tree.items()}  # noqa: E731
    transform, matrices = Adafactor(0.1).build(HEADS), optax.adafactor(0.1)
    state, flat_state = transform.init(params), matrices.init(flat(params))
    assert sum(x.size for x in jax.tree.leaves(state)) < 10_000  # of 655 360 parameters
    for _ in range(2):
        updates, state = transform.update(gradient, state, params)
        expected, flat_state = matrices.update(flat(gradient), flat_state, flat(params))
        for name, shape in SHAPES.items():
            assert updates[name].shape == shape
            np.testing.assert_array_equal(updates[name], expected[name].reshape(shape))


def test_means_of_attention_kernels_lie_as_their_parameters():
    """Split heads are a contiguous part of a matrix's side; a split of every head is not, and is given up."""
    specs = {"query": P("fsdp", "tensor"), "output": P("tensor", None, "fsdp"), "scan": P(None, "fsdp", None, "tensor")}
    abstract_params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}
    optimizer = Adafactor(momentum=0.9).build(HEADS)
    abstract = jax.eval_shape(lambda p: new_state(p, optimizer, 0), abstract_params)
    placed = place_state(abstract, {name: NamedSharding(MESH, spec) for name, spec in specs.items()}, MESH, HEADS)
    found: dict = {name: {} for name in SHAPES}
    for path, leaf in jax.tree_util.tree_flatten_with_path(placed.opt_state)[0]:
        for name in SHAPES:
            if f"'{name}'" in jax.tree_util.keystr(path):
                found[name][leaf.shape] = leaf.sharding.spec
    expected = {
        "query": {(256, 512): P("fsdp", "tensor"), (256,): P("fsdp"), (512,): P("tensor")},
        "output": {(512, 256): P("tensor", "fsdp"), (256,): P("fsdp"), (512,): P("tensor")},
        "scan": {(3, 256, 512): P(None, "fsdp", None), (3, 256): P(None, "fsdp"), (3, 512): P(None, None)},
    }
    for name, shapes in expected.items():
        assert {shape: spec for shape, spec in found[name].items() if shape != (1,)} == shapes
    assert {name: leaf.sharding.spec for name, leaf in placed.params.items()} == specs


@pytest.mark.parametrize("scan", [False, True])
def test_a_run_hands_the_optimizer_the_axes(scan):
    sizes = {"embed_dim": 128, "num_heads": 4, "head_dim": 32, "mlp_dim": 128}
    model = T5Config(vocab_size=128, **sizes, num_encoder_layers=2, num_decoder_layers=2, scan_layers=scan)
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    program = build_program(model, Objective(w=1.0, keep="all"), Adafactor(), mesh)
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert size(program.abstract_state.opt_state) < 0.05 * size(program.abstract_state.params)


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
