"""Buckets of lengths: to what examples are padded where each shape is a program to compile."""

from __future__ import annotations

import numpy as np

_MULTIPLE = 8
_SHORTEST = 32
_HALVINGS = 3


def bucket_lengths(longest: int) -> np.ndarray:
    """The lengths that examples are padded to: the feature length, its half, quarter and eighth, none below 32.

    Few, because each pair of lengths is a program to compile.

    >>> bucket_lengths(512).tolist(), bucket_lengths(100).tolist(), bucket_lengths(12).tolist()
    ([64, 128, 256, 512], [32, 56, 100], [12])
    """
    halves = (-(-longest // 2**i) for i in range(_HALVINGS + 1))
    return np.unique([min(longest, max(_SHORTEST, -(-half // _MULTIPLE) * _MULTIPLE)) for half in halves])
