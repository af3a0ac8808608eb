"""Writes a signal shard by shard: a shard is either whole or not there, and a finished one is never redone."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator

from cat_jax.data.layout import MANIFEST
from cat_jax.errors import UserError
from cat_jax.files import atomic_write, cannot_write, checksum, write_json
from cat_jax.teacher.manifest import SIGNAL, Manifest, Recipe, ShardEntry, read_manifest, shard_file, sidecar_file
from cat_jax.teacher.shard import ShardBuffer, check_size, make_shard


class SignalWriter:
    """The signal of one (task, split) on its way to disk, resuming what an earlier writer left.

    Any number of processes may write different shards. Of a shard the data come first, then the sidecar, which alone
    makes it count as finished. The manifest comes last and makes the signal readable.

    Args:
      directory: where.
      recipe: of the signal.
      overwrite: take the directory over from a signal of another recipe, once there is a shard to put in its place:
        until then that signal can be read.

    Raises:
      UserError: the directory holds something else than a teacher signal; or one of another recipe, and `overwrite` is
        not set.
    """

    def __init__(self, directory: pathlib.Path, recipe: Recipe, overwrite: bool = False):
        self.directory, self.recipe = directory, recipe
        self._verified: set[int] = set()
        self._takes_over = overwrite
        SIGNAL.refuse_others(directory)
        if not overwrite:
            self._refuse_others()

    def complete(self) -> bool:
        """Whether the manifest is there, of this recipe, and every shard's file has its size."""
        try:
            manifest = read_manifest(self.directory)
        except UserError:  # there is none, or it is one to take over
            return False
        return manifest.recipe == self.recipe and all(self._whole(entry) for entry in manifest.shards)

    def finished(self, shard: int) -> bool:
        """Whether a shard was finished under the same recipe, byte for byte."""
        entry = self._entry(shard)
        if entry is None:
            return False
        if shard not in self._verified and checksum(self.directory / entry.file) != entry.sha256:
            return False
        self._verified.add(shard)
        return True

    def write(self, shard: int, num_examples: int, buffer: ShardBuffer) -> None:
        """Writes a shard's file, then its sidecar."""
        name, sidecar = self._names(shard)
        entry, content = make_shard(name, num_examples, buffer)
        self._take_over()
        for stale in self._leftovers(name, sidecar):
            stale.unlink(missing_ok=True)
        (self.directory / sidecar).unlink(missing_ok=True)
        atomic_write(self.directory / name, content)
        write_json(self.directory / sidecar, {"recipe": self.recipe.to_dict(), "shard": dataclasses.asdict(entry)})
        self._verified.add(shard)

    def finish(self) -> Manifest | None:
        """Writes the manifest if all shards are finished, and returns it; None if other processes are still at work.

        What other recipes left is removed first. Several processes may do this at once: they write the same.
        """
        entries = [self._entry(shard) for shard in range(self.recipe.num_shards)]
        whole = tuple(entry for entry in entries if entry is not None)
        if len(whole) < len(entries):
            return None
        if not self.complete():  # another process may have been first
            self._take_over()
        names = {name for shard in range(self.recipe.num_shards) for name in self._names(shard)}
        for path in SIGNAL.files(self.directory):
            if path.name.startswith("shard-") and path.name not in names:
                path.unlink(missing_ok=True)
        manifest = Manifest(self.recipe, whole)
        write_json(self.directory / MANIFEST, manifest.to_dict())
        return manifest

    def _take_over(self) -> None:
        """Removes the manifest of what was there, before the first of its files is replaced."""
        if self._takes_over:
            try:
                (self.directory / MANIFEST).unlink(missing_ok=True)
            except OSError as e:
                raise cannot_write(self.directory / MANIFEST, e) from e
            self._takes_over = False

    def _names(self, shard: int) -> tuple[str, str]:
        return shard_file(shard, self.recipe.num_shards), sidecar_file(shard, self.recipe.num_shards)

    def _leftovers(self, *names: str) -> Iterator[pathlib.Path]:
        """Temporary files of a writer of this shard that was killed."""
        for name in names:
            yield from self.directory.glob(f".{name}.*")

    def _entry(self, shard: int) -> ShardEntry | None:
        recipe, entry = self._read_sidecar(self._names(shard)[1])
        return entry if entry is not None and recipe == self.recipe and self._whole(entry) else None

    def _read_sidecar(self, name: str) -> tuple[Recipe | None, ShardEntry | None]:
        """(recipe, entry) of a finished shard; (None, None) if the sidecar is missing or broken."""
        try:
            sidecar = json.loads((self.directory / name).read_text())
            return Recipe.from_dict(sidecar["recipe"]), ShardEntry(**sidecar["shard"])
        except (OSError, ValueError, KeyError, TypeError, UserError):
            return None, None

    def _whole(self, entry: ShardEntry) -> bool:
        try:
            check_size(self.directory / entry.file, entry)
        except UserError:
            return False
        return True

    def _refuse_others(self) -> None:
        """Refuses to mix two recipes in one directory."""
        found = None
        if (self.directory / MANIFEST).exists():
            found = read_manifest(self.directory).recipe
        else:
            for path in sorted(self.directory.glob("shard-*.json")):
                found = found or self._read_sidecar(path.name)[0]
        difference = None if found is None else self.recipe.difference(found)
        if difference is not None:
            raise UserError(
                f"the signal in {self.directory} has {difference}",
                "name another SIGNAL_DIR, or run `cat-jax teach --overwrite`",
            )
