"""Which examples of a shard are computed together: decided by the shard alone, so that bytes do not depend on hosts.

A program of another shape, or the same rows in another padding, may round differently and flip a near tie. So every
example is always computed in a batch of the same rows, padded to the same lengths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from cat_jax.data.buckets import bucket_lengths


@dataclasses.dataclass(frozen=True)
class Group:
    """The examples of one batch on one device, and the lengths to pad them to."""

    examples: np.ndarray  # i64[N], N <= batch size: indices in the shard
    input_length: int
    target_length: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.input_length, self.target_length


def group_examples(lengths: np.ndarray, feature_lengths: Mapping[str, int], batch_size: int) -> list[Group]:
    """Cuts a shard into batches of examples of similar length; only the last one is not full.

    Args:
      lengths: i32[N, 2]: tokens of the inputs and of the targets of each example of the shard.
      feature_lengths: the longest that each feature may be; without "inputs" their length is 0.
      batch_size: examples in a batch.
    """
    buckets = [bucket_lengths(feature_lengths.get(name, 0)) for name in ("inputs", "targets")]
    padded = np.stack([b[np.searchsorted(b, lengths[:, i])] for i, b in enumerate(buckets)], axis=1)
    order = np.lexsort((np.arange(len(lengths)), padded[:, 0], padded[:, 1]))
    groups = []
    for start in range(0, len(order), batch_size):
        examples = order[start : start + batch_size]
        input_length, target_length = padded[examples].max(axis=0).tolist()
        groups.append(Group(examples, input_length, target_length))
    return groups
