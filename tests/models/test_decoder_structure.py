"""How a decoder-only model's parameters are kept: scanned or not, computed again or not, named, padded, split."""

import dataclasses
import functools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_cases import BOTH_KINDS, FAMILIES, INPUTS, TARGETS, VOCAB, batch_of, logits_of, run, split, tiny_config
from fake_devices import environment
from flax import nnx

from cat_jax.losses.fused import FusedHead
from cat_jax.losses.objective import Objective
from cat_jax.models.axes import logical_axes
from cat_jax.models.flops import parameter_count
from cat_jax.models.stack import stack_layers, unstack_layers
from cat_jax.parallel.rules import DEFAULT_RULES
from cat_jax.train.matrices import joined_shape

pytestmark = pytest.mark.slow

UNROLLED = tiny_config("gemma3", dropout_rate=0.3, **BOTH_KINDS)
SCANNED = dataclasses.replace(UNROLLED, scan_layers=True)
KEY = jax.random.key(0)


def by_name(tree):
    return {jax.tree_util.keystr(path): np.array(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def assert_close(found, expected, atol):
    found, expected = by_name(found), by_name(expected)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=atol, err_msg=name)


@functools.cache
def gradient(config):
    """Hidden states with dropout, and the gradient of a loss."""
    graphdef, _ = split(config)

    @jax.jit
    def grads(params):
        def loss(params):
            output = nnx.merge(graphdef, params)(batch_of(INPUTS, TARGETS), dropout_key=jax.random.key(1))
            return jnp.mean(jnp.square(output.head.logits(output.hidden))), output.hidden

        gradient, hidden = jax.grad(loss, has_aux=True)(params)
        return hidden, gradient

    _, params = split(UNROLLED)
    return grads(jax.jit(stack_layers)(params) if config.scan_layers else params)


def test_a_seed_gives_the_same_numbers_scanned_or_not():
    small = dataclasses.replace(UNROLLED, num_layers=2, window=None, layer_pattern=("global",), local_rope_theta=None)
    build = lambda config: nnx.state(config.build(KEY))  # noqa: E731
    scanned = dataclasses.replace(small, scan_layers=True)
    unrolled, stacked = jax.jit(lambda: (build(small), build(scanned)))()
    assert_close(jax.jit(stack_layers)(unrolled), stacked, 0)
    assert len({float(np.sum(x)) for x in by_name(unrolled).values() if x.ndim > 1}) == 1 + 2 * 7  # all differ
    norms = [x for name, x in by_name(unrolled).items() if "scale" in name]
    assert len(norms) == 1 + 2 * 6
    assert not np.concatenate(norms).any()  # a scale of one


@pytest.mark.parametrize(
    ("scan", "remat"), [pytest.param(True, "minimal", marks=pytest.mark.exhaustive), (False, "full")]
)
def test_neither_scanning_nor_rematerialisation_changes_anything(scan, remat):
    """Layers of two kinds, with dropout."""
    expected_hidden, expected = gradient(UNROLLED)
    hidden, found = gradient(dataclasses.replace(SCANNED if scan else UNROLLED, remat=remat))
    np.testing.assert_allclose(hidden, expected_hidden, atol=2e-5)
    assert_close(jax.jit(unstack_layers)(found) if scan else found, expected, 1e-4)
    assert min(np.abs(g).max() for g in by_name(expected).values()) > 0  # every parameter is reached
    plain = run(*split(UNROLLED), batch_of(INPUTS, TARGETS)).hidden
    assert np.abs(np.array(plain) - np.array(hidden)).max() > 0.1  # dropout did something


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_logical_axes(family):
    config = tiny_config(family, scan_layers=family == "gemma2")
    params = nnx.state(nnx.eval_shape(lambda: config.build(KEY)))
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, nnx.Variable))
    assert all(isinstance(leaf, nnx.Param) for leaf in leaves)
    axes = logical_axes(params)
    ruled = {logical for logical, _ in DEFAULT_RULES}
    for rank, names, known in jax.tree.leaves(
        jax.tree.map(lambda p, a: (p.ndim, len(a), ruled.issuperset(a)), params, axes),
        is_leaf=lambda x: isinstance(x, tuple),
    ):
        assert rank == names
        assert known
    layer = axes.layers if config.scan_layers else axes.layers[0]
    assert layer.attention.key.kernel.get_value()[-3:] == ("embed", "kv_heads", "kv")
    assert parameter_count(config) == sum(x.size for x in jax.tree.leaves(params))


def test_adafactor_sees_few_heads_as_a_matrix():
    assert joined_shape((3, 512, 2, 64), ("layers", "embed", "kv_heads", "kv")) == (3, 512, 128)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_no_id_of_the_padding_has_a_probability(family):
    plain, padded = (tiny_config(family, vocab_multiple=multiple, num_layers=1) for multiple in (1, 16))
    (graphdef, params), padded_graphdef = split(plain), split(padded)[0]
    grown = nnx.state(nnx.eval_shape(lambda: padded.build(KEY)))
    fill = lambda p, q: p.replace(np.pad(p[...], [(0, b - a) for a, b in zip(p.shape, q.shape, strict=True)]))  # noqa: E731
    grown = jax.tree.map(fill, params, grown, is_leaf=lambda x: isinstance(x, nnx.Variable))
    batch = batch_of(INPUTS, TARGETS)
    found = np.array(logits_of(padded_graphdef, grown, batch))
    np.testing.assert_allclose(found[..., :VOCAB], logits_of(graphdef, params, batch), rtol=1e-5, atol=1e-5)
    assert found.shape[-1] == 64
    assert (found[..., VOCAB:] == -np.inf).all()


def test_the_fused_head_is_the_dense_one():
    """With a soft-capped, tied and padded head."""
    graphdef, params = split(tiny_config("gemma2", vocab_multiple=16, num_layers=1, layer_pattern=("local",)))
    batch, objective = batch_of(INPUTS, TARGETS), Objective(w=1.0, keep="all", z_loss=1e-2)

    def loss(head, params):
        output = nnx.merge(graphdef, params)(batch)
        return objective(output, batch, None, head=head).loss_sum

    dense, fused = (jax.jit(jax.value_and_grad(functools.partial(loss, head)))(params) for head in (None, FusedHead()))
    np.testing.assert_allclose(fused[0], dense[0], rtol=1e-5)
    assert_close(fused[1], dense[1], 1e-4)


@pytest.mark.exhaustive
def test_one_device_computes_what_eight_do():
    """A packed batch: loss, gradient and decoding on meshes that split rows, width, heads, vocabulary."""
    program = pathlib.Path(__file__).parent / "decoder_devices.py"
    done = subprocess.run(
        [sys.executable, str(program)], env=environment(8), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
