import jax.numpy as jnp
import numpy as np
import pytest

from cat_jax.decode.statistics import best_tokens, token_statistics


def test_hand_computed():
    """Probabilities 1/2, 1/4, 1/4: entropy 1.5 ln 2, margin ln 2."""
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])) + 3.0
    statistics = token_statistics(logits, jnp.array([0, 2]))
    np.testing.assert_allclose(statistics.logprobs, [-0.6931472, -1.3862944], rtol=1e-6)
    np.testing.assert_allclose(statistics.entropies, [1.0397208, 1.0397208], rtol=1e-6)
    np.testing.assert_allclose(statistics.margins, [0.6931472, 0.6931472], rtol=1e-6)


def test_ties_go_to_the_lowest_id_and_have_no_margin():
    logits = jnp.array([[0.0, 2.0, 1.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    assert best_tokens(logits).tolist() == [1, 0]
    statistics = token_statistics(logits, best_tokens(logits))
    assert statistics.margins.tolist() == [0.0, 0.0]
    np.testing.assert_allclose(statistics.entropies[1], np.log(4), rtol=1e-6)


def test_best_is_argmax():
    logits = jnp.asarray(np.random.default_rng(1).integers(0, 9, (200, 13)), jnp.float32)
    np.testing.assert_array_equal(best_tokens(logits), jnp.argmax(logits, axis=-1))
    odd = jnp.array([[-jnp.inf, -jnp.inf, -jnp.inf], [jnp.nan, 0.0, 1.0]])
    assert ((best_tokens(odd) >= 0) & (best_tokens(odd) < 3)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("spread", [0.1, 30.0])
def test_against_float64(dtype, spread):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, spread, (3, 5, 41)) + 100, dtype)
    tokens = rng.integers(0, 41, (3, 5))
    exact = np.asarray(logits.astype(jnp.float32), np.float64)
    logprobs = exact - exact.max(-1, keepdims=True)
    logprobs -= np.log(np.exp(logprobs).sum(-1, keepdims=True))
    statistics = token_statistics(logits, jnp.asarray(tokens))
    assert statistics.logprobs.dtype == jnp.float32
    chosen = np.take_along_axis(logprobs, tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(statistics.logprobs, chosen, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(statistics.entropies, -(np.exp(logprobs) * logprobs).sum(-1), rtol=1e-4, atol=1e-6)
    ordered = np.sort(logprobs, -1)
    np.testing.assert_allclose(statistics.margins, ordered[..., -1] - ordered[..., -2], rtol=1e-5, atol=1e-5)


def test_padding_columns_do_not_count():
    logits = jnp.array([[1.0, 2.0, 3.0]])
    padded = jnp.concatenate([logits, jnp.full((1, 5), -jnp.inf)], axis=1)
    plain, masked = (token_statistics(x, jnp.array([1])) for x in (logits, padded))
    for name in ("logprobs", "entropies", "margins"):
        np.testing.assert_allclose(getattr(masked, name), getattr(plain, name), rtol=1e-6)


def test_a_certain_distribution_has_no_entropy():
    statistics = token_statistics(jnp.array([[0.0, 1000.0, 0.0]]), jnp.array([1]))
    assert (statistics.logprobs[0], statistics.entropies[0], statistics.margins[0]) == (0.0, 0.0, 1000.0)
