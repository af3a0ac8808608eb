"""FLOPs of the decoder-only family from the configuration, against a count by hand and against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from xla_flops import BATCH, xla_answer_flops, xla_forward_flops, xla_train_flops

from cat_jax.models.decoder_config import DecoderConfig
from cat_jax.models.flops import train_flops
from cat_jax.types import Batch


def config_of(embed_dim=128, num_heads=4, head_dim=32, mlp_dim=256, num_layers=2, vocab_size=512, **options):
    sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "head_dim": head_dim, "mlp_dim": mlp_dim}
    return DecoderConfig(vocab_size=vocab_size, num_layers=num_layers, **sizes, **options)


WINDOWS = {"window": 16, "layer_pattern": ("local", "global")}
SHAPES = {
    "few_heads": (config_of(num_kv_heads=1), 48, 16),
    "windows": (config_of(num_kv_heads=2, bos_id=None, num_layers=4, **WINDOWS), 64, 40),
    "smollm2_135m": (config_of(576, 9, 64, 1536, 30, 49152, num_kv_heads=3, tie_embeddings=True), 384, 128),
}


def abstract(config, columns):
    graphdef, params = nnx.split(nnx.eval_shape(lambda: config.build(jax.random.key(0))))
    ints = jax.ShapeDtypeStruct((BATCH, columns), jnp.int32)
    return graphdef, params, Batch(ints, ints, jax.ShapeDtypeStruct((BATCH, columns), jnp.float32))


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_flops_are_within_5_percent_of_xla(shape):
    config, s, t = SHAPES[shape]
    assert config.forward_flops(s, t) == pytest.approx(xla_forward_flops(*abstract(config, s + t)), rel=0.05)


def test_train_flops_are_within_5_percent_of_xla():
    config, s, t = SHAPES["windows"]
    assert train_flops(config, s, t) == pytest.approx(xla_train_flops(*abstract(config, s + t)), rel=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_answer_flops_are_within_5_percent_of_xla(shape):
    config, s, t = SHAPES[shape]
    graphdef, params, batch = abstract(config, s + 1)
    ints = batch.decoder_input_tokens
    batch = Batch(ints, ints, batch.decoder_loss_weights, decoder_segment_ids=ints, decoder_positions=ints)
    expected = xla_answer_flops(graphdef, params, batch, t)
    assert config.answer_flops(s, t) == pytest.approx(expected, rel=0.05)


def test_flops_by_hand():
    """D 2, two heads of 4 that share one of keys, F 5, V 7, padded to 8, one local and one global layer; S 4, T 3."""
    options = {"num_kv_heads": 1, "vocab_multiple": 4, "window": 3, "layer_pattern": ("local", "global")}
    config = config_of(2, 2, 4, 5, 2, 7, **options)
    kernels = 2 * (2 * 2 * 8 + 2 * 2 * 4 + 3 * 2 * 5)  # queries and output, keys and values, MLP
    pair = 2 * 2 * 8
    assert config.forward_flops(4, 3) == 2 * (7 * kernels + 49 * pair) + 7 * 2 * 2 * 8
    # Five columns are read at once, then two tokens: they see 6 and 7, or 3 and 3.
    assert config.answer_flops(4, 3) == 2 * (7 * kernels + 25 * pair) + (13 + 6) * pair + 3 * 2 * 2 * 8
    # One column, then four tokens, which see 2, 3, 4 and 5, or 2, 3, 3 and 3.
    assert config.answer_flops(0, 5) == 2 * (5 * kernels + pair) + (14 + 11) * pair + 5 * 2 * 2 * 8


def test_lengths_may_be_arrays():
    config = SHAPES["windows"][0]
    inputs, outputs = np.array([0, 4, 100, 3000], np.int32), np.array([3, 1, 7, 2000], np.int32)
    found = config.answer_flops(inputs, outputs)
    assert found.tolist() == [config.answer_flops(int(s), int(t)) for s, t in zip(inputs, outputs, strict=True)]
