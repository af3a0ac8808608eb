"""T5 against `transformers`' T5, its random weights copied over."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from t5_cases import VOCAB, logits_of, random_batch, random_rows, split, tiny_config
from transformers_t5 import build_theirs, params_from_theirs

from cat_jax.models.relative import relative_buckets

torch = pytest.importorskip("torch", reason="parity is checked where torch is installed")
pytest.importorskip("transformers", reason="parity is checked where transformers is installed")

DEEP = {"num_encoder_layers": 2, "num_decoder_layers": 3}
T5_1_1 = tiny_config(**DEEP)
ORIGINAL = tiny_config(**DEEP, activations=("relu",), tie_embeddings=True, embed_dim=12, num_heads=2)


@pytest.fixture(scope="module", params=[T5_1_1, ORIGINAL], ids=["t5_1_1", "original"])
def pair(request):
    """Configuration, their model, our graph definition and our parameters with their numbers."""
    theirs = build_theirs(request.param)
    graphdef, params = split(request.param)
    return request.param, theirs, graphdef, params_from_theirs(theirs, params)


def to_torch(array):
    return torch.tensor(np.array(array), dtype=torch.long)


def their_output(theirs, batch):
    inputs = to_torch(batch.encoder_input_tokens)
    targets = to_torch(batch.decoder_target_tokens)
    with torch.no_grad():
        return theirs(
            input_ids=inputs, attention_mask=(inputs > 0).long(), labels=targets.masked_fill(targets == 0, -100)
        )


def test_logits_and_loss_agree(pair):
    _, theirs, graphdef, params = pair
    batch = random_batch()
    expected = their_output(theirs, batch)
    logits = logits_of(graphdef, params, batch)
    real = np.array(batch.decoder_loss_weights) > 0
    # At padding they read label 0 where we read 0 too, but nobody reads the result.
    np.testing.assert_allclose(np.array(logits)[real], expected.logits.numpy()[real], atol=1e-5)
    log_probs = jax.nn.log_softmax(logits)
    token_losses = -jnp.take_along_axis(log_probs, batch.decoder_target_tokens[..., None], -1)[..., 0]
    loss = float(jnp.sum(token_losses * batch.decoder_loss_weights) / jnp.sum(batch.decoder_loss_weights))
    assert loss == pytest.approx(expected.loss.item(), abs=1e-5)
    assert loss > 1.0  # random weights: the comparison is not one of zeros


def test_gradients_agree(pair):
    _, theirs, graphdef, params = pair
    batch = random_batch(3)

    def loss(params):
        output = nnx.merge(graphdef, params)(batch)
        log_probs = jax.nn.log_softmax(output.head.logits(output.hidden))
        losses = -jnp.take_along_axis(log_probs, batch.decoder_target_tokens[..., None], -1)[..., 0]
        return jnp.sum(losses * batch.decoder_loss_weights)

    grads = jax.jit(jax.grad(loss))(params)
    theirs.zero_grad()
    inputs, targets = to_torch(batch.encoder_input_tokens), to_torch(batch.decoder_target_tokens)
    logits = theirs(
        input_ids=inputs, attention_mask=(inputs > 0).long(), decoder_input_ids=to_torch(batch.decoder_input_tokens)
    ).logits
    torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=0, reduction="sum"
    ).backward()
    for weight in theirs.parameters():
        weight.data, weight.grad = weight.grad, None
    expected = params_from_theirs(theirs, params)
    for (path, ours), (_, wanted) in zip(nnx.to_flat_state(grads), nnx.to_flat_state(expected), strict=True):
        np.testing.assert_allclose(ours[...], wanted[...], atol=2e-5, rtol=1e-4, err_msg=str(path))


def test_greedy_decoding_agrees():
    theirs = build_theirs(T5_1_1, seed=1)
    graphdef, params = split(T5_1_1)
    model = nnx.merge(graphdef, params_from_theirs(theirs, params))
    batch, steps = random_batch(5), 12
    inputs = to_torch(batch.encoder_input_tokens)
    expected = theirs.generate(
        input_ids=inputs, attention_mask=(inputs > 0).long(), max_new_tokens=steps, do_sample=False, use_cache=False
    ).numpy()[:, 1:]
    step = jax.jit(model.step)
    cache, hidden = jax.jit(model.prefill, static_argnums=1)(batch, steps)
    tokens, finished = [], np.zeros(len(inputs), bool)
    for _ in range(steps):
        token = jnp.argmax(model.head().logits(hidden), -1)
        tokens.append(np.where(finished, 0, token))
        finished |= np.array(token) == 1
        cache, hidden = step(token, cache)
    np.testing.assert_array_equal(np.stack(tokens, 1)[:, : expected.shape[1]], expected)
    assert len({tuple(row) for row in expected.tolist()}) > 1  # the rows' inputs tell


def test_long_inputs_fall_into_their_buckets():
    """Beyond the largest distance, in both directions."""
    config = tiny_config(relative_buckets=8, relative_max_distance=20)
    theirs = build_theirs(config)
    graphdef, params = split(config)
    params = params_from_theirs(theirs, params)
    batch = random_batch()
    inputs = random_rows(7, [60, 60, 60])
    batch = dataclasses.replace(batch, encoder_input_tokens=jnp.array(inputs))
    expected = their_output(theirs, batch).logits.numpy()
    real = np.array(batch.decoder_loss_weights) > 0
    np.testing.assert_allclose(np.array(logits_of(graphdef, params, batch))[real], expected[real], atol=1e-5)
    assert max(map(max, inputs)) < VOCAB


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20), (64, 256), (16, 1000), (12, 7)])
def test_buckets_agree_at_every_distance(bidirectional, buckets, max_distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = np.arange(-3000, 3001)
    ours = relative_buckets(distances, bidirectional=bidirectional, num_buckets=buckets, max_distance=max_distance)
    theirs = T5Attention._relative_position_bucket(
        torch.tensor(distances), bidirectional=bidirectional, num_buckets=buckets, max_distance=max_distance
    )
    np.testing.assert_array_equal(ours, theirs.numpy())
