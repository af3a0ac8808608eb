"""A gin configuration as data: bindings that can be narrowed to a scope, followed from a root, compared and written.

Gin keeps its configuration in one global place and knows a name only once its module is imported. Here a
configuration is a value: it is read without importing what it names, and `cli.configuration` hands it to gin.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

FLAG = "--gin."
"""What a binding's source begins with if it came as a flag."""

Signature = Callable[[str], inspect.Signature | None]
"""From the name of a configurable to its signature; None if it cannot be told."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """`@scope/name` or, evaluated, `@scope/name()`."""

    scope: str
    name: str
    evaluate: bool

    def __repr__(self) -> str:
        return f"@{f'{self.scope}/' if self.scope else ''}{self.name}{'()' if self.evaluate else ''}"


@dataclasses.dataclass(frozen=True)
class Macro:
    """`%NAME`."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


REQUIRED = Macro("gin.REQUIRED")


@dataclasses.dataclass(frozen=True)
class Binding:
    """`scope/name.parameter = value`, or for a macro `name = value` (`parameter` is then empty).

    `source` says where it was read, for messages: a file and a line, or a flag.
    """

    scope: str
    name: str
    parameter: str
    value: Any
    source: str = dataclasses.field(default="", compare=False)

    @property
    def key(self) -> str:
        name = f"{self.scope}/{self.name}" if self.scope else self.name
        return f"{name}.{self.parameter}" if self.parameter else name

    @property
    def is_macro(self) -> bool:
        return not self.parameter

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r}"


@dataclasses.dataclass(frozen=True)
class Import:
    """A module that a gin file imports, so that it can register names or have its own used as `bound_name.Thing`."""

    module: str
    text: str
    bound_name: str
    source: str = dataclasses.field(default="", compare=False)

    @property
    def bound_module(self) -> str:
        """The module that `bound_name` stands for: `import a.b` binds a."""
        return self.bound_name if self.text == f"import {self.module}" else self.module

    def __str__(self) -> str:
        return self.text


def references(value: Any) -> Iterator[Reference | Macro]:
    """Every reference and macro in a value, however deep in lists, tuples and dictionaries."""
    if isinstance(value, Reference | Macro):
        yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from references(pair)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


@dataclasses.dataclass(frozen=True)
class Bindings:
    """Bindings in the order in which they were read (a later one wins), and the modules that the files import."""

    items: tuple[Binding, ...] = ()
    imports: tuple[Import, ...] = ()

    def in_scope(self, scope: str) -> Bindings:
        """What holds for a program that runs as `scope`: bindings of `a/b` and `a` become unscoped, for scope "a/b".

        The more specific wins, whatever the order of reading: that is what gin does with a scoped call; here macros
        are narrowed, too.

        >>> both = Bindings((Binding("teacher", "STEPS", "", 9), Binding("", "STEPS", "", 5)))
        >>> [str(item) for item in both.in_scope("teacher").items]
        ['STEPS = 5', 'STEPS = 9']
        """
        parts = scope.split("/") if scope else []
        prefixes = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        levels: list[list[Binding]] = [[] for _ in range(len(prefixes) + 1)]
        for item in self.items:
            for depth in range(len(prefixes), 0, -1):
                prefix = prefixes[depth - 1]
                if item.scope == prefix or item.scope.startswith(prefix + "/"):
                    narrowed = item.scope[len(prefix) + 1 :]
                    levels[depth].append(dataclasses.replace(item, scope=narrowed))
                    break
            else:
                levels[0].append(item)
        return Bindings(tuple(item for level in levels for item in level), self.imports)

    def merged(self) -> dict[str, Binding]:
        """The binding that counts for each key: the last one; `%gin.REQUIRED` counts only where there is no other.

        So the order of a run file, which says what is required, and a model file, which gives it, does not matter.
        """
        found: dict[str, Binding] = {}
        for item in self.items:
            if item.value != REQUIRED or item.key not in found:
                found[item.key] = item
        return found

    def macro(self, name: str) -> Any:
        """The value of a macro, other macros in it left as they are; None if it is not set."""
        found = self.merged().get(name)
        return None if found is None else found.value

    def with_optional(self, macros: Iterable[str]) -> Bindings:
        """With None for those of the macros that have no value, be they declared as required or not at all."""
        known = self.merged()
        lacking = [name for name in macros if name not in known or known[name].value == REQUIRED]
        return Bindings((*self.items, *(Binding("", name, "", None) for name in lacking)), self.imports)

    def reachable(self, roots: Sequence[str], signature: Signature = lambda name: None) -> Reach:
        """Follows references and macros from configurables, in gin's scopes.

        Args:
          roots: the names of the configurables that are called.
          signature: tells required parameters; without it none is reported as missing.
        """
        return _Walk(self.merged(), signature).run(roots)

    def names(self) -> dict[str, Binding]:
        """Each configurable that is bound or referred to, with the first binding that does so."""
        found: dict[str, Binding] = {}
        for item in self.items:
            if not item.is_macro:
                found.setdefault(item.name, item)
            for ref in references(item.value):
                if isinstance(ref, Reference):
                    found.setdefault(ref.name, item)
        return found

    def __str__(self) -> str:
        """Gin that reads back as these bindings, sorted, each key once."""
        return text_of(self.merged().values(), self.imports)


def text_of(items: Iterable[Binding], imports: Iterable[Import] = ()) -> str:
    """The bindings as gin, macros first, sorted by key."""
    ordered = sorted(items, key=lambda item: (not item.is_macro, item.key))
    return "".join(f"{line}\n" for line in [*imports, *ordered])


@dataclasses.dataclass(frozen=True)
class Reach:
    """What a configurable uses of a configuration."""

    used: tuple[Binding, ...]
    visited: tuple[str, ...]
    """The configurables, each once."""
    missing: tuple[str, ...]
    """Macros without a value and required parameters without a binding, in the order in which they are met."""

    @property
    def fingerprint(self) -> str:
        """Equal for configurations that mean the same to the root, whatever else they bind."""
        return hashlib.sha256(str(self).encode()).hexdigest()

    def __str__(self) -> str:
        return text_of(self.used)


class _Walk:
    """One traversal: a configurable in a scope is visited once, and sees the bindings of every prefix of its scope."""

    def __init__(self, merged: Mapping[str, Binding], signature: Signature):
        self._merged, self._signature = merged, signature
        self._by_place: dict[tuple[str, str], dict[str, Binding]] = {}
        for item in merged.values():
            if not item.is_macro:
                self._by_place.setdefault((item.scope, item.name), {})[item.parameter] = item
        self._seen: set[tuple[str, str]] = set()
        self._used: dict[str, Binding] = {}
        self._missing: dict[str, None] = {}

    def run(self, roots: Sequence[str]) -> Reach:
        for root in roots:
            self._configurable("", root)
        visited = dict.fromkeys(name for scope, name in self._seen if scope != "%")
        return Reach(tuple(self._used.values()), tuple(sorted(visited)), tuple(self._missing))

    def _configurable(self, scope: str, name: str) -> None:
        if (scope, name) in self._seen:
            return
        self._seen.add((scope, name))
        parts = scope.split("/") if scope else []
        bound: dict[str, Binding] = {}
        for depth in range(len(parts) + 1):
            bound.update(self._by_place.get(("/".join(parts[:depth]), name), {}))
        signature = self._signature(name)
        for parameter in signature.parameters.values() if signature else ():
            positional = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if positional and parameter.default is parameter.empty and parameter.name not in bound:
                self._missing[f"{name}.{parameter.name}"] = None
        for item in bound.values():
            self._used[item.key] = item
            self._value(scope, item)

    def _value(self, scope: str, item: Binding) -> None:
        for ref in references(item.value):
            if ref == REQUIRED:
                self._missing[item.key] = None
            elif isinstance(ref, Reference):
                self._configurable(ref.scope or scope, ref.name)
            elif ref.name not in self._merged:
                if "." not in ref.name:  # a dotted name is a constant of a module
                    self._missing[ref.name] = None
            elif ("%", ref.name) not in self._seen:
                self._seen.add(("%", ref.name))
                macro = self._merged[ref.name]
                self._used[macro.key] = macro
                # Gin calls a macro in a scope of the macro's own name.
                self._value(ref.name, macro)
