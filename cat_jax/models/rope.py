"""Rotary positions (Su et al. 2021, arXiv 2104.09864), rotated by halves as `transformers` does, and their scalings.

Dimension i of the rotated part and dimension i + R/2 are a pair, which position p turns by p times the pair's
frequency: R dimensions have R/2 frequencies. Weights for interleaved pairs (Meta's own Llama files) are another order.

Shape letters: B rows, T positions, N heads, K size of a head, R of its dimensions that are rotated.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from cat_jax.models.decoder_config import DecoderConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rotation:
    """By how much each pair of each position is turned; computed once for all layers of a kind."""

    cosines: jax.Array  # f32[B, T, 1, R/2], or [1, T, 1, R/2]
    sines: jax.Array  # of the same shape

    def __call__(self, x: jax.Array) -> jax.Array:
        """Turns [B, T, N, K], in f32; the result has the dtype of `x`. Dimensions from R on stay as they are."""
        half = self.cosines.shape[-1]
        first, second = (x[..., i * half : (i + 1) * half].astype(jnp.float32) for i in (0, 1))
        turned = [first * self.cosines - second * self.sines, second * self.cosines + first * self.sines]
        return jnp.concatenate([*(part.astype(x.dtype) for part in turned), x[..., 2 * half :]], axis=-1)


def rotation(config: DecoderConfig, positions: jax.Array, *, local: bool) -> Rotation:
    """The rotation of layers of one kind, for positions i32[B, T] that count from 0 in each example."""
    frequencies, factor = rope_frequencies(config, local=local)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return Rotation(jnp.cos(angles) * factor, jnp.sin(angles) * factor)


def rope_frequencies(config: DecoderConfig, *, local: bool) -> tuple[np.ndarray, float]:
    """Angles per position f32[R/2], fastest first, and the factor on sines and cosines (1 but for YaRN)."""
    size, c = config.rotary_dim, config
    if local and c.local_rope_theta is not None:
        return plain_frequencies(size, c.local_rope_theta).astype(np.float32), 1.0
    frequencies, factor = plain_frequencies(size, c.rope_theta), 1.0
    if c.rope_scaling == "linear":
        frequencies = frequencies / c.rope_factor
    elif c.rope_scaling == "llama3":
        length, low, high = c.rope_original_length, c.rope_low_frequency_factor, c.rope_high_frequency_factor
        assert length is not None
        frequencies = slowed_as_llama3(frequencies, c.rope_factor, length, low, high)
    elif c.rope_scaling == "yarn":
        frequencies = _yarn(c, frequencies)
        factor = c.rope_attention_factor or (0.1 * math.log(c.rope_factor) + 1.0 if c.rope_factor > 1 else 1.0)
    return frequencies.astype(np.float32), factor


def plain_frequencies(size: int, theta: float) -> np.ndarray:
    """f64[size/2] of `size` rotated dimensions, not scaled."""
    return theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)


def slowed_as_llama3(frequencies: np.ndarray, factor: float, length: int, low: float, high: float) -> np.ndarray:
    """Llama 3.1's: slow pairs are slowed down by the factor, fast ones are not, with a ramp between.

    Args:
      frequencies: f64[R/2], not scaled.
      factor: by which slow ones are divided.
      length: of the training before scaling.
      low: turns within that length up to which a pair is slow.
      high: turns from which on it is fast.
    """
    turns = length * frequencies / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / factor)


def _yarn(config: DecoderConfig, frequencies: np.ndarray) -> np.ndarray:
    """YaRN (Peng et al. 2023, arXiv 2309.00071): the ramp goes over the pairs' numbers, from and to a whole one."""
    c, length = config, config.rope_original_length
    assert length is not None

    def pair(turns: float) -> float:
        """The pair, as a real number, that turns so often within the original length."""
        return c.rotary_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(c.rope_theta))

    first = max(math.floor(pair(c.rope_beta_fast)), 0)
    last = min(math.ceil(pair(c.rope_beta_slow)), c.rotary_dim - 1)
    ramp = (np.arange(len(frequencies)) - first) / (last - first if last != first else 0.001)
    slowed = np.clip(ramp, 0.0, 1.0)
    return frequencies * ((1.0 - slowed) + slowed / c.rope_factor)
