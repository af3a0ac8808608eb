"""Who sees whom in a decoder-only model: packing, padding, windows, prefixes, and a start that is nobody."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_cases import (
    BOTH_KINDS,
    INPUTS,
    TARGETS,
    WINDOW,
    batch_of,
    logits_of,
    packed_batch,
    run,
    split,
    tiny_config,
)
from flax import nnx

from cat_jax.models.decoder_config import LOCAL

PREFIX = tiny_config("gemma2", prefix_lm=True, num_layers=2)
CONFIGS = {
    "global": tiny_config("llama", num_layers=2),
    "nobody": tiny_config("qwen2", **BOTH_KINDS),
    "both": tiny_config("gemma3", **BOTH_KINDS),
    "prefix": PREFIX,
}
EXAMPLES = [[0, 1], [2]]


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_rows_equal_single_ones(name):
    model, skip = split(CONFIGS[name]), int(CONFIGS[name].bos_id is None)
    single = np.array(run(*model, batch_of(INPUTS, TARGETS)).hidden)
    batch = packed_batch(EXAMPLES, 24)
    packed, segments = np.array(run(*model, batch).hidden), np.array(batch.decoder_segment_ids)
    assert np.isfinite(packed).all()
    for row, numbers in enumerate(EXAMPLES):
        for segment, number in enumerate(numbers, start=1):
            found = packed[row][segments[row] == segment]
            expected = single[number, : len(INPUTS[number]) + len(TARGETS[number])]
            np.testing.assert_allclose(found[skip:], expected[skip:], atol=1e-5)


def hidden_gaps(config, column, row=0, batch=None):
    """How far each column's hidden state moves where the decoder input in one column changes."""
    batch = batch_of(INPUTS, TARGETS) if batch is None else batch
    tokens = batch.decoder_input_tokens.copy()
    tokens[row, column] = 50
    changed = dataclasses.replace(batch, decoder_input_tokens=tokens)
    before, after = (np.array(run(*split(config), each).hidden) for each in (batch, changed))
    assert not np.abs(after - before)[np.arange(len(before)) != row].any()
    return np.abs(after - before)[row].max(-1)


def test_later_tokens_are_not_seen_and_earlier_ones_are():
    gaps = hidden_gaps(CONFIGS["global"], 5)
    assert not gaps[:5].any()
    assert (gaps[5:] > 1e-3).all()


def test_a_window_hides_what_lies_before_it():
    """One layer: of a token with a window of four the first four columns from its own on know, and no other."""
    config = tiny_config("mistral", num_layers=1)
    gaps = hidden_gaps(config, 3)
    assert (gaps[3 : 3 + WINDOW] > 1e-3).all()
    assert not gaps[:3].any()
    assert not gaps[3 + WINDOW :].any()
    every = hidden_gaps(tiny_config("mistral", num_layers=1, window=40), 3)
    assert (every[3:] > 1e-3).all()


def test_layers_take_turns():
    """Two layers, a global one among them: its place in the pattern decides how far a token is heard of."""
    for pattern, heard in ((("local", "local"), 2 * WINDOW - 1), (("global", "local"), 13)):
        config = tiny_config("mistral", num_layers=2, layer_pattern=pattern)
        gaps = hidden_gaps(config, 1)
        assert np.count_nonzero(gaps > 1e-5) == heard
    assert tiny_config("gemma3", num_layers=8).layer_kinds[:4] == ("local", "local", "global", "local")


def test_nobody_sees_a_start_without_a_token():
    """Of the model that has none; the other embeds its own id there, whatever stands in the batch."""
    for name in ("nobody", "global"):
        gaps = hidden_gaps(CONFIGS[name], 0)
        assert not gaps[1:].any()
    assert hidden_gaps(tiny_config("llama"), 0).max() == 0.0


def test_where_there_is_no_start_the_first_token_has_position_zero():
    """Adding one that is seen moves everything by a position, and shows it to all."""
    config = tiny_config("smollm2", num_layers=2)
    batch = batch_of(INPUTS, TARGETS)
    with_start = dataclasses.replace(config, bos_id=1)
    late = jax.tree.map(lambda x: x[:, 1:], batch)
    late = dataclasses.replace(late, decoder_input_tokens=late.decoder_input_tokens * (np.arange(13) > 0))
    first = dataclasses.replace(config, bos_id=int(batch.decoder_input_tokens[0, 1]))
    _, params = split(config)
    expected = run(split(config)[0], params, batch).hidden[0, 1:]
    found = run(split(first)[0], params, late).hidden[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    other = run(split(with_start)[0], params, batch).hidden[0, 1:]
    assert np.abs(np.array(other) - np.array(expected)).max() > 0.1


@pytest.mark.parametrize("bos_id", [1, None])
def test_a_prefix_sees_itself_and_no_target(bos_id):
    """Row 0 has 9 inputs: columns 0 to 9 of the decoder's inputs, the start included."""
    config = dataclasses.replace(PREFIX, window=None, layer_pattern=("global",), bos_id=bos_id)
    first = int(bos_id is None)
    last_input = hidden_gaps(config, 9)
    assert (last_input[first:] > 1e-5).all()
    assert not last_input[:first].any()
    first_target = hidden_gaps(config, 10)
    assert not first_target[:10].any()
    assert (first_target[10:14] > 1e-5).all()


def test_a_window_holds_in_a_prefix_too():
    config = dataclasses.replace(PREFIX, num_layers=1, layer_pattern=(LOCAL,))
    gaps = hidden_gaps(config, 6)
    assert np.nonzero(gaps > 1e-5)[0].tolist() == list(range(6 - WINDOW + 1, 6 + WINDOW))


def test_prefixes_of_packed_examples_do_not_meet():
    batch = packed_batch(EXAMPLES, 24)
    gaps = hidden_gaps(dataclasses.replace(PREFIX, window=20), 16, batch=batch)  # the second example: columns 14 to 19
    assert not gaps[:14].any()
    assert (gaps[14:20] > 1e-6).all()
    assert not gaps[20:].any()


@pytest.mark.parametrize("name", ["nobody", "prefix"])
def test_a_row_of_padding_gives_no_nan(name):
    graphdef, params = split(CONFIGS[name])
    batch = batch_of([[5, 6], []], [[7], []], 5)

    def loss(params):
        output = nnx.merge(graphdef, params)(batch)
        logits = output.head.logits(output.hidden)
        return jnp.sum(jax.nn.log_softmax(logits) * batch.decoder_loss_weights[..., None])

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert np.isfinite(run(graphdef, params, batch).hidden).all()


def test_bfloat16_is_close_and_f32_where_it_matters():
    config = CONFIGS["both"]
    batch, (_, params) = batch_of(INPUTS, TARGETS), split(config)
    graphdef, _ = split(dataclasses.replace(config, dtype="bfloat16"))
    output = run(graphdef, params, batch)
    assert output.hidden.dtype == output.head.kernel.dtype == jnp.bfloat16
    logits, expected = logits_of(graphdef, params, batch), logits_of(split(config)[0], params, batch)
    assert logits.dtype == jnp.float32
    real = np.array(batch.decoder_target_tokens) > 0
    gap = np.abs(np.array(logits) - np.array(expected))[real] / np.std(np.array(expected)[real])
    assert 1e-3 < gap.max() < 0.4
    assert gap.mean() < 0.04
    text = run.lower(graphdef, params, batch).as_text().splitlines()
    for operation in ("exponential", "rsqrt", "cosine"):
        lines = [line for line in text if f"stablehlo.{operation}" in line]
        assert lines
        assert not [line for line in lines if "bf16" in line]


def test_what_is_not_in_the_form_of_a_prefix_is_refused():
    graphdef, params = split(CONFIGS["global"])
    model, batch = nnx.merge(graphdef, params), packed_batch(EXAMPLES, 24)
    with pytest.raises(ValueError, match="has them for an encoder"):
        model(dataclasses.replace(batch, encoder_input_tokens=batch.decoder_input_tokens))
    with pytest.raises(ValueError, match="segment ids and no positions"):
        model(dataclasses.replace(batch, decoder_positions=None))
    with pytest.raises(ValueError, match="prompts come with segment ids"):
        model.prefill(batch_of(INPUTS, TARGETS), 3)
