"""What a store is of: recipe (what was asked for) and manifest (what was written)."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from cat_jax.data import layout
from cat_jax.data.kind import RecordKind
from cat_jax.errors import UserError
from cat_jax.files import fingerprint, read_json

VERSION = 1
STORE = RecordKind("example store", (".array_record", ".lengths.npy", ".json"), "STORE_DIR")
FEATURES = ("inputs", "targets")
"""The features that a store holds, in this order; `inputs` may be absent (decoder-only language modelling)."""


@dataclasses.dataclass(frozen=True)
class FeatureInfo:
    """One token feature.

    `vocabulary` is the vocabulary's fingerprint. `zero_is_token` says that id 0 is a token as any other, and not only
    what batches are filled up with: what is padding then follows from lengths alone.
    """

    vocabulary: str
    vocab_size: int
    eos_id: int | None
    add_eos: bool
    zero_is_token: bool = False

    @property
    def dtype(self) -> str:
        """The little-endian NumPy dtype of the stored ids."""
        return "<u2" if self.vocab_size <= 1 << 16 else "<i4"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides a store's bytes, besides the task's own code and data.

    `keep_raw` says whether records hold the fields that SeqIO's postprocessors and metrics read. `held_out` is None, or
    {"splits": with which the examples were compared, "fingerprint": of those splits' rows, "dropped": whether examples
    that are in them were left out}.
    """

    task: str
    split: str
    features: Mapping[str, FeatureInfo]
    feature_lengths: Mapping[str, int]
    num_shards: int
    keep_raw: bool
    seed: int = 0
    version: int = VERSION
    held_out: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: what the store's fingerprint and its shards' marks are made of."""
        fields = _stated(self, "held_out")
        features = {name: _stated(info, "zero_is_token") for name, info in self.features.items()}
        return {**fields, "features": features}

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Recipe:
        """The recipe of which `to_dict` gave `fields`.

        Raises:
          KeyError: there are no features; TypeError: a field is missing or unknown.
        """
        features = {name: FeatureInfo(**info) for name, info in fields["features"].items()}
        return Recipe(**{**fields, "features": features})

    def difference(self, other: Recipe) -> str | None:
        """In words, the first thing in which `self` ("has") differs from `other` ("asked for"); None if nothing."""
        has, asked = self.to_dict(), other.to_dict()
        for name in dict.fromkeys([*has, *asked]):
            if has.get(name) != asked.get(name):
                return f"{name} {has.get(name)}, asked for {asked.get(name)}"
        return None


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """A finished shard. Token counts are after trimming.

    `example_ids` is "feature" (the task has a feature `example_id`) or "position".
    `trimmed` counts, per feature, examples that SeqIO's last trim cut; `at_limit` those that fill the feature length,
    cut or not (a task that trims on its own account cuts before anyone can count). `shared` counts the examples that
    held-out splits have, too, "exact" and "normalized" (see `data.overlap`); None if there were none to compare with.
    """

    file: str
    num_examples: int
    example_ids: str
    bytes: int
    sha256: str
    lengths_file: str
    lengths_sha256: str
    tokens: Mapping[str, int]
    longest: Mapping[str, int]
    trimmed: Mapping[str, int]
    at_limit: Mapping[str, int]
    shared: Mapping[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, as sidecars and the manifest have it."""
        return _stated(self, "shared")

    @property
    def target_tokens(self) -> int:
        return self.tokens["targets"]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A finished store. Examples count through the shards in order; nothing depends on when or where it was made."""

    recipe: Recipe
    shards: tuple[ShardEntry, ...]

    @property
    def task(self) -> str:
        return self.recipe.task

    @property
    def split(self) -> str:
        return self.recipe.split

    @property
    def features(self) -> Mapping[str, FeatureInfo]:
        return self.recipe.features

    @property
    def feature_lengths(self) -> Mapping[str, int]:
        return self.recipe.feature_lengths

    @property
    def num_examples(self) -> int:
        return sum(shard.num_examples for shard in self.shards)

    def total(self, count: str) -> dict[str, int]:
        """A shard count ("tokens", "trimmed", "at_limit") summed over the shards, per feature."""
        return {name: sum(getattr(shard, count)[name] for shard in self.shards) for name in self.features}

    @property
    def shared(self) -> dict[str, int] | None:
        """The shards' counts of examples that held-out splits have, too, summed; None if nothing was compared."""
        counts = [shard.shared for shard in self.shards if shard.shared is not None]
        return {name: sum(count[name] for count in counts) for name in counts[0]} if counts else None

    @property
    def fingerprint(self) -> str:
        """Content hash: of the recipe and of every shard's checksum."""
        return fingerprint(self._content())

    def to_dict(self) -> dict[str, Any]:
        """The content of the manifest's file."""
        content = self._content()
        derived = {"num_examples": self.num_examples, "fingerprint": self.fingerprint}
        return {"kind": STORE.name, **content, **derived}

    def _content(self) -> dict[str, Any]:
        return {**self.recipe.to_dict(), "shards": [shard.to_dict() for shard in self.shards]}


def _stated(item: Any, optional: str) -> dict[str, Any]:
    """As a dict; a field that came later is left out where it says nothing, so that older fingerprints stay."""
    fields = dataclasses.asdict(item)
    if fields[optional] is None or fields[optional] is False:
        del fields[optional]
    return fields


def read_manifest(directory: str | os.PathLike) -> Manifest:
    """The manifest of the store in `directory`.

    Raises:
      UserError: there is none (naming the file), it is of another kind or version, or its fingerprint does not fit it.
    """
    path = pathlib.Path(directory) / layout.MANIFEST
    fields = read_json(path, "store manifest", "run `cat-jax prepare` for this task and split")
    mend = "run `cat-jax prepare --overwrite`"
    kind = fields.pop("kind", STORE.name) if isinstance(fields, dict) else STORE.name
    if kind != STORE.name:
        raise UserError(f"{path} is the manifest of a {kind}, not of an {STORE.name}", f"name another {STORE.option}")
    if not isinstance(fields, dict) or fields.get("version") != VERSION:
        found = fields.get("version") if isinstance(fields, dict) else None
        raise UserError(f"{path} is a store manifest of version {found}, this program reads {VERSION}", mend)
    try:
        stated = fields.pop("fingerprint")
        fields.pop("num_examples")
        shards = tuple(ShardEntry(**shard) for shard in fields.pop("shards"))
        manifest = Manifest(Recipe.from_dict(fields), shards)
    except (KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{path} is not a store manifest ({e})", mend) from e
    if manifest.fingerprint != stated:
        raise UserError(f"the store manifest {path} was changed: its fingerprint does not fit its content", mend)
    return manifest
