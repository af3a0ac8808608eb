"""Name tables: where each parameter of a model is in another program's checkpoint, and how its axes lie there.

A table is read in both directions. A family writes it once for unrolled layers; `layered` makes of it that of stacked
ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Axes = tuple[tuple[int, ...], ...]
"""For each axis of a foreign tensor the axes of the parameter that it joins, outermost first: ((1, 2), (0,)) is the
[H*K, D] of a parameter [D, H, K]."""

# Those that families share, of a parameter [D, H, K], [H, K, D], [D, F] or [D].
SAME: Axes = ((0,), (1,))
TURNED: Axes = ((1,), (0,))
VECTOR: Axes = ((0,),)
HEADS_OUT: Axes = ((1, 2), (0,))  # [H*K, D] of [D, H, K]
HEADS_IN: Axes = ((2,), (0, 1))  # [D, H*K] of [H, K, D]


@dataclasses.dataclass(frozen=True)
class Slice:
    """A tensor, or one layer of a tensor that holds all layers along an axis.

    Attributes:
      name: of the tensor.
      axis: along which it holds all layers; None if it does not.
      index: of the layer.
    """

    name: str
    axis: int | None = None
    index: int = 0

    def of(self, block: np.ndarray, start: int) -> np.ndarray | None:
        """The layer's part of rows `start`, ... of the tensor; None if it has none there."""
        if self.axis is None:
            return block
        if self.axis == 0:
            return block[self.index - start] if start <= self.index < start + len(block) else None
        return np.take(block, self.index, self.axis)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a parameter, or one layer of a stacked parameter, is.

    Attributes:
      where: the tensor.
      axes: how it lies there, the axis of layers left out.
      instead: tensors in which it is where the first is missing, as an embedding table that serves as head too.
    """

    where: Slice
    axes: Axes
    instead: tuple[str, ...] = ()

    def shape(self, ours: Sequence[int]) -> tuple[int, ...]:
        """The tensor's shape for a parameter of shape `ours`, the axis of layers left out."""
        return tuple(math.prod(ours[i] for i in group) for group in self.axes)

    def inner(self, ours: Sequence[int]) -> int:
        """Rows of the tensor that belong to one index of the parameter's axis."""
        return math.prod(ours[i] for i in self.axes[0][1:])

    def to_ours(self, part: np.ndarray, ours: Sequence[int]) -> np.ndarray:
        """Rows of the tensor, in whole `inner`s, as a view with the parameter's axes."""
        sizes: list[int] = []
        for size, group in zip(part.shape, self.axes, strict=True):
            rest = [ours[i] for i in group[1:]]
            sizes += [size // math.prod(rest), *rest]
        return part.reshape(sizes).transpose(np.argsort(self._order))

    def to_theirs(self, parameter: np.ndarray) -> np.ndarray:
        """A parameter, or a layer's part of one, as the tensor."""
        return parameter.transpose(self._order).reshape(self.shape(parameter.shape))

    @property
    def _order(self) -> list[int]:
        return [i for group in self.axes for i in group]


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a parameter is.

    Attributes:
      places: one, or one a layer of a parameter whose leading axis counts layers.
      stacked: whether it is of the second kind.
      vocabulary: the parameter's axis that counts token ids; None if none does.
    """

    places: tuple[Place, ...]
    stacked: bool = False
    vocabulary: int | None = None


@dataclasses.dataclass(frozen=True)
class Copy:
    """A tensor that holds what another holds, too.

    Attributes:
      where: the copy.
      of: what it is equal to.
      needed: whether a checkpoint must have it, and so it is written, too.
    """

    where: Slice
    of: Slice
    needed: bool = False


@dataclasses.dataclass(frozen=True)
class NameTable:
    """A model's parameters in another program's checkpoint.

    Attributes:
      entries: by the parameter's name, see `parallel.names`.
      copies: tensors that are there more than once, such as tied weights.
      ignored: patterns, as of `fnmatch`, of tensors that are nobody's parameter.
      scope: what the names of all tensors that count begin with.
    """

    entries: Mapping[str, Entry]
    copies: tuple[Copy, ...] = ()
    ignored: tuple[str, ...] = ()
    scope: str = ""


def plain(name: str, axes: Axes, vocabulary: int | None = None, instead: tuple[str, ...] = ()) -> Entry:
    """The entry of a parameter that no layer has."""
    return Entry((Place(Slice(name), axes, instead),), vocabulary=vocabulary)


def layered(
    prefix: str, count: int, scan: bool, places: Mapping[str, Callable[[int], Place]], stack: str = "layers"
) -> dict[str, Entry]:
    """The entries of a stack's layers.

    Args:
      prefix: of the stack's own names, such as "encoder"; empty where the layers are the model's own.
      count: of layers.
      scan: whether the model stacks them (`scan_layers`).
      places: where the parameter of that name within a layer is, by the layer's number.
      stack: the name of the layers in the stack.
    """
    entries: dict[str, Entry] = {}
    layers = f"{prefix}.{stack}" if prefix else stack
    for name, place in places.items():
        each = [place(i) for i in range(count)]
        if scan:
            entries[f"{layers}.{name}"] = Entry(tuple(each), stacked=True)
        else:
            entries |= {f"{layers}.{i}.{name}": Entry((each[i],)) for i in range(count)}
    return entries
