import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_model import batch_of, log_softmax_of, prompts, recurrent, statistics_of

from cat_jax.decode.greedy import greedy
from cat_jax.decode.score import score_targets

EOS = 1
ROWS, LENGTH = 12, 9


@pytest.fixture(scope="module")
def model():
    return recurrent(seed=3)


@pytest.fixture(scope="module")
def inputs():
    return prompts(5, ROWS)


@pytest.fixture(scope="module")
def decoded(model, inputs):
    return run(model, inputs)


def run(model, inputs, length=LENGTH, eos_id=EOS, live=None):
    decode = jax.jit(
        lambda model, batch, live: greedy(model, batch, max_decode_length=length, eos_id=eos_id, live=live)
    )
    return jax.tree.map(np.asarray, decode(model, batch_of(inputs), live))


def test_every_token_is_the_argmax_after_the_ones_before(model, inputs, decoded):
    """Against float64 NumPy, which recomputes the whole prefix for every token."""
    for row in range(ROWS):
        written = []
        for t in range(decoded.lengths[row]):
            logprobs = log_softmax_of(model, inputs[row], written)
            token = int(logprobs.argmax())
            assert decoded.tokens[row, t] == token
            expected = statistics_of(logprobs, token)
            got = [getattr(decoded.statistics, name)[row, t] for name in ("logprobs", "entropies", "margins")]
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
            written.append(token)


def test_rows_end_at_their_own_end_of_sequence(decoded):
    ended = 0
    for tokens, length in zip(decoded.tokens, decoded.lengths, strict=True):
        assert EOS not in tokens[: length - 1]
        assert length == LENGTH or tokens[length - 1] == EOS
        assert not tokens[length:].any()
        ended += int(length < LENGTH)
    assert 0 < ended < ROWS, "the case must have rows that end and rows that do not"
    beyond = np.arange(LENGTH) >= decoded.lengths[:, None]
    for name in ("logprobs", "entropies", "margins"):
        assert not getattr(decoded.statistics, name)[beyond].any()


def test_statistics_are_the_teacher_forced_ones(model, inputs, decoded):
    forced = score_targets(model, batch_of(inputs, decoded.tokens, decoded.lengths), block=4)
    for name in ("logprobs", "entropies", "margins"):
        np.testing.assert_allclose(getattr(decoded.statistics, name), getattr(forced, name), rtol=1e-5, atol=1e-6)


def test_the_length_limit_only_cuts(model, inputs, decoded):
    short = run(model, inputs, length=3)
    np.testing.assert_array_equal(short.tokens, decoded.tokens[:, :3])
    np.testing.assert_array_equal(short.lengths, np.minimum(decoded.lengths, 3))


def test_rows_that_only_fill_up_stay_empty_and_change_nothing(model, inputs, decoded):
    live = np.arange(ROWS) % 3 != 1
    some = run(model, inputs, live=jnp.asarray(live))
    assert not some.tokens[~live].any()
    assert not some.lengths[~live].any()
    assert not some.statistics.entropies[~live].any()
    np.testing.assert_array_equal(some.tokens[live], decoded.tokens[live])
    np.testing.assert_array_equal(some.statistics.logprobs[live], decoded.statistics.logprobs[live])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counting:
    """Wraps a model; its cache counts the steps taken, and complains of more than `limit`."""

    model: object
    limit: jax.Array

    config = None

    def head(self):
        return self.model.head()

    def prefill(self, batch, max_decode_length):
        cache, hidden = self.model.prefill(batch, max_decode_length)
        return (cache, jnp.int32(0)), hidden

    def step(self, tokens, cache):
        cache, steps = cache
        cache, hidden = self.model.step(tokens, cache)
        return (cache, steps + 1), jnp.where(steps < self.limit, hidden, jnp.nan)


def test_stops_when_the_last_row_is_done(model, inputs, decoded):
    """A token is one step, except the first, which the prompt predicts; the steps beyond the limit give NaN."""
    done = decoded.lengths < LENGTH
    longest = int(decoded.lengths[done].max())
    short = run(Counting(model, jnp.int32(longest - 1)), inputs[done], length=1000)
    assert short.tokens.shape == (done.sum(), 1000)
    np.testing.assert_array_equal(short.lengths, decoded.lengths[done])
    assert np.isfinite(short.statistics.logprobs).all()
    too_few = run(Counting(model, jnp.int32(longest - 2)), inputs[done], length=1000)
    assert np.isnan(too_few.statistics.logprobs).any()


def test_equal_logits_write_the_lowest_id(model, inputs):
    level = dataclasses.replace(model, kernel=jnp.zeros_like(model.kernel))
    decoded = run(level, inputs, length=2)
    assert not decoded.tokens.any()
    assert (decoded.lengths == 2).all()
    np.testing.assert_allclose(decoded.statistics.logprobs, -np.log(23), rtol=1e-6)
    assert not decoded.statistics.margins.any()
