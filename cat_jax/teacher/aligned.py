"""`teach --align`: the bit of a teacher of another vocabulary, carried to the student's tokens by the targets' text."""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cat_jax.data.layout import split_names
from cat_jax.data.mixture import read_mixture
from cat_jax.data.record import Example
from cat_jax.data.spans import SpanEncoder, open_encoder
from cat_jax.data.store import ExampleStore
from cat_jax.errors import UserError
from cat_jax.progress import Progress
from cat_jax.teacher.alignment import RULE, Places, Unlike, align_bits, place_tokens
from cat_jax.teacher.layout import BitLayout
from cat_jax.teacher.manifest import Manifest, Recipe, signal_directory
from cat_jax.teacher.output import SignalWriter
from cat_jax.teacher.shard import ShardBuffer
from cat_jax.teacher.store import SignalStore

logger = logging.getLogger(__name__)

_TEXT = "targets_pretokenized"
_CHUNK = 256


def align(
    store_dir: str | os.PathLike,
    mixture_or_task: str,
    output_dir: str | os.PathLike,
    teacher_store_dir: str | os.PathLike,
    teacher_signal_dir: str | os.PathLike,
    *,
    splits: str | Sequence[str] = ("train",),
    teacher_tasks: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> dict[tuple[str, str], Manifest]:
    """Writes, for the examples of the student's stores, where the teacher is right: a signal of bits as any other.

    The same task was prepared twice, once with each vocabulary, and taught on the teacher's stores. Examples are found
    by their id, and their targets must be the same text; `teacher.alignment` has the rule. A killed run goes on at the
    shard where it was.

    Args:
      store_dir: the root of the student's stores, with texts (`PrepareConfig.keep_raw = 'all'`).
      mixture_or_task: what to align there.
      output_dir: the root of the signals to write.
      teacher_store_dir: the root of the teacher's stores, likewise.
      teacher_signal_dir: the root of the signals that `teach` wrote there, of any layout.
      splits: of the tasks.
      teacher_tasks: {task: its name in the teacher's stores}, where it is another.
      overwrite: replace signals of other stores or teachers.

    Returns:
      The manifests by (task, split).

    Raises:
      UserError: a store or signal is missing, keeps no texts or has a vocabulary that cannot be read; the signals would
        be written over the teacher's; an example that the teacher's store has not, or of another text; targets that
        are more than the tokens of their text.
    """
    tasks = [
        (split, task.task)
        for split in split_names(splits)
        for task in read_mixture(store_dir, mixture_or_task).of_split(split)
    ]
    names = dict(teacher_tasks or {})
    unknown = sorted(set(names) - {task for _, task in tasks})
    if unknown:
        known = ", ".join(sorted({task for _, task in tasks}))
        raise UserError(f"align.teacher_tasks names {unknown[0]!r}, which is not aligned", f"these are: {known}")
    pairs = [
        _Pair(
            _Side(store_dir, ExampleStore.open(store_dir, task, split)),
            _Side(teacher_store_dir, ExampleStore.open(teacher_store_dir, names.get(task, task), split)),
            teacher_signal_dir,
        )
        for split, task in tasks
    ]
    outputs = [signal_directory(output_dir, pair.recipe.task, pair.recipe.split).resolve() for pair in pairs]
    for pair in pairs:
        pair.check_apart(outputs)
    writers = [
        SignalWriter(signal_directory(output_dir, pair.recipe.task, pair.recipe.split), pair.recipe, overwrite)
        for pair in pairs
    ]
    return {
        (pair.recipe.task, pair.recipe.split): pair.write(writer) for pair, writer in zip(pairs, writers, strict=True)
    }


class _Side:
    """A store, and how its vocabulary reads texts."""

    def __init__(self, root: str | os.PathLike, store: ExampleStore):
        self.store = store
        self._feature = store.manifest.features["targets"]
        store.require_texts("to find the tokens in")
        self._encoder: SpanEncoder = open_encoder(root, self._feature.vocabulary)

    def text(self, example: Example) -> str:
        text = (example.raw or {}).get(_TEXT)
        if not isinstance(text, str):
            raise UserError(
                f"example {example.example_id} of {self.store.directory} has no text {_TEXT}",
                "let the task keep it, as seqio.preprocessors.tokenize does",
            )
        return text

    def places(self, example: Example) -> Places:
        try:
            return place_tokens(self._encoder, self.text(example), example.targets, self._feature.eos_id)
        except Unlike as e:
            raise UserError(
                f"the target of example {example.example_id} of {self.store.directory} cannot be aligned: {e}",
                f"let the task encode {_TEXT} as it is, and append nothing but the end of sequence",
            ) from e


class _Pair:
    """A task and split of the student, and what the teacher has of it."""

    def __init__(self, student: _Side, teacher: _Side, signal_dir: str | os.PathLike):
        self._student, self._teacher = student, teacher
        self._signal = SignalStore.open(signal_dir, teacher.store)
        source = self._signal.manifest
        if source.recipe.aligned is not None:
            raise UserError(f"the signal {self._signal.directory} is aligned itself", "name the one that was taught")
        store, feature = student.store, student.store.manifest.features["targets"]
        self.recipe = Recipe(
            task=store.task,
            split=store.split,
            store=store.fingerprint,
            vocabulary=feature.vocabulary,
            vocab_size=feature.vocab_size,
            feature_lengths=store.manifest.feature_lengths,
            teacher=source.recipe.teacher,
            layout=BitLayout(),
            batch_size=0,
            num_shards=len(store.shards),
            aligned={
                "rule": RULE,
                "signal": source.fingerprint,
                "store": teacher.store.fingerprint,
                "vocabulary": source.recipe.vocabulary,
            },
        )

    def check_apart(self, outputs: Sequence[pathlib.Path]) -> None:
        """Refuses to write where the teacher's signal is."""
        if self._signal.directory.resolve() in outputs:
            raise UserError(
                f"the aligned signal would be written over the teacher's own, {self._signal.directory}",
                "name another SIGNAL_DIR than TEACHER_SIGNAL_DIR",
            )

    def write(self, writer: SignalWriter) -> Manifest:
        """Writes the shards that are not finished, and the manifest."""
        store = self._student.store
        pending = [shard for shard in range(len(store.shards)) if not writer.finished(shard)]
        total = sum(entry.target_tokens for entry in store.shards)
        done = total - sum(store.shards[shard].target_tokens for shard in pending)
        progress = Progress(f"align {store.task} {store.split}", total, "tokens", start=done)
        places = {example.example_id: i for i, example in enumerate(self._teacher.store)} if pending else {}
        for shard in pending:
            entry = store.shards[shard]
            buffer, filled = ShardBuffer(self.recipe, entry.target_tokens), 0
            for bits in self._bits(shard, places):
                buffer.put(np.arange(filled, filled + len(bits)), {"top1_correct": bits})
                filled += len(bits)
                progress.update(done := done + len(bits))
            writer.write(shard, entry.num_examples, buffer)
        manifest = writer.finish()
        assert manifest is not None
        before = self._signal.manifest.teacher_accuracy
        progress.close(f"right on {manifest.teacher_accuracy:.1%} of them; on {before:.1%} of the teacher's own")
        return manifest

    def _bits(self, shard: int, places: Mapping[str, int]) -> Iterator[np.ndarray]:
        """The bits of each example of a shard."""
        first, end = self._student.store.offsets[shard : shard + 2].tolist()
        for start in range(first, end, _CHUNK):
            mine = self._student.store.read(range(start, min(start + _CHUNK, end)))
            found = np.array([self._find(example, places) for example in mine])
            theirs = self._teacher.store.read(found)
            counts = np.array([len(example.targets) for example in theirs])
            right = self._signal.read_batch(*self._teacher.store.locate(found), counts)["top1_correct"]
            rows = np.split(right, np.cumsum(counts)[:-1])
            for example, other, bits in zip(mine, theirs, rows, strict=True):
                yield self._align(example, other, bits)

    def _find(self, example: Example, places: Mapping[str, int]) -> int:
        if example.example_id not in places:
            raise UserError(
                f"{self._teacher.store.directory} has no example {example.example_id}, which "
                f"{self._student.store.directory} has",
                "prepare both from the same source, with a feature example_id where the task drops examples",
            )
        return places[example.example_id]

    def _align(self, example: Example, other: Example, right: np.ndarray) -> np.ndarray:
        mine, theirs = self._student.text(example), self._teacher.text(other)
        if mine != theirs:
            raise UserError(
                f"the target of example {example.example_id} is {_shown(mine)} in {self._student.store.directory} and "
                f"{_shown(theirs)} in {self._teacher.store.directory}",
                "prepare both from the same source and preprocessors; a feature example_id keeps ids apart",
            )
        try:
            return align_bits(self._teacher.places(other), right, self._student.places(example))
        except Unlike as e:
            raise UserError(
                f"example {example.example_id} of {self._teacher.store.directory} cannot be aligned: {e}",
                "prepare the teacher's store with longer targets, and with an end of sequence if the student has one",
            ) from e


def _shown(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}...")
