"""The gin seam: the one file that imports gin.

`read` turns gin files and flags into `Bindings` without importing what they name; `configure` imports it, checks every
name and parameter, names all missing values together, and lets gin build the arguments of one command.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.resources
import inspect
import pathlib
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin
from gin import config_parser

from cat_jax.cli import child, names
from cat_jax.cli.bindings import FLAG, Binding, Bindings, Import, Macro, Reach, Reference, text_of
from cat_jax.cli.command import GinFlags
from cat_jax.cli.kinds import describe, fits, kinds_of
from cat_jax.cli.places import refuse_addresses
from cat_jax.cli.spelling import check_bindings, check_macros
from cat_jax.errors import UserError

BUNDLED = pathlib.Path(str(importlib.resources.files("cat_jax_gin")))
"""Where the gin files that come with cat-jax lie, in the source tree or in an installed wheel."""

_BY_FILES = {
    "MODEL": "models/NAME.gin (from_checkpoint.gin: the model of INITIAL_CHECKPOINT_PATH)",
    "OBJECTIVE": "objectives/NAME.gin",
}
"""Macros that bundled files set."""


class _Delegate(config_parser.ParserDelegate):
    """Keeps references as data, so that reading needs no registration."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        scope, _, name = scoped_configurable_name.rpartition("/")
        return Reference(scope, name.removeprefix("cat_jax."), evaluate)

    def macro(self, scoped_macro_name: str) -> Macro:
        return Macro(scoped_macro_name)


# Reading


def read(files: Sequence[str], flags: Sequence[str] = (), search_paths: Sequence[str] = ()) -> Bindings:
    """The bindings of gin files and then of flags, in this order: a later binding of a key wins.

    Args:
      files: gin files: a path, or a name found under a search path or among the bundled files.
      flags: `NAME=VALUE` of `--gin.NAME=VALUE`, VALUE as gin writes it.
      search_paths: directories searched for files, after the current directory and before the bundled ones.

    Raises:
      UserError: a file that does not exist or is not gin, or a flag that is not gin.
    """
    reader = _Reader([pathlib.Path(path) for path in search_paths])
    for name in files:
        reader.file(name, ())
    for flag in flags:
        reader.flag(flag)
    bindings = Bindings(tuple(reader.items), tuple(dict.fromkeys(reader.imports)))
    check_macros(bindings)
    return bindings


def of_flags(flags: GinFlags) -> Bindings:
    """The bindings that a command line asks for, in its scope."""
    return read(flags.files, flags.bindings, flags.search_paths).in_scope(flags.scope)


def find_file(name: str, search_paths: Sequence[pathlib.Path] = (), beside: pathlib.Path | None = None) -> pathlib.Path:
    """The gin file of a path or a name.

    Raises:
      UserError: there is none; names close ones among the bundled files.
    """
    bundled = [BUNDLED, *sorted(path for path in BUNDLED.iterdir() if path.is_dir())]
    places = [pathlib.Path(), *([beside] if beside else []), *search_paths, *bundled]
    for place in places:
        if (place / name).is_file():
            return place / name
    known = [str(path.relative_to(BUNDLED)) for path in sorted(BUNDLED.glob("*/*.gin"))]
    shown = ", ".join(str(place) for place in (*search_paths, BUNDLED))
    otherwise = f"give a path, add its directory to --gin_search_paths, or use a bundled file ({', '.join(known)})"
    raise UserError(
        f"no gin file {name} (looked in the current directory, {shown})", names.suggestion(name, known, otherwise)
    )


class _Reader:
    """Collects the bindings and imports of files and flags in the order of reading."""

    def __init__(self, search_paths: Sequence[pathlib.Path]):
        self._search_paths = search_paths
        self.items: list[Binding] = []
        self.imports: list[Import] = []

    def file(self, name: str, including: tuple[pathlib.Path, ...]) -> None:
        path = find_file(name, self._search_paths, including[-1].parent if including else None)
        if path.resolve() in {parent.resolve() for parent in including}:
            raise UserError(f"the gin file {path} includes itself", "take the include away")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f"cannot read the gin file {path} ({e})", "give a readable text file") from e
        for statement, line in _statements(text, str(path)):
            if isinstance(statement, config_parser.IncludeStatement):
                self.file(statement.filename, (*including, path))
            else:
                self._take(statement, f"{path} line {line}")

    def flag(self, text: str) -> None:
        key, equals, value = text.partition("=")
        source = f"{FLAG}{text}"
        if not equals or not key.strip():
            raise UserError(f"{source} sets nothing", f"write {FLAG}NAME=VALUE")
        try:
            statements = list(config_parser.ConfigParser(f"{key} = {value}", _Delegate()))
        except (SyntaxError, tokenize.TokenError, ValueError) as e:
            mend = f"put a string in quotes: {FLAG}{key}='\"{value}\"'"
            if value.removesuffix("()") in names.NAMES:
                mend = f"write {FLAG}{key}=@{value.removesuffix('()')}()"
            raise UserError(f"{source} is not a gin value", mend) from e
        for statement in statements:
            self._take(statement, source)

    def _take(self, statement: Any, source: str) -> None:
        if isinstance(statement, config_parser.BindingStatement):
            name = statement.selector.removeprefix("cat_jax.")
            self.items.append(Binding(statement.scope, name, statement.arg_name, statement.value, source))
        elif isinstance(statement, config_parser.ImportStatement) and not statement.module.startswith("__gin__"):
            # Names of imported modules can always be used; gin's own switch for that is taken as read.
            self.imports.append(Import(statement.module, statement.format(), statement.bound_name(), source))


def _statements(content: str, path: str) -> Iterator[tuple[Any, int]]:
    """Each statement of a gin file with its line."""
    mend = "write NAME = VALUE, with strings in quotes"
    line = 1
    try:
        for statement in config_parser.ConfigParser(content, _Delegate()):
            line = statement.location.line_num
            yield statement, line
    except SyntaxError as e:
        text = f": {e.text.strip()}" if e.text else ""
        raise UserError(f"{path} line {e.lineno or line} is not gin{text}", mend) from e
    except (tokenize.TokenError, ValueError) as e:
        raise UserError(f"{path} is not gin after line {line} ({e.args[0]})", "close every bracket and string") from e


# Checking and building


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, its arguments, and the configuration that they came from."""

    root: str
    arguments: dict[str, Any]
    configuration: str
    """What the command uses, as gin, and how its stores are prepared: read again it gives the same arguments.

    Of `run` all that was bound, for each of its stages reads what it uses.
    """
    operative: str
    """What the arguments were built from, defaults included."""

    def call(self, **others: Any) -> Any:
        """Calls the function behind the command; `others` replace arguments."""
        return names.ROOTS[self.root].load()(**{**self.arguments, **others})


def configure(bindings: Bindings, root: str) -> Command:
    """Imports what `root` uses, checks all names and builds its arguments.

    Args:
      bindings: the configuration.
      root: the command, a key of `names.ROOTS`.

    Raises:
      UserError: an unknown name or parameter, missing values (all are named), or what a constructor refuses.
    """
    reach = check(bindings, root)
    if root != "run" and not child.is_child():  # which stages of a run read what is told once, by the run itself
        check_bindings(bindings, {*reach.visited, *bindings.reachable(list(names.ROOTS)).visited})
    bindings = bindings.with_optional(names.NAMES[root].optional)
    given = build(bindings, root, reach)
    signature = names.signature(root)
    assert signature is not None
    defaults = {p.name: p.default for p in signature.parameters.values() if p.default is not p.empty}
    used = bindings.merged().values() if root == "run" else (*bindings.reachable(["prepare"]).used, *reach.used)
    saved = {item.key: item for item in used}
    return Command(root, {**defaults, **given}, text_of(saved.values(), bindings.imports), gin.operative_config_str())


def build(bindings: Bindings, root: str, reach: Reach) -> dict[str, Any]:
    """The arguments that a checked configuration gives to a command, defaults left out.

    Raises:
      UserError: what a constructor refuses.
    """
    for name in reach.visited:
        if name in names.NAMES:
            _register(name)
    gin.clear_config()
    try:
        gin.parse_config(text_of(reach.used, bindings.imports))
        return gin.get_configurable(f"cat_jax.{root}")()
    except UserError as e:  # gin adds lines of its own to the message
        raise UserError(e.problem, e.mend) from e


def check(bindings: Bindings, root: str) -> Reach:
    """Checks a configuration for a command without building anything; returns what the command uses of it.

    Names that the command does not use are checked too; their parameters only where that costs no import of JAX, or
    the command imports it anyway.

    Raises:
      UserError: an unknown name or parameter, missing values (all are named), or a bucket's address.
    """
    bindings = bindings.with_optional(names.NAMES[root].optional)
    for statement in bindings.imports:
        _import(statement)
    for name, item in bindings.names().items():
        if name not in names.NAMES and not _is_known_to_gin(name, bindings.imports):
            mend = names.suggestion(name, names.NAMES, f"the names are {', '.join(sorted(names.NAMES))}")
            raise UserError(f"unknown name {name} ({item}; {item.source})", mend)
    theirs = [name for name in bindings.names() if name not in names.NAMES]
    reach = bindings.reachable([root, *theirs], names.signature)
    heavy = not names.NAMES[root].light
    for item in bindings.items:
        if item.is_macro:
            continue
        if heavy or item.name in theirs or item.name in reach.visited or names.NAMES[item.name].light:
            _check_parameter(item)
    if reach.missing:
        plain = [name for name in reach.missing if "." not in name]
        example = next((name for name in plain if name not in _BY_FILES), (plain or reach.missing)[0])
        by_files = [f"{macro} by --gin_file={name}" for macro, name in _BY_FILES.items() if macro in reach.missing]
        flag = f"e.g. {FLAG}{example}=VALUE (a string in quotes: '\"text\"')"
        ways = by_files if len(by_files) == len(reach.missing) else [*by_files, flag]
        raise UserError(
            f"{root} needs a value for {', '.join(reach.missing)}",
            f"set each in a gin file or as a flag, {', '.join(ways)}",
        )
    merged = bindings.merged()
    for item in reach.used:
        if item.name in names.NAMES and not item.is_macro:
            refuse_addresses(item, merged)
            _check_kind(item, merged)
    return reach


def _check_parameter(item: Binding) -> None:
    signature = names.signature(item.name) or _signature_in_gin(item.name)
    known = [p.name for p in signature.parameters.values() if p.name != "self" and p.kind is not p.VAR_POSITIONAL]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if takes_all or item.parameter in known:
        return
    mend = names.suggestion(item.parameter, known, f"it has {', '.join(known) or 'none'}")
    raise UserError(f"{item.name} has no parameter {item.parameter} ({item}; {item.source})", mend)


def _signature_in_gin(name: str) -> inspect.Signature:
    """How a name that a user's module has registered is called."""
    registered = gin.get_configurable(name)
    # Gin subclasses a class that it is given, and the subclass itself takes anything.
    return inspect.signature(registered.__init__ if inspect.isclass(registered) else registered)


def _check_kind(item: Binding, merged: Mapping[str, Binding]) -> None:
    kind = kinds_of(names.NAMES[item.name].load()).get(item.parameter, Any)
    said, seen = item, set()
    while isinstance(said.value, Macro) and said.value.name in merged:
        if said.value.name in seen:
            raise UserError(f"the macro {said.value.name} is {said.value} ({said.source})", "give it a value")
        seen.add(said.value.name)
        said = merged[said.value.name]
    if not fits(said.value, kind):
        raise UserError(
            f"{item.key.rpartition('/')[2]} cannot be {said.value!r} ({said.source})", f"give {describe(kind)}"
        )


def _import(statement: Import) -> None:
    try:
        importlib.import_module(statement.module)
    except ModuleNotFoundError as e:
        if not e.name or not f"{statement.module}.".startswith(f"{e.name}."):
            raise  # a package that the module needs: told as any package that is not installed
        raise UserError(
            f"no module {e.name} (imported by {statement.source})", "put its directory on PYTHONPATH, or start there"
        ) from e


def _is_known_to_gin(name: str, imports: Sequence[Import]) -> bool:
    """Whether a user's module has registered the name, or it is an attribute of an imported module (registered now)."""
    try:
        gin.get_configurable(name)
        return True
    except ValueError:
        pass
    for statement in imports:
        if not name.startswith(f"{statement.bound_name}."):
            continue
        *path, last = name.removeprefix(f"{statement.bound_name}.").split(".")
        owner = importlib.import_module(statement.bound_module)
        for part in path:
            owner = getattr(owner, part, None)
        target = getattr(owner, last, None)
        if callable(target):
            gin.external_configurable(target, name=last, module=name.rpartition(".")[0])
            return True
    return False


@functools.cache
def _register(name: str) -> None:
    """Makes one of our names known to gin. A root only hands back its arguments: it is called outside gin."""
    target = names.NAMES[name].load()
    if name in names.ROOTS:
        target = _arguments_of(name)
    gin.external_configurable(target, name=name, module="cat_jax")


def _arguments_of(root: str) -> Callable[..., dict[str, Any]]:
    def arguments(**kwargs: Any) -> dict[str, Any]:
        return kwargs

    arguments.__signature__ = names.signature(root)  # type: ignore[attr-defined]
    return arguments
