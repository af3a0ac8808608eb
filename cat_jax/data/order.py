"""Which example comes when: mixing and shuffling as pure functions of the position; any position can be resumed.

Vectorised: one call finds the examples of a whole batch. Grain's `MapDataset.mix` interleaves by the same rule, but its
rates are rounded to two digits of the smallest one, and an element at a time costs more than a small model's step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

_RESOLUTION = 1 << 24
"""Rates are rounded to multiples of one 2**-24th; positions stay below 2**39 so that products fit 64 bits."""
_BLOCK = 4096
_ROUNDS = 6
_NARROWEST = 3
"""Bits of the narrowest half: below that, six rounds do not reach all permutations evenly."""


def permute(position: np.ndarray, count: int, key: np.ndarray) -> np.ndarray:
    """A pseudorandom permutation of range(count) for each key, at the given positions, in constant memory.

    A Feistel network over a power of four, walking until the value falls below `count` (Black and Rogaway,
    "Ciphers with arbitrary finite domains", 2002).

    Args:
      position: i64[N] below count.
      count: how many there are.
      key: u64[N]; equal keys share a permutation.

    Returns:
      i64[N].
    """
    half = max(_NARROWEST, (max(count - 1, 1).bit_length() + 1) // 2)
    value = position.astype(np.uint64)
    round_keys = [_mix(key + np.uint64(r * 0x9E3779B97F4A7C15 % 2**64)) for r in range(1, _ROUNDS + 1)]
    todo = np.arange(len(value))
    while len(todo):
        value[todo] = _feistel(value[todo], half, [k[todo] for k in round_keys])
        todo = todo[value[todo] >= count]
    return value.astype(np.int64)


def _feistel(value: np.ndarray, half: int, keys: Sequence[np.ndarray]) -> np.ndarray:
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = value >> shift, value & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << shift) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def proportions(rates: Sequence[float]) -> np.ndarray:
    """The rates as positive integers that sum to 2**24 (largest remainder), i64[tasks]."""
    shares = np.asarray(rates, np.float64) / np.sum(rates) * _RESOLUTION
    whole = np.maximum(np.floor(shares), 1).astype(np.int64)
    order = np.argsort(whole - shares, kind="stable")
    rest = int(_RESOLUTION - whole.sum())
    if rest < 0:  # more rates below the resolution than remainders to take them from
        whole[np.argmax(whole)] += rest
    else:
        whole[order[:rest]] += 1
    return whole


def draws(position: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """How often each task was drawn before each position, i64[tasks, N]: within one of its share, at every position."""
    counts, rest, remaining = [], np.asarray(position, np.int64), int(parts.sum())
    for part in parts.tolist():
        after = rest * (remaining - part) // remaining
        counts.append(rest - after)
        rest, remaining = after, remaining - part
    return np.stack(counts)


class ExampleOrder:
    """The stream of examples of a mixture: `at(positions)` gives the task and the example at each position.

    Each task runs through its examples again and again, every time in another order; with `num_epochs` the stream ends
    where the first task would begin its epoch number `num_epochs` + 1, as SeqIO's mixtures do.

    Args:
      sizes: examples of each task.
      rates: how often each task is drawn, relative to the others.
      names: of the tasks; shuffles differ by name, so that adding a task does not reshuffle the others.
      seed: of the shuffles; None for the stores' own order.
      num_epochs: None for no end.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rates: Sequence[float],
        names: Sequence[str],
        seed: int | None,
        num_epochs: int | None = None,
    ):
        self._sizes = np.asarray(sizes, np.int64)
        self._parts = proportions(rates)
        self._keys = None if seed is None else [_key(seed, name) for name in names]
        self.length = None if num_epochs is None else self._end(num_epochs)
        self._block: tuple[int, np.ndarray, np.ndarray] | None = None

    def between(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """`at(arange(start, stop))`, found for a block of positions at once and kept: batches come in order."""
        tasks, indices = [], []
        while start < stop:
            number, offset = divmod(start, _BLOCK)
            if self._block is None or self._block[0] != number:
                self._block = (number, *self.at(np.arange(number * _BLOCK, (number + 1) * _BLOCK)))
            end = min(offset + stop - start, _BLOCK)
            tasks.append(self._block[1][offset:end])
            indices.append(self._block[2][offset:end])
            start += end - offset
        if not tasks:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate(tasks), np.concatenate(indices)

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(task ids i64[N], indices within the task's store i64[N]) of stream positions i64[N]."""
        if len(self._parts) == 1:
            tasks, nth = np.zeros_like(positions), positions
        else:
            before = draws(positions, self._parts)
            tasks = np.argmax(draws(positions + 1, self._parts) != before, axis=0)
            nth = np.take_along_axis(before, tasks[None], axis=0)[0]
        epochs, indices = np.divmod(nth, self._sizes[tasks])
        if self._keys is not None:
            for task in np.unique(tasks).tolist():
                [places] = np.nonzero(tasks == task)
                keys = _mix(self._keys[task] + epochs[places].astype(np.uint64))
                indices[places] = permute(indices[places], int(self._sizes[task]), keys)
        return tasks, indices

    def _end(self, num_epochs: int) -> int:
        """The largest length at which no task has begun a further epoch."""
        if len(self._parts) == 1:
            return int(self._sizes[0]) * num_epochs
        low, high = 0, int(self._sizes.sum()) * num_epochs
        while low < high:
            middle = (low + high + 1) // 2
            if (draws(np.array([middle]), self._parts)[:, 0] <= self._sizes * num_epochs).all():
                low = middle
            else:
                high = middle - 1
        return low


def _key(seed: int, name: str) -> np.uint64:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))
