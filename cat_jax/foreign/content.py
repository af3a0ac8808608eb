"""What a foreign checkpoint holds, as a digest: it does not depend on shards, compression or places."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pathlib
import time
from typing import Any

from cat_jax.errors import UserError
from cat_jax.files import fingerprint, write_json
from cat_jax.foreign.arrays import Checkpoint, blocks, size_bytes
from cat_jax.foreign.opening import Found
from cat_jax.progress import byte_progress

logger = logging.getLogger(__name__)

_SETTLED_SECONDS = 2.0
_KNOWN: dict[tuple[str, str], tuple[dict[str, Any], str]] = {}


def content_digest(found: Found, scope: str = "") -> str:
    """SHA-256 of names, dtypes, shapes and values of the tensors whose names begin with `scope`, in hexadecimal.

    It is remembered in `$XDG_CACHE_HOME/cat_jax/content` (`~/.cache`), and computed again when the size, the time of
    change or the inode of any file is another.

    Raises:
      UserError: a file is damaged.
    """
    stamp = {"scope": scope, "files": _stamps(found.path)}
    remembered, known = _cache_file(found.path, scope), _KNOWN.get((str(found.path), scope))
    if known is not None and known[0] == stamp:
        return known[1]
    try:
        before = json.loads(remembered.read_text())
        if before["stamp"] == stamp:
            return str(before["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = _digest(found.open(), scope)
    _KNOWN[str(found.path), scope] = (stamp, digest)
    newest = max((times[1] for times in stamp["files"].values()), default=0)
    # What changed only now may change again within one tick of the file system's clock.
    if time.time() - newest / 1e9 > _SETTLED_SECONDS:
        try:
            write_json(remembered, {"stamp": stamp, "digest": digest, "path": str(found.path.resolve())})
        except UserError as e:
            logger.debug("the digest of %s is not remembered: %s", found.path, e)
    return digest


def _digest(checkpoint: Checkpoint, scope: str) -> str:
    names = sorted(name for name in checkpoint.arrays if name.startswith(scope))
    total = sum(size_bytes(checkpoint.arrays[name]) for name in names)
    whole = hashlib.sha256()
    with byte_progress(f"hash {checkpoint.label}", total) as report:
        for name in names:
            array, one = checkpoint.arrays[name], hashlib.sha256()
            for start, stop in blocks(array):
                block = array.read(start, stop)
                one.update(block.tobytes())
                report(block.nbytes)
            whole.update(f"{name} {array.dtype.name} {array.shape} {one.hexdigest()}\n".encode())
    return whole.hexdigest()


def _stamps(path: pathlib.Path) -> dict[str, list[int]]:
    """{file: [size, time of change in ns, inode]} of a file, or of all below a directory."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    found: dict[str, list[int]] = {}
    for file in files:
        status = file.stat()
        found[str(file.relative_to(path))] = [status.st_size, status.st_mtime_ns, status.st_ino]
    return found


def _cache_file(path: pathlib.Path, scope: str) -> pathlib.Path:
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path("~/.cache").expanduser()
    key: Any = [str(path.resolve()), scope]
    return pathlib.Path(home) / "cat_jax" / "content" / f"{fingerprint(key)}.json"
