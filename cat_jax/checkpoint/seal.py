"""The seal: one file that makes a step directory a checkpoint, with the checksum of everything under it.

<model_dir>/checkpoints/<step>/params/...      Orbax: the parameters
                               state/...       Orbax: optimizer state, step, random key
                               host/<k>.json   what process k alone knows: the position of its data iterator, ...
                               sums/<k>.json   checksums computed by process k (each process takes its share)
                               SEAL.json       written last, atomically; without it the directory is no checkpoint
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from typing import Any

from cat_jax.errors import UserError
from cat_jax.files import checksum, read_json, write_json

SEAL = "SEAL.json"
_VERSION = 1
_LAYOUT = {"params", "state", "host", "sums", "_CHECKPOINT_METADATA", "commit_success.txt"}


@dataclasses.dataclass(frozen=True)
class Seal:
    """What is known of a finished checkpoint without reading its arrays.

    Attributes:
      step: the number of updates that made it.
      digest: of the parameters' values, see `digest.params_digest`.
      metrics: evaluation metrics at this step; empty if none were computed.
      best_metric: the name of the metric by which the run chooses its best step, None if it does not.
      best_mode: 'max' or 'min'.
      arrays: {item: {name: [dtype, shape]}} of the arrays in each Orbax item.
      files: {path relative to the step directory: sha256}.
    """

    step: int
    digest: str
    metrics: dict[str, float]
    best_metric: str | None
    best_mode: str
    arrays: dict[str, dict[str, list[Any]]]
    files: dict[str, str]


def write_seal(directory: pathlib.Path, seal: Seal) -> None:
    """Makes `directory` a checkpoint."""
    write_json(directory / SEAL, {"version": _VERSION, **dataclasses.asdict(seal)})


def read_seal(directory: pathlib.Path) -> Seal:
    """The seal of a step directory.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    path = directory / SEAL
    content = read_json(path, "checkpoint seal", _fallback(directory))
    try:
        if content.pop("version") != _VERSION:
            raise UserError(f"{path} was written by another version of cat-jax", "use the version that wrote it")
        return Seal(**content)
    except (TypeError, KeyError, AttributeError) as e:
        raise UserError(f"{path} is not a checkpoint seal ({e})", _fallback(directory)) from e


def sealed_steps(checkpoints: pathlib.Path) -> list[int]:
    """The steps with a seal, ascending; half-written ones and anything else are passed over."""
    if not checkpoints.is_dir():
        return []
    return sorted(int(p.name) for p in checkpoints.iterdir() if p.name.isdecimal() and (p / SEAL).is_file())


def remove_unsealed(checkpoints: pathlib.Path) -> list[str]:
    """Removes what an interrupted save or removal left, and nothing that cat-jax did not write; returns the names."""
    leftovers = [path for path in checkpoints.iterdir() if _is_leftover(path)]
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return sorted(p.name for p in leftovers)


def _is_leftover(path: pathlib.Path) -> bool:
    if path.is_symlink():
        return False
    if path.name.startswith((".removed-", ".probe")) or ".orbax-checkpoint-tmp" in path.name:
        return True
    if not path.name.isdecimal() or not path.is_dir() or (path / SEAL).exists():
        return False
    return all(inner.name in _LAYOUT or inner.name.startswith(f".{SEAL}") for inner in path.iterdir())


def remove_step(directory: pathlib.Path) -> None:
    """Removes a checkpoint; killed on the way, it leaves no directory that looks like one."""
    doomed = directory.with_name(f".removed-{directory.name}")
    directory.rename(doomed)
    shutil.rmtree(doomed)


def files_to_check(directory: pathlib.Path) -> list[str]:
    """Relative paths of everything that a seal covers, in a fixed order."""
    files = (p.relative_to(directory) for p in directory.rglob("*") if p.is_file())
    return sorted(str(p) for p in files if p.parts[0] not in ("sums", SEAL))


def hash_files(directory: pathlib.Path, files: list[str]) -> dict[str, str]:
    """{relative path: sha256}."""
    return {file: checksum(directory / file) for file in files}


def find_damage(directory: pathlib.Path, seal: Seal, files: list[str]) -> UserError | None:
    """The error for the first of `files` that is missing or whose bytes differ from the seal's checksum."""
    for file in files:
        path = directory / file
        try:
            if checksum(path) == seal.files[file]:
                continue
            problem = f"{path} is damaged (its checksum differs from the one in {SEAL})"
        except OSError as e:
            problem = f"{path} cannot be read ({e.strerror})"
        return UserError(problem, _fallback(directory))
    return None


def _fallback(directory: pathlib.Path) -> str:
    others = [step for step in sealed_steps(directory.parent) if str(step) != directory.name]
    if not others:
        return f"restore it from a copy, or remove {directory} to start afresh"
    return f"restore it from a copy, or remove {directory} to fall back to step {others[-1]}"
