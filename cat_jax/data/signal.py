"""How the loader reads a stored teacher signal; the teacher's room implements it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from cat_jax.types import TeacherSignal


class SignalReader(Protocol):
    """The stored signal of one (task, split), record i for example i."""

    def read(self, shard: int, index_in_shard: int, num_targets: int) -> Mapping[str, np.ndarray]:
        """Arrays over the target positions of one example, leading axis `num_targets`."""
        ...

    def assemble(self, padded: Mapping[str, np.ndarray]) -> TeacherSignal:
        """The signal of a batch: each array as `read` gives it, but [B, T, ...], zero (False) where nothing is."""
        ...


@runtime_checkable
class BatchSignalReader(Protocol):
    """Optional, and faster: the signals of many examples in one call."""

    def read_batch(
        self, shards: np.ndarray, indices_in_shard: np.ndarray, num_targets: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        """The arrays of `read`, concatenated over the examples: leading axis sum(num_targets)."""
        ...


def read_many(
    reader: SignalReader, shards: np.ndarray, indices_in_shard: np.ndarray, num_targets: np.ndarray
) -> Mapping[str, np.ndarray]:
    """The signals of many examples, concatenated along the target positions, through whichever method there is."""
    if isinstance(reader, BatchSignalReader):
        return reader.read_batch(shards, indices_in_shard, num_targets)
    each = [
        reader.read(shard, index, length)
        for shard, index, length in zip(shards.tolist(), indices_in_shard.tolist(), num_targets.tolist(), strict=True)
    ]
    return {name: np.concatenate([signal[name] for signal in each]) for name in each[0]}
