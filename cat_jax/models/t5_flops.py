"""The FLOPs of a T5, from its configuration alone.

Counted are the products with kernels and inside attention, a multiply-add as 2, at the lengths that are computed:
padding included (the vocabulary's too), causal attention in full. Embeddings are looked up and cost nothing;
element-wise work (norms, softmax, activations) is left out, as is usual for a chip's utilisation: it adds 1 % at
T5 1.1's sizes and 6 % at a width of two dozen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cat_jax.types import Count

if TYPE_CHECKING:  # the configuration imports this module when it is asked
    from cat_jax.models.t5_config import T5Config


def forward_flops(config: T5Config, input_length: Count, target_length: Count) -> Count:
    """FLOPs of one example's teacher-forced pass, the head included.

    Args:
        config: the model's.
        input_length: positions of the encoder, padding included.
        target_length: positions of the decoder, padding included.
    """
    s, t = _floats(input_length, target_length)
    return _encode(config, s) + _cross_keys_values(config, s) + _decode(config, t, s, attended=t * t)


def answer_flops(config: T5Config, input_length: Count, output_length: Count) -> Count:
    """FLOPs of answering one example: encoding, then decoding greedily with a cache of keys and values.

    Args:
        config: the model's.
        input_length: tokens of the input.
        output_length: tokens decoded, EOS included; token t attends to the t positions up to its own.
    """
    s, t = _floats(input_length, output_length)
    return _encode(config, s) + _cross_keys_values(config, s) + _decode(config, t, s, attended=t * (t + 1) / 2)


def _floats(*lengths: Count) -> tuple[Count, ...]:
    """In f64: FLOPs overflow i32, and pass 2^53 only where the last digit no longer matters."""
    return tuple(np.asarray(length, np.float64)[()] for length in lengths)


def _mlp(config: T5Config) -> float:
    return 2.0 * (len(config.activations) + 1) * config.embed_dim * config.mlp_dim


def _kernel(config: T5Config) -> float:
    """One of an attention's four products with a kernel, per position."""
    return 2.0 * config.embed_dim * config.num_heads * config.head_dim


def _pair(config: T5Config) -> float:
    """Logit and weighted sum of one query with one key, over all heads."""
    return 4.0 * config.num_heads * config.head_dim


def _encode(config: T5Config, s: Count) -> Count:
    return config.num_encoder_layers * (s * (4 * _kernel(config) + _mlp(config)) + s * s * _pair(config))


def _cross_keys_values(config: T5Config, s: Count) -> Count:
    return config.num_decoder_layers * s * 2 * _kernel(config)


def _decode(config: T5Config, t: Count, s: Count, attended: Count) -> Count:
    """The decoder's layers and the head; `attended`: pairs of positions in self-attention."""
    layer = t * (6 * _kernel(config) + _mlp(config)) + (attended + t * s) * _pair(config)
    return config.num_decoder_layers * layer + t * 2.0 * config.embed_dim * config.padded_vocab_size
