"""Every diff of CONTRIBUTING.md, applied to a copy of the project and run."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
DIFF = "".join(re.findall(r"^```diff\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL))
_, *PARTS = re.split(r"^--- (\S+)\n\+\+\+ b/(\S+)\n@@\n", DIFF, flags=re.MULTILINE)
FILES = list(zip(PARTS[::3], PARTS[1::3], PARTS[2::3], strict=True))
"""(file before, file after, its places) of each diff."""


def apply(directory, old, new, places):
    """Applies the diff of one file. Every place must be found, and found once."""
    path = directory / new
    text = path.read_text() if old != "/dev/null" else ""
    assert path.exists() == (old == f"a/{new}"), f"{path} and {old}"
    for place in places.split("@@\n"):
        lines = place.splitlines()
        before = "".join(f"{line[1:]}\n" for line in lines if line[:1] in " -")
        after = "".join(f"{line[1:]}\n" for line in lines if line[:1] in " +")
        assert not text or text.count(before) == 1, f"{new} has {text.count(before)} of:\n{before}"
        text = text.replace(before, after) if text else after
    path.write_text(text)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with every guide followed."""
    directory = tmp_path_factory.mktemp("project")
    for name in ("cat_jax", "tasks", "gin_configs", "tests", "docs"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", directory)
    (directory / "names").mkdir()  # what an installation calls them
    (directory / "names/cat_jax_tasks").symlink_to("../tasks")
    (directory / "names/cat_jax_gin").symlink_to("../gin_configs")
    for file in FILES:
        apply(directory, *file)
    return directory


def test_every_diff_is_understood():
    assert len(FILES) == GUIDE.count("\n+++ b/") == 14
    assert re.findall(r"^## (.*)", GUIDE, re.MULTILINE) == [
        "Add a loss",
        "Add a model",
        "Add a task",
        "Add a confidence rule",
    ]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_what_the_guides_add_passes_its_tests(project):
    tests = [new for old, new, _ in FILES if new.startswith("tests/")]
    tests += [
        "tests/test_dependency_direction.py",
        "tests/cli/test_gin_files.py::test_an_objective_file_gives_an_objective_of_its_own_name",
    ]
    doctests = [new for _, new, _ in FILES if new.startswith("cat_jax/losses/")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, *doctests]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{project}:{project / 'names'}"}
    result = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]


def test_what_the_guides_add_is_in_the_house_style(project):
    ruff = shutil.which("ruff") or str(pathlib.Path(sys.executable).with_name("ruff"))
    if not pathlib.Path(ruff).exists():
        pytest.skip("needs ruff")
    paths = [new for _, new, _ in FILES if new.endswith(".py")]
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run([ruff, *command, *paths], cwd=project, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout
