"""The decoder-only family against `transformers`: Llama, SmolLM2, Mistral, Qwen2, Qwen3, Gemma, Gemma 2, Gemma 3."""

import functools

import jax
import numpy as np
import pytest
from decoder_cases import FAMILIES, INPUTS, TARGETS, batch_of, prompts_of, tiny_config
from flax import nnx
from transformers_decoder import build_theirs, split_like

from cat_jax.decode.greedy import greedy
from cat_jax.losses.objective import Objective
from cat_jax.models.decoder_rows import read_rows
from cat_jax.models.rope import rope_frequencies
from cat_jax.models.stack import each_layer

torch = pytest.importorskip("torch", reason="parity is checked where torch is installed")
pytest.importorskip("transformers", reason="parity is checked where transformers is installed")

STEPS = 8
COLUMNS = 9 + STEPS


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    """Configuration, their model, our graph definition and our parameters with their numbers."""
    config = tiny_config(request.param)
    theirs = build_theirs(request.param, config)
    return config, theirs, *split_like(theirs, config)


def their_input(config, tokens):
    """Ids that begin with the start that they know, or with the first token where they know none."""
    first = [] if config.bos_id is None else [config.bos_id]
    return torch.tensor([[*first, *row] for row in tokens], dtype=torch.long)


@functools.partial(jax.jit, static_argnums=0)
def logits_and_loss(graphdef, params, batch):
    output = nnx.merge(graphdef, params)(batch)
    loss = Objective(w=1.0, keep="all")(output, batch, None)
    return output.head.logits(output.hidden), loss.loss_sum / loss.weight_sum


def errors_by_layer(pair, batch, hidden_states, real):
    """The largest error of the embeddings, after each layer but the last, and after the last and the final norm."""
    config, _, graphdef, params = pair
    model = nnx.merge(graphdef, params)
    rows, states = read_rows(batch, config.bos_id, prefix_lm=False), []
    x, views = model._embed(rows.tokens), model._views(rows)
    for kind, layer in zip(config.layer_kinds, each_layer(model.layers), strict=True):
        states.append(x)
        x, _ = layer.read(x, views[kind], kind == "local")
    states.append(model.norm(x))
    differences = [
        np.abs(np.array(ours)[:, -real.shape[1] :] - wanted.numpy())[real].max()
        for ours, wanted in zip(states, hidden_states, strict=True)
    ]
    return ", ".join(f"{difference:.1e}" for difference in differences)


def test_logits_and_loss_agree(pair):
    config, theirs, graphdef, params = pair
    batch = batch_of(INPUTS, TARGETS, COLUMNS)
    skip = int(config.bos_id is None)  # our first column is then nobody's
    with torch.no_grad():
        found = theirs(their_input(config, np.array(batch.decoder_input_tokens)[:, 1:]), output_hidden_states=True)
    wanted, (logits, loss) = found.logits.numpy(), logits_and_loss(graphdef, params, batch)
    targets, weights = (np.array(x)[:, skip:] for x in (batch.decoder_target_tokens, batch.decoder_loss_weights))
    real, logits = targets > 0, np.array(logits)[:, skip:]
    if not np.allclose(logits[real], wanted[real], rtol=1e-4, atol=1e-4):
        layers = errors_by_layer(pair, batch, found.hidden_states, real)
        pytest.fail(f"logits differ by {np.abs(logits - wanted)[real].max():.1e}; by layer: {layers}")
    token_losses = torch.nn.functional.cross_entropy(
        found.logits[torch.tensor(weights > 0)], torch.tensor(targets[weights > 0], dtype=torch.long)
    )
    assert float(loss) == pytest.approx(float(token_losses), abs=1e-4)
    assert loss > 1.0  # random weights: the comparison is not one of zeros


def test_the_greedy_choices_agree(pair):
    """What they write, one by one and with a cache, is what is likeliest here at every position, past the window."""
    config, theirs, graphdef, params = pair
    written = [write(theirs, config, inputs) for inputs in INPUTS]
    assert len({token for row in written for token in row}) > 2  # they do not repeat one
    logits, _ = logits_and_loss(graphdef, params, batch_of(INPUTS, written, COLUMNS))
    for row, (inputs, tokens) in enumerate(zip(INPUTS, written, strict=True)):
        assert np.argmax(logits[row, len(inputs) :], axis=-1)[:STEPS].tolist() == tokens


def write(theirs, config, inputs):
    ids = their_input(config, [inputs])
    return theirs.generate(ids, max_new_tokens=STEPS, do_sample=False)[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_greedy_decoding_agrees(family):
    """With our cache: rows side by side, their prompts padded."""
    config = tiny_config(family)
    theirs = build_theirs(family, config, seed=1)
    graphdef, params = split_like(theirs, config)
    run = jax.jit(lambda p, b: greedy(nnx.merge(graphdef, p), b, max_decode_length=STEPS, eos_id=-1).tokens)
    assert run(params, prompts_of(INPUTS, 10)).tolist() == [write(theirs, config, inputs) for inputs in INPUTS]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_frequencies_agree(family):
    """At a size and with scalings such as published models have."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = tiny_config(family, head_dim=64, rope_theta=10_000.0)
    theirs = build_theirs(family, config).model.rotary_emb
    found, factor = rope_frequencies(config, local=False)
    prefix = "full_attention_" if family == "gemma3" else ""
    np.testing.assert_allclose(found, getattr(theirs, f"{prefix}inv_freq").numpy(), rtol=2e-6)
    assert factor == pytest.approx(getattr(theirs, f"{prefix}attention_scaling"))
    assert config.rope_scaling in ROPE_INIT_FUNCTIONS
    if family == "gemma3":
        local, _ = rope_frequencies(config, local=True)
        np.testing.assert_allclose(local, theirs.sliding_attention_inv_freq.numpy(), rtol=2e-6)
