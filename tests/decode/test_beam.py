import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_model import batch_of, log_softmax_of, prompts, recurrent

from cat_jax.decode.beam import BeamSearch
from cat_jax.decode.greedy import Greedy
from cat_jax.decode.score import score_targets
from cat_jax.errors import UserError

EOS = 1
ROWS, LENGTH = 8, 7
NAMES = ("logprobs", "entropies", "margins")


@pytest.fixture(scope="module")
def model():
    return recurrent(seed=3, scale=0.8)


@pytest.fixture(scope="module")
def inputs():
    return prompts(5, ROWS)


@pytest.fixture(scope="module")
def found(model, inputs):
    return run(BeamSearch(), model, inputs)


@functools.cache
def program(decoding, length):
    return jax.jit(lambda model, batch, live: decoding(model, batch, max_decode_length=length, eos_id=EOS, live=live))


def run(decoding, model, inputs, length=LENGTH, live=None):
    live = jnp.ones(len(inputs), bool) if live is None else jnp.asarray(live)
    return jax.tree.map(np.asarray, program(decoding, length)(model, batch_of(inputs), live))


def test_one_beam_is_greedy(model, inputs):
    """It ends with its first end, though with a length penalty a later one might be better."""
    expected = run(Greedy(), model, inputs)
    one = run(BeamSearch(1, alpha=2.0), model, inputs)
    assert 0 < (expected.lengths < LENGTH).sum() < ROWS
    for name in ("tokens", "lengths", "steps"):
        np.testing.assert_array_equal(getattr(one, name), getattr(expected, name))
    for name in NAMES:
        ours, theirs = (getattr(each.statistics, name) for each in (one, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def sequences(vocabulary, length):
    """Every sequence that ends, or is cut at the limit."""
    for n in range(1, length + 1):
        for tokens in itertools.product(range(vocabulary), repeat=n):
            if EOS not in tokens[:-1] and (tokens[-1] == EOS or n == length):
                yield tokens


@pytest.mark.parametrize(
    ("options", "penalty"),
    [
        ({"alpha": 1.0}, lambda n: n),
        ({"alpha": 3, "length_penalty": "t5x", "early_stopping": "never"}, lambda n: ((5 + n) / 6) ** 3),
    ],
)
def test_a_beam_as_wide_as_the_space_finds_the_best_of_all(options, penalty):
    """Against float64 NumPy, which tries every sequence."""
    vocabulary, length = 4, 4
    model, inputs = recurrent(seed=0, vocab_size=vocabulary, scale=1.0), prompts(2, 5, vocab_size=vocabulary)
    found = run(BeamSearch(3 * 4**2, **options), model, inputs, length)
    for row, prompt in enumerate(inputs):
        scores = {}
        for tokens in sequences(vocabulary, length):
            logprobs = [log_softmax_of(model, prompt, tokens[:t])[tokens[t]] for t in range(len(tokens))]
            scores[tokens] = sum(logprobs) / penalty(len(tokens))
        assert tuple(found.tokens[row, : found.lengths[row]]) == max(scores, key=scores.__getitem__)
    assert len(set(found.lengths.tolist())) > 1, "the case must have answers of unlike lengths"


def test_is_better_than_greedy_and_statistics_are_the_teacher_forced_ones(model, inputs, found):
    def scores(decoded):
        return decoded.statistics.logprobs.sum(axis=1) / decoded.lengths

    forced = jax.jit(score_targets)(model, batch_of(inputs, found.tokens, found.lengths))
    for name in NAMES:
        np.testing.assert_allclose(getattr(found.statistics, name), getattr(forced, name), rtol=1e-5, atol=1e-5)
    plain = run(Greedy(), model, inputs)
    assert (scores(found) > scores(plain) - 1e-6).mean() > 0.7
    assert (found.tokens != plain.tokens).any()


def test_nothing_stands_beyond_the_end(found):
    assert 0 < (found.lengths < LENGTH).sum() < ROWS
    beyond = np.arange(LENGTH) >= found.lengths[:, None]
    for values in (found.tokens, *(getattr(found.statistics, name) for name in NAMES)):
        assert not values[beyond].any()
    for tokens, length in zip(found.tokens, found.lengths, strict=True):
        assert EOS not in tokens[: length - 1]
        assert length == LENGTH or tokens[length - 1] == EOS


def test_a_row_is_the_same_alone_and_rows_that_fill_up_stay_empty(model, inputs, found):
    live = np.arange(ROWS) % 3 != 1
    some = run(BeamSearch(), model, np.where(live[:, None], inputs, 2), live=live)
    for name in ("tokens", "lengths", "steps"):
        np.testing.assert_array_equal(getattr(some, name)[live], getattr(found, name)[live])
        assert not getattr(some, name)[~live].any()
    np.testing.assert_allclose(some.statistics.logprobs[live], found.statistics.logprobs[live], rtol=1e-5, atol=1e-6)
    assert not some.statistics.entropies[~live].any()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counting:
    """Wraps a model; its cache counts the steps taken, and each beyond `limit` gives NaN."""

    model: object
    limit: jax.Array

    config = None

    def head(self):
        return self.model.head()

    def prefill(self, batch, max_decode_length):
        cache, hidden = self.model.prefill(batch, max_decode_length)
        return (cache, jnp.zeros(len(hidden), jnp.int32)), hidden

    def step(self, tokens, cache):
        cache, steps = cache
        cache, hidden = self.model.step(tokens, cache)
        return (cache, steps + 1), jnp.where((steps < self.limit)[:, None], hidden, jnp.nan)


def test_ends_when_no_running_beam_can_win(model, inputs):
    """`steps` are those of the loop: the model is asked for no more, and for no fewer."""

    def search(limit, live):
        return run(BeamSearch(2, early_stopping=True), Counting(model, jnp.int32(limit)), inputs, 200, live)

    live = search(1000, np.ones(ROWS, bool)).steps < 200
    enough = search(1000, live)
    assert live.any()
    assert (enough.steps > enough.lengths).any(), "the search must go on beyond an answer"
    longest = int(enough.steps.max())
    counted = search(longest - 1, live)
    np.testing.assert_array_equal(counted.tokens, enough.tokens)
    np.testing.assert_array_equal(counted.steps, enough.steps)
    assert np.isnan(search(longest - 2, live).statistics.logprobs).any()


def test_numbers_that_are_not_finite_are_seen(model, inputs):
    broken = dataclasses.replace(model, kernel=model.kernel.at[0, 0].set(jnp.nan))
    found = run(BeamSearch(), broken, inputs)
    assert (found.lengths > 0).all()
    assert np.isnan(found.statistics.logprobs).any(axis=1).all()


def test_equal_scores_go_to_the_lowest_ids(model, inputs):
    level = dataclasses.replace(model, kernel=jnp.zeros_like(model.kernel))
    found = run(BeamSearch(1, alpha=2.0), level, inputs)
    assert not found.tokens.any()
    assert (found.lengths == LENGTH).all()
    np.testing.assert_allclose(found.statistics.logprobs, -np.log(23), rtol=1e-6)
    assert not found.statistics.margins.any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beams": 0}, "BeamSearch.beams is 0"),
        ({"beams": 2.5}, "BeamSearch.beams is 2.5"),
        ({"length_penalty": "gnmt"}, "'gnmt': use one of transformers, t5x"),
        ({"alpha": float("nan")}, "BeamSearch.alpha is nan"),
        ({"early_stopping": "always"}, "'always'"),
        ({"early_stopping": 1}, "BeamSearch.early_stopping is 1"),
    ],
)
def test_user_errors(options, words):
    with pytest.raises(UserError, match=words):
        BeamSearch(**options)


def test_equal_options_are_recorded_alike():
    assert str(BeamSearch(alpha=1).to_dict()) == str(BeamSearch(alpha=1.0).to_dict())
    assert BeamSearch(2).to_dict() == {
        "name": "beam_search",
        "beams": 2,
        "length_penalty": "transformers",
        "alpha": 1.0,
        "early_stopping": False,
    }
