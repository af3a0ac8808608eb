"""Rows that two splits share: training on what a model is evaluated on.

A row is known by its text: the feature `content` that a task may give (the texts of the source's row, whatever the
prompt about them), else its inputs, or its targets where it has none. It is shared *exactly* if the other split has the
same text, and *normalized* if it has it but for case, punctuation and space.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cat_jax.data import seqio_task
from cat_jax.data.convert import CONTENT, plain
from cat_jax.errors import UserError
from cat_jax.progress import Progress

EXAMPLES = 3
"""Shared rows that are shown."""

_HASH = "S16"


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of a task or mixture."""

    name: str
    split: str

    def __str__(self) -> str:
        return f"{self.name}:{self.split}"


@dataclasses.dataclass(frozen=True)
class Overlap:
    """How many of `left`'s rows are in `right`. `exact` ones are among the `normalized` ones."""

    left: str
    right: str
    rows: int
    others: int
    exact: int
    normalized: int
    examples: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)


def parse_split(text: str) -> Split:
    """`TASK_OR_MIXTURE:SPLIT`.

    Raises:
      UserError: it is something else.

    >>> parse_split("super_glue:cb:test")
    Split(name='super_glue:cb', split='test')
    """
    name, _, split = text.rpartition(":")
    if not name or not split:
        raise UserError(f"{text!r} names no split", "write TASK_OR_MIXTURE:SPLIT, such as super_glue_rte:validation")
    return Split(name, split)


def find_overlap(left: Split, right: Split) -> Overlap:
    """Counts the rows of `left` that `right` has, too. The modules that register both must be loaded.

    Raises:
      UserError: an unknown name or split, or a source that cannot be read.
    """
    held_out = HeldOut.of([right])
    rows = exact = normalized = 0
    examples = []
    for text in _texts(left):
        rows += 1
        is_exact, is_normalized = held_out.shares(text)
        exact += is_exact
        normalized += is_normalized
        if is_normalized and len(examples) < EXAMPLES:
            examples.append(text)
    return Overlap(str(left), str(right), rows, held_out.rows, exact, normalized, tuple(examples))


class HeldOut:
    """The rows of some splits, by hashes of 128 bits: 32 bytes a row, whatever its length.

    Args:
      exact: sorted, of the texts.
      normalized: sorted, of the normalized texts.
      rows: how many there are.
    """

    def __init__(self, exact: np.ndarray, normalized: np.ndarray, rows: int):
        self._exact, self._normalized, self.rows = exact, normalized, rows

    @classmethod
    def of(cls, splits: Sequence[Split]) -> HeldOut:
        """Reads the splits.

        Raises:
          UserError: an unknown name or split, or a source that cannot be read.
        """
        exact, normalized, rows = [], [], 0
        for split in splits:
            for text in _texts(split):
                exact.append(_hash(text))
                normalized.append(_hash(normalize(text)))
                rows += 1
        return cls(np.unique(np.array(exact, _HASH)), np.unique(np.array(normalized, _HASH)), rows)

    @classmethod
    def load(cls, path: pathlib.Path) -> HeldOut:
        """What `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["exact"], arrays["normalized"], int(arrays["rows"]))

    def save(self, path: pathlib.Path) -> None:
        """Writes it for other processes."""
        with path.open("wb") as file:
            np.savez(file, exact=self._exact, normalized=self._normalized, rows=self.rows)

    @property
    def fingerprint(self) -> str:
        """Of the rows, whatever their order."""
        return hashlib.sha256(self._exact.tobytes()).hexdigest()[:16]

    def shares(self, text: str) -> tuple[bool, bool]:
        """Whether the text is there exactly, and whether it is but for case, punctuation and space."""
        is_normalized = _holds(self._normalized, _hash(normalize(text)))
        return is_normalized and _holds(self._exact, _hash(text)), is_normalized


def content_of(row: Mapping[str, Any]) -> str:
    """The text by which a row is known."""
    for name in (CONTENT, "inputs_pretokenized", "targets_pretokenized"):
        if name in row:
            return str(plain(row[name]))
    raise UserError(
        "rows keep no text to compare", "keep the preprocessor seqio.preprocessors.tokenize, or give `content`"
    )


def normalize(text: str) -> str:
    """Letters and digits in lower case, words with one space between.

    >>> normalize("It's  3 o'clock, Ms. Äpfel!")
    'its 3 oclock ms äpfel'
    """
    return " ".join(_MARKS.sub("", text.lower()).split())


_MARKS = re.compile(r"[^\w\s]|_")


def _texts(split: Split) -> Iterator[str]:
    provider = seqio_task.get_provider(split.name, "the splits to compare")
    tasks = [task for task in seqio_task.tasks_of(provider) if split.split in task.splits]
    if not tasks:
        known = sorted({name for task in seqio_task.tasks_of(provider) for name in task.splits})
        raise UserError(f"{split.name!r} has no split {split.split!r}", f"name one of {', '.join(known)}")
    progress = Progress(f"read {split}", None, "rows")
    done = 0
    for task in tasks:
        whole = dict.fromkeys(task.output_features, 1 << 20)
        with seqio_task.source_errors(task.name, split.split):
            for row in seqio_task.arrays(seqio_task.dataset(task, split.split, 0, 1, whole, seed=0)):
                yield content_of(row)
                done += 1
                if done % 256 == 0:
                    progress.update(done)
    progress.update(done)
    progress.close()


def _hash(text: str) -> bytes:
    # NumPy strips zero bytes at the end of such strings: the last byte is never zero.
    return hashlib.blake2b(text.encode(), digest_size=15).digest() + b"\x01"


def _holds(sorted_hashes: np.ndarray, value: bytes) -> bool:
    place = int(np.searchsorted(sorted_hashes, np.array(value, _HASH)))
    return place < len(sorted_hashes) and sorted_hashes[place] == value
