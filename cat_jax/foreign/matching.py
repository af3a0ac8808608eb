"""A name table held against a checkpoint: which tensor fills which parameter, and in one line what does not fit."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cat_jax.errors import UserError
from cat_jax.foreign.arrays import Checkpoint, blocks, read_all
from cat_jax.foreign.names import Entry, NameTable, Place, Slice

logger = logging.getLogger(__name__)

_PADDINGS = tuple(2**i for i in range(3, 11))
_OTHER_MODEL = "give the configuration of the model that it is of"


@dataclasses.dataclass(frozen=True)
class Link:
    """One tensor, or a layer of it, and the parameter, or the layer of it, that it fills.

    Attributes:
      parameter: its name.
      layer: the index on its leading axis; None where it has no axis of layers.
      place: where it is, `where` being a tensor that is there.
      rows: how many indices of its vocabulary axis come from the tensor; None where it has no such axis.
      vocabulary: that axis, of the parameter without the axis of layers.
    """

    parameter: str
    layer: int | None
    place: Place
    vocabulary: int | None
    rows: int | None


def match(checkpoint: Checkpoint, table: NameTable, wanted: Mapping[str, Any], vocab_size: int) -> list[Link]:
    """The links that fill `wanted`, after checking every name and every shape.

    Args:
      checkpoint: what is there.
      table: what should be.
      wanted: {parameter: something with a shape}, all of the table's.
      vocab_size: token ids of the model: rows beyond these are padding, here and there.

    Raises:
      UserError: a tensor is missing, superfluous or of another shape; names tensor and parameter.
    """
    links, missing = _named(checkpoint, table, wanted)
    used = {link.place.where.name for link in links}
    copies = {copy.where.name for copy in table.copies}
    extra = [
        name
        for name in checkpoint.arrays
        if name.startswith(table.scope)
        and name not in used
        and name not in copies
        and not any(fnmatch.fnmatch(name, pattern) for pattern in table.ignored)
    ]
    if missing:
        raise _missing(checkpoint, missing, extra, wanted)
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise UserError(f"{checkpoint.label} has {extra[0]}{more}, and the model has no such parameter", _OTHER_MODEL)
    return [_checked(checkpoint, link, table.entries[link.parameter], wanted, vocab_size) for link in links]


def check_copies(checkpoint: Checkpoint, table: NameTable) -> None:
    """Reads tensors that are there more than once, and refuses copies that differ.

    Raises:
      UserError: they differ, or a needed one is missing.
    """
    first = {copy.of: copy.of for copy in table.copies if copy.of.name in checkpoint.arrays}
    for copy in table.copies:
        if copy.where.name not in checkpoint.arrays:
            if copy.needed:
                raise UserError(f"{checkpoint.label} lacks {copy.where.name}", _OTHER_MODEL)
            continue
        one = first.setdefault(copy.of, copy.where)  # the original may be missing, and several copies be there
        if one != copy.where and not _equal(checkpoint, copy.where, one):
            of_layer = "" if copy.where.axis is None else f" of layer {copy.where.index}"
            raise UserError(
                f"{checkpoint.label}: {copy.where.name}{of_layer} differs from {one.name}, and in this model "
                "both are one parameter",
                _OTHER_MODEL,
            )


def _named(
    checkpoint: Checkpoint, table: NameTable, wanted: Mapping[str, Any]
) -> tuple[list[Link], list[tuple[str, str]]]:
    """(links whose tensors are there, [(parameter, name of a tensor that is not)])."""
    links, missing = [], []
    for parameter in wanted:
        entry = table.entries[parameter]
        for layer, place in enumerate(entry.places):
            name = _present(checkpoint, table, place)
            if name is None:
                missing.append((parameter, place.where.name))
                continue
            found = dataclasses.replace(place, where=dataclasses.replace(place.where, name=name))
            links.append(Link(parameter, layer if entry.stacked else None, found, entry.vocabulary, None))
    return links, missing


def _present(checkpoint: Checkpoint, table: NameTable, place: Place) -> str | None:
    """The tensor of a place: the first of its names that is there, or a copy of it."""
    names = (place.where.name, *place.instead)
    copies = [copy.where.name for name in names for copy in table.copies if copy.of == Slice(name)]
    return next((name for name in (*names, *copies) if name in checkpoint.arrays), None)


def _missing(
    checkpoint: Checkpoint, missing: Sequence[tuple[str, str]], extra: Sequence[str], wanted: Mapping[str, Any]
) -> UserError:
    parameter, name = missing[0]
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    line = f"{checkpoint.label} lacks {name} (the parameter {parameter}){more}"
    size = int(np.prod(wanted[parameter].shape))
    alike = [other for other in extra if int(np.prod(checkpoint.arrays[other].shape)) == size]
    close = difflib.get_close_matches(name, alike, n=1) or difflib.get_close_matches(name, extra, n=1)
    if close:
        return UserError(f"{line}, and has {close[0]}, which nothing reads", "if it was renamed, name it back")
    return UserError(line, _OTHER_MODEL)


def _checked(checkpoint: Checkpoint, link: Link, entry: Entry, wanted: Mapping[str, Any], vocab_size: int) -> Link:
    """The link, its tensor's shape checked, with the rows of the vocabulary that it holds."""
    array = checkpoint.arrays[link.place.where.name]
    ours = list(wanted[link.parameter].shape[1 if entry.stacked else 0 :])
    theirs = list(array.shape)
    axis = link.place.where.axis
    if axis is not None and len(theirs) > axis and theirs[axis] > link.place.where.index:
        del theirs[axis]
    if link.vocabulary is not None:
        at = next(i for i, group in enumerate(link.place.axes) if link.vocabulary in group)
        if len(theirs) == len(link.place.axes):
            _check_vocabulary(checkpoint, link, theirs[at], vocab_size)
            theirs[at], ours[link.vocabulary] = vocab_size, vocab_size
    if tuple(theirs) != link.place.shape(ours):
        raise UserError(
            f"{checkpoint.label}: {link.place.where.name} is {array.shape}, and {link.parameter} is "
            f"{tuple(wanted[link.parameter].shape)}",
            _OTHER_MODEL,
        )
    return link if link.vocabulary is None else dataclasses.replace(link, rows=vocab_size)


def _check_vocabulary(checkpoint: Checkpoint, link: Link, rows: int, vocab_size: int) -> None:
    """Rows beyond the model's ids must be the padding of so many ids, and none may be missing."""
    if rows == vocab_size:
        return
    name = link.place.where.name
    if rows < vocab_size or not any(-(-vocab_size // size) * size == rows for size in _PADDINGS):
        raise UserError(
            f"{checkpoint.label}: {name} is of {rows} token ids, and the model ({link.parameter}) of {vocab_size}",
            f"set vocab_size to {rows}, or to the number of ids that {rows} is padded from",
        )
    logger.info("%s: rows %d to %d of %s are padding, and are left out", checkpoint.label, vocab_size, rows - 1, name)


def _equal(checkpoint: Checkpoint, where: Slice, of: Slice) -> bool:
    one, other = checkpoint.arrays[where.name], checkpoint.arrays[of.name]
    if where.axis is not None or of.axis is not None:
        part, original = where.of(read_all(one), 0), of.of(read_all(other), 0)
        return part is not None and original is not None and np.array_equal(part, original)
    if one.shape != other.shape:
        return False
    return all(np.array_equal(one.read(*rows), other.read(*rows)) for rows in blocks(one))
