"""`teach --import`: a signal that another program computed, checked against the store and written as `teach` writes."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from cat_jax.data.layout import split_names
from cat_jax.data.mixture import read_mixture
from cat_jax.data.store import ExampleStore
from cat_jax.errors import UserError
from cat_jax.progress import Progress
from cat_jax.teacher.codes import encode_log_probability
from cat_jax.teacher.foreign import ROWS, ForeignRow, read_rows
from cat_jax.teacher.layout import BitLayout, SparseLayout
from cat_jax.teacher.manifest import Manifest, Recipe, TeacherIdentity, signal_directory
from cat_jax.teacher.output import SignalWriter
from cat_jax.teacher.shard import ShardBuffer

logger = logging.getLogger(__name__)

KEEP = ("auto", "bit")
_ROUNDING = 1e-3
"""By how much the given probabilities of a token may sum to more than 1."""


def import_signal(
    files: str | Sequence[str],
    store_dir: str | os.PathLike,
    mixture_or_task: str,
    output_dir: str | os.PathLike,
    *,
    splits: str | Sequence[str] = ("train",),
    teacher_name: str = "imported",
    keep: str = "auto",
    overwrite: bool = False,
) -> dict[tuple[str, str], Manifest]:
    """Writes the signal of a prepared task or mixture from rows that `teacher.foreign` describes.

    The signal of a task and split is in memory until it is whole.

    Args:
      files: .jsonl or .parquet.
      store_dir: the root that `prepare` wrote.
      mixture_or_task: what was taught there.
      output_dir: the root of the signals.
      splits: of the tasks.
      teacher_name: who taught, for people; the files' content is what tells two teachers apart.
      keep: "auto" keeps the given probabilities as a sparse signal, what they leave out as one bucket; "bit" the bit.
      overwrite: replace a signal of other files or settings.

    Returns:
      The manifests by (task, split).

    Raises:
      UserError: a file cannot be read; a row does not fit its example token by token; an example has none or two.
    """
    if keep not in KEEP:
        raise UserError(f"import_signal.keep is {keep!r}", f"choose one of {', '.join(KEEP)}")
    paths = [files] if isinstance(files, str) else list(files)
    if not paths:
        raise UserError("there is no file to import", "name at least one, --import=FILE")
    entries = 0 if keep == "bit" else _most_entries(paths)
    layout = SparseLayout(top_k=entries, tail_draws=0) if entries else BitLayout()
    teacher = TeacherIdentity(teacher_name, 0, ROWS.digest(paths), "imported")
    mixture = read_mixture(store_dir, mixture_or_task)
    parts = [
        _Part(ExampleStore.open(store_dir, task.task, split), teacher, layout, output_dir, overwrite)
        for split in split_names(splits)
        for task in mixture.of_split(split)
    ]
    _fill(parts, paths)
    return {(part.store.task, part.store.split): part.write() for part in parts}


def _most_entries(paths: Sequence[str]) -> int:
    """The greatest number of entries of a token; 0 where there are only bits.

    Raises:
      UserError: some rows have entries, and one has not.
    """
    most, bits = 0, ""
    for path in paths:
        for row in read_rows(path):
            if row.top_ids is None:
                bits = bits or row.where
            else:
                most = max(most, *(len(ids) for ids in row.top_ids if isinstance(ids, list)), 0)
    if most and bits:
        raise UserError(
            f"{bits} has no top_ids and other rows have",
            "give all rows their probabilities, or keep the bits alone: --gin.import_signal.keep='\"bit\"'",
        )
    return most


def _fill(parts: Sequence[_Part], paths: Sequence[str]) -> None:
    total = sum(part.target_tokens for part in parts)
    progress, done, strangers = Progress("import", total, "tokens"), 0, 0
    for path in paths:
        for row in read_rows(path):
            owners = [part for part in parts if part.owns(row)]
            if len(owners) > 1:
                raise UserError(
                    f"{row.where}: example {row.example_id} is in {' and in '.join(part.name for part in owners)}",
                    "give the rows a field task, or split",
                )
            if not owners:
                strangers += 1
                continue
            done += owners[0].add(row)
            progress.update(done)
    for part in parts:
        part.check_whole(strangers)
    if strangers:
        logger.info("%d rows are of other examples than these stores hold, and are left out", strangers)
    progress.close("every token is the store's")


@dataclasses.dataclass
class _Tokens:
    """What is known of one shard's target tokens."""

    right: np.ndarray  # bool[T]
    ids: np.ndarray  # i32[T, K]
    logprobs: np.ndarray  # f32[T, K]
    tail: np.ndarray  # f32[T]


class _Part:
    """The signal of one task and split on its way."""

    def __init__(
        self,
        store: ExampleStore,
        teacher: TeacherIdentity,
        layout: SparseLayout | BitLayout,
        output_dir: str | os.PathLike,
        overwrite: bool,
    ):
        self.store, self._layout = store, layout
        feature = store.manifest.features["targets"]
        self._vocab_size = feature.vocab_size
        layout.record_dtype(feature.vocab_size)  # refuses more entries than there are ids
        self._recipe = Recipe(
            task=store.task,
            split=store.split,
            store=store.fingerprint,
            vocabulary=feature.vocabulary,
            vocab_size=feature.vocab_size,
            feature_lengths=store.manifest.feature_lengths,
            teacher=teacher,
            layout=layout,
            batch_size=0,
            num_shards=len(store.shards),
        )
        directory = signal_directory(output_dir, store.task, store.split)
        self._writer = SignalWriter(directory, self._recipe, overwrite)
        self._index = {example.example_id: number for number, example in enumerate(store)}
        lengths = store.lengths[:, 1].astype(np.int64)
        self._starts, self._lengths = np.cumsum(lengths) - lengths, lengths
        self._seen = np.zeros(len(store), bool)
        entries = layout.top_k if isinstance(layout, SparseLayout) else 0
        count = int(lengths.sum())
        self._tokens = _Tokens(
            np.zeros(count, bool),
            np.zeros((count, entries), np.int32),
            np.full((count, entries), -np.inf, np.float32),
            np.zeros(count, np.float32),
        )

    @property
    def name(self) -> str:
        return f"{self.store.task} ({self.store.split})"

    @property
    def target_tokens(self) -> int:
        return len(self._tokens.right)

    def owns(self, row: ForeignRow) -> bool:
        """Whether the row is of an example here."""
        here = row.task in (None, self.store.task) and row.split in (None, self.store.split)
        return here and row.example_id in self._index

    def add(self, row: ForeignRow) -> int:
        """Takes a row; returns its number of tokens."""
        number = self._index[row.example_id]
        if self._seen[number]:
            raise UserError(f"{row.where}: example {row.example_id} of {self.name} had a row before", "leave one out")
        self._seen[number] = True
        targets = self.store[number].targets
        self._check_tokens(row, targets)
        at = slice(int(self._starts[number]), int(self._starts[number] + self._lengths[number]))
        first = self._add_entries(row, at) if row.top_ids is not None else None
        self._tokens.right[at] = self._right(row, first, targets)
        return len(targets)

    def _check_tokens(self, row: ForeignRow, targets: np.ndarray) -> None:
        given = list(row.target_tokens)
        if given == targets.tolist() and not any(isinstance(token, bool) for token in given):
            return
        mend = "score the store's own token ids: the teacher's answer must be forced to the target"
        if len(given) != len(targets):
            raise UserError(
                f"{row.where}: example {row.example_id} has {len(given)} target tokens, {self.name} has {len(targets)}",
                mend,
            )
        place = next(i for i, (one, other) in enumerate(zip(given, targets.tolist(), strict=True)) if one != other)
        raise UserError(
            f"{row.where}: target token {place} of example {row.example_id} is {given[place]!r}, {self.name} has "
            f"{targets[place]}",
            mend,
        )

    def _add_entries(self, row: ForeignRow, at: slice) -> np.ndarray:
        """Keeps the entries if the layout does; returns the likeliest id of each token, i64[T]."""
        assert row.top_ids is not None
        assert row.top_logprobs is not None
        tokens, first = self._tokens, np.zeros(at.stop - at.start, np.int64)
        keeps = tokens.ids.shape[1] > 0
        for place, (ids, logprobs) in enumerate(zip(row.top_ids, row.top_logprobs, strict=True)):
            found, values = _entries(row, place, ids, logprobs, self._vocab_size)
            first[place] = found[0]
            if keeps:
                tokens.ids[at.start + place, : len(found)] = found
                tokens.logprobs[at.start + place, : len(found)] = values
                tokens.tail[at.start + place] = max(1 - float(np.exp(values).sum()), 0)
        return first

    def _right(self, row: ForeignRow, first: np.ndarray | None, targets: np.ndarray) -> Any:
        """The given bits; or whether the likeliest id, of equal ones the lowest, is the target."""
        if row.top1_correct is None:
            assert first is not None
            return first == targets
        if not all(isinstance(bit, bool) for bit in row.top1_correct):
            raise UserError(f"{row.where}: top1_correct has something else than true and false", "give one a token")
        return list(row.top1_correct)

    def check_whole(self, strangers: int) -> None:
        """Refuses a signal that lacks examples."""
        if not self._seen.all():
            missing = int(np.argmin(self._seen))
            found = f"; {strangers} rows are of examples that are not here" if strangers else ""
            raise UserError(
                f"{int((~self._seen).sum())} of {len(self._seen)} examples of {self.name} have no row, the first is "
                f"{self.store[missing].example_id}{found}",
                "import all files of the signal at once, --import=A --import=B",
            )

    def write(self) -> Manifest:
        """Writes shards and manifest."""
        writer = self._writer
        ends = np.append(self._starts, len(self._tokens.right))
        for shard, entry in enumerate(self.store.shards):
            if writer.finished(shard):
                continue
            at = slice(int(ends[self.store.offsets[shard]]), int(ends[self.store.offsets[shard + 1]]))
            buffer = ShardBuffer(self._recipe, entry.target_tokens)
            buffer.put(np.arange(entry.target_tokens), self._fields(at))
            writer.write(shard, entry.num_examples, buffer)
        manifest = writer.finish()
        assert manifest is not None
        return manifest

    def _fields(self, at: slice) -> dict[str, Any]:
        """What the layout's `encode` gives of a teacher's logits, of these tokens."""
        fields: dict[str, Any] = {"top1_correct": self._tokens.right[at]}
        if isinstance(self._layout, SparseLayout):
            with np.errstate(divide="ignore"):
                tail = np.log(self._tokens.tail[at])
            fields |= {
                "ids": self._tokens.ids[at],
                "top": np.asarray(encode_log_probability(jnp.asarray(self._tokens.logprobs[at]))),
                "tail": np.asarray(encode_log_probability(jnp.asarray(tail))),
            }
        return fields


def _entries(
    row: ForeignRow, place: int, ids: Sequence[int], logprobs: Sequence[float], vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and log-probabilities of one token, likeliest first; of equal ones the lowest id."""
    where = f"{row.where}: target token {place} of example {row.example_id}"
    if not isinstance(ids, list) or not isinstance(logprobs, list):
        raise UserError(f"{where} has no list of top_ids or of top_logprobs", "give a list for each target token")
    if len(ids) != len(logprobs) or not ids:
        raise UserError(
            f"{where} has {len(ids)} top_ids and {len(logprobs)} top_logprobs", "give equally many, at least 1"
        )
    try:
        found, values = np.asarray(ids), np.asarray(logprobs, np.float64)
    except (TypeError, ValueError) as e:
        raise UserError(f"{where} has entries that are no numbers ({e})", "give ids and natural logarithms") from e
    if found.dtype.kind not in "iu" or found.ndim != 1 or values.ndim != 1:
        raise UserError(f"{where} has top_ids that are no whole numbers", "give the ids of the store's vocabulary")
    if found.min() < 0 or found.max() >= vocab_size:
        raise UserError(
            f"{where} names the id {found.max() if found.max() >= vocab_size else found.min()}, the store's vocabulary "
            f"has {vocab_size}",
            "only a teacher with the vocabulary of the store can be distilled from; import its bit alone",
        )
    if len(np.unique(found)) < len(found):
        raise UserError(f"{where} names an id twice", "give each id once, with all of its probability")
    total = np.exp(values).sum()
    if not np.isfinite(values).all() or not total <= 1 + _ROUNDING:
        raise UserError(
            f"{where}: the probabilities sum to {total:.4g}",
            "give natural logarithms of probabilities at temperature 1",
        )
    order = np.lexsort((found, -values))
    return found[order], values[order]
