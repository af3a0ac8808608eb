"""A model in a GGUF file as the folder of `transformers` that it was made from: configuration, tensors, tokenizer.

Llama, Qwen2 and Qwen3. Names and meanings are those of llama.cpp's `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
import re
import tempfile
from typing import Any

import numpy as np

from cat_jax.data.fingerprint import Known
from cat_jax.errors import UserError
from cat_jax.files import write_json
from cat_jax.foreign.arrays import Checkpoint, read_all
from cat_jax.foreign.feeding import with_bos_id
from cat_jax.foreign.gguf_file import GgufArray, GgufFile, read_file
from cat_jax.foreign.gguf_tokenizer import bos_id_of, id_count_of, write_tokenizer
from cat_jax.foreign.hugging_face import CONFIG, GENERATION
from cat_jax.foreign.vocabulary import vocabularies_of
from cat_jax.models.rope import plain_frequencies, slowed_as_llama3

logger = logging.getLogger(__name__)

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_ALTERNATING = ("llama",)
"""Of which the rows of queries and keys are reordered, as llama.cpp turns neighbours and `transformers` halves."""

_EMBEDDING, _HEAD, _FREQUENCIES = "token_embd.weight", "output.weight", "rope_freqs.weight"
_NAMES = {_EMBEDDING: "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", _HEAD: "lm_head.weight"}
_OF_LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_SIZES = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
}
_SCALINGS = {
    "linear": {"factor": "factor"},
    "yarn": {
        "factor": "factor",
        "original_context_length": "original_max_position_embeddings",
        "yarn_beta_fast": "beta_fast",
        "yarn_beta_slow": "beta_slow",
    },
}
_ARE_ONE = ("attn_factor", "yarn_attn_factor", "yarn_ext_factor")
"""What a file may say of rotary positions if it is 1: what is computed anyway."""

_LLAMA3 = {"original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""Of every Llama 3.1, 3.2 and 3.3; a file has the factors that follow from them, and not these."""

_OTHERS = "use the folder of transformers that it was made from"


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """The fields that the config.json of such a folder has, and what begins an example (`foreign.feeding`).

    Raises:
      UserError: see `gguf_file.read_file`; or the model is none that is read.
    """
    file = read_file(path)
    kind = _architecture(file)
    fields: dict[str, Any] = {"model_type": kind}
    for theirs, name in _SIZES.items():
        fields[name] = _number(file, f"{kind}.{theirs}")
    embedding = file.tensors.get(_EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise UserError(f"{path} has no table {_EMBEDDING}", "take a file with the whole model")
    heads = fields["num_attention_heads"]
    size = file.metadata.get(f"{kind}.attention.key_length", fields["hidden_size"] // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if (other := file.metadata.get(f"{kind}.{name}", size)) != size:
            raise UserError(f"{path} has {kind}.{name} {other} and heads of {size}", _OTHERS)
    fields |= {
        "num_key_value_heads": _number(file, f"{kind}.attention.head_count_kv", heads),
        "head_dim": size,
        "vocab_size": embedding.shape[0],
        "rms_norm_eps": _decimal(_number(file, f"{kind}.attention.layer_norm_rms_epsilon")),
        "rope_theta": _decimal(file.metadata.get(f"{kind}.rope.freq_base", 10_000.0)),
        "rope_scaling": _scaling(file, kind, size),
        "max_position_embeddings": _number(file, f"{kind}.context_length"),
        "hidden_act": "silu",
        "tie_word_embeddings": _HEAD not in file.tensors,
        "torch_dtype": "float32",
    }
    for name, theirs in {"bos": "bos", "eos": "eos", "pad": "padding"}.items():
        fields[f"{name}_token_id"] = file.metadata.get(f"tokenizer.ggml.{theirs}_token_id")
    found = {name: value for name, value in fields.items() if value is not None}
    return with_bos_id(found, bos_id_of(file.metadata))


def open_file(path: pathlib.Path) -> Checkpoint:
    """Its tensors under the names that such a folder has, and ordered as there; their data is not read.

    Raises:
      UserError: as `read_config`.
    """
    file, fields = read_file(path), read_config(path)
    heads = {"attn_q": fields["num_attention_heads"], "attn_k": fields["num_key_value_heads"]}
    found: dict[str, GgufArray] = {}
    for name, array in file.tensors.items():
        if name == _FREQUENCIES:
            continue
        at = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
        part = at[2] if at else ""
        if part in heads and fields["model_type"] in _ALTERNATING:
            array = _alternating(file, name, array, heads[part])
        theirs = f"model.layers.{at[1]}.{_OF_LAYERS[part]}.{at[3]}" if at and part in _OF_LAYERS else None
        found[theirs or _NAMES.get(name, name)] = array
    return Checkpoint(str(path), found)


def write_files(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes what such a folder has beside its weights: config.json, generation_config.json, the tokenizer.

    A tokenizer that cannot be written exactly is left out, and the log says so.

    Raises:
      UserError: as `read_config`; or the disk is full.
    """
    reason = _describe(read_file(path), folder)
    if reason is not None:
        logger.warning("the tokenizer in %s is left out: %s", path, reason)


def read_vocabularies(path: pathlib.Path) -> dict[str, Known]:
    """{feature: vocabulary fingerprint} of its tokenizer; empty where that cannot be written.

    Raises:
      UserError: as `read_config`.
    """
    return dict(_vocabularies(read_file(path)))


def id_count(path: pathlib.Path) -> int | None:
    """How many ids its tokenizer gives a meaning; None where it has none.

    Raises:
      UserError: as `read_config`.
    """
    return id_count_of(read_file(path).metadata)


@functools.lru_cache(maxsize=2)
def _vocabularies(file: GgufFile) -> dict[str, Known]:
    with tempfile.TemporaryDirectory() as name:
        _describe(file, pathlib.Path(name))
        return vocabularies_of(pathlib.Path(name))


def _describe(file: GgufFile, folder: pathlib.Path) -> str | None:
    """Writes what `write_files` does; returns why the tokenizer is left out, if it is."""
    fields = read_config(file.path)
    write_json(folder / CONFIG, fields)
    of_turns = file.metadata.get("tokenizer.ggml.eot_token_id")
    ends = [end for end in dict.fromkeys([fields.get("eos_token_id"), of_turns]) if end is not None]
    generation = {name: fields[name] for name in ("bos_token_id", "pad_token_id") if name in fields}
    if ends:
        generation["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    write_json(folder / GENERATION, generation)
    return write_tokenizer(file.metadata, folder)


def _architecture(file: GgufFile) -> str:
    kind = file.metadata.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise UserError(f"{file.path} is of the architecture {kind!r}", f"what is read: {', '.join(ARCHITECTURES)}")
    if file.metadata.get(f"{kind}.expert_count"):
        raise UserError(f"{file.path} is of a mixture of experts", "use a model without: this decoder has none")
    return kind


def _number(file: GgufFile, name: str, default: Any = None) -> Any:
    found = file.metadata.get(name, default)
    if isinstance(found, list):
        raise UserError(f"{file.path} has layers of several sizes ({name})", _OTHERS)
    if found is None or not found > 0:
        raise UserError(f"{file.path} lacks {name}", "take a file with the whole model")
    return found


def _decimal(value: float) -> float:
    """A float32 as it was written: 1e-05 and not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _alternating(file: GgufFile, name: str, array: GgufArray, heads: int) -> GgufArray:
    if array.shape[0] % (2 * heads):
        raise UserError(f"{file.path}: {name} has {array.shape[0]} rows, of {heads} heads", "take another file")
    return dataclasses.replace(array, heads=heads)


def _scaling(file: GgufFile, kind: str, head_dim: int) -> dict[str, Any] | None:
    """How rotary positions are scaled, as `rope_scaling` of a config.json."""
    beginning = f"{kind}.rope.scaling."
    said = {key.removeprefix(beginning): x for key, x in file.metadata.items() if key.startswith(beginning)}
    said.setdefault("factor", file.metadata.get(f"{kind}.rope.scale_linear", 1.0))  # as early files have it
    if not said["factor"] or said["factor"] == 1:  # 0 is for none, too
        del said["factor"]
    by_frequency = _FREQUENCIES in file.tensors
    name = said.pop("type", "linear" if "factor" in said else "none")
    if name == "linear" and "factor" not in said:
        name = "none"
    known = {} if by_frequency else _SCALINGS.get(name, {})
    fields = {theirs: said.pop(ours) for ours, theirs in known.items() if ours in said}
    odd = [key for key, value in said.items() if key != "finetuned" and not (key in _ARE_ONE and value == 1)]
    if odd or (name != "none" and not fields):
        what = " and ".join([repr(name), *odd, *[_FREQUENCIES] * by_frequency])
        raise UserError(f"{file.path} scales rotary positions by {what}, which is not read", _OTHERS)
    if by_frequency:
        return _llama3(file, _decimal(file.metadata.get(f"{kind}.rope.freq_base", 10_000.0)), head_dim)
    if name == "none":
        return None
    found = {key: _decimal(value) if isinstance(value, float) else value for key, value in fields.items()}
    return {"rope_type": name, **found}


def _llama3(file: GgufFile, theta: float, head_dim: int) -> dict[str, Any] | None:
    """Recovers the scaling from the factors of each frequency.

    Raises:
      UserError: they are those of another one.
    """
    found = read_all(file.tensors[_FREQUENCIES]).astype(np.float64)
    factor = _decimal(found.max())
    plain = plain_frequencies(head_dim, theta)
    expected = plain / slowed_as_llama3(plain, factor, *_LLAMA3.values())
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-4):
        raise UserError(f"{file.path} scales rotary positions by other {_FREQUENCIES} than a Llama 3's", _OTHERS)
    return None if factor == 1 else {"rope_type": "llama3", "factor": factor, **_LLAMA3}
