"""One shard of a stored signal as a file: the bits of all its target tokens, then their records.

Position p of the shard (targets count through its examples in order) has bit p % 8, least first, of byte p // 8, and
the record at (bytes of all bits) + p * (bytes of a record). Ragged records have their heads there, and what else counts
of them follows all heads, in the same order. Where an example begins is known from the store's token counts, so nothing
but the signal itself is in the file.
"""

from __future__ import annotations

import hashlib
import math
import os
import pathlib
import zlib
from collections.abc import Mapping

import numpy as np

from cat_jax.errors import UserError
from cat_jax.teacher.layout import pack_records
from cat_jax.teacher.manifest import MEND, Recipe, ShardEntry, bits_bytes
from cat_jax.teacher.ragged import RestIndex

BLOCK_BYTES = 1 << 18
"""Bytes that one CRC-32 of the manifest covers."""


class ShardBuffer:
    """A shard's signal in memory, filled in any order of its target positions, each exactly once."""

    def __init__(self, recipe: Recipe, target_tokens: int):
        self._dtype, self._ragged = recipe.layout.record_dtype(recipe.vocab_size), recipe.ragged
        self.target_tokens = target_tokens
        self._bits = np.zeros(target_tokens, bool)
        self._filled = np.zeros(target_tokens, bool)
        self._records = None if self._dtype is None else np.zeros(target_tokens, self._dtype)
        self._squared_errors = np.full(target_tokens, np.nan, np.float32)

    def put(self, positions: np.ndarray, fields: Mapping[str, np.ndarray]) -> None:
        """Sets the target positions i64[N] to what the layout's `encode` gave for them, arrays [N, ...]."""
        assert not self._filled[positions].any()
        self._filled[positions] = True
        self._bits[positions] = fields["top1_correct"]
        if self._records is not None and self._dtype is not None:
            self._records[positions] = pack_records(self._dtype, fields)
        if "squared_error" in fields:
            self._squared_errors[positions] = fields["squared_error"]

    @property
    def teacher_right(self) -> int:
        return int(self._bits.sum())

    @property
    def squared_error(self) -> float | None:
        """The sum over the target positions, exactly rounded whatever their order; None if not known of all."""
        known = self.target_tokens > 0 and not np.isnan(self._squared_errors).any()
        return math.fsum(self._squared_errors.tolist()) if known else None

    def content(self) -> bytes:
        """The file's bytes."""
        assert self._filled.all()
        bits = np.packbits(self._bits, bitorder="little").tobytes()
        if self._records is None or self._dtype is None:
            return bits
        if self._ragged is None:
            return bits + self._records.tobytes()
        return bits + self._ragged.pack(self._records.view(np.uint8).reshape(-1, self._dtype.itemsize))


def make_shard(file: str, num_examples: int, buffer: ShardBuffer) -> tuple[ShardEntry, bytes]:
    """The manifest's line on a shard, and its file's bytes."""
    content = buffer.content()
    entry = ShardEntry(
        file=file,
        num_examples=num_examples,
        target_tokens=buffer.target_tokens,
        teacher_right=buffer.teacher_right,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        blocks=_block_sums(content),
        squared_error=buffer.squared_error,
    )
    return entry, content


def _block_sums(content: bytes) -> str:
    sums = [zlib.crc32(content[i : i + BLOCK_BYTES]) for i in range(0, len(content), BLOCK_BYTES)]
    return np.array(sums, "<u4").tobytes().hex()


class ShardReader:
    """Random access to the target positions of one shard's file, which is mapped into memory.

    A block of the file is checked against its CRC-32 when it is first touched.
    """

    def __init__(self, path: pathlib.Path, entry: ShardEntry, recipe: Recipe):
        self._path, self._tokens = path, entry.target_tokens
        self._record_bytes, self._ragged = recipe.record_bytes, recipe.ragged
        self._head_bytes = self._record_bytes if self._ragged is None else self._ragged.head
        self._begin = bits_bytes(entry.target_tokens)
        # A plain array over the map: slicing np.memmap itself is several times slower.
        self._bytes = np.asarray(np.memmap(path, np.uint8, "r")) if entry.bytes else np.zeros(0, np.uint8)
        self._end = self._begin + self._head_bytes * self._tokens  # of the heads
        self._heads = self._bytes[self._begin : self._end].reshape(-1, self._head_bytes) if self._head_bytes else None
        self._index: RestIndex | None = None
        self._sums = np.frombuffer(bytes.fromhex(entry.blocks), "<u4")
        self._good = np.zeros(len(self._sums), bool)

    def check(self) -> None:
        """Checks all blocks that are still unchecked.

        Raises:
          UserError: a block was changed; names the file.
        """
        self._check(np.arange(len(self._good)))

    def gather(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(bits bool[N], records u8[N, bytes of a record] or None) of target positions i64[N].

        Raises:
          UserError: a block of the file was changed.
        """
        where = positions >> 3
        self._check(where // BLOCK_BYTES)
        bits = (self._bytes[where] >> (positions & 7).astype(np.uint8)) & 1
        if self._heads is None:
            return bits.astype(bool), None
        self._check_range(self._begin + positions * self._head_bytes, self._head_bytes)
        heads = self._heads[positions]
        return bits.astype(bool), heads if self._ragged is None else np.hstack([heads, self._rests(positions)])

    def _rests(self, positions: np.ndarray) -> np.ndarray:
        """u8[N, bytes of a record - bytes of a head], zero where nothing counts."""
        if self._index is None:  # where one rest lies is known from all heads before it
            assert self._ragged is not None
            assert self._heads is not None
            self._check(np.arange(self._begin // BLOCK_BYTES, -(-self._end // BLOCK_BYTES)))
            self._index = RestIndex(self._ragged.rest(self._heads))
        begin, size = self._index.find(positions)
        self._check_range(self._end + begin, np.maximum(size, 1))
        places = np.arange(self._record_bytes - self._head_bytes)
        where = np.minimum(self._end + begin[:, None] + places, len(self._bytes) - 1)
        return np.where(places < size[:, None], self._bytes[where], 0)

    def _check_range(self, first: np.ndarray, size: np.ndarray | int) -> None:
        """Checks the blocks that bytes `first` to `first + size` lie in, i64[N]."""
        last = np.minimum(first + size - 1, len(self._bytes) - 1) // BLOCK_BYTES
        first = np.minimum(first // BLOCK_BYTES, last)
        for step in range(int((last - first).max(initial=0)) + 1):
            self._check(np.minimum(first + step, last))

    def _check(self, blocks: np.ndarray) -> None:
        for block in np.unique(blocks[~self._good[blocks]]).tolist():
            content = self._bytes[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
            if zlib.crc32(content.data) != self._sums[block]:
                raise UserError(
                    f"the signal {self._path} was changed: bytes from {block * BLOCK_BYTES} on do not fit their "
                    "checksum in the manifest",
                    MEND,
                )
            self._good[block] = True


def check_size(path: pathlib.Path, entry: ShardEntry) -> None:
    """Refuses a missing or truncated file.

    Raises:
      UserError: naming the file.
    """
    if not path.exists():
        raise UserError(f"the signal {path} is missing", MEND)
    if os.path.getsize(path) != entry.bytes:
        raise UserError(f"the signal {path} has {os.path.getsize(path)} bytes instead of {entry.bytes}", MEND)
