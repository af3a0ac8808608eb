"""`export_checkpoint`: a model's directory becomes a folder that `transformers` opens, or a checkpoint of T5X."""

from __future__ import annotations

import logging
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from cat_jax.checkpoint.formats import DTYPES, FORMATS
from cat_jax.checkpoint.imported import KEPT
from cat_jax.checkpoint.params import (
    Step,
    find_foreign,
    find_step,
    read_lora,
    read_model_file,
    read_sequences,
    split_step_dir,
)
from cat_jax.checkpoint.retention import checkpoints_dir
from cat_jax.checkpoint.seal import find_damage, read_seal
from cat_jax.checkpoint.whole import whole_directory
from cat_jax.errors import UserError
from cat_jax.files import read_json, write_json
from cat_jax.foreign import families, hugging_face, orbax_files
from cat_jax.foreign.arrays import size_bytes
from cat_jax.foreign.merging import merge_adapters
from cat_jax.foreign.saving import SHARD_BYTES, save_folder, save_t5x
from cat_jax.foreign.tokenizer_files import warn_of_another, write_tokenizer
from cat_jax.foreign.vocabulary import eos_id_of
from cat_jax.progress import byte_progress
from cat_jax.types import ModelConfig

logger = logging.getLogger(__name__)


def export_checkpoint(
    model_dir: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    format: str = "huggingface",
    step: Step = None,
    dtype: str | None = None,
    tokenizer: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Writes a model's parameters for another program; needs no more memory than a few tensors.

    Adapters of LoRA are merged, in f32, and rounded once to the dtype of the weights.

    Args:
      model_dir: a run's directory, or one of its `checkpoints/<step>`.
      folder: must not be there yet; it appears when it is whole. For T5X a checkpoint_<step> is made in it.
      format: one of `FORMATS`: "t5x" has its layers apart, "t5x_scanned" stacked.
      step: see `checkpoint.params.Step`.
      dtype: of the weights; None keeps that of the parameters.
      tokenizer: a SentencePiece model, a tokenizer.json, a folder with such, or "bytes"; None takes what the model was
        imported with, if anything.
      shard_bytes: a folder with more than this is in several files.

    Returns:
      JSON-able: model_dir, step, format, folder, tensors, bytes, dtype, and of a folder of transformers its files.

    Raises:
      UserError: there is no such model, a damaged file, a family that is not known there, or the disk is full.
    """
    for name, value, known in (("format", format, FORMATS), ("dtype", dtype, (None, *DTYPES))):
        if value not in known:
            raise UserError(f"the {name} to export is {value!r}", f"give one of {', '.join(filter(None, known))}")
    model_dir, step = split_step_dir(model_dir, step)
    if find_foreign(model_dir) is not None:
        raise UserError(f"{model_dir} is another program's already", "import it first")
    config, vocabularies = read_model_file(model_dir)
    step = find_step(model_dir, step)
    family = families.of_config(config)
    if format != "huggingface" and family.t5x_names_to_write is None:
        raise UserError(f"T5X has no models of the family {config.family!r}", "export it as huggingface")
    parameters, lora = _verified(model_dir, step), read_lora(model_dir)
    if lora is not None:
        parameters = merge_adapters(parameters, lora.factor, None if dtype is None else jnp.dtype(dtype))
    total, kept = sum(map(size_bytes, parameters.arrays.values())), model_dir / KEPT
    label = f"export {model_dir.resolve().name}"
    with whole_directory(folder) as directory, byte_progress(label, total) as report:
        if format == "huggingface":
            described = _described(kept, config, read_sequences(model_dir))
            kind = family.to_hugging_face(config, described)["model_type"]
            tokenizer_files = write_tokenizer(directory, tokenizer, kept, family, config, kind)
            if tokenizer is not None:
                warn_of_another(tokenizer, config, vocabularies, model_dir)
            if described.get("eos_token_id") is None:
                described["eos_token_id"] = _end_of(directory, model_dir)
            done = save_folder(
                directory,
                family,
                config,
                parameters,
                described=described,
                dtype=dtype,
                shard_bytes=shard_bytes,
                report=report,
            )
            fields = _read(directory / hugging_face.CONFIG)
            _write_generation(directory, kept, fields)
            done["files"] += tokenizer_files
        else:
            inside = directory / f"checkpoint_{step}"
            inside.mkdir()
            scan = format == "t5x_scanned"
            done = save_t5x(inside, family, config, parameters, step=step, scan=scan, dtype=dtype, report=report)
    return {"model_dir": str(model_dir), "step": step, "format": format, "folder": str(folder), **done}


def _described(kept: pathlib.Path, config: ModelConfig, sequences: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json that the model came with; where that does not say how sequences end, the data's word for it."""
    found = _read(kept / hugging_face.CONFIG)
    if found.get("eos_token_id") is None and sequences.get("eos_id") is not None:
        found["eos_token_id"] = sequences["eos_id"]
    if config.prompt == "prefix" and sequences.get("length"):
        found.setdefault("max_position_embeddings", sequences["length"])
    return found


def _end_of(folder: pathlib.Path, model_dir: pathlib.Path) -> int | None:
    """By the tokenizer that is exported."""
    found = eos_id_of(folder)
    if found is None:
        logger.warning("which id ends a sequence of %s is not known: name its tokenizer (--tokenizer)", model_dir)
    return found


def _verified(model_dir: pathlib.Path, step: int) -> Any:
    """The parameters of a checkpoint in their files, the checksums of which are right."""
    directory = checkpoints_dir(model_dir) / str(step)
    seal = read_seal(directory)
    damage = find_damage(directory, seal, sorted(file for file in seal.files if file.startswith("params/")))
    if damage is not None:
        raise damage
    return orbax_files.open_item(directory / "params")


def _write_generation(folder: pathlib.Path, kept: pathlib.Path, fields: dict[str, Any]) -> None:
    """How `generate` begins and ends: as the model was imported with it, or as its configuration has it."""
    if (kept / hugging_face.GENERATION).is_file():
        shutil.copyfile(kept / hugging_face.GENERATION, folder / hugging_face.GENERATION)
        return
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    found = {name: fields[name] for name in names if fields.get(name) is not None}
    write_json(folder / hugging_face.GENERATION, found)


def _read(path: pathlib.Path) -> dict[str, Any]:
    return read_json(path, "configuration", "import the model again") if path.is_file() else {}
