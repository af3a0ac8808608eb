"""Where things lie in a store root: `<task>/<split>/` directories and `mixtures/<name>.json`."""

from __future__ import annotations

import os
import pathlib
import urllib.parse
from collections.abc import Iterable

MANIFEST = "manifest.json"


def safe_name(name: str) -> str:
    """A file name for a task, split or mixture name: reversible, so that two names never meet.

    >>> safe_name("super_glue:cb"), safe_name("a/b"), safe_name("..")
    ('super_glue%3Acb', 'a%2Fb', '%2E.')
    """
    quoted = urllib.parse.quote(name, safe=" []+,=")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


def split_names(splits: str | Iterable[str]) -> list[str]:
    """Each split once; a single one may be given as its name.

    >>> split_names("test"), split_names(["train", "test", "train"])
    (['test'], ['train', 'test'])
    """
    return list(dict.fromkeys([splits] if isinstance(splits, str) else splits))


def prepared_splits(root: str | os.PathLike, task: str) -> list[str]:
    """The splits of a task that have a finished store, sorted."""
    found = (pathlib.Path(root) / safe_name(task)).glob(f"*/{MANIFEST}")
    return sorted(urllib.parse.unquote(path.parent.name) for path in found)


def store_directory(root: str | os.PathLike, task: str, split: str) -> pathlib.Path:
    """The directory of the example store of one task and split."""
    return pathlib.Path(root) / safe_name(task) / safe_name(split)


def staging_directory(directory: pathlib.Path) -> pathlib.Path:
    """Where the first shard of a store that shall replace the one in `directory` is written."""
    return directory / ".new"


def mixture_file(root: str | os.PathLike, mixture: str) -> pathlib.Path:
    """The file that says which tasks a mixture draws from, and how often."""
    return pathlib.Path(root) / "mixtures" / f"{safe_name(mixture)}.json"


def shard_file(shard: int, num_shards: int) -> str:
    """The ArrayRecord file of a shard."""
    return f"shard-{shard:05d}-of-{num_shards:05d}.array_record"


def lengths_file(shard: int, num_shards: int) -> str:
    """The token counts of a shard's records: .npy, int32[num_examples, 2], inputs (0 if absent) and targets."""
    return f"shard-{shard:05d}-of-{num_shards:05d}.lengths.npy"


def sidecar_file(shard: int, num_shards: int) -> str:
    """The file whose presence says that a shard is finished."""
    return f"shard-{shard:05d}-of-{num_shards:05d}.json"
