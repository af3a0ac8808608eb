"""The model families by name: what a saved `model.json` is read with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cat_jax.errors import UserError
from cat_jax.models.t5_config import T5Config

MODEL_FAMILIES: dict[str, Any] = {T5Config.family: T5Config}
"""Family name to configuration class."""


def config_from_dict(fields: Mapping[str, Any]) -> Any:
    """The `ModelConfig` that `to_dict` described.

    Args:
        fields: what `to_dict` gave, `family` included.

    Raises:
        UserError: for a family that is not registered, or fields that its configuration refuses.
    """
    family = fields.get("family")
    if family not in MODEL_FAMILIES:
        raise UserError(f"unknown model family {family!r}", f"give one of {', '.join(sorted(MODEL_FAMILIES))}")
    return MODEL_FAMILIES[family].from_dict(fields)
