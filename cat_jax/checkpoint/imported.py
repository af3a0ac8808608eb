"""`import_checkpoint`: another program's checkpoint becomes a model's directory as `train` leaves it."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp

from cat_jax.checkpoint.manager import CheckpointManager
from cat_jax.checkpoint.params import GivenModel, Step, abstract_model, find_foreign, read_model_file, write_model_file
from cat_jax.checkpoint.whole import whole_directory
from cat_jax.errors import UserError
from cat_jax.files import write_json
from cat_jax.foreign import gguf_model, hugging_face
from cat_jax.foreign import model as foreign
from cat_jax.foreign.opening import GGUF, Found
from cat_jax.foreign.vocabulary import id_count_of
from cat_jax.models.flops import parameter_count
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.parallel.names import flatten_names

logger = logging.getLogger(__name__)

KEPT = "huggingface"
"""Below a model's directory: the files of the folder that it came from which are no weights, or those that such a
folder would have, for its way back."""

ORIGIN = "imported.json"
"""Below a model's directory: where it came from."""


def import_checkpoint(
    source: str | os.PathLike,
    model_dir: str | os.PathLike,
    *,
    model: GivenModel = None,
    step: Step = None,
    dtype: str = "float32",
    vocab_size: int | None = None,
    vocab_multiple: int | None = None,
    scan_layers: bool | None = None,
) -> dict[str, Any]:
    """Writes `model.json` and one sealed checkpoint, so that all else works as with a model that was trained here.

    Args:
      source: a folder of `transformers`, a GGUF file, a checkpoint of T5X or the directory of its run, or Orbax's.
      model_dir: must not be there yet; it appears when it is whole.
      model: the configuration, where the source does not say it.
      step: of a run of T5X; None for its newest checkpoint.
      dtype: of the parameters: float32 or bfloat16.
      vocab_size: token ids, where the source's table has rows of padding that are to have no probability.
      vocab_multiple: pad the tables to a multiple of this; None leaves it as the configuration has it.
      scan_layers: stack the layers; None leaves it as the configuration has it.

    Returns:
      JSON-able: source, kind, step, family, parameters, dtype, vocab_size, fingerprint, vocabulary, model_dir.

    Raises:
      UserError: there is no such checkpoint, it does not fit the configuration, or the disk is full.
    """
    found = find_foreign(source, step)
    if found is None:
        raise _no_source(pathlib.Path(source))
    described, vocabularies = read_model_file(source, model, step)
    _check_ids(found, described.vocab_size, vocab_size)
    changes = {
        "dtype": dtype,
        "param_dtype": dtype,
        "vocab_size": vocab_size,
        "vocab_multiple": vocab_multiple,
        "scan_layers": scan_layers,
    }
    config = dataclasses.replace(described, **{name: value for name, value in changes.items() if value is not None})
    with whole_directory(model_dir) as directory:
        # On the host: parameters pass through it anyway, and no accelerator need be there.
        mesh = MeshConfig().build(jax.local_devices(backend="cpu")[:1])
        _, abstract = abstract_model(config, mesh)
        params = foreign.load_params(found, config, flatten_names(abstract))
        with CheckpointManager(directory) as checkpoints:
            checkpoints.save(found.step, params, {"step": jnp.asarray(found.step, jnp.int32)}, None)
        del params
        write_model_file(directory, config, vocabularies)
        _keep_files(found, directory)
        summary = {
            "source": str(source),
            "kind": found.kind,
            "step": found.step,
            "family": config.family,
            "parameters": int(parameter_count(config)),
            "dtype": dtype,
            "vocab_size": config.vocab_size,
            "fingerprint": foreign.model_fingerprint(found, described),
            "vocabulary": next(iter(vocabularies.values()), None),
        }
        write_json(directory / ORIGIN, summary)
    if not vocabularies:
        logger.warning("%s does not say on which vocabulary it was trained: its size alone can be checked", source)
    return {**summary, "model_dir": str(model_dir)}


def _check_ids(found: Found, rows: int, vocab_size: int | None) -> None:
    """Refuses to take rows for padding that the tokenizer beside them has a use for."""
    if vocab_size is None or vocab_size >= rows or not (found.path.is_dir() or found.kind == GGUF):
        return
    used = gguf_model.id_count(found.path) if found.kind == GGUF else id_count_of(found.path)
    if used is not None and vocab_size < used:
        raise UserError(
            f"vocab_size is {vocab_size}, and the tokenizer in {found.path} has {used} ids",
            f"give {min(used, rows)} or more, or leave it out",
        )


def _keep_files(found: Found, directory: pathlib.Path) -> None:
    if not found.says_its_model:
        return
    kept = directory / KEPT
    kept.mkdir()
    if found.kind == GGUF:
        gguf_model.write_files(found.path, kept)
        return
    for name in (hugging_face.CONFIG, hugging_face.GENERATION, *hugging_face.TOKENIZER_FILES):
        if (found.path / name).is_file():
            shutil.copyfile(found.path / name, kept / name)


def _no_source(path: pathlib.Path) -> UserError:
    if not path.exists():
        return UserError(f"no checkpoint at {path}", "give a folder that is on this machine")
    if (path / "model.json").exists():
        return UserError(f"{path} is a model of cat-jax already", "use it as it is")
    return UserError(
        f"{path} is no checkpoint that is read",
        "give a folder of transformers (config.json, *.safetensors), a GGUF file, a checkpoint of T5X, or one of Orbax",
    )
