"""Holds the direction of imports that the table of rooms in docs/architecture.md states."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "cat_jax"
TABLE = re.findall(r"^\| (\d+) \| ([^|]+) \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
FLOOR = {room: int(floor) for floor, rooms in TABLE for room in re.findall(r"`(\w+)`", rooms)}
SEQIO_ROOMS = {"data/chat.py", "data/hugging_face.py", "data/prepare.py", "data/seqio_task.py"}
FILES = sorted(str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imports_of(path):
    """Every dotted name that the file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import absolutely"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path):
    return path.split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES)
def test_a_room_imports_only_lower_floors(path):
    room = room_of(path)
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "cat_jax" or len(parts) == 1 or parts[1] in (room, "__version__"):
            continue
        ground = FLOOR[parts[1]] == FLOOR[room] == 0
        assert ground or FLOOR[parts[1]] < FLOOR[room], f"{path} imports {name}, which is not on a lower floor"


@pytest.mark.parametrize("path", FILES)
def test_heavy_libraries_stay_in_their_rooms(path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    if path not in SEQIO_ROOMS:
        assert not roots & {"tensorflow", "seqio", "tensorflow_datasets", "t5"}, f"{path} imports TensorFlow or SeqIO"
    if room_of(path) in ("cascade", "report"):
        assert not roots & {"jax", "flax", "optax", "orbax", "grain"}, f"{path} imports JAX"
    if path != "cli/configuration.py":
        assert "gin" not in roots, f"{path} imports gin; bind it in cli/configuration.py"
    assert not roots & {"cat_jax_tasks", "tasks"}, f"{path} imports tasks"


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} == set(FLOOR)


def test_curves_and_reports_run_where_there_is_no_jax():
    """Neither by themselves nor through what they import."""
    code = "import sys; sys.modules['jax'] = None; import cat_jax.cascade.experiment, cat_jax.report.files"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_launchers_need_nothing_of_the_core_but_its_errors():
    """They run on machines without jax; and nothing in the core needs them."""
    for path in (ROOT / "launch").glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
        core = {name for name in names if name.split(".")[0] in ("cat_jax", "jax", "numpy")}
        assert core <= {"cat_jax.errors"}, f"{path} imports {core}"
    assert not [path for path in FILES if any(name.startswith("cat_jax_launch") for name in imports_of(path))]
