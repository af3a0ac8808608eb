"""The model families by name: what a saved `model.json` is read with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from cat_jax.errors import UserError
from cat_jax.models.config_fields import from_fields
from cat_jax.models.decoder_config import DecoderConfig
from cat_jax.models.lora import LORA, AdaptedConfig, Lora
from cat_jax.models.t5_config import T5Config
from cat_jax.types import PROMPTS

MODEL_FAMILIES: dict[str, Any] = {}
"""Family name to configuration class, a `types.ModelConfig`."""

Config = TypeVar("Config", bound=type)


def register_family(config: Config) -> Config:
    """Makes a family known, by the `family` of its configuration class; a decorator.

    Raises:
        UserError: another class has that name, or its `prompt` is none of `types.PROMPTS`.
    """
    name, where = config.family, f"{config.__module__}.{config.__qualname__}"
    known = MODEL_FAMILIES.get(name, config)
    if (known.__module__, known.__qualname__) != (config.__module__, config.__qualname__):
        raise UserError(
            f"{where} would be the model family {name!r}, which {known.__module__}.{known.__qualname__} is already",
            "give it another `family`",
        )
    if config.prompt not in PROMPTS:
        raise UserError(f"{where}.prompt is {config.prompt!r}", f"give one of {', '.join(PROMPTS)}")
    MODEL_FAMILIES[name] = config
    return config


register_family(T5Config)
register_family(DecoderConfig)


def config_from_dict(fields: Mapping[str, Any]) -> Any:
    """The `ModelConfig` that `to_dict` described.

    Args:
        fields: what `to_dict` gave, `family` included; of a model with adapters, too.

    Raises:
        UserError: for a family that is not registered, or fields that its configuration refuses.
    """
    if fields.get(LORA) is not None:
        base = config_from_dict({name: value for name, value in fields.items() if name != LORA})
        return AdaptedConfig(base, from_fields(Lora, fields[LORA]))
    family = fields.get("family")
    if family not in MODEL_FAMILIES:
        known = ", ".join(sorted(MODEL_FAMILIES))
        raise UserError(
            f"unknown model family {family!r}", f"give one of {known}, or import the module that registers it"
        )
    return MODEL_FAMILIES[family].from_dict(fields)
