"""The FLOPs of a decoder-only model, from its configuration alone.

Counted are the products with kernels and inside attention, a multiply-add as 2, at the lengths that are computed:
padding included (the vocabulary's too), attention over a row in full, whatever its mask hides. Embeddings are looked up
and cost nothing; element-wise work (norms, rotations, softmax, activations) is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cat_jax.types import Count

if TYPE_CHECKING:  # the configuration imports this module when it is asked
    from cat_jax.models.decoder_config import DecoderConfig


def forward_flops(config: DecoderConfig, input_length: Count, target_length: Count) -> Count:
    """FLOPs of one example's teacher-forced pass, the head included at every position.

    Args:
        config: the model's.
        input_length: columns of the inputs, padding included.
        target_length: columns of the targets, padding included.
    """
    length = _float(input_length) + _float(target_length)
    return _layers(config, length) + config.num_layers * _pair(config) * length * length + _head(config, length)


def answer_flops(config: DecoderConfig, input_length: Count, output_length: Count) -> Count:
    """FLOPs of answering one example: reading the inputs after their start, then a token at a time with a cache.

    Args:
        config: the model's.
        input_length: tokens of the input.
        output_length: tokens decoded, the end-of-sequence token included, which is never read.
    """
    prompt, steps = _float(input_length) + 1.0, _float(output_length) - 1.0
    flops = _layers(config, prompt + steps) + _head(config, steps + 1.0)
    for kind in config.layer_kinds:
        window = config.window if kind == "local" else None
        flops = flops + _pair(config) * (prompt * prompt + _attended(prompt, steps, window))
    return flops


def _attended(prompt: Count, steps: Count, window: int | None) -> Count:
    """Keys that the steps look at: step i, from 1, at the prompt and i new tokens, or at `window` of them."""
    if window is None:
        return prompt * steps + steps * (steps + 1.0) / 2.0
    growing = np.clip(window - prompt, 0.0, steps)  # steps that see all there is
    return prompt * growing + growing * (growing + 1.0) / 2.0 + (steps - growing) * window


def _float(length: Count) -> Count:
    """In f64: FLOPs overflow i32, and pass 2^53 only where the last digit no longer matters."""
    return np.asarray(length, np.float64)[()]


def _layers(config: DecoderConfig, length: Count) -> Count:
    """The products with kernels of all layers."""
    c = config
    attention = c.embed_dim * c.head_dim * (2 * c.num_heads + 2 * c.kv_heads)
    mlp = (len(c.activations) + 1) * c.embed_dim * c.mlp_dim
    return c.num_layers * 2.0 * length * (attention + mlp)


def _pair(config: DecoderConfig) -> float:
    """Logit and weighted sum of one query with one key, over all heads of a layer."""
    return 4.0 * config.num_heads * config.head_dim


def _head(config: DecoderConfig, length: Count) -> Count:
    return 2.0 * length * config.embed_dim * config.padded_vocab_size
