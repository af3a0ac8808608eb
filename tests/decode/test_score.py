import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_model import batch_of, log_softmax_of, prompts, recurrent, statistics_of

from cat_jax.decode.score import score_options, score_targets

NAMES = ("logprobs", "entropies", "margins")
ROWS, OPTIONS, LENGTH = 5, 4, 6


@pytest.fixture(scope="module")
def model():
    return recurrent(seed=1, scale=1.0)


@pytest.fixture(scope="module")
def inputs():
    return prompts(2, ROWS)


@pytest.fixture(scope="module")
def options():
    """(tokens i32[B, O, T], lengths i32[B, O]) with 1 to O options of 1 to T tokens, and noise beyond the lengths."""
    rng = np.random.default_rng(7)
    lengths = rng.integers(1, LENGTH + 1, (ROWS, OPTIONS))
    lengths *= np.arange(OPTIONS) < np.array([4, 1, 3, 2, 4])[:, None]
    return rng.integers(1, 23, (ROWS, OPTIONS, LENGTH)).astype(np.int32), lengths.astype(np.int32)


def oracle(model, inputs, tokens):
    """f64[T, 3] of one sequence, by NumPy."""
    return np.array([statistics_of(log_softmax_of(model, inputs, tokens[:t]), tokens[t]) for t in range(len(tokens))])


def check_against_oracle(model, inputs, tokens, lengths, scores):
    for b, o in np.ndindex(lengths.shape):
        n = lengths[b, o]
        got = np.stack([np.asarray(getattr(scores, name))[b, o] for name in NAMES], axis=-1)
        assert not got[n:].any()
        if n:
            np.testing.assert_allclose(got[:n], oracle(model, inputs[b], tokens[b, o, :n]), rtol=1e-4, atol=1e-5)


def test_options_against_float64(model, inputs, options):
    scores = jax.jit(score_options)(model, batch_of(inputs), *map(jnp.asarray, options))
    assert scores.logprobs.shape == (ROWS, OPTIONS, LENGTH)
    check_against_oracle(model, inputs, *options, scores)


def test_options_of_one_token(model, inputs, options):
    tokens, lengths = options[0][:, :, :1], np.minimum(options[1], 1)
    check_against_oracle(model, inputs, tokens, lengths, score_options(model, batch_of(inputs), tokens, lengths))


def test_room_for_more_and_longer_options_changes_nothing(model, inputs, options):
    tokens, lengths = options
    wide = np.pad(tokens, [(0, 0), (0, 3), (0, 5)], constant_values=9)
    scores = score_options(model, batch_of(inputs), tokens, lengths)
    padded = score_options(model, batch_of(inputs), wide, np.pad(lengths, [(0, 0), (0, 3)]))
    for name in NAMES:
        np.testing.assert_array_equal(getattr(padded, name)[:, :OPTIONS, :LENGTH], getattr(scores, name))
        assert not getattr(padded, name)[:, OPTIONS:].any()


@pytest.mark.parametrize("block", [1, 4, 6, 100])
def test_targets_against_float64(model, inputs, options, block):
    tokens, lengths = options[0][:, 0], options[1][:, 0]
    targets = np.where(np.arange(LENGTH) < lengths[:, None], tokens, 0)
    scores = jax.jit(score_targets, static_argnames="block")(model, batch_of(inputs, targets), block=block)
    expand = jax.tree.map(lambda x: x[:, None], scores)
    check_against_oracle(model, inputs, tokens[:, None], lengths[:, None], expand)


def test_targets_hold_logits_of_one_block_only(model, inputs):
    """No array of the compiled program is as large as the logits of all positions."""
    targets = np.ones((ROWS, 64), np.int32)
    scored = jax.jit(score_targets, static_argnames="block").lower(model, batch_of(inputs, targets), block=8)
    text = scored.compile().as_text()
    vocabulary = model.kernel.shape[1]
    assert f"f32[{ROWS},8,{vocabulary}]" in text
    assert f"f32[{ROWS},64,{vocabulary}]" not in text
