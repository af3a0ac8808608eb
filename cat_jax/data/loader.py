"""From prepared stores to batches: an endless training iterator with an exact position, and one pass for evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from cat_jax.data.assemble import Assembler, HostBatch
from cat_jax.data.columns import columns, row_columns
from cat_jax.data.manifest import FeatureInfo
from cat_jax.data.mixture import open_stores
from cat_jax.data.order import ExampleOrder
from cat_jax.data.packing import Packer, PackState
from cat_jax.data.signal import SignalReader
from cat_jax.data.store import ExampleStore
from cat_jax.errors import UserError
from cat_jax.files import fingerprint
from cat_jax.types import Prompt


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """What to read, and how to make batches of it.

    `batch_size` counts the rows of all hosts together. Without `num_epochs` there is no end; with it, the last batch
    is filled up with rows of padding. `seed` decides the shuffles. `prefetch` batches are made ahead in a thread.
    Stores beyond the memory limits are read from disk batch by batch; the batches are the same.
    """

    store_dir: str
    mixture_or_task: str
    split: str
    feature_lengths: Mapping[str, int]
    batch_size: int
    pack: bool = False
    shuffle: bool = True
    seed: int = 0
    num_epochs: int | None = None
    prefetch: int = 2
    memory_bytes: int = 1 << 30
    memory_examples: int = 1_000_000


class TrainIterator(grain.DatasetIterator[HostBatch]):
    """Batches without end; `get_state` tells the position after the batch that was given last, never a prefetched one.

    The state is a small JSON-able dict: `grain.checkpoint.CheckpointSave` takes the iterator as it is. A state of one
    number of hosts serves any other.
    """

    def __init__(self, batches: _Batches, stores: Sequence[ExampleStore], prefetch: int):
        parent: Any = batches
        if prefetch > 0:
            parent = grain.experimental.ThreadPrefetchDatasetIterator(batches, prefetch)
        super().__init__(parent)
        self._batches = parent
        self.stores = tuple(stores)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks; `Batch.task_ids` counts in this order."""
        return tuple(store.task for store in self.stores)

    @property
    def features(self) -> Mapping[str, FeatureInfo]:
        """Vocabulary fingerprint and size of each feature, the same in all tasks."""
        return self.stores[0].manifest.features

    def __next__(self) -> HostBatch:
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a state that `get_state` gave.

        Raises:
          UserError: the state is of other data: another store, rate, seed, or packing.
        """
        self._batches.set_state(state)


def make_train_iterator(
    config: DatasetConfig,
    *,
    process_index: int = 0,
    process_count: int = 1,
    signals: Mapping[str, SignalReader] | None = None,
    prompt: Prompt = "encoder",
) -> TrainIterator:
    """The batches of a prepared task or mixture for one host.

    The global batch is the same for any number of hosts: host h has its rows [h, h + 1) * batch_size / process_count.

    Args:
      config: what to read.
      process_index: which host this is.
      process_count: how many hosts there are.
      signals: readers of the stored teacher signal, one for each task name; None for none.
      prompt: where the model reads the inputs. As a prefix they share a row of inputs + targets columns.

    Raises:
      UserError: no such store; features longer than `feature_lengths`; rows that do not divide among the hosts; no
        inputs for an encoder.
    """
    stores, rates = open_stores(config.store_dir, config.mixture_or_task, config.split, config.feature_lengths)
    names = [store.task for store in stores]
    order = ExampleOrder(
        [len(store) for store in stores], rates, names, config.seed if config.shuffle else None, config.num_epochs
    )
    assembler = _assembler(config, stores, signals, prompt)
    identity = {
        "stores": [store.fingerprint for store in stores],
        "rates": rates,
        "seed": config.seed if config.shuffle else None,
        "pack": dict(config.feature_lengths) if config.pack else None,
    }
    rows = host_rows(config.batch_size, process_index, process_count)
    if config.pack:
        identity |= {} if prompt == "encoder" else {"prompt": prompt}  # other examples share a row
        packer = _packer(config, order, stores, prompt)
        batches = _PackedBatches(config, order, assembler, rows, identity, packer=packer)
    else:
        batches = _PaddedBatches(config, order, assembler, rows, identity)
    return TrainIterator(batches, stores, config.prefetch)


def make_eval_batches(
    config: DatasetConfig,
    *,
    process_index: int = 0,
    process_count: int = 1,
    signals: Mapping[str, SignalReader] | None = None,
    prompt: Prompt = "encoder",
    indices: Sequence[int] | np.ndarray | None = None,
) -> Iterator[tuple[HostBatch, np.ndarray]]:
    """One pass in the store's order, one example a row, the last batch filled up with rows of padding.

    All hosts get equally many batches. `shuffle`, `pack`, `num_epochs` and `prefetch` of the config do not matter.

    Args:
      config: what to read; the tasks of a mixture come one after the other.
      process_index: which host this is.
      process_count: how many hosts there are.
      signals: readers of the stored teacher signal, one for each task name; None for none.
      prompt: where the model reads the inputs.
      indices: the examples to read and their order instead of all; for a single task only.

    Yields:
      (batch, indices i64[rows of this host]): of the examples in their task's store, -1 for padding;
      `HostBatch.tasks` says which task, where there are several.
    """
    stores, _ = open_stores(config.store_dir, config.mixture_or_task, config.split, config.feature_lengths)
    if indices is not None and len(stores) > 1:
        raise ValueError("indices select examples of a single task")
    assembler = _assembler(config, stores, signals, prompt)
    start, stop = host_rows(config.batch_size, process_index, process_count)
    chosen = [np.arange(len(store)) for store in stores] if indices is None else [np.asarray(indices, np.int64)]
    tasks = np.repeat(np.arange(len(chosen)), [len(c) for c in chosen])
    examples = np.concatenate(chosen)
    for first in range(0, len(examples), config.batch_size):
        mine = slice(first + start, min(first + stop, first + config.batch_size))
        batch = assembler.padded(tasks[mine], examples[mine], stop - start)
        assert batch.examples is not None
        yield batch, batch.examples


def host_rows(batch_size: int, process_index: int, process_count: int) -> tuple[int, int]:
    """The rows [start, stop) of the global batch that host `process_index` holds.

    Raises:
      UserError: the rows do not divide among the hosts.
    """
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"a batch of {batch_size} rows does not divide among {process_count} hosts",
            "choose a batch size that is a multiple of the number of hosts",
        )
    rows = batch_size // process_count
    return process_index * rows, (process_index + 1) * rows


def _assembler(
    config: DatasetConfig,
    stores: Sequence[ExampleStore],
    signals: Mapping[str, SignalReader] | None,
    prompt: Prompt,
) -> Assembler:
    return Assembler(stores, config.feature_lengths, signals, config.memory_bytes, config.memory_examples, prompt)


def _packer(config: DatasetConfig, order: ExampleOrder, stores: Sequence[ExampleStore], prompt: Prompt) -> Packer:
    capacity = row_columns(stores[0].manifest.features, config.feature_lengths, prompt)
    lengths = [columns(store.lengths, prompt) for store in stores]
    return Packer(order, lengths, config.batch_size, capacity, patience=max(8, config.batch_size // 8))


class _Batches(grain.DatasetIterator[HostBatch]):
    """What the padded and the packed iterator share: the identity in their state."""

    def __init__(
        self,
        config: DatasetConfig,
        order: ExampleOrder,
        assembler: Assembler,
        rows: tuple[int, int],
        identity: Mapping[str, Any],
    ):
        super().__init__()
        self._order, self._assembler, self._rows = order, assembler, rows
        self._batch_size, self._identity = config.batch_size, fingerprint(identity)

    def _check(self, state: Mapping[str, Any]) -> None:
        if state.get("data") != self._identity:
            raise UserError(
                f"the saved data position is of other data ({str(state.get('data'))[:12]}, now {self._identity[:12]}): "
                "a store, a rate, the seed or the packing changed",
                "restore them, or start anew with INITIAL_CHECKPOINT_PATH and another MODEL_DIR",
            )


class _PaddedBatches(_Batches):
    """One example a row; the state is a stream position, and says nothing of the batch size."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._position = 0

    def __next__(self) -> HostBatch:
        end = self._order.length
        if end is not None and self._position >= end:
            raise StopIteration
        start, stop = (self._position + row for row in self._rows)
        tasks, indices = self._order.between(start, stop if end is None else min(stop, end))
        self._position += self._batch_size
        return self._assembler.padded(tasks, indices, num_rows=stop - start)

    def get_state(self) -> dict[str, Any]:
        return {"data": self._identity, "position": self._position}

    def set_state(self, state: dict[str, Any]) -> None:
        self._check(state)
        self._position = int(state["position"])


class _PackedBatches(_Batches):
    """Several examples a row."""

    def __init__(self, *args: Any, packer: Packer):
        super().__init__(*args)
        self._packer, self._state = packer, PackState()

    def __next__(self) -> HostBatch:
        planned = self._packer.plan(self._state)
        if planned is None:
            raise StopIteration
        placement, self._state = planned
        start, stop = self._rows
        return self._assembler.packed(placement.of_rows(start, stop), stop - start)

    def get_state(self) -> dict[str, Any]:
        return {"data": self._identity, "position": self._state.position, "waiting": list(self._state.waiting)}

    def set_state(self, state: dict[str, Any]) -> None:
        self._check(state)
        self._state = PackState(int(state["position"]), tuple(state["waiting"]))
