"""Reads an example store: examples by index, from ArrayRecord shards, checked record by record."""

from __future__ import annotations

import functools
import io
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from cat_jax.data import layout
from cat_jax.data.manifest import Manifest, ShardEntry, read_manifest
from cat_jax.data.record import CorruptRecord, Example, decode, parts
from cat_jax.errors import UserError
from cat_jax.files import checksum

MEND = "run `cat-jax prepare --overwrite` for this task and split"


class ExampleStore:
    """The examples of one (task, split); index i counts through the shards in order. Safe to read from threads."""

    def __init__(self, directory: str | os.PathLike, manifest: Manifest):
        self.directory = pathlib.Path(directory)
        self.manifest = manifest
        self.offsets = np.cumsum([0, *(shard.num_examples for shard in manifest.shards)])
        self._readers: dict[int, array_record_module.ArrayRecordReader] = {}
        self._lock = threading.Lock()

    @staticmethod
    def open(root: str | os.PathLike, task: str, split: str) -> ExampleStore:
        """Opens the store of `task` and `split` below the store root; reads the manifest and the files' sizes.

        Raises:
          UserError: there is no finished store, its manifest was changed, or a shard is missing or truncated.
        """
        directory = layout.store_directory(root, task, split)
        if not (directory / layout.MANIFEST).exists():
            raise UserError(*_missing(pathlib.Path(root), directory, task, split))
        store = ExampleStore(directory, read_manifest(directory))
        for shard in store.shards:
            path = directory / shard.file
            if not path.exists():
                raise UserError(f"the shard {path} is missing", MEND)
            if path.stat().st_size != shard.bytes:
                raise UserError(f"the shard {path} has {path.stat().st_size} bytes instead of {shard.bytes}", MEND)
        return store

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.manifest.task

    @property
    def split(self) -> str:
        """The name of the split."""
        return self.manifest.split

    @property
    def shards(self) -> tuple[ShardEntry, ...]:
        """The shards in the order in which examples count through them."""
        return self.manifest.shards

    @property
    def fingerprint(self) -> str:
        """Content hash of the store: other examples, other lengths, other vocabulary, other hash."""
        return self.manifest.fingerprint

    @property
    def num_examples(self) -> int:
        """Examples of all shards together, as `len`."""
        return int(self.offsets[-1])

    @property
    def has_inputs(self) -> bool:
        """Whether examples have inputs; targets they have always."""
        return "inputs" in self.manifest.features

    def require_texts(self, purpose: str = "") -> None:
        """Makes sure that examples hold what metrics read.

        Args:
          purpose: of the texts, for the message.

        Raises:
          UserError: the store was prepared without (see `PrepareConfig.keep_raw`).
        """
        if not self.manifest.recipe.keep_raw:
            purpose = purpose or f"for the metrics of {self.task}"
            raise UserError(
                f"the store {self.directory} holds no texts {purpose}",
                f"prepare the split {self.split!r} with PrepareConfig.keep_raw = 'all' in another STORE_DIR",
            )

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self.read([index])[0]

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), 1024):
            yield from self.read(range(start, min(start + 1024, len(self))))

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """i32[num_examples, 2]: tokens of the inputs (0 where there are none) and of the targets of each example."""
        return np.concatenate([self._lengths(shard) for shard in self.shards])

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shard and the index within the shard of each example index."""
        shards = np.searchsorted(self.offsets, indices, side="right") - 1
        return shards, indices - self.offsets[shards]

    def read(self, indices: Sequence[int] | np.ndarray) -> list[Example]:
        """The examples at `indices`, in that order.

        Raises:
          UserError: a record is damaged; names the shard's file and the record.
        """
        indices = np.asarray(indices, np.int64)
        return [self._decode(r, i) for r, i in zip(self.read_records(indices), indices.tolist(), strict=True)]

    def read_tokens(self, indices: np.ndarray) -> list[tuple[bytes | None, bytes]]:
        """The token ids of (inputs, targets) at `indices` as bytes in the features' dtypes, nothing else decoded."""
        found = []
        for record, index in zip(self.read_records(indices), indices.tolist(), strict=True):
            try:
                found.append(parts(record)[1:3])
            except (CorruptRecord, ValueError) as e:
                raise self._damaged(index, e) from e
        return found

    def read_records(self, indices: np.ndarray) -> list[bytes]:
        """The undecoded records at `indices`, in that order."""
        shards, within = self.locate(indices)
        if len(self.shards) == 1:
            return self._read_shard(0, within)
        records: list[bytes] = [b""] * len(indices)
        for shard in np.unique(shards).tolist():
            [places] = np.nonzero(shards == shard)
            for place, record in zip(places.tolist(), self._read_shard(shard, within[places]), strict=True):
                records[place] = record
        return records

    def verify(self) -> None:
        """Reads every byte of the store and compares the checksums.

        Raises:
          UserError: a file is missing or was changed; names it.
        """
        for shard in self.shards:
            for name, expected in ((shard.file, shard.sha256), (shard.lengths_file, shard.lengths_sha256)):
                path = self.directory / name
                if not path.exists():
                    raise UserError(f"{path} is missing", MEND)
                if checksum(path) != expected:
                    raise UserError(f"{path} was changed: its checksum does not fit the manifest", MEND)

    def _decode(self, record: bytes, index: int) -> Example:
        try:
            return decode(record, self.manifest.features)
        except (CorruptRecord, ValueError) as e:
            raise self._damaged(index, e) from e

    def _damaged(self, index: int, error: Exception) -> UserError:
        shard, within = (int(x) for x in self.locate(np.asarray(index)))
        path = self.directory / self.shards[shard].file
        return UserError(f"record {within} of {path} is damaged ({error})", MEND)

    def _read_shard(self, shard: int, within: np.ndarray) -> list[bytes]:
        reader, wanted = self._reader(shard), within.tolist()
        try:
            with self._lock:
                return list(reader.read(wanted))
        except (RuntimeError, ValueError, IndexError) as e:
            bad = next((i for i in wanted if not _readable(reader, i)), wanted[0])
            raise self._damaged(int(self.offsets[shard]) + bad, ValueError(str(e).split(";")[0])) from e

    def _reader(self, shard: int) -> array_record_module.ArrayRecordReader:
        with self._lock:
            if shard not in self._readers:
                path = self.directory / self.shards[shard].file
                try:
                    # Read-ahead is for scans; random access pays for it.
                    reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")
                    found = reader.num_records()
                except (RuntimeError, ValueError) as e:
                    raise UserError(f"cannot read the shard {path} ({e})", MEND) from e
                if found != self.shards[shard].num_examples:
                    expected = self.shards[shard].num_examples
                    raise UserError(f"the shard {path} holds {found} records instead of {expected}", MEND)
                self._readers[shard] = reader
            return self._readers[shard]

    def _lengths(self, shard: ShardEntry) -> np.ndarray:
        path = self.directory / shard.lengths_file
        try:
            lengths = np.load(io.BytesIO(path.read_bytes()))
        except (OSError, ValueError) as e:
            raise UserError(f"cannot read the token counts {path} ({e})", MEND) from e
        if lengths.shape != (shard.num_examples, 2):
            raise UserError(f"{path} counts {len(lengths)} examples instead of {shard.num_examples}", MEND)
        return lengths


def _readable(reader: array_record_module.ArrayRecordReader, index: int) -> bool:
    try:
        reader.read([index])
    except (RuntimeError, ValueError, IndexError):
        return False
    return True


def _missing(root: pathlib.Path, directory: pathlib.Path, task: str, split: str) -> tuple[str, str]:
    """The problem and the mend where a store has no manifest."""
    unfinished = directory.is_dir() and any(directory.iterdir())
    state = "an unfinished store" if unfinished else "no store"
    splits = layout.prepared_splits(root, task)
    there = f" (there are: {', '.join(splits)})" if splits else ""
    mend = "run `cat-jax prepare` for it, or name another STORE_DIR"
    return f"{state} of task {task!r}, split {split!r} in {root}{there}: no {directory / layout.MANIFEST}", mend
