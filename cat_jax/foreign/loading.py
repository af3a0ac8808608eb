"""Tensors of another program's checkpoint, block by block into the shards where a model wants them.

Beside the arrays that it makes, loading holds the shards of one parameter (or of the few that share a tensor) and one
block: never the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from cat_jax.errors import UserError
from cat_jax.foreign.arrays import Checkpoint, blocks, row_bytes
from cat_jax.foreign.matching import Link, check_copies, match
from cat_jax.foreign.names import NameTable

Report = Callable[[int], None]
"""Is told how many bytes were read since it was last told."""

Finish = Callable[[dict[str, jax.Array]], dict[str, jax.Array]]
"""Some of the parameters by name -> what is to be kept of them."""

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_BFLOAT16_EXPONENT = 0x7F80
_TILE, _ALIGNMENT = 64, 64

Index = tuple[tuple[int, int], ...]
"""(start, stop) on each axis."""


def load(
    checkpoint: Checkpoint,
    table: NameTable,
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    vocab_size: int,
    report: Report = lambda size: None,
    finish: Finish = dict,
) -> dict[str, jax.Array]:
    """The parameters of a model.

    Args:
      checkpoint: where they are.
      table: under which names.
      wanted: by name: shape, dtype and sharding; what has another dtype in the file is cast.
      vocab_size: token ids of the model; rows of its padding are zero.
      report: for progress.
      finish: makes something else of a parameter as soon as it is there.

    Raises:
      UserError: a name or shape does not fit, a file is damaged, or a number is not finite; one line names the tensor.
    """
    links = match(checkpoint, table, wanted, vocab_size)
    check_copies(checkpoint, table)
    found: dict[str, jax.Array] = {}
    for group in groups(links):
        shards = {name: _Shards(wanted[name]) for name in dict.fromkeys(link.parameter for link in group)}
        for name in dict.fromkeys(link.place.where.name for link in group):
            _read(checkpoint, name, [link for link in group if link.place.where.name == name], shards, report)
        made = {name: shards.pop(name).array() for name in list(shards)}
        # Else buffers of the next would be there while these are still copied.
        found |= jax.block_until_ready(finish(jax.block_until_ready(made)))
    return {name: found[name] for name in wanted if name in found} | found


def groups(links: Sequence[Link]) -> list[list[Link]]:
    """The links in groups that share neither a tensor nor a parameter, in the order of the first of each."""
    group_of: dict[tuple[str, str], int] = {}
    members: dict[int, list[Link]] = {}
    for number, link in enumerate(links):
        keys = (("theirs", link.place.where.name), ("ours", link.parameter))
        joined = sorted({group_of[key] for key in keys if key in group_of})
        first = joined[0] if joined else number
        members.setdefault(first, []).append(link)
        for other in joined[1:]:
            members[first] += members.pop(other)
            group_of |= {key: first for key, group in group_of.items() if group == other}
        group_of |= dict.fromkeys(keys, first)
    return list(members.values())


class _Shards:
    """The parts of one parameter that this process's devices hold, being filled."""

    def __init__(self, wanted: jax.ShapeDtypeStruct):
        assert wanted.sharding is not None
        self._wanted, self._sharding = wanted, wanted.sharding
        indices = self._sharding.addressable_devices_indices_map(wanted.shape).values()
        places = {_plain(index, wanted.shape) for index in indices if index is not None}
        self._parts = {place: _aligned_zeros([stop - start for start, stop in place], wanted.dtype) for place in places}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole parameter."""
        return self._wanted.shape

    def needs(self, region: Index) -> bool:
        """Whether any part has something of a region."""
        return any(_overlap(place, region) is not None for place in self._parts)

    def put(self, region: Index, values: np.ndarray) -> None:
        """Copies what the parts have of a region, cast to the parameter's dtype."""
        for place, part in self._parts.items():
            common = _overlap(place, region)
            if common is not None:
                inside = tuple(slice(a - p, b - p) for (a, b), (p, _) in zip(common, place, strict=True))
                source = tuple(slice(a - r, b - r) for (a, b), (r, _) in zip(common, region, strict=True))
                copy_tiled(part[inside], values[source])

    def array(self) -> jax.Array:
        """The parameter."""
        shape = self._wanted.shape
        return jax.make_array_from_callback(
            shape, self._sharding, lambda index: self._parts[_plain(index or (), shape)], dtype=self._wanted.dtype
        )


def _read(
    checkpoint: Checkpoint, name: str, links: Sequence[Link], shards: Mapping[str, _Shards], report: Report
) -> None:
    """Reads one tensor into all parameters that have something of it."""
    array = checkpoint.arrays[name]
    ours = [shards[link.parameter].shape[0 if link.layer is None else 1 :] for link in links]
    multiple = math.lcm(*(1 if _by_layers(link) else link.place.inner(o) for link, o in zip(links, ours, strict=True)))
    for start, stop in blocks(array, multiple):
        block = None
        for link, shape in zip(links, ours, strict=True):
            region = _region(link, shape, start, stop)
            if region is None or not shards[link.parameter].needs(region):
                continue
            if block is None:
                block = array.read(start, stop)
                _check_finite(checkpoint, name, block)
            part = link.place.where.of(block, start)
            assert part is not None
            values = link.place.to_ours(part, shape)
            shards[link.parameter].put(region, values if link.layer is None else values[None])
        report((stop - start) * row_bytes(array))


def copy_tiled(target: np.ndarray, source: np.ndarray) -> None:
    """`target[...] = source`, in tiles where the two lie in memory in another order: that is several times as fast."""
    near_source, near_target = int(np.argmin(np.abs(source.strides))), target.ndim - 1
    if near_source == near_target:
        target[...] = source
        return
    where = [slice(None)] * target.ndim
    for i in range(0, target.shape[near_source], _TILE):
        where[near_source] = slice(i, i + _TILE)
        for j in range(0, target.shape[near_target], _TILE):
            where[near_target] = slice(j, j + _TILE)
            target[tuple(where)] = source[tuple(where)]


def _aligned_zeros(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Zeros that JAX on a CPU takes as they are, for which they must begin at a multiple of 64 bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)  # costs nothing before it is written to
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _by_layers(link: Link) -> bool:
    """Whether rows of the tensor are layers."""
    return link.place.where.axis == 0


def _region(link: Link, shape: Sequence[int], start: int, stop: int) -> Index | None:
    """What rows `start` to `stop` of the tensor are of the parameter; None if they are nothing of it."""
    extent = [(0, size) for size in shape]
    if _by_layers(link):
        if not start <= link.place.where.index < stop:
            return None
    else:
        inner = link.place.inner(shape)
        extent[link.place.axes[0][0]] = (start // inner, stop // inner)
    if link.vocabulary is not None and link.rows is not None:
        low, high = extent[link.vocabulary]
        extent[link.vocabulary] = (low, min(high, link.rows))
        if low >= link.rows:
            return None
    return tuple(extent) if link.layer is None else ((link.layer, link.layer + 1), *extent)


def _plain(index: Sequence[slice], shape: Sequence[int]) -> Index:
    """An index of slices as numbers."""
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _overlap(one: Index, other: Index) -> Index | None:
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return common if all(start < stop for start, stop in common) else None


def _check_finite(checkpoint: Checkpoint, name: str, block: np.ndarray) -> None:
    """Refuses NaN and infinities."""
    if block.dtype.name not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise UserError(
            f"{checkpoint.label}: {name} is of dtype {block.dtype.name}", f"save the model in one of {known}"
        )
    if block.dtype.name == "bfloat16":  # for which NumPy's own test is slow
        exponents = block.view(np.uint16) & np.uint16(_BFLOAT16_EXPONENT)
        finite = not np.any(exponents == _BFLOAT16_EXPONENT)
    else:
        finite = bool(np.isfinite(block).all())
    if not finite:
        raise UserError(
            f"{checkpoint.label}: {name} has numbers that are not finite", "choose another checkpoint of the model"
        )
