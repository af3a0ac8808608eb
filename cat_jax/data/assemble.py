"""Fills batches: where each example goes is decided elsewhere (in a row of its own, or packed with others).

An example's inputs stand on the encoder's side, or on the decoder's before its targets, as the model reads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cat_jax.data.columns import row_columns
from cat_jax.data.signal import SignalReader, read_many
from cat_jax.data.store import ExampleStore
from cat_jax.data.tokens import Ragged, TokenSource, spread, token_sources
from cat_jax.errors import UserError
from cat_jax.types import Batch, Prompt, TeacherSignal


@dataclasses.dataclass(frozen=True)
class Placement:
    """N examples and their places in a batch; all arrays i64[N]."""

    tasks: np.ndarray
    indices: np.ndarray  # of the example within its task's store
    rows: np.ndarray
    encoder_columns: np.ndarray  # where the example begins on each side
    decoder_columns: np.ndarray
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
      prompt: where the model reads the inputs.

    Raises:
      UserError: an encoder is to read inputs that the stores do not have.
    """

    def __init__(
        self,
        stores: Sequence[ExampleStore],
        feature_lengths: Mapping[str, int],
        signals: Mapping[str, SignalReader] | None = None,
        memory_bytes: int = 1 << 30,
        memory_examples: int = 1_000_000,
        prompt: Prompt = "encoder",
    ):
        self._stores, self._prompt = list(stores), prompt
        if prompt == "encoder" and not stores[0].has_inputs:
            raise UserError(
                f"the examples of {stores[0].directory} have no inputs for the model's encoder to read",
                "use a decoder-only model, or a task that has inputs",
            )
        features = stores[0].manifest.features
        self._columns = row_columns(features, feature_lengths, prompt)
        # Ids do not say then where a row's padding begins, and segments do.
        self._marked = any(feature.zero_is_token for feature in features.values())
        self._sources: list[TokenSource] = token_sources(self._stores, memory_bytes, memory_examples)
        self._readers = None if signals is None else [signals[store.task] for store in self._stores]

    def padded(self, tasks: np.ndarray, indices: np.ndarray, num_rows: int) -> HostBatch:
        """One example a row, then rows of padding up to `num_rows`; with segments where id 0 is a token."""
        batch, signal = self._fill(one_per_row(tasks, indices), num_rows, marked=self._marked)
        nobody = np.full(num_rows - len(indices), -1, np.int64)
        return HostBatch(batch, signal, np.concatenate([tasks, nobody]), np.concatenate([indices, nobody]))

    def packed(self, placement: Placement, num_rows: int) -> HostBatch:
        """Several examples a row, with segment ids and positions."""
        batch, signal = self._fill(placement, num_rows, marked=True)
        return HostBatch(batch, signal)

    def _fill(self, placement: Placement, num_rows: int, marked: bool) -> tuple[Batch, TeacherSignal | None]:
        encoder, decoder = (_Side(num_rows, columns, marked) for columns in self._columns)
        weights, task_ids = np.zeros(decoder.size, np.float32), np.zeros(decoder.size, np.int32)
        signal: dict[str, np.ndarray] = {}
        for task in np.unique(placement.tasks).tolist():
            [places] = np.nonzero(placement.tasks == task)
            rows, segments, indices = (a[places] for a in (placement.rows, placement.segments, placement.indices))
            tokens = self._sources[task].gather(indices)
            inputs, targets, begin = tokens.get("inputs"), tokens["targets"], placement.decoder_columns[places]
            prefix = np.zeros_like(targets.lengths)
            if inputs is not None and self._prompt == "encoder":
                encoder.add(inputs, rows, placement.encoder_columns[places], segments, prefix)
            elif inputs is not None:
                decoder.add(inputs, rows, begin, segments, prefix)
                prefix = inputs.lengths
            cells = decoder.add(targets, rows, begin + prefix, segments, prefix)
            weights[cells], task_ids[cells] = 1, task
            if self._readers is not None:
                self._add_signal(signal, task, indices, targets.lengths, cells, decoder.size)
        batch = _batch(encoder if self._prompt == "encoder" else None, decoder, weights, task_ids)
        if self._readers is None:
            return batch, None
        if not signal:  # a host whose rows are all padding still needs arrays of the right kind
            self._add_signal(signal, 0, np.zeros(1, np.int64), self._num_targets(0), np.zeros(0, int), decoder.size)
        padded = {name: flat.reshape(num_rows, -1, *flat.shape[1:]) for name, flat in signal.items()}
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
    """The encoder's or the decoder's arrays of a batch, flat: [rows * columns]."""

    def __init__(self, rows: int, columns: int, marked: bool):
        self._columns, self.size = columns, rows * columns
        self.tokens = np.zeros(self.size, np.int32)
        self.segments = np.zeros(self.size, np.int32) if marked else None
        self.positions = np.zeros(self.size, np.int32) if marked else None

    def add(
        self, tokens: Ragged, rows: np.ndarray, columns: np.ndarray, segments: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        """Puts tokens at (rows, columns), the first of each example at its position; returns their flat places."""
        cells = spread(rows * self._columns + columns, tokens.lengths)
        self.tokens[cells] = tokens.flat[spread(tokens.starts, tokens.lengths)]
        if self.segments is not None and self.positions is not None:
            self.segments[cells] = np.repeat(segments, tokens.lengths)
            self.positions[cells] = spread(positions, tokens.lengths)
        return cells

    def table(self, flat: np.ndarray) -> np.ndarray:
        """[rows, columns]."""
        return flat.reshape(-1, self._columns)


def _batch(encoder: _Side | None, decoder: _Side, weights: np.ndarray, task_ids: np.ndarray) -> Batch:
    """A batch under SeqIO's names."""
    fields: dict[str, Any] = {
        "decoder_target_tokens": decoder.table(decoder.tokens),
        "decoder_input_tokens": _shifted(decoder),
        "decoder_loss_weights": decoder.table(weights),
        "task_ids": decoder.table(task_ids),
    }
    if encoder is not None:
        fields["encoder_input_tokens"] = encoder.table(encoder.tokens)
    for name, side in (("decoder", decoder), ("encoder", encoder)):
        if side is not None and side.segments is not None and side.positions is not None:
            fields[f"{name}_segment_ids"] = side.table(side.segments)
            fields[f"{name}_positions"] = side.table(side.positions)
    return Batch(**fields)


def _shifted(decoder: _Side) -> np.ndarray:
    """The tokens one place later, 0 where a row or a packed example begins (as seqio.autoregressive_inputs)."""
    tokens = decoder.table(decoder.tokens)
    shifted = np.zeros_like(tokens)
    shifted[:, 1:] = tokens[:, :-1]
    if decoder.segments is not None:
        segments = decoder.table(decoder.segments)
        shifted[:, 1:] *= segments[:, 1:] == segments[:, :-1]
    return shifted
