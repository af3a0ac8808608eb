"""What a configuration sets and nothing reads: refused if it came as a flag, told if a file's looks misspelt.

Files may be shared between experiments, and may set what this one does not use; a flag is meant for it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Iterable

from cat_jax.cli.bindings import FLAG, Binding, Bindings, Macro, Reference, references
from cat_jax.cli.names import suggestion
from cat_jax.errors import UserError

logger = logging.getLogger(__name__)


def check_macros(bindings: Bindings) -> None:
    """Looks for macros that no binding refers to; one in a scope is meant for this run, whatever file it is in.

    Raises:
      UserError: a flag sets one; names it, and the closest that is read.
    """
    read = {ref.name for item in bindings.items for ref in references(item.value) if isinstance(ref, Macro)}
    unread = [item for item in bindings.merged().values() if item.is_macro and not {item.key, item.name} & read]
    otherwise = "leave it out, or name the gin file that uses it"
    for item in unread:
        _told(item, f"nothing reads the macro {item.key}", item.name, read, otherwise, always=bool(item.scope))


def check_bindings(bindings: Bindings, visited: Collection[str]) -> None:
    """Warns of flags that bind something which no command would make, such as a way to decode that is not chosen.

    Args:
      bindings: the configuration.
      visited: the names of all that is made.
    """
    for item in bindings.items:
        if item.source.startswith(FLAG) and not item.is_macro and item.name not in visited:
            _warn(f"nothing refers to @{item.name}(): {item.key} has no effect ({item.source})")


def check_scopes(bindings: Bindings, models: Collection[str], objectives: Collection[str] = ()) -> None:
    """Looks for bindings in a scope in which nothing of an experiment runs.

    Args:
      bindings: the experiment's.
      models: the names of its teachers and students.
      objectives: the names of what students are trained with: scopes inside theirs.

    Raises:
      UserError: a flag is in such a scope; names it, and the closest model.
    """
    values = [ref for item in bindings.items for ref in references(item.value)]
    named = {ref.scope.partition("/")[0] for ref in values if isinstance(ref, Reference) and ref.scope}
    macros = {ref.name for ref in values if isinstance(ref, Macro)}  # gin calls a macro in a scope of its name
    for item in bindings.items:
        first = item.scope.partition("/")[0]
        if first and first not in {*models, *named} and (item.is_macro or first not in macros):
            known = f"the scopes are {', '.join(models)}"
            _told(item, f"no teacher or student is called {first!r}", first, models, known)
        second = item.scope.partition("/")[2].partition("/")[0]
        inside = {"", *objectives, *named}
        if first in models and second not in inside and (item.is_macro or second not in macros):
            known = f"the scopes in {first} are {', '.join(objectives)}"
            _told(item, f"no objective is called {second!r}", second, objectives, known)


def _told(item: Binding, what: str, word: str, known: Iterable[str], otherwise: str, always: bool = False) -> None:
    if item.source.startswith(FLAG):
        raise UserError(f"{what} ({item.source})", suggestion(word, known, otherwise))
    if close := suggestion(word, known, otherwise if always else ""):
        _warn(f"{what} ({item.source}): {close}")


@functools.cache  # the stages of an experiment read the same files
def _warn(line: str) -> None:
    logger.warning("warning: %s", line)
