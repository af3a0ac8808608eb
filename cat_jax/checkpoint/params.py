"""Parameters read back without the run that wrote them: on any mesh, in any dtype, straight to their places.

Wherever a model's directory is asked for, another program's checkpoint will do (`cat_jax.foreign`). Where that does not
say what model it is of, the configuration is given beside it: `model`. A run with LoRA is read as the model that it
trained: its adapters merged into the kernels, by the base's configuration.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from cat_jax.checkpoint.derived import Derived, adapters_of
from cat_jax.checkpoint.manager import CheckpointManager
from cat_jax.checkpoint.retention import best_step, checkpoints_dir
from cat_jax.checkpoint.seal import SEAL, read_seal, sealed_steps
from cat_jax.errors import UserError
from cat_jax.files import fingerprint, read_json, write_json
from cat_jax.foreign import model as foreign
from cat_jax.foreign.opening import Found, find
from cat_jax.models.int8 import Int8Config, in_dtype
from cat_jax.models.lora import AdaptedConfig, Lora
from cat_jax.models.registry import config_from_dict
from cat_jax.parallel.names import flatten_names, unflatten_names
from cat_jax.parallel.rules import DEFAULT_RULES, AxisRules, param_shardings
from cat_jax.types import ModelConfig

MODEL_FILE = "model.json"

Step = int | str | None
"""A step number, 'best', or None for the newest."""

GivenModel = ModelConfig | str | Sequence[str] | None
"""The configuration of a checkpoint that does not say it; in gin its file or files, of which the commands make one."""


def write_model_file(
    model_dir: str | os.PathLike,
    config: ModelConfig,
    vocabularies: dict[str, Any],
    sequences: Mapping[str, Any] | None = None,
) -> None:
    """Writes `model.json`: what the parameters mean. Call it on process 0 alone.

    Args:
      model_dir: the run's directory.
      config: the model.
      vocabularies: {feature: vocabulary fingerprint} of the data that the model is trained on.
      sequences: {"eos_id": the id that ends the targets, or None, "length": ids of an example, at most} of that data,
        for other programs (`export_checkpoint`); None if it is not known.
    """
    fields = {name: value for name, value in config.to_dict().items() if name != "family"}
    content = {"version": 1, "family": config.family, "config": fields, "vocabularies": vocabularies}
    if sequences is not None:
        content["sequences"] = sequences
    write_json(pathlib.Path(model_dir) / MODEL_FILE, content)


def read_model_file(
    model_dir: str | os.PathLike, model: GivenModel = None, step: Step = None
) -> tuple[Any, dict[str, Any]]:
    """(model configuration, {feature: vocabulary fingerprint}) of a run's directory or another program's checkpoint.

    Of a run with LoRA it is the base's; `read_lora` tells.

    Args:
      model_dir: the directory.
      model: the configuration of a checkpoint that does not say it; one that does must not contradict.
      step: see `Step`.

    Raises:
      UserError: there is no such file, it does not describe a model, or `model` is another one.
    """
    other = find_foreign(model_dir, step)
    if other is not None:
        return foreign.read_config(other, _configuration(model)), foreign.read_vocabularies(other)
    config, vocabularies = _read_own(model_dir)
    config = config.base if isinstance(config, AdaptedConfig) else config
    given = _configuration(model)
    if given is not None:
        foreign.check_same_model(str(pathlib.Path(model_dir) / MODEL_FILE), config, given)
    return config, vocabularies


def _read_own(model_dir: str | os.PathLike) -> tuple[Any, dict[str, Any]]:
    """What `write_model_file` wrote."""
    path = pathlib.Path(model_dir) / MODEL_FILE
    if not path.parent.exists():
        raise UserError(
            f"no model at {model_dir}: nothing is there",
            "name the directory of a training run, or another program's checkpoint (docs/checkpoints.md)",
        )
    content = read_json(path, "model description", "name the directory of a training run")
    if not isinstance(content, dict) or not {"family", "config", "vocabularies"} <= content.keys():
        raise UserError(f"{path} does not describe a model", "name the directory of a training run")
    return config_from_dict({"family": content["family"], **content["config"]}), content["vocabularies"]


def read_sequences(model_dir: str | os.PathLike) -> dict[str, Any]:
    """What `write_model_file` was told of sequences; empty if nothing."""
    found = read_json(pathlib.Path(model_dir) / MODEL_FILE, "model description", "name the directory of a training run")
    return found.get("sequences") or {}


def read_lora(model_dir: str | os.PathLike) -> Lora | None:
    """The adapters that a run's directory has; None where it has none.

    Raises:
      UserError: its file does not describe a model.
    """
    config, _ = _read_own(model_dir)
    return config.lora if isinstance(config, AdaptedConfig) else None


def read_vocabularies(path: str | os.PathLike) -> dict[str, Any]:
    """{feature: vocabulary fingerprint} of a run's directory or one of its steps, or of another program's checkpoint.

    Raises:
      UserError: as `read_model_file`.
    """
    model_dir, step = split_step_dir(path)
    other = find_foreign(model_dir, step)
    return read_model_file(model_dir)[1] if other is None else foreign.read_vocabularies(other)


def find_foreign(path: str | os.PathLike, step: Step = None) -> Found | None:
    """Another program's checkpoint; None if `path` is no such thing, but a run's directory, or nothing.

    Raises:
      UserError: a pickle of PyTorch, or a step that is not there.
    """
    path = pathlib.Path(path)
    ours = (path / MODEL_FILE, path / SEAL, path.parent.parent / MODEL_FILE)
    return None if checkpoints_dir(path).is_dir() or any(map(os.path.exists, ours)) else find(path, step)


def check_start(path: str | os.PathLike, model: ModelConfig) -> None:
    """Refuses to start a model from a checkpoint, our own or another program's, that says to be of another model.

    Raises:
      UserError: it is; names the field.
    """
    model_dir, step = split_step_dir(path)
    read_model_file(model_dir, model, step)


def find_step(model_dir: str | os.PathLike, step: Step = None) -> int:
    """The number of the step that `step` means.

    Raises:
      UserError: the directory has no such checkpoint.
    """
    other = find_foreign(model_dir, step)
    if other is not None:
        return other.step
    directory = checkpoints_dir(model_dir)
    steps = sealed_steps(directory)
    if not steps:
        raise UserError(f"no finished checkpoint in {directory}", "train that model first, or name another directory")
    if step is None:
        return steps[-1]
    if step == "best":
        best = best_step([read_seal(directory / str(s)) for s in steps])
        if best is None:
            raise UserError(
                f"the run in {model_dir} did not keep a best checkpoint",
                "train with CheckpointConfig.keep_best=True, or leave the step out for the newest",
            )
        return best
    if step not in steps:
        raise UserError(f"no checkpoint of step {step!r} in {directory}", f"use one of {', '.join(map(str, steps))}")
    return int(step)


def split_step_dir(path: str | os.PathLike, step: Step = None) -> tuple[pathlib.Path, Step]:
    """(model_dir, step) of a path that is a run's directory or one of its `checkpoints/<step>`."""
    path = pathlib.Path(path)
    if path.parent.name == "checkpoints" and path.name.isdecimal() and find_foreign(path) is None:
        return path.parent.parent, int(path.name)
    return path, step


def load_params(path: str | os.PathLike, abstract_params: Any, step: Step = None, model: GivenModel = None) -> Any:
    """The parameters of a checkpoint, verified.

    What is wanted in int8 is rounded, and what has adapters merged with them, kernel by kernel: beside the result there
    is never more than one kernel in f32, of all layers where they are stacked.

    Args:
      path: a run's directory, one of its `checkpoints/<step>`, or another program's checkpoint.
      abstract_params: a tree of `jax.ShapeDtypeStruct`s with shardings: which parameters, as which dtype, where to.
      step: see `Step`; ignored if the path names one.
      model: the configuration of what is loaded; needed for another program's checkpoint.

    Returns:
      A tree like `abstract_params` with arrays.

    Raises:
      UserError: no such checkpoint, a damaged file, or parameters of other names or shapes.
    """
    model_dir, step = split_step_dir(path, step)
    other = find_foreign(model_dir, step)
    wanted = flatten_names(abstract_params)
    if other is not None:
        derived = Derived(wanted)
        config = foreign.read_config(other, _configuration(model))
        return unflatten_names(abstract_params, foreign.load_params(other, config, derived.sources(), derived.finish))
    step = find_step(model_dir, step)
    adapters = adapters_of(read_seal(checkpoints_dir(model_dir) / str(step)).arrays["params"])
    lora = read_lora(model_dir) if adapters else None
    derived = Derived(wanted, adapters, 0.0 if lora is None else lora.factor)
    manager = CheckpointManager(model_dir, writable=False)
    try:
        if not derived.made:
            return unflatten_names(abstract_params, manager.restore(step, wanted).params)
        read, found = manager.reader(step, derived.sources()), {}
        for names in derived.groups():
            found |= jax.block_until_ready(derived.finish(read(names)))
    finally:
        manager.close()
    return unflatten_names(abstract_params, found)


def abstract_model(config: ModelConfig, mesh: Mesh, rules: AxisRules = DEFAULT_RULES) -> tuple[Any, Any]:
    """(graphdef, abstract params): a model's structure, and its parameters' shapes, dtypes and shardings.

    Nothing is computed and nothing allocated.
    """
    graphdef, params = nnx.split(nnx.eval_shape(lambda: config.build(jax.random.key(0))))
    shardings = param_shardings(params, mesh, rules)
    place = lambda p, sharding: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=sharding)  # noqa: E731
    return graphdef, jax.tree.map(place, params, shardings)


def load_model(
    model_dir: str | os.PathLike,
    *,
    mesh: Mesh,
    rules: AxisRules = DEFAULT_RULES,
    dtype: str | None = None,
    step: Step = None,
    model: GivenModel = None,
) -> tuple[Any, Any, Any, int]:
    """A trained model: `nnx.merge(graphdef, params)` runs it.

    Args:
      model_dir: a run's directory, one of its `checkpoints/<step>`, or another program's checkpoint.
      mesh: where its parameters go.
      rules: how they are split.
      dtype: of parameters and computation, see `models.int8.in_dtype`; None keeps the ones it was trained with (float32
        of another program's).
      step: see `Step`.
      model: see `read_model_file`.

    Returns:
      (config, graphdef, params, step).

    Raises:
      UserError: as `load_params`, or `model.json` is missing.
    """
    model_dir, step = split_step_dir(model_dir, step)
    config: Any = read_model_file(model_dir, model, step)[0]
    loaded = config if dtype is None else in_dtype(config, dtype)
    step = find_step(model_dir, step)
    graphdef, abstract = abstract_model(loaded, mesh, rules)
    config = loaded.base if isinstance(loaded, Int8Config) else loaded
    return config, graphdef, load_params(model_dir, abstract, step, config), step


def checkpoint_fingerprint(model_dir: str | os.PathLike, step: Step = None, model: GivenModel = None) -> str:
    """A name for a trained model: equal for equal configurations and parameters, wherever and whenever made.

    Another program's checkpoint has one of its own, of its tensors as they are in its files.
    """
    model_dir, step = split_step_dir(model_dir, step)
    other = find_foreign(model_dir, step)
    if other is not None:
        given = _configuration(model)
        known = given is not None or other.says_its_model
        return foreign.model_fingerprint(other, foreign.read_config(other, given) if known else None)
    config, _ = _read_own(model_dir)
    seal = read_seal(checkpoints_dir(model_dir) / str(find_step(model_dir, step)))
    return fingerprint({"config": config.to_dict(), "params": seal.digest})


def _configuration(model: GivenModel) -> ModelConfig | None:
    if isinstance(model, str | list | tuple):
        raise UserError(f"a model is given as {model!r}", "give its configuration: the command reads files")
    return model  # pyright: ignore[reportReturnType]
