"""Numbers in two bytes, and draws whose mean is the tail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cat_jax.teacher import draws
from cat_jax.teacher.codes import (
    MAX_RELATIVE_ERROR,
    decode_log_probability,
    decode_probability,
    encode_log_probability,
)

tail_draws = jax.jit(draws.tail_draws, static_argnums=2)
position_uniforms = jax.jit(draws.position_uniforms)


def test_codes_by_hand():
    # 65535 - 2048 nats: e^-1 is 63487; 1/2 is 65535 - 1419.57, so 64115, read back as e^-(1420/2048)
    logs = jnp.array([0.0, -1.0, np.log(0.5), -31.9990, -33.0, -jnp.inf])
    codes = np.asarray(encode_log_probability(logs))
    assert codes.dtype == np.uint16
    assert codes.tolist() == [65535, 63487, 64115, 1, 0, 0]
    np.testing.assert_allclose(decode_probability(codes[:3]), [1, 0.36787944, 0.49989390], rtol=1e-7)
    assert decode_probability(codes[4:]).tolist() == [0, 0]
    assert decode_log_probability(codes[[0, 1, 5]]).tolist() == [0, -1, -np.inf]


def test_codes_keep_relative_precision_everywhere():
    logs = -np.linspace(0, 31.9, 100_001)
    decoded = decode_probability(np.asarray(encode_log_probability(jnp.asarray(logs, jnp.float32)))).astype(np.float64)
    error = np.abs(decoded / np.exp(logs) - 1).max()
    assert 0.9 * MAX_RELATIVE_ERROR < error < 1.02 * MAX_RELATIVE_ERROR
    assert abs(MAX_RELATIVE_ERROR - 2.4417e-4) < 1e-8


def test_draws_by_hand():
    # Mass 1/4 at id 3 and 3/4 at id 200: whatever the uniform number, 4 points fall 1 and 3 times.
    tail = jnp.zeros((3, 300)).at[:, 3].set(0.01).at[:, 200].set(0.03)
    assert tail_draws(tail, jnp.array([0.0, 0.5, 0.999]), 4).tolist() == [[3, 200, 200, 200]] * 3
    # One draw falls left of 1/4 on id 3.
    assert tail_draws(tail, jnp.array([0.24, 0.26, 0.0]), 1).tolist() == [[3], [200], [3]]
    assert tail_draws(jnp.zeros((1, 300)), jnp.array([0.3]), 2).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("vocab", "num_draws"), [pytest.param(7, 16, marks=pytest.mark.exhaustive), (128, 1), (333, 3)]
)
def test_draws_are_unbiased_over_all_uniforms(vocab, num_draws):
    """Over an even grid of uniform numbers the mean count is the expected one, up to the grid's step."""
    weights = np.random.default_rng(vocab).gamma(0.1, size=vocab)
    weights[::5] = 0
    grid = 20_000
    uniforms = (jnp.arange(grid) + 0.5) / grid
    ids = tail_draws(jnp.broadcast_to(jnp.asarray(weights, jnp.float32), (grid, vocab)), uniforms, num_draws)
    counts = np.bincount(np.asarray(ids).ravel(), minlength=vocab) / grid
    expected = num_draws * weights / weights.sum()
    # each comb point crosses an id's interval with an error of at most one grid step
    np.testing.assert_allclose(counts, expected, atol=num_draws * 1.5 / grid)
    assert not counts[weights == 0].any()


def test_keyed_draws_are_unbiased_and_beat_independent_ones():
    """With the uniforms that teaching uses: means within 4.5 standard errors, and a smaller spread than multinomial."""
    vocab, num_draws, positions = 50, 8, 4096
    p = np.random.default_rng(3).dirichlet(np.full(vocab, 0.3))
    uniforms = position_uniforms(0, 5, jnp.arange(64, dtype=jnp.uint32), jnp.tile(jnp.arange(64), (64, 1))).reshape(-1)
    ids = np.asarray(tail_draws(jnp.broadcast_to(jnp.asarray(p, jnp.float32), (positions, vocab)), uniforms, num_draws))
    counts = np.stack([np.bincount(row, minlength=vocab) for row in ids]) / num_draws
    independent = p * (1 - p) / num_draws
    error = counts.mean(0) - p
    assert (np.abs(error) < 4.5 * np.sqrt(independent / positions) + 1e-9).all()
    assert counts.var(0).sum() < 0.6 * independent.sum()
    # The bound can fail: dropping the rarest half of the ids, as truncation does, breaks it.
    truncated = np.where(p >= np.median(p), p, 0) / p[p >= np.median(p)].sum()
    assert (np.abs(truncated - p) > 4.5 * np.sqrt(independent / positions) + 1e-9).any()


def counted_ends(tail, uniforms, num_draws):
    """The draws by counting cumulated sums alone, as signals were made that lie on disks."""
    blocks = jnp.pad(tail, ((0, 0), (0, -tail.shape[1] % 128))).reshape(len(tail), -1, 128)
    ends = jnp.cumsum(blocks.sum(-1), axis=-1)
    points = (jnp.arange(num_draws) + uniforms[:, None]) / num_draws * ends[:, -1:]
    points = jnp.minimum(points, ends[:, -1:] * (1 - 2.0**-23))
    block = jnp.minimum((ends[:, None, :] <= points[:, :, None]).sum(-1), ends.shape[-1] - 1)
    begins = jnp.concatenate([jnp.zeros_like(ends[:, :1]), ends[:, :-1]], axis=-1)
    rest = points - jnp.take_along_axis(begins, block, axis=-1)
    inside = jnp.cumsum(jnp.take_along_axis(blocks, block[:, :, None], axis=1), axis=-1)
    rest = jnp.clip(rest, 0.0, inside[:, :, -1] * (1 - 2.0**-23))
    return jnp.minimum(block * 128 + (inside <= rest[:, :, None]).sum(-1), tail.shape[1] - 1)


@pytest.mark.parametrize("vocab", [131072, 151936])
def test_nothing_is_drawn_that_has_no_weight(vocab):
    """Cumulated sums over a thousand blocks are not monotone: points at their edges must not land where nothing is."""
    rng = np.random.default_rng(vocab)
    tail = np.zeros((1, vocab), np.float32)
    tail[0, rng.choice(vocab, 40, replace=False)] = rng.random(40)
    edges = np.cumsum(tail[0][tail[0] > 0], dtype=np.float32)
    points = np.concatenate([np.nextafter(edges, 0), edges, np.nextafter(edges, np.float32(100)), edges - 1e-6])
    uniforms = np.minimum(points / edges[-1], np.float32(1 - 2.0**-24))

    def both(uniform):
        one = jnp.asarray(tail), uniform[None], 1
        return draws.tail_draws(*one)[0, 0], counted_ends(*one)[0, 0]

    found, counted = map(np.asarray, jax.jit(jax.vmap(both))(uniforms))
    assert (tail[0, found] > 0).all()
    had_weight = tail[0, counted] > 0
    assert not had_weight.all(), "the case is not one in which counting fails"
    assert (found == counted)[had_weight].all()


@pytest.mark.parametrize(("vocab", "share"), [(32128, 1.0), (32128, 0.01), (105, 1.0), (105, 0.2)])
def test_draws_are_those_of_signals_on_disk(vocab, share):
    """Wherever counting cumulated sums finds an id that has a weight, dense tails and sparse ones, it is the draw."""
    rng = np.random.default_rng(0)
    weights = np.exp(rng.normal(0, [[1], [4], [8]] * 8, (24, vocab)))
    tail = jnp.asarray(np.where(rng.random(weights.shape) < share, weights, 0), jnp.float32)
    uniforms = jnp.asarray(rng.random(24), jnp.float32)
    expected = np.asarray(jax.jit(counted_ends, static_argnums=2)(tail, uniforms, 16))
    assert (np.take_along_axis(np.asarray(tail), expected, 1) > 0).all()
    np.testing.assert_array_equal(tail_draws(tail, uniforms, 16), expected)


def test_uniforms_belong_to_the_position_alone():
    rows = jnp.array([4, 9], jnp.uint32)
    positions = jnp.array([[0, 1, 2], [0, 1, 2]])
    one = position_uniforms(7, 2, rows, positions)
    other = position_uniforms(7, 2, rows[::-1], jnp.array([[2, 1, 0, 3], [2, 1, 0, 3]]))
    assert one[0, 2] == other[1, 0]
    assert one[1, 0] == other[0, 2]
    everything = [position_uniforms(s, k, rows, positions) for s in (7, 8) for k in (2, 3)]
    assert len(np.unique(np.stack(everything))) == 24
    sample = np.sort(
        position_uniforms(7, 0, jnp.arange(100, dtype=jnp.uint32), jnp.tile(jnp.arange(50), (100, 1))), None
    )
    steps = (np.arange(5000) + 0.5) / 5000
    assert np.abs(sample - steps).max() < 1.63 / np.sqrt(5000)  # Kolmogorov-Smirnov at 1 %
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
        assert (np.asarray(draws.position_uniforms(7, 2, rows, positions)) == one).all()
