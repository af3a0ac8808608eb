"""What a stored signal is of: recipe (store, teacher, layout) and manifest (what was written)."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from cat_jax.checkpoint.params import GivenModel, Step, checkpoint_fingerprint, find_step, split_step_dir
from cat_jax.data import layout as places
from cat_jax.data.kind import RecordKind
from cat_jax.errors import UserError
from cat_jax.files import fingerprint, read_json
from cat_jax.teacher.layout import SignalLayout, layout_from_dict
from cat_jax.teacher.ragged import Ragged

VERSION = 3
SIGNAL = RecordKind("teacher signal", (".signal", ".json"), "SIGNAL_DIR")
MEND = "run `cat-jax teach --overwrite` for this task and split"


def signal_directory(root: str | os.PathLike, task: str, split: str) -> pathlib.Path:
    """The directory of the signal of one task and split: the same path below the signals' root as in the store."""
    return places.store_directory(root, task, split)


def shard_file(shard: int, num_shards: int) -> str:
    """The signal of the store's shard of the same number."""
    return f"shard-{shard:05d}-of-{num_shards:05d}.signal"


def sidecar_file(shard: int, num_shards: int) -> str:
    """The file whose presence says that a shard is finished."""
    return f"shard-{shard:05d}-of-{num_shards:05d}.json"


@dataclasses.dataclass(frozen=True)
class TeacherIdentity:
    """Who taught: the checkpoint's fingerprint and the dtype decide, also in `==`; name and step are for people."""

    name: str = dataclasses.field(compare=False)
    step: int = dataclasses.field(compare=False)
    fingerprint: str
    dtype: str

    @staticmethod
    def of(model_dir: str | os.PathLike, step: Step, dtype: str, model: GivenModel = None) -> TeacherIdentity:
        """The identity of a checkpoint; `model` as `read_model_file` takes it.

        Raises:
          UserError: there is no such checkpoint.
        """
        model_dir, step = split_step_dir(model_dir, step)
        step = find_step(model_dir, step)
        return TeacherIdentity(model_dir.resolve().name, step, checkpoint_fingerprint(model_dir, step, model), dtype)

    def __str__(self) -> str:
        return f"{self.name} at step {self.step} ({self.fingerprint[:12]}, {self.dtype})"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides a signal's bytes on one kind of device.

    `store` is the store's fingerprint, `vocabulary` that of its targets, `vocab_size` the teacher's, `batch_size` the
    rows of a batch on one device. `seed` keys the tail draws, see `draw_key`. `aligned` is None, or says of a signal
    that was carried over from another vocabulary (`teacher.aligned`) by which "rule", and the fingerprints of the
    "signal", its "store" and that store's "vocabulary".
    """

    task: str
    split: str
    store: str
    vocabulary: str
    vocab_size: int
    feature_lengths: Mapping[str, int]
    teacher: TeacherIdentity
    layout: SignalLayout
    batch_size: int
    num_shards: int
    seed: int = 0
    version: int = VERSION
    aligned: Mapping[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, and all of the recipe: `from_dict` gives an equal one."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.aligned is None:  # so that the manifests of other signals are what they were
            del fields["aligned"]
        teacher = dataclasses.asdict(self.teacher)
        return {
            **fields,
            "feature_lengths": dict(self.feature_lengths),
            "teacher": teacher,
            "layout": self.layout.to_dict(),
        }

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Recipe:
        """The recipe of which `to_dict` gave `fields`.

        Raises:
          KeyError: a field is missing; TypeError: one is missing or unknown.
          UserError: an unknown layout.
        """
        teacher = TeacherIdentity(**fields["teacher"])
        return Recipe(**{**fields, "teacher": teacher, "layout": layout_from_dict(fields["layout"])})

    @property
    def record_bytes(self) -> int:
        """Bytes of a target position beyond its bit, in memory; on disk they may be fewer, see `ragged`."""
        dtype = self.layout.record_dtype(self.vocab_size)
        return 0 if dtype is None else dtype.itemsize

    @property
    def ragged(self) -> Ragged | None:
        """How records are shorter on disk; None if they are not."""
        return self.layout.ragged(self.vocab_size)

    @property
    def draw_key(self) -> int:
        """u32 that keys the draws of this task and split: record i of another one has other uniform numbers."""
        return int(fingerprint([self.seed, self.task, self.split])[:8], 16)

    def difference(self, other: Recipe) -> str | None:
        """In words, the first thing in which `other` ("has") differs from `self` ("asked for"); None if nothing."""
        for field in dataclasses.fields(self):
            has, asked = getattr(other, field.name), getattr(self, field.name)
            if has != asked:
                return f"{field.name} {has}, asked for {asked}"
        return None


def bits_bytes(target_tokens: int) -> int:
    """Bytes of one bit for each target token."""
    return (target_tokens + 7) // 8


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """A finished shard. `blocks` are the CRC-32s of the file's blocks, so that reading finds damage without a scan.

    They are one hexadecimal string, 8 digits a block, least byte first. `squared_error` is the sum over the target
    tokens of the squared distance between stored and taught distribution; None where the layout has no distribution,
    or an imported signal does not tell it.
    """

    file: str
    num_examples: int
    target_tokens: int
    teacher_right: int
    bytes: int
    sha256: str
    blocks: str
    squared_error: float | None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A finished signal; nothing in it depends on when, or by how many processes, it was made."""

    recipe: Recipe
    shards: tuple[ShardEntry, ...]

    @property
    def num_examples(self) -> int:
        return sum(shard.num_examples for shard in self.shards)

    @property
    def target_tokens(self) -> int:
        return sum(shard.target_tokens for shard in self.shards)

    @property
    def teacher_accuracy(self) -> float:
        """The teacher's teacher-forced accuracy: the share of target tokens that are its top-1."""
        return sum(shard.teacher_right for shard in self.shards) / max(self.target_tokens, 1)

    @property
    def bytes_per_token(self) -> float:
        """Bytes on disk for each target token."""
        return sum(shard.bytes for shard in self.shards) / max(self.target_tokens, 1)

    @property
    def error_per_token(self) -> float | None:
        """Root mean square over the target tokens of |stored - taught distribution|, Euclidean; None if not known.

        It is the length of what a token's gradient by the student's logits is off by, at w = 0 and temperature 1,
        where the tail is drawn.
        """
        errors = [shard.squared_error for shard in self.shards if shard.squared_error is not None]
        known = sum(shard.target_tokens for shard in self.shards if shard.squared_error is not None)
        return math.sqrt(math.fsum(errors) / known) if known == self.target_tokens > 0 else None

    @property
    def fingerprint(self) -> str:
        """Content hash: of the recipe, less the teacher's name and step, and of every shard's checksum."""
        teacher = {"fingerprint": self.recipe.teacher.fingerprint, "dtype": self.recipe.teacher.dtype}
        return fingerprint({**self._content(), "teacher": teacher})

    def to_dict(self) -> dict[str, Any]:
        """The content of the manifest's file, with what follows from it for people to read."""
        return {
            "kind": SIGNAL.name,
            **self._content(),
            "num_examples": self.num_examples,
            "target_tokens": self.target_tokens,
            "teacher_accuracy": self.teacher_accuracy,
            "bytes_per_token": self.bytes_per_token,
            "error_per_token": self.error_per_token,
            "fingerprint": self.fingerprint,
        }

    def _content(self) -> dict[str, Any]:
        return {**self.recipe.to_dict(), "shards": [dataclasses.asdict(shard) for shard in self.shards]}


_DERIVED = (
    "kind",
    "num_examples",
    "target_tokens",
    "teacher_accuracy",
    "bytes_per_token",
    "error_per_token",
    "fingerprint",
)


def read_manifest(directory: str | os.PathLike) -> Manifest:
    """The manifest of the signal in `directory`.

    Raises:
      UserError: there is none (naming the file), it is of another kind or version, or its fingerprint does not fit it.
    """
    path = pathlib.Path(directory) / places.MANIFEST
    fields = read_json(path, "teacher signal's manifest", "run `cat-jax teach` for this task and split")
    kind = fields.get("kind", SIGNAL.name) if isinstance(fields, dict) else SIGNAL.name
    if kind != SIGNAL.name:
        raise UserError(f"{path} is the manifest of an {kind}, not of a {SIGNAL.name}", f"name another {SIGNAL.option}")
    if not isinstance(fields, dict) or fields.get("version") != VERSION:
        found = fields.get("version") if isinstance(fields, dict) else None
        raise UserError(f"{path} is a signal manifest of version {found}, this program reads {VERSION}", MEND)
    content = {name: value for name, value in fields.items() if name not in _DERIVED}
    try:
        shards = tuple(ShardEntry(**shard) for shard in content.pop("shards"))
        manifest = Manifest(Recipe.from_dict(content), shards)
    except (KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{path} is not a signal manifest ({e})", MEND) from e
    if manifest.to_dict() != fields:
        raise UserError(f"the signal manifest {path} was changed: its fingerprint does not fit its content", MEND)
    return manifest
