"""Which parameters stay as they are: they have neither gradient nor optimizer state, and are in every checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cat_jax.errors import UserError

IsFrozen = Callable[[str], bool]
"""Of a parameter's name: whether it stays as it is."""


def nothing(name: str) -> bool:
    """Every parameter is trained."""
    del name
    return False


def frozen_names(names: Iterable[str], patterns: Sequence[str]) -> frozenset[str]:
    """The names in which one of the regular expressions is found.

    Raises:
      UserError: a pattern is none, or is found in no name; or nothing is left to train.

    >>> sorted(frozen_names(["embedding.table", "layers.0.norm.scale", "layers.0.mlp.kernel"], ["^embedding", "norm"]))
    ['embedding.table', 'layers.0.norm.scale']
    """
    if isinstance(patterns, str):
        raise UserError(f"train.frozen is the string {patterns!r}", "give a list of strings")
    names, found = list(names), set()
    for pattern in patterns:
        try:
            hits = {name for name in names if re.search(pattern, name)}
        except re.error as e:
            raise UserError(f"train.frozen has {pattern!r} ({e})", "give regular expressions") from e
        if not hits:
            some = ", ".join(sorted(names)[:4])
            raise UserError(f"train.frozen has {pattern!r}, which is in no parameter's name", f"they are {some}, ...")
        found |= hits
    if names and len(found) == len(names):
        raise UserError(f"train.frozen {list(patterns)} leaves no parameter to train", "freeze fewer")
    return frozenset(found)


def trained_share(params: Mapping[str, Any], is_frozen: IsFrozen) -> float:
    """Of all numbers in the parameters (arrays or their shapes), the share that is trained.

    >>> import numpy as np
    >>> trained_share({"a": np.zeros((2, 3)), "b": np.zeros(2)}, {"b"}.__contains__)
    0.75
    """
    sizes = {name: math.prod(p.shape) for name, p in params.items()}
    return sum(size for name, size in sizes.items() if not is_frozen(name)) / sum(sizes.values())


def separate(params: Mapping[str, Any], is_frozen: IsFrozen) -> tuple[dict[str, Any], dict[str, Any]]:
    """(those that are trained, those that are frozen), in the order of `params`."""
    trained = {name: p for name, p in params.items() if not is_frozen(name)}
    return trained, {name: p for name, p in params.items() if is_frozen(name)}
