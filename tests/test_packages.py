"""A wheel holds every package of the tree."""

import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parent.parent


def test_every_package_is_declared():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = set()
    for package, directory in setuptools["package-dir"].items():
        for init in (ROOT / directory).rglob("__init__.py"):
            inside = init.parent.relative_to(ROOT / directory).parts
            found.add(".".join((package, *inside)))
    assert set(setuptools["packages"]) == found
