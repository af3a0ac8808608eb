"""What the configurations of families refuse, each in one line that names the field."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from cat_jax.errors import UserError

ACTIVATION_NAMES = ("gelu", "gelu_exact", "relu", "silu", "linear")
DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = ("none", "minimal", "full")

Config = TypeVar("Config")


def check_counts(config: Any, names: Iterable[str]) -> None:
    """Whole numbers from 1 on."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            refuse(config, name, "give a positive whole number")


def check_flags(config: Any, names: Iterable[str]) -> None:
    """True or False."""
    for name in names:
        if not isinstance(getattr(config, name), bool):
            refuse(config, name, "give True or False")


def check_number(config: Any, name: str, fits: Callable[[float], bool], mend: str) -> None:
    """A number that fits."""
    value = getattr(config, name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not fits(value):
        refuse(config, name, mend)


def check_names(config: Any, name: str, known: tuple[str, ...], example: str) -> None:
    """A tuple of known names, at least one; a list becomes one."""
    if isinstance(getattr(config, name), list):
        object.__setattr__(config, name, tuple(getattr(config, name)))
    value = getattr(config, name)
    if not value or not isinstance(value, tuple):
        refuse(config, name, f"give names such as {example}")
    for each in value:
        check_one_of(config, name, known, each)


def check_one_of(config: Any, name: str, known: tuple[str, ...], value: Any = None) -> None:
    """One of the known names: the field itself, or a `value` that is a part of it."""
    value = getattr(config, name) if value is None else value
    if value not in known:
        raise UserError(
            f"{type(config).__name__}.{name} has unknown {value!r}", f"give one of {', '.join(map(str, known))}"
        )


def refuse(config: Any, name: str, mend: str) -> None:
    """Says what the field is and what it should be.

    Raises:
        UserError: always.
    """
    raise UserError(f"{type(config).__name__}.{name} is {getattr(config, name)!r}", mend)


def from_fields(cls: type[Config], fields: Mapping[str, Any]) -> Config:
    """A configuration from what its `to_dict` gave; `family` may be absent.

    Raises:
        UserError: a field is unknown or missing; names it.
    """
    fields = {name: value for name, value in fields.items() if name != "family"}
    known: dict[str, bool] = {
        field.name: field.default is dataclasses.MISSING
        for field in dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    }
    for name in fields:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            mend = f"did you mean {close[0]}" if close else f"its fields are {', '.join(known)}"
            raise UserError(f"{cls.__name__} has no field {name!r}", mend)
    missing = [name for name, required in known.items() if required and name not in fields]
    if missing:
        raise UserError(f"{cls.__name__} lacks {', '.join(missing)}", "give every size of the model")
    return cls(**fields)
