"""FLOPs from the configuration against a count by hand and against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from xla_flops import BATCH, xla_answer_flops, xla_forward_flops, xla_train_flops

from cat_jax.models.flops import train_flops
from cat_jax.models.t5_config import T5Config
from cat_jax.types import Batch


def config_of(embed_dim=64, num_heads=4, head_dim=16, mlp_dim=128, layers=(2, 2), vocab_size=512, **options):
    encoder, decoder = layers
    return T5Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        num_heads=num_heads,
        head_dim=head_dim,
        mlp_dim=mlp_dim,
        num_encoder_layers=encoder,
        num_decoder_layers=decoder,
        **options,
    )


SHAPES = {
    "long_input": (config_of(), 64, 16),
    "long_target": (config_of(layers=(1, 3)), 16, 64),
    "wide_heads": (config_of(head_dim=64, mlp_dim=64), 32, 32),
    "one_activation_tied": (config_of(activations=("relu",), tie_embeddings=True), 32, 32),
    "t5_tiny": (config_of(256, 4, 64, 1024, (4, 4), 32128), 128, 64),
    "t5_base": (config_of(768, 12, 64, 2048, (12, 12), 32128), 512, 128),
}


def abstract(config, input_length, target_length):
    graphdef, params = nnx.split(nnx.eval_shape(lambda: config.build(jax.random.key(0))))
    ints = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)  # noqa: E731
    targets, weights = ints(BATCH, target_length), jax.ShapeDtypeStruct((BATCH, target_length), jnp.float32)
    return graphdef, params, Batch(targets, targets, weights, ints(BATCH, input_length))


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_flops_are_within_5_percent_of_xla(shape):
    config, s, t = SHAPES[shape]
    assert config.forward_flops(s, t) == pytest.approx(xla_forward_flops(*abstract(config, s, t)), rel=0.05)


@pytest.mark.parametrize("shape", ["long_input", "long_target", "t5_tiny"])
def test_train_flops_are_within_5_percent_of_xla(shape):
    config, s, t = SHAPES[shape]
    assert train_flops(config, s, t) == pytest.approx(xla_train_flops(*abstract(config, s, t)), rel=0.05)


@pytest.mark.parametrize("shape", ["long_input", "wide_heads", "t5_tiny"])
def test_answer_flops_are_within_5_percent_of_xla(shape):
    config, s, t = SHAPES[shape]
    assert config.answer_flops(s, t) == pytest.approx(xla_answer_flops(*abstract(config, s, t), t), rel=0.05)


def test_forward_flops_by_hand():
    """D 2, one head of 3, F 5, one layer each side, V 7; S 4 inputs, T 3 targets."""
    config = config_of(2, 1, 3, 5, (1, 1), 7)
    kernel = 2 * 2 * 3  # multiply-add 2, D, H K
    encoder = 4 * (4 * kernel) + 2 * (2 * 4 * 4 * 3) + 4 * (3 * 2 * 2 * 5)
    self_attention = 3 * (4 * kernel) + 2 * (2 * 3 * 3 * 3)
    cross_attention = 3 * (2 * kernel) + 4 * (2 * kernel) + 2 * (2 * 3 * 4 * 3)
    decoder = self_attention + cross_attention + 3 * (3 * 2 * 2 * 5)
    head = 3 * 2 * 2 * 7
    assert config.forward_flops(4, 3) == encoder + decoder + head
    # Decoding sees 1 + 2 + 3 positions instead of 3 x 3.
    assert config.answer_flops(4, 3) == encoder + decoder + head - 2 * 2 * 3 * (9 - 6)


def test_a_live_teacher_is_paid_for():
    student, teacher = config_of(), config_of(128)
    alone = train_flops(student, 32, 16)
    assert alone == 3 * student.forward_flops(32, 16)
    assert train_flops(student, 32, 16, teacher) == alone + teacher.forward_flops(32, 16)


def test_lengths_may_be_arrays():
    config = config_of()
    inputs, outputs = np.array([4, 100, 3000], np.int32), np.array([1, 7, 2000], np.int32)
    found = config.answer_flops(inputs, outputs)
    assert found.tolist() == [config.answer_flops(int(s), int(t)) for s, t in zip(inputs, outputs, strict=True)]
