"""Sizes that CONTRIBUTING.md promises, and docstrings where nothing but a docstring can say what is meant."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
FILES = sorted(
    str(path.relative_to(ROOT))
    for room in ("cat_jax", "tasks", "launch", "tests")
    for path in (ROOT / room).rglob("*.py")
)


def functions(path):
    tree = ast.parse((ROOT / path).read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(function):
    """Lines of the body; neither signature nor docstring counts, for long ones are no fault."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", FILES)
def test_files_and_functions_are_short(path):
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= LONGEST_FILE, f"{path} has {lines} lines, of {LONGEST_FILE} at most"
    long = {f.name: length(f) for f in functions(path) if length(f) > LONGEST_FUNCTION}
    assert not long, f"lines of functions in {path}: {long}; the longest may have {LONGEST_FUNCTION}"


def test_lengths_are_counted_without_signature_and_docstring():
    source = 'def f(\n    a,\n):\n    """One.\n\n    Two.\n    """\n    a = 1\n\n    return a\n'
    assert length(ast.parse(source).body[0]) == 3


def test_no_file_is_a_drawer():
    assert not [path for path in FILES if pathlib.Path(path).stem in ("util", "utils", "helpers", "misc", "common")]


@pytest.mark.parametrize("path", [path for path in FILES if "(Protocol)" in (ROOT / path).read_text()])
def test_every_method_of_a_protocol_says_what_it_is(path):
    tree = ast.parse((ROOT / path).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases):
            bare = [f.name for f in node.body if isinstance(f, ast.FunctionDef) and not ast.get_docstring(f)]
            assert not bare, f"{path}: {node.name}.{', '.join(bare)} has no docstring"
