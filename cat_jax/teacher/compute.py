"""Runs a teacher over one shard of a store, in batches that the shard alone decides."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cat_jax.data.assemble import Assembler
from cat_jax.data.store import ExampleStore
from cat_jax.data.tokens import spread
from cat_jax.errors import UserError
from cat_jax.parallel.batches import ALL_AXES, batch_sharding, num_row_shards
from cat_jax.teacher.forward import Step
from cat_jax.teacher.groups import Group, group_examples
from cat_jax.teacher.manifest import Recipe
from cat_jax.teacher.shard import ShardBuffer
from cat_jax.types import Prompt


class ShardTeacher:
    """Computes the signals of a store's shards.

    Args:
      store: the examples.
      recipe: of the signal.
      step: the jitted step, on `mesh`.
      params: the teacher's parameters, on `mesh`.
      mesh: of this process's devices alone.
      prompt: where the teacher reads the inputs.
    """

    def __init__(self, store: ExampleStore, recipe: Recipe, step: Step, params: Any, mesh: Mesh, prompt: Prompt):
        self._store, self._recipe, self._step, self._params = store, recipe, step, params
        self._prompt: Prompt = prompt
        self._sharding, self._devices = batch_sharding(mesh, ALL_AXES), num_row_shards(mesh, ALL_AXES)
        self._assemblers: dict[tuple[int, int], Assembler] = {}

    def run(self, shard: int, report: Callable[[int], None]) -> ShardBuffer:
        """The signal of a shard; `report` is called with the target tokens of each batch.

        Raises:
          UserError: the teacher's numbers are not finite, or the store is damaged.
        """
        offset = int(self._store.offsets[shard])
        lengths = self._store.lengths[offset : int(self._store.offsets[shard + 1])]
        targets = lengths[:, 1].astype(np.int64)
        starts = np.cumsum(targets) - targets
        buffer = ShardBuffer(self._recipe, int(targets.sum()))
        groups = group_examples(lengths, self._store.manifest.feature_lengths, self._recipe.batch_size)
        waiting: collections.deque[tuple[np.ndarray, np.ndarray, dict[str, jax.Array]]] = collections.deque()

        def collect() -> None:
            examples, present, fields = waiting.popleft()
            found = {name: np.asarray(values)[present] for name, values in fields.items()}
            self._check_finite(shard, examples, targets, found.pop("finite"))
            buffer.put(spread(starts[examples], targets[examples]), found)
            report(int(targets[examples].sum()))

        for batch in self._batches(groups):
            waiting.append(self._dispatch(shard, offset, batch))
            if len(waiting) > 1:  # the device computes this batch while the host stores the one before
                collect()
        while waiting:
            collect()
        return buffer

    def _batches(self, groups: Sequence[Group]) -> Iterator[list[Group]]:
        """As many groups of one shape as there are devices; only the last of a shape are fewer."""
        batch: list[Group] = []
        for group in groups:
            if batch and (len(batch) == self._devices or batch[0].shape != group.shape):
                yield batch
                batch = []
            batch.append(group)
        if batch:
            yield batch

    def _dispatch(
        self, shard: int, offset: int, groups: list[Group]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, jax.Array]]:
        """(indices in the shard i64[N], where targets are bool[B, T], the step's fields [B, T, ...])."""
        examples = np.concatenate([group.examples for group in groups])
        rows = self._recipe.batch_size * self._devices
        assembler = self._assembler(*groups[0].shape)
        batch = assembler.padded(np.zeros_like(examples), offset + examples, rows).batch
        indices = np.zeros(rows, np.uint32)
        indices[: len(examples)] = examples
        present = np.asarray(batch.decoder_loss_weights) > 0
        on_device = jax.device_put((batch, indices), self._sharding)
        seed = np.uint32(self._recipe.draw_key)
        return examples, present, self._step(self._params, on_device[0], seed, np.uint32(shard), on_device[1])

    def _assembler(self, input_length: int, target_length: int) -> Assembler:
        shape = (input_length, target_length)
        if shape not in self._assemblers:
            lengths = {"inputs": input_length, "targets": target_length}
            self._assemblers[shape] = Assembler([self._store], lengths, memory_bytes=0, prompt=self._prompt)
        return self._assemblers[shape]

    def _check_finite(self, shard: int, examples: np.ndarray, targets: np.ndarray, finite: np.ndarray) -> None:
        if not finite.all():
            owner = np.repeat(examples, targets[examples])
            raise UserError(
                f"the teacher {self._recipe.teacher} gives numbers that are not finite for example "
                f"{owner[np.argmin(finite)]} of shard {shard} of {self._store.directory}",
                "teach with dtype float32, or choose another checkpoint",
            )
