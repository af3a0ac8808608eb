"""Beam search on a random T5 of `transformers`: the same tokens, whatever the length penalty and the way to stop."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from t5_cases import random_rows, split, tiny_config
from transformers_t5 import build_theirs, params_from_theirs

from cat_jax.decode.beam import BeamSearch
from cat_jax.decode.beam_cache import Beams
from cat_jax.evaluate.prompts import prompt_batch

torch = pytest.importorskip("torch", reason="parity is checked where torch is installed")
pytest.importorskip("transformers", reason="parity is checked where transformers is installed")

CONFIG = tiny_config(num_encoder_layers=1, num_decoder_layers=1)
LENGTH = 10
SETTINGS = [(4, False, 1.0), (4, True, 0.6), (3, "never", 0.4)]


@functools.cache
def models():
    """Theirs, whose end of sequence is wanted now and then, and ours."""
    theirs = build_theirs(CONFIG, seed=1)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight *= 2 if weight.ndim > 1 else 1  # so that answers differ from input to input
        theirs.lm_head.weight[1] *= 1.3
    graphdef, params = split(CONFIG)
    return theirs, graphdef, params_from_theirs(theirs, params)


@pytest.fixture(scope="module")
def inputs():
    rows = random_rows(3, [9, 4, 6, 9, 2, 8, 5, 7, 3, 9, 1, 6])
    return np.array([row + [0] * (9 - len(row)) for row in rows], np.int32)


@pytest.mark.parametrize(("beams", "early_stopping", "alpha"), SETTINGS)
def test_tokens_and_scores_agree(inputs, beams, early_stopping, alpha):
    theirs, graphdef, params = models()
    tensor = torch.tensor(inputs, dtype=torch.long)
    with torch.no_grad():
        expected = theirs.generate(
            tensor,
            attention_mask=(tensor > 0).long(),
            max_new_tokens=LENGTH,
            do_sample=False,
            num_beams=beams,
            early_stopping=early_stopping,
            length_penalty=alpha,
            return_dict_in_generate=True,
            output_scores=True,
        )
    decoding = BeamSearch(beams, alpha=alpha, early_stopping=early_stopping)

    @jax.jit
    def run(params, inputs):
        return decoding(nnx.merge(graphdef, params), prompt_batch(inputs), max_decode_length=LENGTH, eos_id=1)

    found = run(params, inputs)
    tokens = expected.sequences[:, 1:].numpy()
    tokens[np.cumsum(tokens == 1, axis=1) - (tokens == 1) > 0] = 0  # they fill up with the end of sequence
    np.testing.assert_array_equal(found.tokens[:, : tokens.shape[1]], tokens)
    scores = found.statistics.logprobs.sum(axis=1) / np.asarray(found.lengths, np.float32) ** alpha
    np.testing.assert_allclose(scores, expected.sequences_scores, rtol=1e-4, atol=1e-5)
    assert 0 < (np.asarray(found.lengths) < LENGTH).sum() < len(inputs), "some rows must end and some be cut off"
    assert len(np.unique(tokens)) > 10


def test_beams_share_what_is_known_of_the_input():
    """Of each layer only the keys and values of the decoder itself are kept for every beam."""
    graphdef, params = split(CONFIG)

    def start(params, inputs):
        model = nnx.merge(graphdef, params)
        return Beams(model, model.prefill(prompt_batch(inputs), 5)[0], 3).cache

    shapes = [x.shape for x in jax.eval_shape(start, params, np.ones((2, 9), np.int32))]
    assert shapes == [(3, 2)] + [(3, 2, CONFIG.num_heads, 5, CONFIG.head_dim)] * 2 * CONFIG.num_decoder_layers
