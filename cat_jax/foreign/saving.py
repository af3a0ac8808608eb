"""Folders that `transformers` opens, and directories that T5X restores."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import serialization

from cat_jax.files import atomic_write, write_json
from cat_jax.foreign import hugging_face, t5x_files
from cat_jax.foreign.arrays import Checkpoint
from cat_jax.foreign.families import ForeignFamily
from cat_jax.foreign.safetensors_file import SafetensorsWriter
from cat_jax.foreign.writing import Tensor, links_to_write, tensors_to_write, write
from cat_jax.foreign.zarr_array import write_zarr
from cat_jax.types import ModelConfig

SHARD_BYTES = 5_000_000_000
"""Where a folder's weights are more than this, they are in several files with an index, as `transformers` does it."""

_T5X_CHUNK_BYTES = 64 << 20
Report = Callable[[int], None]


def save_folder(
    folder: pathlib.Path,
    family: ForeignFamily,
    config: ModelConfig,
    parameters: Checkpoint,
    *,
    described: Mapping[str, Any],
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    report: Report = lambda size: None,
) -> dict[str, Any]:
    """Writes weights and config.json into an empty folder.

    Args:
      folder: it is there.
      family: of the model.
      config: of the model.
      parameters: the model's own, by name.
      described: the fields of the config.json that the model came with: it keeps those that do not say what it is.
      dtype: of the weights; None keeps that of the parameters.
      shard_bytes: see `SHARD_BYTES`.
      report: for progress.

    Returns:
      {"files", "tensors", "bytes", "dtype"}.

    Raises:
      UserError: the disk is full or read-only; `transformers` has no such model; a damaged parameter.
    """
    table = family.hugging_face_names(config)
    links = links_to_write(table, parameters, config.vocab_size)
    tensors = tensors_to_write(table, links, parameters, None if dtype is None else jnp.dtype(dtype))
    files = _shards(tensors, shard_bytes)
    writers = {
        file: SafetensorsWriter(folder / file, {name: (tensors[name].dtype, tensors[name].shape) for name in names})
        for file, names in files.items()
    }
    place = {name: file for file, names in files.items() for name in names}
    write(table, links, parameters, tensors, lambda name, array: writers[place[name]].write(name, array), report)
    for writer in writers.values():
        writer.close()
    total = sum(tensor.nbytes for tensor in tensors.values())
    if len(files) > 1:
        write_json(folder / hugging_face.INDEX, {"metadata": {"total_size": total}, "weight_map": place})
    used = _common_dtype(tensors)
    kept = {name: value for name, value in described.items() if name not in ("dtype", "transformers_version")}
    write_json(folder / hugging_face.CONFIG, {**family.to_hugging_face(config, kept), "torch_dtype": used})
    return {"files": sorted(files), "tensors": len(tensors), "bytes": total, "dtype": used}


def save_t5x(
    directory: pathlib.Path,
    family: ForeignFamily,
    config: ModelConfig,
    parameters: Checkpoint,
    *,
    step: int,
    scan: bool = False,
    dtype: str | None = None,
    report: Report = lambda size: None,
) -> dict[str, Any]:
    """Writes a checkpoint of T5X, of parameters and step alone, into an empty directory.

    Args:
      directory: it is there; T5X wants it called checkpoint_<step>.
      family: of the model, one that T5X has.
      config: of the model.
      parameters: the model's own, by name.
      step: the number of updates.
      scan: stack the layers, as `examples/scalable_t5` has them.
      dtype: of the weights; None keeps that of the parameters.
      report: for progress.

    Returns:
      {"tensors", "bytes", "dtype"}.

    Raises:
      UserError: the disk is full or read-only; a damaged parameter.
    """
    assert family.t5x_names_to_write is not None
    table = family.t5x_names_to_write(config, scan)
    links = links_to_write(table, parameters, config.vocab_size)
    tensors = tensors_to_write(table, links, parameters, None if dtype is None else jnp.dtype(dtype))
    tree: dict[str, Any] = {"state": {"step": np.int32(step)}}

    def put(name: str, array: np.ndarray) -> None:
        stored = name.replace("/", ".")
        metadata = {"compressor": {"id": "gzip", "level": 1}, "shape": array.shape, "chunks": _chunks(array)}
        write_zarr(directory / stored, array, metadata)
        *path, last = name.split("/")
        branch = tree
        for key in path:
            branch = branch.setdefault(key, {})
        branch[last] = {
            "driver": "zarr",
            "dtype": array.dtype.name,
            "kvstore": {"driver": "file", "path": f"{stored}/"},
            "metadata": {**metadata, "shape": list(array.shape)},
        }

    write(table, links, parameters, tensors, put, report)
    index = serialization.msgpack_serialize({"version": t5x_files.VERSION, "optimizer": tree})
    atomic_write(directory / t5x_files.INDEX, index)
    total = sum(tensor.nbytes for tensor in tensors.values())
    return {"tensors": len(tensors), "bytes": total, "dtype": _common_dtype(tensors)}


def _shards(tensors: Mapping[str, Tensor], limit: int) -> dict[str, list[str]]:
    """{file: names}, filled in order up to `limit` bytes each."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    if len(shards) == 1:
        return {hugging_face.WEIGHTS: shards[0]}
    return {f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors": names for i, names in enumerate(shards)}


def _chunks(array: np.ndarray) -> list[int]:
    """T5X's: whole divisors of the axes, the largest axis cut first, until a chunk is 64 MiB at most."""
    chunks = list(array.shape)
    while np.prod(chunks) * array.itemsize > _T5X_CHUNK_BYTES:
        axis = int(np.argmax(chunks))
        chunks[axis] = next(size for size in range(chunks[axis] - 1, 0, -1) if array.shape[axis] % size == 0)
    return chunks


def _common_dtype(tensors: Mapping[str, Tensor]) -> str:
    names: Sequence[str] = sorted({tensor.dtype.name for tensor in tensors.values()})
    return names[0] if len(names) == 1 else "float32"
