"""Fills batches: where each example goes is decided elsewhere (in a row of its own, or packed with others)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cat_jax.data.signal import SignalReader, read_many
from cat_jax.data.store import ExampleStore
from cat_jax.data.tokens import Ragged, TokenSource, spread, token_sources
from cat_jax.types import Batch, TeacherSignal


@dataclasses.dataclass(frozen=True)
class Placement:
    """N examples and their places in a batch; all arrays i64[N]."""

    tasks: np.ndarray
    indices: np.ndarray  # of the example within its task's store
    rows: np.ndarray
    input_columns: np.ndarray
    target_columns: np.ndarray
    segments: np.ndarray  # 1, 2, ... within each row

    def of_rows(self, start: int, stop: int) -> Placement:
        """The examples in rows [start, stop), whose rows then count from 0."""
        [keep] = np.nonzero((self.rows >= start) & (self.rows < stop))
        fields = {field.name: getattr(self, field.name)[keep] for field in dataclasses.fields(self)}
        return Placement(**{**fields, "rows": fields["rows"] - start})


def one_per_row(tasks: np.ndarray, indices: np.ndarray) -> Placement:
    """Example i alone in row i."""
    zeros = np.zeros_like(indices)
    return Placement(tasks, indices, np.arange(len(indices)), zeros, zeros, zeros + 1)


@dataclasses.dataclass(frozen=True)
class HostBatch:
    """The rows of a batch that belong to this host, as NumPy arrays, with the stored teacher signal if one was given.

    `tasks` and `examples` say whose row it is where every example has its own: task id and index within the task's
    store, both -1 in rows of padding. They are None where rows are packed.
    """

    batch: Batch
    signal: TeacherSignal | None = None
    tasks: np.ndarray | None = None  # i64[B]
    examples: np.ndarray | None = None  # i64[B]


class Assembler:
    """Builds batches from the stores of a mixture.

    Args:
      stores: of the tasks, in task order.
      feature_lengths: the length to pad each feature to.
      signals: the readers of the stored teacher signal by task name; None for no signal.
      memory_bytes, memory_examples: how much may be held in memory; more is read from the files as it comes.
    """

    def __init__(
        self,
        stores: Sequence[ExampleStore],
        feature_lengths: Mapping[str, int],
        signals: Mapping[str, SignalReader] | None = None,
        memory_bytes: int = 1 << 30,
        memory_examples: int = 1_000_000,
    ):
        self._stores = list(stores)
        self._lengths = {name: feature_lengths[name] for name in self._stores[0].manifest.features}
        self._sources: list[TokenSource] = token_sources(self._stores, memory_bytes, memory_examples)
        self._readers = None if signals is None else [signals[store.task] for store in self._stores]

    def padded(self, tasks: np.ndarray, indices: np.ndarray, num_rows: int) -> HostBatch:
        """One example a row, then rows of padding up to `num_rows`."""
        batch, signal = self._fill(one_per_row(tasks, indices), num_rows, packed=False)
        nobody = np.full(num_rows - len(indices), -1, np.int64)
        return HostBatch(batch, signal, np.concatenate([tasks, nobody]), np.concatenate([indices, nobody]))

    def packed(self, placement: Placement, num_rows: int) -> HostBatch:
        """Several examples a row, with segment ids and positions."""
        batch, signal = self._fill(placement, num_rows, packed=True)
        return HostBatch(batch, signal)

    def _fill(self, placement: Placement, num_rows: int, packed: bool) -> tuple[Batch, TeacherSignal | None]:
        sides = {name: _Side(num_rows, length, packed) for name, length in self._lengths.items()}
        targets = sides["targets"]
        task_ids = np.zeros(targets.size, np.int32)
        signal: dict[str, np.ndarray] = {}
        for task in np.unique(placement.tasks).tolist():
            [places] = np.nonzero(placement.tasks == task)
            rows, segments, indices = (a[places] for a in (placement.rows, placement.segments, placement.indices))
            tokens = self._sources[task].gather(indices)
            columns = {"inputs": placement.input_columns[places], "targets": placement.target_columns[places]}
            for name, side in sides.items():
                side.add(tokens[name], rows, columns[name], segments)
            cells = targets.cells(rows, columns["targets"], tokens["targets"].lengths)
            task_ids[cells] = task
            if self._readers is not None:
                self._add_signal(signal, task, indices, tokens["targets"].lengths, cells, targets.size)
        shape = (num_rows, self._lengths["targets"])
        batch = _batch(sides, task_ids.reshape(shape))
        if self._readers is None:
            return batch, None
        if not signal:  # a host whose rows are all padding still needs arrays of the right kind
            self._add_signal(signal, 0, np.zeros(1, np.int64), self._num_targets(0), np.zeros(0, int), targets.size)
        padded = {name: flat.reshape(*shape, *flat.shape[1:]) for name, flat in signal.items()}
        return batch, self._readers[0].assemble(padded)

    def _num_targets(self, task: int) -> np.ndarray:
        return self._sources[task].gather(np.zeros(1, np.int64))["targets"].lengths

    def _add_signal(
        self,
        out: dict[str, np.ndarray],
        task: int,
        indices: np.ndarray,
        lengths: np.ndarray,
        cells: np.ndarray,
        size: int,
    ) -> None:
        assert self._readers is not None
        shards, within = self._stores[task].locate(indices)
        for name, values in read_many(self._readers[task], shards, within, lengths).items():
            if name not in out:
                out[name] = np.zeros((size, *values.shape[1:]), values.dtype)
            out[name][cells] = values[: len(cells)]


class _Side:
    """One feature's arrays of a batch, flat: [rows * length]."""

    def __init__(self, rows: int, length: int, packed: bool):
        self._length, self.size = length, rows * length
        self.tokens, self.present = np.zeros(self.size, np.int32), np.zeros(self.size, bool)
        self.segments = np.zeros(self.size, np.int32) if packed else None
        self.positions = np.zeros(self.size, np.int32) if packed else None

    def cells(self, rows: np.ndarray, columns: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The flat places of rows of `lengths` tokens that start at (rows, columns)."""
        return spread(rows * self._length + columns, lengths)

    def add(self, tokens: Ragged, rows: np.ndarray, columns: np.ndarray, segments: np.ndarray) -> None:
        cells = self.cells(rows, columns, tokens.lengths)
        self.tokens[cells] = tokens.flat[spread(tokens.starts, tokens.lengths)]
        self.present[cells] = True
        if self.segments is not None and self.positions is not None:
            self.segments[cells] = np.repeat(segments, tokens.lengths)
            self.positions[cells] = spread(np.zeros_like(tokens.lengths), tokens.lengths)

    def table(self, flat: np.ndarray) -> np.ndarray:
        return flat.reshape(-1, self._length)


def _batch(sides: Mapping[str, _Side], task_ids: np.ndarray) -> Batch:
    """An encoder-decoder batch under SeqIO's names; without inputs, a decoder's alone."""
    targets = sides["targets"]
    fields = {
        "decoder_target_tokens": targets.table(targets.tokens),
        "decoder_input_tokens": _shifted(targets),
        "decoder_loss_weights": targets.table(targets.present).astype(np.float32),
        "task_ids": task_ids,
    }
    for name, prefix in (("targets", "decoder"), ("inputs", "encoder")):
        side = sides.get(name)
        if side is None:
            continue
        if name == "inputs":
            fields["encoder_input_tokens"] = side.table(side.tokens)
        if side.segments is not None and side.positions is not None:
            fields[f"{prefix}_segment_ids"] = side.table(side.segments)
            fields[f"{prefix}_positions"] = side.table(side.positions)
    return Batch(**fields)


def _shifted(targets: _Side) -> np.ndarray:
    """The targets one place later, 0 where a row or a packed example begins (as seqio.autoregressive_inputs)."""
    tokens = targets.table(targets.tokens)
    shifted = np.zeros_like(tokens)
    shifted[:, 1:] = tokens[:, :-1]
    if targets.segments is not None:
        segments = targets.table(targets.segments)
        shifted[:, 1:] *= segments[:, 1:] == segments[:, :-1]
    return shifted
