"""A vocabulary that is padded for sharding: the same model, and nothing of the padding counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh
from t5_cases import VOCAB, batch_of, logits_of, random_batch, run, split, tiny_config

from cat_jax.decode.greedy import greedy
from cat_jax.errors import UserError
from cat_jax.losses.objective import Objective
from cat_jax.models.flops import parameter_count
from cat_jax.parallel.rules import param_shardings

SIZES = {"num_encoder_layers": 1, "num_decoder_layers": 1}
PADDED_TO = 64


@pytest.fixture(
    scope="module", params=[False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["untied", "tied"]
)
def models(request):
    """(configuration, graph definition, parameters) of a model without and one with padding, of one seed."""
    plain = tiny_config(tie_embeddings=request.param, **SIZES)
    return [(config, *split(config)) for config in (plain, dataclasses.replace(plain, vocab_multiple=16))]


def cut(name, array):
    """A parameter without the vocabulary's padding."""
    if "embedding" in name:
        return array[:VOCAB]
    return array[:, :VOCAB] if name.startswith("['output']") else array


def by_name(params):
    return {jax.tree_util.keystr(path): np.array(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}


def test_the_tables_grow_by_zeros_and_the_draw_stays(models):
    (_, _, plain), (config, _, padded) = models
    plain, padded = by_name(plain), by_name(padded)
    grown = [name for name in plain if plain[name].shape != padded[name].shape]
    assert len(grown) == (1 if config.tie_embeddings else 2)
    for name, values in plain.items():
        np.testing.assert_array_equal(cut(name, padded[name]), values)
    assert all(padded[name].size - np.count_nonzero(padded[name]) == 14 * 16 for name in grown)
    assert parameter_count(config) == sum(x.size for x in padded.values())


def test_no_id_of_the_padding_has_a_probability(models):
    (_, *plain), (config, *padded) = models
    batch = random_batch()
    assert run(*padded, batch).head.vocab_size == config.vocab_size == VOCAB
    found = np.array(logits_of(*padded, batch))
    assert found.shape[-1] == config.padded_vocab_size == PADDED_TO
    # A head of another width may be summed in another order: float32's rounding, no more.
    np.testing.assert_allclose(found[..., :VOCAB], logits_of(*plain, batch), rtol=0, atol=2e-6)
    assert (found[..., VOCAB:] == -np.inf).all()


def test_loss_and_gradient_are_those_without_padding(models):
    """With label smoothing, which would give every column a share."""
    objective, batch = Objective(w=1.0, keep="all", label_smoothing=0.1, z_loss=1e-2), random_batch()

    def loss_of(graphdef, params):
        return objective(nnx.merge(graphdef, params)(batch), batch, None).loss_sum

    (_, graphdef, plain), (_, padded_graphdef, padded) = models
    expected, expected_gradient = jax.jit(jax.value_and_grad(lambda p: loss_of(graphdef, p)))(plain)
    found, gradient = jax.jit(jax.value_and_grad(lambda p: loss_of(padded_graphdef, p)))(padded)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    gradient, expected_gradient = by_name(gradient), by_name(expected_gradient)
    for name, values in expected_gradient.items():
        np.testing.assert_allclose(cut(name, gradient[name]), values, atol=1e-5)
        assert np.count_nonzero(gradient[name]) == np.count_nonzero(cut(name, gradient[name]))


def test_greedy_decoding_writes_the_same(models):
    (_, *plain), (_, *padded) = models
    decode = jax.jit(
        lambda graphdef, params: greedy(nnx.merge(graphdef, params), random_batch(), max_decode_length=6, eos_id=1),
        static_argnums=0,
    )
    expected, found = decode(*plain), decode(*padded)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.statistics.entropies, expected.statistics.entropies, rtol=1e-5)


def test_an_id_of_the_padding_gives_nan(models):
    _, (_, *padded) = models
    assert np.isnan(logits_of(*padded, batch_of([[3, VOCAB]], [[5]], 4, 3))[..., :VOCAB]).all()
    assert np.isfinite(logits_of(*padded, batch_of([[3, VOCAB - 1]], [[5]], 4, 3))[..., :VOCAB]).all()


def test_the_tensor_axis_divides_what_is_padded():
    mesh = AbstractMesh((1, 1, 4), ("data", "fsdp", "tensor"))
    sizes = {"num_heads": 4, **SIZES}

    def shardings(**changes):
        return param_shardings(nnx.eval_shape(lambda: tiny_config(**sizes, **changes).build(jax.random.key(0))), mesh)

    with pytest.raises(UserError, match=r"dimension 'vocab' = 50 .* cannot be split into 4"):
        shardings()
    assert jax.tree.leaves(shardings(vocab_multiple=4))


def test_the_flops_are_those_of_the_padded_head():
    plain, padded = tiny_config(), tiny_config(vocab_multiple=16)
    more = padded.forward_flops(9, 7) - plain.forward_flops(9, 7)
    assert more == 7 * 2 * plain.embed_dim * (PADDED_TO - VOCAB) == padded.answer_flops(9, 7) - plain.answer_flops(9, 7)
    assert jnp.isfinite(more)
