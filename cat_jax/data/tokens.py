"""Token ids of many examples at once, as flat arrays: from memory where a store is small, else from its records."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from cat_jax.data.store import ExampleStore


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is flat[starts[i] : starts[i] + lengths[i]]."""

    flat: np.ndarray
    starts: np.ndarray  # i64[N]
    lengths: np.ndarray  # i64[N]


def spread(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The concatenation of arange(starts[i], starts[i] + lengths[i]).

    >>> spread(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - ends + lengths, lengths) + np.arange(total)


class TokenSource(Protocol):
    """Gives the tokens of examples of one store."""

    def gather(self, indices: np.ndarray) -> dict[str, Ragged]:
        """Per feature, one row for each index."""
        ...


class StoredTokens:
    """Reads and checks the records on every call."""

    def __init__(self, store: ExampleStore):
        self._store = store

    def gather(self, indices: np.ndarray) -> dict[str, Ragged]:
        records = self._store.read_tokens(indices)
        columns = {"inputs": 0, "targets": 1}
        return {
            name: _concatenate([record[columns[name]] or b"" for record in records], info.dtype)
            for name, info in self._store.manifest.features.items()
        }


class LoadedTokens:
    """Holds a whole store's tokens in memory."""

    _BLOCK = 8192

    def __init__(self, store: ExampleStore):
        source = StoredTokens(store)
        blocks = [
            source.gather(np.arange(start, min(start + self._BLOCK, len(store))))
            for start in range(0, len(store), self._BLOCK)
        ]
        self._rows = {}
        for name in store.manifest.features:
            lengths = np.concatenate([block[name].lengths for block in blocks])
            flat = np.concatenate([block[name].flat for block in blocks])
            self._rows[name] = Ragged(flat, np.cumsum(lengths) - lengths, lengths)

    def gather(self, indices: np.ndarray) -> dict[str, Ragged]:
        return {name: Ragged(r.flat, r.starts[indices], r.lengths[indices]) for name, r in self._rows.items()}


def token_sources(stores: list[ExampleStore], memory_bytes: int, memory_examples: int) -> list[TokenSource]:
    """A source for each store: in memory, in order, while the limits last; the others read their files."""
    sources: list[TokenSource] = []
    for store in stores:
        tokens = store.manifest.total("tokens")
        size = 16 * len(store) + sum(n * np.dtype(store.manifest.features[f].dtype).itemsize for f, n in tokens.items())
        if size <= memory_bytes and len(store) <= memory_examples:
            memory_bytes, memory_examples = memory_bytes - size, memory_examples - len(store)
            sources.append(LoadedTokens(store))
        else:
            sources.append(StoredTokens(store))
    return sources


def _concatenate(rows: list[bytes], dtype: str) -> Ragged:
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows)) // np.dtype(dtype).itemsize
    return Ragged(np.frombuffer(b"".join(rows), dtype), np.cumsum(lengths) - lengths, lengths)
