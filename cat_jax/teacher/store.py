"""Reads a stored teacher signal, after checking that it is of this store, this teacher and this use."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from cat_jax.checkpoint.params import GivenModel
from cat_jax.data.store import ExampleStore
from cat_jax.data.tokens import spread
from cat_jax.errors import UserError
from cat_jax.files import checksum
from cat_jax.teacher.layout import SignalLayout
from cat_jax.teacher.manifest import MEND, Manifest, TeacherIdentity, read_manifest, signal_directory
from cat_jax.teacher.shard import ShardReader, check_size
from cat_jax.types import TeacherSignal

MEMORY_BYTES = 1 << 28
"""Up to this size a signal is read into memory when it is opened."""


class SignalStore:
    """The stored signal of one (task, split): record i for example i of the store. Implements data's SignalReader."""

    def __init__(self, directory: pathlib.Path, manifest: Manifest, store: ExampleStore, memory_bytes: int):
        self.directory, self.manifest = directory, manifest
        size = manifest.recipe.record_bytes
        self._lengths = store.lengths[:, 1].astype(np.int64)
        self._offsets = store.offsets
        ends = np.cumsum(self._lengths)
        self._starts = ends - self._lengths
        shard_ends = np.concatenate([[0], ends])[store.offsets]
        self._shard_starts, counted = shard_ends[:-1], np.diff(shard_ends)
        for shard, entry in enumerate(manifest.shards):
            check_size(directory / entry.file, entry)
            if counted[shard] != entry.target_tokens:
                raise UserError(
                    f"{directory / entry.file} is of {entry.target_tokens} target tokens, "
                    f"{store.directory / store.shards[shard].file} has {counted[shard]}",
                    MEND,
                )
        self._shards = [ShardReader(directory / entry.file, entry, manifest.recipe) for entry in manifest.shards]
        self._memory = None
        if int(counted.sum()) * (1 + size) <= memory_bytes:  # a bit is a byte there
            self._memory = self._load(counted)

    @staticmethod
    def open(
        signal_dir: str | os.PathLike,
        store: ExampleStore,
        *,
        needs_distribution: bool = False,
        temperature: float = 1.0,
        teacher: TeacherIdentity | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> SignalStore:
        """Opens the signal of `store`'s task and split below `signal_dir`.

        Args:
          signal_dir: the directory that `teach` wrote.
          store: the examples that it must be of.
          needs_distribution: whether the objective has a distillation term.
          temperature: of the objective, where it has one.
          teacher: the checkpoint that it must be from, in whatever dtype; None for any.
          memory_bytes: a signal that takes no more than this in memory is read now, a larger one as it is used.

        Raises:
          UserError: there is no such signal; it is of another store, vocabulary or teacher, too little for the
            objective, or damaged. Each names both sides.
        """
        directory = signal_directory(signal_dir, store.task, store.split)
        manifest = read_manifest(directory)
        _check_store(directory, manifest, store)
        if teacher is not None and manifest.recipe.teacher.fingerprint != teacher.fingerprint:
            wanted = f"{teacher.name} at step {teacher.step} ({teacher.fingerprint[:12]})"
            raise UserError(
                f"the signal {directory} is from the teacher {manifest.recipe.teacher}, not from {wanted}",
                "name the signal of that teacher, or run `cat-jax teach` with it",
            )
        if needs_distribution:
            _check_distribution(directory, manifest, temperature)
        return SignalStore(directory, manifest, store, memory_bytes)

    @property
    def layout(self) -> SignalLayout:
        """What is kept of each target token."""
        return self.manifest.recipe.layout

    @property
    def bytes_in_memory(self) -> int:
        """What the signal takes in memory, 0 where it is read as it is used."""
        return 0 if self._memory is None else sum(part.nbytes for part in self._memory if part is not None)

    def read(self, shard: int, index_in_shard: int, num_targets: int) -> dict[str, np.ndarray]:
        """The signal of one example; see `read_batch`."""
        return self.read_batch(np.array([shard]), np.array([index_in_shard]), np.array([num_targets]))

    def read_batch(
        self, shards: np.ndarray, indices_in_shard: np.ndarray, num_targets: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The signals of many examples, concatenated along the target positions.

        Args:
          shards: i64[N].
          indices_in_shard: i64[N].
          num_targets: i64[N]: how many of each example's targets, from its first one on.

        Returns:
          'top1_correct' bool[sum(num_targets)], and unless the layout is the bit alone 'records'
          u8[sum(num_targets), bytes of a record].

        Raises:
          UserError: more targets than the example has, or the signal's file was changed.
        """
        examples = self._offsets[shards] + indices_in_shard
        if (num_targets > self._lengths[examples]).any():
            bad = int(np.argmax(num_targets > self._lengths[examples]))
            raise UserError(
                f"example {indices_in_shard[bad]} of shard {shards[bad]} has {self._lengths[examples[bad]]} targets "
                f"in the signal {self.directory}, {num_targets[bad]} in the batch",
                MEND,
            )
        positions = spread(self._starts[examples], num_targets)
        if self._memory is not None:
            bits, records = self._memory
            return _named(bits[positions], None if records is None else records[positions])
        return self._gather(positions, np.repeat(shards, num_targets))

    def assemble(self, padded: Mapping[str, np.ndarray]) -> TeacherSignal:
        """The signal of a batch from the arrays of `read_batch`, scattered into [B, T, ...] and zero elsewhere."""
        return self.layout.assemble(padded, self.manifest.recipe.vocab_size)

    def verify(self) -> None:
        """Reads every byte of the signal and compares the checksums.

        Raises:
          UserError: a file is missing or was changed; names it.
        """
        for entry in self.manifest.shards:
            path = self.directory / entry.file
            check_size(path, entry)
            if checksum(path) != entry.sha256:
                raise UserError(f"the signal {path} was changed: its checksum does not fit the manifest", MEND)

    def _load(self, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(bits, records) of all target tokens of all shards, checked and in memory."""
        bits, records = self._empty(int(counted.sum()))
        for reader, start, tokens in zip(self._shards, self._shard_starts.tolist(), counted.tolist(), strict=True):
            reader.check()
            bits[start : start + tokens], found = reader.gather(np.arange(tokens))
            if records is not None:
                records[start : start + tokens] = found
        return bits, records

    def _empty(self, tokens: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(bits, records) for so many target tokens."""
        size = self.manifest.recipe.record_bytes
        return np.empty(tokens, bool), np.empty((tokens, size), np.uint8) if size else None

    def _gather(self, positions: np.ndarray, shards: np.ndarray) -> dict[str, np.ndarray]:
        bits, records = self._empty(len(positions))
        for shard in np.unique(shards).tolist():
            [places] = np.nonzero(shards == shard)
            found = self._shards[shard].gather(positions[places] - self._shard_starts[shard])
            bits[places] = found[0]
            if records is not None:
                records[places] = found[1]
        return _named(bits, records)


@dataclasses.dataclass(frozen=True)
class StoredTeacher:
    """A teacher whose signal lies on disk, written by `teach`.

    Attributes:
      signal_dir: the directory that `teach` wrote.
      model_dir: if set, the signal must be from this model's checkpoint.
      step: the checkpoint's step, None for the last; only with `model_dir`.
      model: as of `LiveTeacher`; only with `model_dir`.
    """

    signal_dir: str
    model_dir: str | None = None
    step: int | str | None = None
    model: GivenModel = None

    def readers(
        self,
        stores: Sequence[ExampleStore],
        *,
        needs_distribution: bool = False,
        temperature: float = 1.0,
        memory_bytes: int = 1 << 30,
    ) -> dict[str, SignalStore]:
        """An open signal for each store, by task name: what the loader takes as `signals`.

        Signals are read into memory while they fit `memory_bytes` together.

        Raises:
          UserError: as `SignalStore.open`; or the tasks' signals are of different layouts or teachers.
        """
        teacher = None
        if self.model_dir is not None:
            teacher = TeacherIdentity.of(self.model_dir, self.step, dtype="", model=self.model)
        readers: dict[str, SignalStore] = {}
        for store in stores:
            reader = SignalStore.open(
                self.signal_dir,
                store,
                needs_distribution=needs_distribution,
                temperature=temperature,
                teacher=teacher,
                memory_bytes=memory_bytes,
            )
            memory_bytes -= reader.bytes_in_memory
            readers[store.task] = reader
        first, *others = readers.values()
        for other in others:
            _check_alike(first, other)
        return readers


def _named(bits: np.ndarray, records: np.ndarray | None) -> dict[str, np.ndarray]:
    return {"top1_correct": bits} if records is None else {"top1_correct": bits, "records": records}


def _check_store(directory: pathlib.Path, manifest: Manifest, store: ExampleStore) -> None:
    recipe, targets = manifest.recipe, store.manifest.features["targets"]
    if recipe.vocabulary != targets.vocabulary:
        raise UserError(
            f"the signal {directory} is over the vocabulary {recipe.vocabulary[:12]}, "
            f"the store {store.directory} over {targets.vocabulary[:12]}",
            "use the store that was taught (with --align: in TEACHER_STORE_DIR), teach with a teacher of this "
            "vocabulary, or carry the bits over with `cat-jax teach --align`",
        )
    if recipe.store != store.fingerprint:
        raise UserError(
            f"the signal {directory} is of the store {recipe.store[:12]} (lengths {dict(recipe.feature_lengths)}), "
            f"the store {store.directory} is {store.fingerprint[:12]} (lengths {dict(store.manifest.feature_lengths)})",
            "run `cat-jax teach` on this store, or name the store that was taught",
        )


def _check_distribution(directory: pathlib.Path, manifest: Manifest, temperature: float) -> None:
    layout = manifest.recipe.layout
    if manifest.recipe.aligned is not None:
        raise UserError(
            f"the signal {directory} was carried over from another vocabulary and has bits alone: no distribution "
            "over the teacher's tokens is one over the student's, and the objective has w < 1",
            "set Objective.w = 1 (cat_xent), or choose a teacher of the student's vocabulary",
        )
    if not layout.has_distribution:
        raise UserError(
            f"the signal {directory} ({layout.kind} layout) has no distribution, and the objective has w < 1",
            "teach with SparseLayout, or train cat_xent",
        )
    if problem := layout.check_temperature(temperature):
        raise UserError(f"{directory}: {problem}", "set the objective's temperature to the signal's, or teach again")


def _check_alike(first: SignalStore, other: SignalStore) -> None:
    for name in ("layout", "teacher", "vocab_size"):
        one, two = getattr(first.manifest.recipe, name), getattr(other.manifest.recipe, name)
        if one != two:
            raise UserError(
                f"the signals {first.directory} and {other.directory} differ in {name}: {one} and {two}",
                "teach all tasks of the mixture with one teacher and one layout",
            )
