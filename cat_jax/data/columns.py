"""How many columns an example takes of a row, and a row has, by where the model reads the inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from cat_jax.types import Prompt


def columns(lengths: np.ndarray, prompt: Prompt) -> np.ndarray:
    """Integers [..., 2], columns of the encoder's and the decoder's side, of [..., 2] tokens of inputs and targets.

    >>> columns(np.array([5, 3]), "encoder").tolist(), columns(np.array([5, 3]), "prefix").tolist()
    ([5, 3], [0, 8])
    """
    if prompt == "encoder":
        return lengths
    total = lengths.sum(axis=-1)
    return np.stack([np.zeros_like(total), total], axis=-1)


def row_columns(features: Iterable[str], feature_lengths: Mapping[str, int], prompt: Prompt) -> tuple[int, int]:
    """(columns of the encoder's side, of the decoder's side) of a row that holds the longest example."""
    held = set(features)
    lengths = [feature_lengths[name] if name in held else 0 for name in ("inputs", "targets")]
    encoder, decoder = columns(np.array(lengths), prompt).tolist()
    return encoder, decoder
