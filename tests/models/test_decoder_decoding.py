"""Decoding with a cache equals the teacher-forced pass: padding on either side, windows, starts, prefixes, beams."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_cases import BOTH_KINDS, INPUTS, WINDOW, batch_of, prompts_of, random_rows, run, split, tiny_config
from flax import nnx

from cat_jax.decode.beam import BeamSearch
from cat_jax.decode.beam_cache import Beams
from cat_jax.decode.greedy import greedy
from cat_jax.decode.score import score_targets

CONFIGS = {
    "nobody": tiny_config("qwen2", window=2, **BOTH_KINDS),
    "both, scanned": tiny_config("gemma3", scan_layers=True),
    "prefix": tiny_config("gemma2", prefix_lm=True, num_layers=2),
}
STEPS = 9
WRITTEN = np.array(random_rows(3, [STEPS] * 3), np.int32)


@functools.partial(jax.jit, static_argnums=(0, 3))
def prefill(graphdef, params, prompts, length):
    return nnx.merge(graphdef, params).prefill(prompts, length)


@functools.partial(jax.jit, static_argnums=0)
def step(graphdef, params, tokens, cache):
    return nnx.merge(graphdef, params).step(tokens, cache)


@pytest.mark.parametrize("name", CONFIGS)
def test_prefill_and_step_give_the_teacher_forced_hidden_states(name):
    """Prompts of unequal length, padded on the right and on the left; more steps than a window is wide."""
    graphdef, params = split(CONFIGS[name])
    expected = np.array(run(graphdef, params, batch_of(INPUTS, WRITTEN.tolist())).hidden)
    for side in ("right", "left"):
        cache, hidden = prefill(graphdef, params, prompts_of(INPUTS, 11, side), STEPS)
        for t in range(STEPS):
            here = np.array([len(inputs) + t for inputs in INPUTS])
            np.testing.assert_allclose(hidden, expected[np.arange(3), here], rtol=1e-4, atol=2e-5)
            cache, hidden = step(graphdef, params, WRITTEN[:, t], cache)


def test_the_cache_has_the_batch_first_few_heads_and_no_more_than_windows():
    config = tiny_config("gemma3", dtype="bfloat16")
    graphdef, params = split(config)
    prompts = prompts_of(INPUTS, 11)
    cache, hidden = jax.eval_shape(lambda p, b: nnx.merge(graphdef, p).prefill(b, STEPS), params, prompts)
    assert hidden.shape == (3, config.embed_dim)
    assert {x.shape[0] for x in jax.tree.leaves(cache)} == {3}
    assert {x.dtype for x in jax.tree.leaves(cache.layers)} == {jnp.dtype("bfloat16")}
    local, _, whole = cache.layers
    assert whole.prompt_keys.shape == (3, config.kv_heads, 12, config.head_dim)
    assert whole.values.shape[2] == STEPS - 1
    assert local.prompt_values.shape[2] == local.keys.shape[2] == WINDOW
    model = nnx.merge(graphdef, params)
    after, _ = jax.eval_shape(model.step, jax.ShapeDtypeStruct((3,), jnp.int32), cache)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), cache)


def test_rows_of_caches_can_be_mixed():
    """As when a finished row is refilled, or beams change places: row 1 is then row 0 of a younger cache."""
    graphdef, params = split(CONFIGS["both, scanned"])
    expected = np.array(run(graphdef, params, batch_of(INPUTS, WRITTEN.tolist())).hidden)
    young, _ = prefill(graphdef, params, prompts_of(INPUTS, 11), STEPS)
    old = young
    for t in range(3):
        old, _ = step(graphdef, params, WRITTEN[:, t], old)
    mixed = jax.tree.map(lambda o, y: np.stack([o[2], y[0], o[0]]), old, young)
    rows, at = np.array([2, 0, 0]), np.array([3, 0, 3])
    for t in range(4):
        mixed, hidden = step(graphdef, params, WRITTEN[rows, at + t], mixed)
        columns = np.array([len(INPUTS[row]) for row in rows]) + at + t + 1
        np.testing.assert_allclose(hidden, expected[rows, columns], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["nobody", "both, scanned"])
def test_a_row_does_not_depend_on_the_others(name):
    """Greedily, in one batch and alone, with more padding and less."""
    graphdef, params = split(CONFIGS[name])
    decode = jax.jit(lambda params, batch: greedy(nnx.merge(graphdef, params), batch, max_decode_length=6, eos_id=1))
    together = decode(params, prompts_of(INPUTS, 11, "left"))
    repeated = decode(params, prompts_of([INPUTS[2]] * 3, 11))
    assert repeated.tokens[1].tolist() == together.tokens[2].tolist()
    np.testing.assert_allclose(repeated.statistics.entropies[1], together.statistics.entropies[2], rtol=1e-4)
    filler = decode(params, prompts_of([INPUTS[0], [], INPUTS[2]], 11))  # a row that only fills up
    assert filler.tokens[2].tolist() == together.tokens[2].tolist()
    assert np.isfinite(filler.statistics.logprobs).all()


def test_beams_carry_their_prefixes_along():
    graphdef, params = split(CONFIGS["nobody"])
    search = jax.jit(
        lambda params, batch: BeamSearch(3)(nnx.merge(graphdef, params), batch, max_decode_length=7, eos_id=1)
    )
    found = search(params, prompts_of(INPUTS, 9))
    written = [row[:n].tolist() for row, n in zip(np.array(found.tokens), np.array(found.lengths), strict=True)]
    score = jax.jit(lambda params, batch: score_targets(nnx.merge(graphdef, params), batch).logprobs)
    forced = score(params, batch_of(INPUTS, written))
    for r, (inputs, tokens) in enumerate(zip(INPUTS, written, strict=True)):
        here = forced[r, len(inputs) : len(inputs) + len(tokens)]
        np.testing.assert_allclose(found.statistics.logprobs[r, : len(tokens)], here, rtol=1e-4, atol=1e-5)


def test_beams_share_what_the_prompt_left():
    """Only the rings and the count of steps differ from beam to beam, so only those are copied and gathered."""
    graphdef, params = split(dataclasses.replace(tiny_config("llama"), num_layers=1))
    model = nnx.merge(graphdef, params)
    prompts = prompts_of(INPUTS, 9)
    found = jax.eval_shape(lambda: Beams(model, model.prefill(prompts, 7)[0], 2).cache)
    shapes = [x.shape for x in found]
    assert shapes == [(2, 3), *[(2, 3, 2, 6, 8)] * 2]
