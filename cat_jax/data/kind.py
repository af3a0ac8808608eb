"""What a directory of records holds. Stores and signals lie at the same path below their roots, and never mix."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

from cat_jax.data.layout import MANIFEST
from cat_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class RecordKind:
    """A kind of records, and the names of its files.

    Attributes:
      name: in manifests and messages.
      suffixes: of a shard's files.
      option: the macro that names the root of such directories.
    """

    name: str
    suffixes: tuple[str, ...]
    option: str

    def files(self, directory: pathlib.Path) -> list[pathlib.Path]:
        """What writers of this kind leave in a directory beside the manifest: shards, and temporaries if killed."""
        suffix = "|".join(map(re.escape, self.suffixes))
        shard = rf"shard-\d+-of-\d+({suffix})"
        own = re.compile(rf"{shard}|\.({shard}|{re.escape(MANIFEST)})\..+")
        return [path for path in sorted(directory.glob("*")) if own.fullmatch(path.name)]

    def refuse_others(self, directory: pathlib.Path) -> None:
        """Makes sure that a writer of this kind destroys nothing; a manifest that cannot be read is nobody's.

        Raises:
          UserError: the directory holds a manifest or shards of another kind.
        """
        found = kind_in(directory / MANIFEST)
        foreign = sorted(set(directory.glob("shard-*")) - set(self.files(directory)))
        if foreign or found not in (None, self.name):
            what = foreign[0].name if found in (None, self.name) else found
            raise UserError(
                f"cannot write the {self.name} to {directory}, which holds other records ({what})",
                f"name another {self.option}",
            )


def kind_in(manifest: pathlib.Path) -> str | None:
    """The kind that a manifest states, None if there is none, or it does not say."""
    try:
        fields = json.loads(manifest.read_text())
    except (OSError, ValueError):
        return None
    return fields.get("kind") if isinstance(fields, dict) else None
