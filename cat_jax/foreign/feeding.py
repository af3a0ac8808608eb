"""How a model is fed, as a config.json says it: what stands where an example begins, and which ids end one.

`bos_token_id` is no answer to the first: a Qwen's names an id that nothing was trained to begin with, and of many
models the tokenizer decides. So a folder of ours, and what a GGUF file amounts to, say it in a key of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OURS = "cat_jax"
"""A key of config.json that no other program reads."""


def with_bos_id(fields: Mapping[str, Any], bos_id: int | None) -> dict[str, Any]:
    """The fields of a config.json that say what begins an example; None for nothing."""
    return {**fields, OURS: {"bos_id": bos_id}}


def bos_id_of(fields: Mapping[str, Any], *, begins: bool) -> int | None:
    """What begins an example: as it is said in our key, else the `bos_token_id` of a model that one `begins`."""
    said = fields.get(OURS)
    if isinstance(said, Mapping) and "bos_id" in said:
        return said["bos_id"]
    return next(iter(_ids(fields.get("bos_token_id"))), None) if begins else None


def eos_ids_of(fields: Mapping[str, Any]) -> list[int]:
    """The ids that end a sequence, by a config.json or a generation_config.json."""
    return _ids(fields.get("eos_token_id"))


def _ids(value: Any) -> list[int]:
    return [i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)]
