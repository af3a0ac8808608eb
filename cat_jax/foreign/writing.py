"""A model's parameters written under another program's names: tensor by tensor, never the whole model in memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cat_jax.foreign.arrays import Checkpoint, read_all, size_bytes
from cat_jax.foreign.loading import groups
from cat_jax.foreign.matching import Link
from cat_jax.foreign.names import NameTable, Slice

Put = Callable[[str, np.ndarray], None]
"""Takes a finished tensor."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What a tensor will be."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def links_to_write(table: NameTable, parameters: Checkpoint, vocab_size: int) -> list[Link]:
    """Every parameter and where it goes; of a padded vocabulary the padding goes nowhere."""
    found = []
    for name in parameters.arrays:
        entry = table.entries[name]
        rows = None if entry.vocabulary is None else vocab_size
        for layer, place in enumerate(entry.places):
            found.append(Link(name, layer if entry.stacked else None, place, entry.vocabulary, rows))
    return found


def tensors_to_write(
    table: NameTable, links: Sequence[Link], parameters: Checkpoint, dtype: np.dtype | None
) -> dict[str, Tensor]:
    """{name: what it will be}, copies that a checkpoint needs included.

    Args:
      table: the names.
      links: as `links_to_write` gives them.
      parameters: the model's own.
      dtype: of all tensors; None keeps each parameter's.
    """
    layers: dict[str, int] = {}
    for where in (*(link.place.where for link in links), *(copy.where for copy in table.copies if copy.needed)):
        layers[where.name] = max(layers.get(where.name, 0), where.index + 1)
    found: dict[str, Tensor] = {}
    for link in links:
        where, array = link.place.where, parameters.arrays[link.parameter]
        shape = list(link.place.shape(_shape_of(link, array.shape)))
        if where.axis is not None:
            shape.insert(where.axis, layers[where.name])
        found[where.name] = Tensor(array.dtype if dtype is None else dtype, tuple(shape))
    for copy in table.copies:
        if copy.needed:
            found.setdefault(copy.where.name, found[copy.of.name])
    return found


def write(
    table: NameTable,
    links: Sequence[Link],
    parameters: Checkpoint,
    tensors: Mapping[str, Tensor],
    put: Put,
    report: Callable[[int], None] = lambda size: None,
) -> None:
    """Makes every tensor and hands it to `put`, in an order of its own.

    Args:
      table: the names.
      links: as `links_to_write` gives them.
      parameters: the model's own.
      tensors: as `tensors_to_write` gives them.
      put: writes a tensor.
      report: is told how many bytes of parameters were read.

    Raises:
      UserError: a file of the parameters is damaged.
    """
    for group in groups(links):
        made = {name: np.empty(t.shape, t.dtype) for name, t in tensors.items() if name in _names(group)}
        for parameter in dict.fromkeys(link.parameter for link in group):
            array = parameters.arrays[parameter]
            values = read_all(array)
            for link in group:
                if link.parameter == parameter:
                    _fill(made[link.place.where.name], link, values)
            report(size_bytes(array))
        for copy in table.copies:
            if copy.needed and copy.of.name in made:
                if copy.where.name not in made:
                    made[copy.where.name] = np.empty(tensors[copy.where.name].shape, tensors[copy.where.name].dtype)
                _layer_of(made[copy.where.name], copy.where)[...] = _layer_of(made[copy.of.name], copy.of)
        for name in list(made):
            put(name, made.pop(name))


def _names(group: Sequence[Link]) -> set[str]:
    return {link.place.where.name for link in group}


def _fill(tensor: np.ndarray, link: Link, values: np.ndarray) -> None:
    part = values if link.layer is None else values[link.layer]
    if link.vocabulary is not None:
        part = np.moveaxis(np.moveaxis(part, link.vocabulary, 0)[: link.rows], 0, link.vocabulary)
    _layer_of(tensor, link.place.where)[...] = link.place.to_theirs(part)


def _layer_of(tensor: np.ndarray, where: Slice) -> np.ndarray:
    """A view of the layer's part of a tensor."""
    return tensor if where.axis is None else np.moveaxis(tensor, where.axis, 0)[where.index]


def _shape_of(link: Link, shape: Sequence[int]) -> tuple[int, ...]:
    """Of the parameter without the axis of layers, and without the vocabulary's padding."""
    sizes = list(shape[0 if link.layer is None else 1 :])
    if link.vocabulary is not None and link.rows is not None:
        sizes[link.vocabulary] = link.rows
    return tuple(sizes)
