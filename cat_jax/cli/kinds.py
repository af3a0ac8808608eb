"""Whether a configured value is of the kind that its parameter takes, by the parameter's annotation.

A gin value of a wrong type would otherwise show as an AttributeError, or a string taken letter by letter, far from the
line that set it.
"""

from __future__ import annotations

import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cat_jax.cli.bindings import Macro, Reference

_WORDS = {
    str: "a string in quotes",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    type(None): "None",
}


def kinds_of(target: Callable[..., Any]) -> dict[str, Any]:
    """The annotation of each parameter of a function or class."""
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)


def fits(value: Any, kind: Any) -> bool:
    """Whether a gin value can be of this kind. What a reference stands for is not known yet: it fits everywhere.

    >>> fits("runs/small", Mapping[str, str]), fits({"small": "runs/small"}, Mapping[str, str])
    (False, True)
    >>> fits("train", Sequence[str]), fits(["train"], str | Sequence[str]), fits(1, float), fits(True, int)
    (False, True, True, False)
    >>> from collections.abc import Iterable
    >>> fits(["a"], Iterable[str]), fits("a", Callable[[int], int])
    (True, False)
    """
    if isinstance(value, Reference | Macro) or kind is Any:
        return True
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in arguments)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    if origin is tuple and arguments[-1:] != (...,):
        listed = isinstance(value, list | tuple) and len(value) == len(arguments)
        return listed and all(map(fits, value, arguments))
    container = origin if inspect.isclass(origin) else kind
    if not inspect.isclass(container):
        return True
    if issubclass(container, Mapping):
        key, item = arguments or (Any, Any)
        return isinstance(value, Mapping) and all(fits(k, key) and fits(v, item) for k, v in value.items())
    if issubclass(container, Sequence) and container is not str:
        item = arguments[0] if arguments else Any
        return isinstance(value, list | tuple) and all(fits(one, item) for one in value)
    # A value that gin has read is of one of Python's own types: a function, or of a class, only a reference can be.
    known = container in (*_WORDS, Callable, os.PathLike) or container.__module__.startswith("cat_jax")
    return type(value) is container or not known


def describe(kind: Any) -> str:
    """The kind as one would write it in a gin file.

    >>> describe(Mapping[str, tuple[str, int]])
    '{a string in quotes: (a string in quotes, a whole number)}'
    >>> describe(str | Sequence[float] | None)
    'a string in quotes or [a number, ...] or None'
    >>> describe(Mapping[str, Any])
    '{a string in quotes: a value}'
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(described for one in arguments if (described := describe(one))))
    if kind is Any:
        return "a value"
    if kind in _WORDS:
        return _WORDS[kind]
    if origin is tuple and arguments[-1:] != (...,):
        return f"({', '.join(map(describe, arguments))})"
    if not arguments and kind is not origin:
        return "" if kind.__module__ == "os" else f"@{getattr(kind, '__name__', kind)}()"  # os.PathLike: a string does
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return f"{{{describe(arguments[0])}: {describe(arguments[1])}}}"
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return f"[{describe(arguments[0])}, ...]"
    return "@NAME, a function"
