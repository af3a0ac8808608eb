import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_model import batch_of, log_softmax_of, prompts, recurrent

from cat_jax.decode.greedy import Greedy
from cat_jax.decode.sample import Sampling, _first_beyond, truncate
from cat_jax.decode.score import score_targets
from cat_jax.errors import UserError

EOS = 1
ROWS, LENGTH = 12, 6
NAMES = ("logprobs", "entropies", "margins")


@pytest.fixture(scope="module")
def model():
    return recurrent(seed=3, scale=0.7)


@pytest.fixture(scope="module")
def inputs():
    return prompts(5, ROWS)


@functools.cache
def program(decoding, length):
    @jax.jit
    def write(model, batch, rows, live):
        return decoding(model, batch, max_decode_length=length, eos_id=EOS, rows=rows, live=live)

    return write


def run(decoding, model, inputs, rows=None, length=LENGTH, live=None):
    rows = jnp.arange(len(inputs)) if rows is None else jnp.asarray(rows)
    live = jnp.ones(len(inputs), bool) if live is None else jnp.asarray(live)
    return jax.tree.map(np.asarray, program(decoding, length)(model, batch_of(inputs), rows, live))


@pytest.fixture(scope="module")
def drawn(model, inputs):
    return run(Sampling(seed=1), model, inputs)


def truncated(logits, temperature, top_k, top_p):
    """f64[V] probabilities of logits [V], by sorting: `transformers`' rules, equal ones in order of id."""
    scaled = np.asarray(logits, np.float64) / temperature
    if top_k:
        scaled[scaled < np.sort(scaled)[::-1][min(top_k, len(scaled)) - 1]] = -np.inf
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    order = np.lexsort((np.arange(len(p)), -p))
    above = np.concatenate([[0], np.cumsum(p[order])[:-1]])
    p[order[above >= top_p]] = 0
    return p / p.sum()


SETTINGS = [(1.0, 0, 0.9), (0.7, 5, 1.0), (1.3, 20, 0.8), (2.0, 0, 0.3), (1.0, 3, 1e-6), (1.0, 1000, 1.0)]


@pytest.mark.parametrize("size", [7, 300])
def test_truncation_against_sorting(size):
    logits = np.random.default_rng(size).normal(0, 3, (4, size)).astype(np.float32)
    several = jax.jit(lambda x: [truncate(x, temperature=t, top_k=k, top_p=p) for t, k, p in SETTINGS])(logits)
    for settings, weights in zip(SETTINGS, several, strict=True):
        found = np.asarray(weights)
        expected = np.stack([truncated(row, *settings) for row in logits])
        np.testing.assert_array_equal(found > 0, expected > 0, err_msg=str(settings))
        np.testing.assert_allclose(found / found.sum(-1, keepdims=True), expected, rtol=1e-4, atol=1e-7)


def test_equal_tokens_at_the_edge():
    """All that are as likely as the k-th stay; of those that top-p needs in part, the lowest ids."""
    level = jnp.zeros((1, 8)).at[0, 5].set(1.0)
    assert (truncate(level, top_k=2) > 0).all()
    assert np.flatnonzero(truncate(level, top_k=1)).tolist() == [5]
    first = np.e / (np.e + 7)
    assert np.flatnonzero(truncate(level, top_p=first + 0.01)).tolist() == [0, 5]
    assert np.flatnonzero(truncate(level, top_p=first + 2.5 / (np.e + 7))).tolist() == [0, 1, 2, 5]


def test_truncation_agrees_with_transformers():
    torch = pytest.importorskip("torch", reason="compared where torch is installed")
    warpers = pytest.importorskip("transformers.generation.logits_process", reason="compared where it is installed")
    logits = np.random.default_rng(0).normal(0, 3, (4, 700)).astype(np.float32)
    scores = torch.tensor(logits)
    for warper in (warpers.TemperatureLogitsWarper(0.8), warpers.TopKLogitsWarper(40), warpers.TopPLogitsWarper(0.9)):
        scores = warper(None, scores)
    found = np.asarray(truncate(jnp.asarray(logits), temperature=0.8, top_k=40, top_p=0.9))
    expected = torch.softmax(scores, -1).numpy()
    np.testing.assert_array_equal(found > 0, expected > 0)
    np.testing.assert_allclose(found / found.sum(-1, keepdims=True), expected, rtol=1e-4)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.8, 6, 0.95)])
def test_frequencies_are_those_of_the_truncated_distribution(model, inputs, temperature, top_k, top_p):
    """One prompt in many rows of different names: first tokens, and second ones after the commonest first."""
    count = 20_000
    decoding = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=7)
    tokens = run(decoding, model, np.tile(inputs[:1], (count, 1)), length=2).tokens
    common = int(np.bincount(tokens[:, 0]).argmax())
    for written, seen in (([], tokens[:, 0]), ([common], tokens[tokens[:, 0] == common, 1])):
        p = truncated(log_softmax_of(model, inputs[0], written), temperature, top_k, top_p)
        found = np.bincount(seen, minlength=len(p))
        assert not found[p == 0].any()
        wanted = len(seen) * p[p > 0]
        statistic = np.sum((found[p > 0] - wanted) ** 2 / wanted)
        degrees = len(wanted) - 1
        assert statistic < degrees + 5 * np.sqrt(2 * degrees), "chi-squared, five deviations"


def test_draws_follow_from_the_rows_name_alone(model, inputs, drawn):
    order = np.array([7, 2, 9, 0])
    some = run(Sampling(seed=1), model, inputs[order], rows=order)
    np.testing.assert_array_equal(some.tokens, drawn.tokens[order])
    np.testing.assert_allclose(some.statistics.logprobs, drawn.statistics.logprobs[order], rtol=1e-5, atol=1e-6)
    for other in (run(Sampling(seed=2), model, inputs), run(Sampling(seed=1), model, inputs, np.arange(ROWS) + 50)):
        assert (other.tokens != drawn.tokens).any(axis=1).mean() > 0.5


def test_statistics_are_the_models_own(model, inputs):
    """Whatever is cut off and however sharpened."""
    decoded = run(Sampling(temperature=0.5, top_k=4, top_p=0.9), model, inputs)
    forced = jax.jit(score_targets)(model, batch_of(inputs, decoded.tokens, decoded.lengths))
    for name in NAMES:
        np.testing.assert_allclose(getattr(decoded.statistics, name), getattr(forced, name), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(decoded.steps, decoded.lengths)


def test_the_coldest_is_greedy(model, inputs):
    expected = run(Greedy(), model, inputs)
    np.testing.assert_array_equal(run(Sampling(temperature=1e-6), model, inputs).tokens, expected.tokens)


def test_rows_that_only_fill_up_stay_empty(model, inputs, drawn):
    live = np.arange(ROWS) % 3 != 1
    rows = np.where(live, np.arange(ROWS), -1)
    some = run(Sampling(seed=1), model, inputs, rows, live=live)
    np.testing.assert_array_equal(some.tokens[live], drawn.tokens[live])
    assert not some.tokens[~live].any()
    assert not some.lengths[~live].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, r"Sampling.temperature is 0.0: give a number above 0; @Greedy\(\) draws nothing"),
        ({"top_k": -1}, "Sampling.top_k is -1"),
        ({"top_k": 0.5}, "Sampling.top_k is 0.5"),
        ({"top_p": 0}, "Sampling.top_p is 0"),
        ({"top_p": 1.5}, "Sampling.top_p is 1.5"),
        ({"seed": -1}, "Sampling.seed is -1"),
        ({"seed": 2**32}, "Sampling.seed is 4294967296"),
    ],
)
def test_user_errors(options, words):
    with pytest.raises(UserError, match=words):
        Sampling(**options)


def test_equal_options_are_recorded_alike():
    assert str(Sampling(temperature=1, top_p=1).to_dict()) == str(Sampling().to_dict())
    assert Sampling(top_k=3).to_dict() == {"name": "sampling", "temperature": 1.0, "top_k": 3, "top_p": 1.0, "seed": 0}


@pytest.mark.parametrize("vocabulary", [131072, 151936])
def test_nothing_is_drawn_that_was_cut_off(vocabulary):
    """Cumulated sums over a thousand blocks are not monotone: targets at their edges must not land where nothing is."""
    rng = np.random.default_rng(vocabulary)
    weights = np.zeros((1, vocabulary), np.float32)
    weights[0, rng.choice(vocabulary, 40, replace=False)] = rng.random(40)
    edges = np.cumsum(weights[0][weights[0] > 0], dtype=np.float32)
    targets = np.concatenate([np.nextafter(edges, 0), edges, np.nextafter(edges, np.float32(100)), edges - 1e-6])
    found = jax.jit(jax.vmap(lambda target: _first_beyond(jnp.asarray(weights), target[None])[0]))(targets)
    assert (weights[0][np.asarray(found)] > 0).all()
