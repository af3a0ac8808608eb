"""Writes an example store, shard by shard: a shard is either whole or not there, and a finished one is never redone."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from cat_jax.data import layout
from cat_jax.data.manifest import FEATURES, STORE, Manifest, Recipe, ShardEntry
from cat_jax.data.record import Example, encode
from cat_jax.errors import DataError, UserError
from cat_jax.files import atomic_write, cannot_write, checksum, fingerprint, write_json

# One record a group: random access decodes nothing else. Token ids hardly compress, and records stay readable at
# three times the speed.
ARRAY_RECORD_OPTIONS = "group_size:1,uncompressed"


class StoreWriter:
    """Writes the store of one (task, split) into `directory`, resuming what an earlier writer left.

    Any number of processes may write different shards. The order of one shard's files is: data, lengths, then the
    sidecar, which alone makes the shard count as finished. The manifest comes last and makes the store readable.

    Raises:
      UserError: the directory holds something else than an example store.
    """

    def __init__(self, directory: str | os.PathLike, recipe: Recipe):
        self.directory = pathlib.Path(directory)
        self.recipe = recipe
        self._mark = fingerprint(recipe.to_dict())
        STORE.refuse_others(self.directory)

    def finished(self, shard: int) -> ShardEntry | None:
        """The entry of a shard that was finished under the same recipe, else None."""
        try:
            sidecar = json.loads((self.directory / layout.sidecar_file(shard, self.recipe.num_shards)).read_text())
            if sidecar["recipe"] != self._mark:
                return None
            entry = ShardEntry(**sidecar["shard"])
            whole = os.path.getsize(self.directory / entry.file) == entry.bytes
            return entry if whole and (self.directory / entry.lengths_file).exists() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def pending(self) -> list[int]:
        """The shards that are still to be written."""
        return [shard for shard in range(self.recipe.num_shards) if self.finished(shard) is None]

    def shard(self, shard: int, example_ids: str = "position") -> ShardWriter:
        """A context manager to write one shard with; the shard is finished when the context ends without an error.

        Args:
          shard: which one.
          example_ids: where ids come from; those of a "feature" are searched for duplicates in the end.
        """
        return ShardWriter(self.directory, self.recipe, shard, self._mark, example_ids)

    def finish(self) -> Manifest:
        """Writes the manifest, after removing what other recipes and killed writers left in the directory.

        Raises:
          UserError: a shard is not finished, or an example id occurs twice.
        """
        entries = []
        for shard in range(self.recipe.num_shards):
            entry = self.finished(shard)
            if entry is None:
                name = self.directory / layout.shard_file(shard, self.recipe.num_shards)
                raise UserError(f"the shard {name} is not finished", "run `cat-jax prepare` again")
            entries.append(entry)
        manifest = Manifest(self.recipe, tuple(entries))
        if not manifest.num_examples:
            raise DataError(
                f"task {self.recipe.task!r} has no examples in split {self.recipe.split!r}",
                "check the task's source and its filters",
                self.recipe.task,
            )
        if any(entry.example_ids == "feature" for entry in entries):
            self._refuse_duplicates(manifest)
        self._sweep(manifest)
        write_json(self.directory / layout.MANIFEST, manifest.to_dict())
        return manifest

    def take_over(self) -> None:
        """Puts the finished first shard of the staging directory in the place of the store that is here.

        Raises:
          UserError: the directory cannot be written.
        """
        staging = layout.staging_directory(self.directory)
        entry = StoreWriter(staging, self.recipe).finished(0)
        assert entry is not None
        self.discard()
        try:
            for name in (entry.file, entry.lengths_file, layout.sidecar_file(0, self.recipe.num_shards)):
                os.replace(staging / name, self.directory / name)
        except OSError as e:
            raise cannot_write(self.directory, e) from e

    def discard(self) -> None:
        """Removes the store's shards, then its manifest.

        In this order, for what a kill leaves must not be gone on with, as if its shards were of the next store: a
        manifest without all of its shards is refused. Where there is none, one that nobody reads stands for it.
        """
        manifest, files = self.directory / layout.MANIFEST, STORE.files(self.directory)
        if files and not manifest.exists():
            with contextlib.suppress(UserError):  # a full disk: what is there goes all the more
                write_json(manifest, {"kind": STORE.name, "version": "discarded"})
        try:
            for path in files:
                path.unlink(missing_ok=True)
            manifest.unlink(missing_ok=True)
        except OSError as e:
            raise cannot_write(self.directory, e) from e

    def _refuse_duplicates(self, manifest: Manifest) -> None:
        from cat_jax.data.store import ExampleStore  # the reader knows the writer's options, not the other way round

        store = ExampleStore(self.directory, manifest)
        counts = collections.Counter(example.example_id for example in store)
        [(example_id, count)] = counts.most_common(1)
        if count > 1:
            raise UserError(
                f"example id {example_id!r} occurs {count} times in task {manifest.task!r}, split {manifest.split!r}",
                "make the task's feature `example_id` unique, or drop it: ids are then positions",
            )

    def _sweep(self, manifest: Manifest) -> None:
        keep = set()
        for shard, entry in enumerate(manifest.shards):
            keep |= {entry.file, entry.lengths_file, layout.sidecar_file(shard, self.recipe.num_shards)}
        for path in STORE.files(self.directory):
            if path.name not in keep:
                path.unlink(missing_ok=True)


def write_store(root: str | os.PathLike, recipe: Recipe, examples: Iterable[Example]) -> Manifest:
    """Writes a store from examples in memory, without SeqIO: example k goes to shard k % num_shards, as SeqIO deals.

    Raises:
      UserError: the store cannot be written, or an example id occurs twice.
    """
    writer = StoreWriter(layout.store_directory(root, recipe.task, recipe.split), recipe)
    dealt: list[list[Example]] = [[] for _ in range(recipe.num_shards)]
    for k, example in enumerate(examples):
        dealt[k % recipe.num_shards].append(example)
    for shard in writer.pending():
        with writer.shard(shard, example_ids="feature") as out:
            for example in dealt[shard]:
                out.write(example)
    return writer.finish()


class ShardWriter:
    """Writes one shard; see `StoreWriter.shard`."""

    def __init__(self, directory: pathlib.Path, recipe: Recipe, shard: int, mark: str, example_ids: str):
        self._directory, self._recipe, self._shard, self._mark = directory, recipe, shard, mark
        self._example_ids = example_ids
        self._lengths: list[tuple[int, int]] = []
        self._trimmed = collections.Counter(dict.fromkeys(recipe.features, 0))
        self._shared = None if recipe.held_out is None else collections.Counter(exact=0, normalized=0)

    def __enter__(self) -> ShardWriter:
        name = layout.shard_file(self._shard, self._recipe.num_shards)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            descriptor, self._temporary = tempfile.mkstemp(dir=self._directory, prefix=f".{name}.")
            os.close(descriptor)
            os.chmod(self._temporary, 0o644)
        except OSError as e:
            raise cannot_write(self._directory / name, e) from e
        self._writer = array_record_module.ArrayRecordWriter(self._temporary, ARRAY_RECORD_OPTIONS)
        return self

    def write(self, example: Example, trimmed: tuple[str, ...] = ()) -> None:
        """Appends an example; `trimmed` names the features that lost tokens to their feature length."""
        try:
            self._writer.write(encode(example, self._recipe.features))
        except RuntimeError as e:
            raise self._refused(e) from e
        self._lengths.append((0 if example.inputs is None else len(example.inputs), len(example.targets)))
        self._trimmed.update(trimmed)

    def count_shared(self, exact: bool, normalized: bool) -> None:
        """Counts an example that a held-out split has, too; for a recipe that compares with some."""
        assert self._shared is not None
        self._shared.update(exact=int(exact), normalized=int(normalized))

    @property
    def num_examples(self) -> int:
        return len(self._lengths)

    def __exit__(self, error_type: Any, error: Any, traceback: Any) -> None:
        try:
            try:
                self._writer.close()
            except RuntimeError as e:
                raise self._refused(e) from e
            if error_type is None:
                self._publish()
        finally:
            pathlib.Path(self._temporary).unlink(missing_ok=True)

    def _publish(self) -> None:
        shards = self._recipe.num_shards
        path = self._directory / layout.shard_file(self._shard, shards)
        lengths = np.array(self._lengths, np.int32).reshape(-1, 2)
        buffer = io.BytesIO()
        np.save(buffer, lengths)
        lengths_path = self._directory / layout.lengths_file(self._shard, shards)
        try:
            with open(self._temporary, "rb") as f:
                os.fsync(f.fileno())
            size, sha256 = os.path.getsize(self._temporary), checksum(self._temporary)
            os.replace(self._temporary, path)
        except OSError as e:
            raise cannot_write(path, e) from e
        atomic_write(lengths_path, buffer.getvalue())
        entry = ShardEntry(
            file=path.name,
            num_examples=len(lengths),
            example_ids=self._example_ids,
            bytes=size,
            sha256=sha256,
            lengths_file=lengths_path.name,
            lengths_sha256=checksum(lengths_path),
            tokens=self._per_feature(lengths.sum(axis=0, dtype=np.int64)),
            longest=self._per_feature(lengths.max(axis=0, initial=0)),
            trimmed={name: self._trimmed[name] for name in self._recipe.features},
            at_limit=self._per_feature((lengths == self._limits()).sum(axis=0)),
            shared=None if self._shared is None else dict(self._shared),
        )
        sidecar = self._directory / layout.sidecar_file(self._shard, shards)
        write_json(sidecar, {"recipe": self._mark, "shard": entry.to_dict()})

    def _limits(self) -> np.ndarray:
        return np.array([self._recipe.feature_lengths.get(name, -1) for name in FEATURES])

    def _per_feature(self, columns: np.ndarray) -> dict[str, int]:
        by_name: dict[str, int] = dict(zip(FEATURES, columns.tolist(), strict=True))
        return {name: by_name[name] for name in self._recipe.features}

    def _refused(self, error: RuntimeError) -> UserError:
        name = self._directory / layout.shard_file(self._shard, self._recipe.num_shards)
        reason = str(error).split(";")[0]
        return UserError(f"cannot write {name} ({reason})", "free space there, or name a directory you may write")
