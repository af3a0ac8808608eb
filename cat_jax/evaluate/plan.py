"""Which examples are computed together: decided by the store alone, so that a table does not depend on the devices.

A chunk is what one device computes at a time: the same examples at the same places in arrays of the same shape,
whatever the number of devices and hosts. A batch is as many chunks as there are devices that split rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from cat_jax.data.buckets import bucket_lengths


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The examples that one device computes at a time."""

    examples: np.ndarray  # i64[n], n <= rows of a chunk: indices in the store
    input_length: int  # what their inputs are padded to


def plan_chunks(input_lengths: np.ndarray, longest: int, rows: int, *keys: np.ndarray) -> list[Chunk]:
    """Cuts all examples into chunks of similar ones; only the last chunk is not full.

    Args:
      input_lengths: i64[N] tokens of each example's input.
      longest: the longest that an input may be; the few lengths that inputs are padded to follow from it.
      rows: examples of a chunk.
      *keys: i64[N] each: what makes examples similar besides the padded length of their input, least first.
    """
    buckets = bucket_lengths(longest)
    padded = buckets[np.searchsorted(buckets, input_lengths)]
    order = np.lexsort((np.arange(len(padded)), input_lengths, *keys, padded))
    cuts = [order[start : start + rows] for start in range(0, len(order), rows)]
    return [Chunk(examples, int(padded[examples].max())) for examples in cuts]


def batches(chunks: Sequence[Chunk], count: int) -> Iterator[list[Chunk]]:
    """Consecutive chunks of one input length, up to `count` at a time."""
    batch: list[Chunk] = []
    for chunk in chunks:
        if batch and (len(batch) == count or batch[0].input_length != chunk.input_length):
            yield batch
            batch = []
        batch.append(chunk)
    if batch:
        yield batch


def places(batch: Sequence[Chunk], rows: int, part: int, parts: int, chunks_in_batch: int) -> np.ndarray:
    """i64[R]: the example of each row that process part `part` of `parts` feeds to a batch; -1 where there is none.

    A batch has room for `chunks_in_batch` chunks of `rows` rows; each part feeds equally many consecutive chunks.
    """
    share = chunks_in_batch // parts
    found = np.full((share, rows), -1, np.int64)
    for i, chunk in enumerate(batch[part * share : (part + 1) * share]):
        found[i, : len(chunk.examples)] = chunk.examples
    return found.reshape(-1)
