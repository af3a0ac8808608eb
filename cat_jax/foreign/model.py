"""A model in another program's checkpoint: its configuration, its parameters, and by what it is known."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from cat_jax.data.fingerprint import Known
from cat_jax.errors import UserError
from cat_jax.files import fingerprint
from cat_jax.foreign import families, gguf_model, hugging_face
from cat_jax.foreign.arrays import Checkpoint, size_bytes
from cat_jax.foreign.content import content_digest
from cat_jax.foreign.loading import Finish, load
from cat_jax.foreign.names import NameTable
from cat_jax.foreign.opening import GGUF, Found
from cat_jax.foreign.vocabulary import vocabularies_of
from cat_jax.progress import byte_progress
from cat_jax.types import ModelConfig

FREE = (
    *("vocab_size", "vocab_multiple", "dropout_rate", "dtype", "param_dtype", "scan_layers", "remat", "attention"),
    *("bos_id", "prefix_lm"),
)
"""Fields in which a configuration may differ from a folder's: how it is computed and fed, and the number of its ids,
which its rows are checked for."""


def read_config(found: Found, given: ModelConfig | None = None) -> ModelConfig:
    """The configuration of a checkpoint: the given one, if there is one, else what its folder or file says.

    Parameters and computation are in float32 unless a given configuration says otherwise.

    Raises:
      UserError: neither is there, or they are of different models.
    """
    if not found.says_its_model:
        if given is None:
            raise UserError(
                f"{found.path} does not say what model it is of",
                "name its gin file (TEACHER_MODEL, or EVAL_MODEL_FILES), or `cat-jax import --gin_file=...` it",
            )
        return given
    fields = gguf_model.read_config(found.path) if found.kind == GGUF else hugging_face.read_config(found.path)
    family = families.of_model_type(fields.get("model_type"), str(found.path / hugging_face.CONFIG))
    try:
        described = family.from_hugging_face(fields)
    except UserError as e:
        raise UserError(f"{found.path}: {e.problem}", e.mend) from e
    if given is None:
        return described
    check_same_model(str(found.path), described, given)
    return given


def check_same_model(label: str, described: ModelConfig, given: ModelConfig) -> None:
    """Refuses a configuration of another model; how it is computed may differ.

    Raises:
      UserError: they differ; names the field.
    """
    theirs, ours = described.to_dict(), given.to_dict()
    for name in theirs:
        if name not in FREE and theirs[name] != ours.get(name):
            raise UserError(
                f"{label} is of a model with {name} {theirs[name]!r}, the configuration has {ours.get(name)!r}",
                "give the configuration of that model",
            )


def read_vocabularies(found: Found) -> dict[str, Known]:
    """{feature: vocabulary fingerprint}; empty where nothing tells, so that only numbers of ids can be checked."""
    if found.kind == GGUF:
        return gguf_model.read_vocabularies(found.path)
    return vocabularies_of(found.path) if found.says_its_model else {}


def load_params(
    found: Found, config: ModelConfig, wanted: Mapping[str, jax.ShapeDtypeStruct], finish: Finish = dict
) -> dict[str, jax.Array]:
    """The parameters by name, as `wanted` says.

    Args:
      found: the checkpoint.
      config: of the model, as `read_config` gives it.
      wanted: by name: shape, dtype and sharding.
      finish: see `loading.load`.

    Raises:
      UserError: see `loading.load`.
    """
    checkpoint = found.open()
    table = name_table(found, config, checkpoint)
    total = sum(size_bytes(a) for name, a in checkpoint.arrays.items() if name.startswith(table.scope))
    with byte_progress(f"load {found.path.name}", total) as report:
        return load(checkpoint, table, wanted, config.vocab_size, report, finish)


def name_table(found: Found, config: ModelConfig, checkpoint: Checkpoint) -> NameTable:
    """Under which names the parameters are.

    Raises:
      UserError: the family has no such checkpoints.
    """
    family = families.of_config(config)
    if found.says_its_model:
        return family.hugging_face_names(config)
    if family.t5x_names is None:
        raise UserError(f"{found.path} is of T5X, which has no model of the family {family.family!r}", "use another")
    return family.t5x_names(config, checkpoint)


def model_fingerprint(found: Found, config: ModelConfig | None) -> str:
    """A name for the model: equal for equal configurations and equal tensors, wherever they lie."""
    described = None if config is None else config.to_dict()
    return fingerprint({"config": described, "content": content_digest(found, _scope(found))})


def _scope(found: Found) -> str:
    """What the names of tensors that are parameters begin with."""
    if found.says_its_model:
        return ""
    return "target/" if any(name.startswith("target/") for name in found.open().arrays) else ""
