"""Who sees whom: padding, causality, packing, and what dropout and bfloat16 leave alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from t5_cases import batch_of, logits_of, random_batch, random_rows, run, split, tiny_config

from cat_jax.types import Batch


@pytest.fixture(scope="module")
def model():
    return split(tiny_config())


def pack(rows: list[list[list[int]]], length: int):
    """Tokens shifted right within each example, tokens, and segment ids, each [len(rows), length]."""
    shifted, tokens, segments = np.zeros((3, len(rows), length), np.int32)
    for r, examples in enumerate(rows):
        at = 0
        for number, example in enumerate(examples, start=1):
            end = at + len(example)
            tokens[r, at:end] = example
            shifted[r, at:end] = [0, *example[:-1]]
            segments[r, at:end] = number
            at = end
    return jnp.array(shifted), jnp.array(tokens), jnp.array(segments)


@pytest.mark.parametrize("scan", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_packed_rows_equal_single_ones(scan):
    graphdef, params = split(tiny_config(scan_layers=scan))
    inputs, targets = random_rows(1, [5, 9, 3, 7]), random_rows(2, [4, 2, 6, 3])
    single = np.array(run(graphdef, params, batch_of(inputs, targets, 9, 6)).hidden)
    layout = [[0, 1], [2, 3]]  # row 0: examples 0 and 1; row 1: examples 2 and 3
    _, tokens, input_segments = pack([[inputs[i] for i in row] for row in layout], 16)
    shifted, target_tokens, target_segments = pack([[targets[i] for i in row] for row in layout], 10)
    batch = Batch(
        decoder_target_tokens=target_tokens,
        decoder_input_tokens=shifted,
        decoder_loss_weights=(target_tokens > 0).astype(jnp.float32),
        encoder_input_tokens=tokens,
        decoder_segment_ids=target_segments,
        encoder_segment_ids=input_segments,
    )
    packed = np.array(run(graphdef, params, batch).hidden)
    assert np.isfinite(packed).all()
    for row, examples in enumerate(layout):
        for number, example in enumerate(examples, start=1):
            found = packed[row][np.array(target_segments[row]) == number]
            np.testing.assert_allclose(found, single[example, : len(targets[example])], atol=3e-6)


def packed_batch(inputs, targets, input_length=16, target_length=10) -> Batch:
    """One row of all the examples."""
    _, tokens, input_segments = pack([inputs], input_length)
    shifted, target_tokens, target_segments = pack([targets], target_length)
    return Batch(
        decoder_target_tokens=target_tokens,
        decoder_input_tokens=shifted,
        decoder_loss_weights=(target_tokens > 0).astype(jnp.float32),
        encoder_input_tokens=tokens,
        decoder_segment_ids=target_segments,
        encoder_segment_ids=input_segments,
    )


def test_an_example_with_empty_inputs_sees_nobody_else_s(model):
    """Its queries see no key at all: packed beside any other example it is what it is in a row of its own."""
    targets = random_rows(2, [4, 5])
    alone = np.array(run(*model, batch_of([[]], targets[1:], 9, 6)).hidden)[0, :5]
    beside = [
        np.array(run(*model, packed_batch([other, []], targets)).hidden)[0, 4:9] for other in random_rows(1, [7, 11])
    ]
    np.testing.assert_allclose(beside[0], alone, atol=3e-6)
    np.testing.assert_array_equal(beside[0], beside[1])


def test_padding_is_not_seen(model):
    inputs, targets = random_rows(3, [5, 8]), random_rows(4, [4, 3])
    short = run(*model, batch_of(inputs, targets, 8, 4)).hidden
    long = run(*model, batch_of(inputs, targets, 13, 9)).hidden
    np.testing.assert_allclose(long[:, :4][0], short[0], atol=3e-6)
    np.testing.assert_allclose(long[1, :3], short[1, :3], atol=3e-6)


def test_later_targets_are_not_seen_and_all_inputs_are(model):
    batch = random_batch()

    def hidden(batch):
        return np.array(run(*model, batch).hidden)

    before = hidden(batch)
    changed = dataclasses.replace(batch, decoder_input_tokens=batch.decoder_input_tokens.at[0, 4].set(33))
    gaps = np.abs(hidden(changed) - before)[0].max(-1)
    np.testing.assert_allclose(gaps[:4], 0.0, atol=1e-6)
    assert (gaps[4:] > 1e-3).all()
    changed = dataclasses.replace(batch, encoder_input_tokens=batch.encoder_input_tokens.at[0, 8].set(33))
    assert (np.abs(hidden(changed) - before)[0].max(-1) > 1e-4).all()


def test_a_row_of_padding_gives_no_nan(model):
    batch = batch_of([[3, 4], []], [[5], []], 4, 3)

    def loss(params):
        output = nnx.merge(model[0], params)(batch)
        return jnp.sum(jax.nn.log_softmax(output.head.logits(output.hidden)))

    value, grads = jax.jit(jax.value_and_grad(loss))(model[1])
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_a_token_outside_the_table_gives_nan(model):
    batch = batch_of([[3, 50]], [[5]], 4, 3)  # the table has rows 0..49
    assert np.isnan(logits_of(*model, batch)).all()


def test_segment_ids_of_the_encoder_alone_say_where_inputs_stand(model):
    """As where id 0 is a token: it is seen where the segment is 1, and nothing is where it is 0."""
    batch = batch_of([[3, 4, 7]], [[5]], 5, 3)

    def hidden(tokens, segments):
        replaced = dataclasses.replace(
            batch, encoder_input_tokens=jnp.array([tokens]), encoder_segment_ids=jnp.array([segments])
        )
        return np.array(run(*model, replaced).hidden)

    here = [1, 1, 1, 0, 0]
    np.testing.assert_allclose(hidden([3, 4, 7, 0, 0], here), np.array(run(*model, batch).hidden), atol=1e-6)
    np.testing.assert_array_equal(hidden([3, 4, 0, 0, 0], here), hidden([3, 4, 0, 9, 9], here))
    assert np.abs(hidden([3, 4, 0, 0, 0], here) - hidden([3, 4, 0, 0, 0], [1, 1, 0, 0, 0])).max() > 1e-4


def test_a_batch_without_inputs_is_refused(model):
    with pytest.raises(ValueError, match="encoder_input_tokens"):
        run(*model, dataclasses.replace(random_batch(), encoder_input_tokens=None))


def test_bfloat16_is_close_and_f32_where_it_matters(model):
    batch = random_batch()
    _, params = model
    graphdef, _ = split(tiny_config(dtype="bfloat16"))
    output = run(graphdef, params, batch)
    assert output.hidden.dtype == jnp.bfloat16
    assert output.head.kernel.dtype == jnp.bfloat16
    logits, expected = logits_of(graphdef, params, batch), logits_of(*model, batch)
    assert logits.dtype == jnp.float32
    real = np.array(batch.decoder_loss_weights) > 0
    gap = np.abs(np.array(logits) - np.array(expected))[real]
    assert gap.max() < 0.15
    assert gap.mean() < 0.02
    assert gap.max() > 1e-4  # it was computed in bfloat16
    lowered = run.lower(graphdef, params, batch).as_text()
    softmaxes = [line for line in lowered.splitlines() if "stablehlo.exponential" in line]
    assert softmaxes
    assert all("bf16" not in line for line in softmaxes)


def test_parameters_may_be_bfloat16():
    graphdef, params = split(tiny_config(param_dtype="bfloat16", num_encoder_layers=1, num_decoder_layers=1))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    assert np.isfinite(logits_of(graphdef, params, random_batch())).all()
