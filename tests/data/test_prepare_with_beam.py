"""Shards written by Apache Beam are those that anyone else writes."""

import dataclasses
import pathlib
import sys

import pytest

pytest.importorskip("seqio", reason="needs the `data` extra")
pytest.importorskip("apache_beam", reason="needs the `beam` extra")

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

from cat_jax.data import beam  # noqa: E402
from cat_jax.data.manifest import read_manifest  # noqa: E402
from cat_jax.data.prepare import PrepareConfig, prepare  # noqa: E402
from cat_jax.data.units import Unit, write_shard  # noqa: E402
from cat_jax.errors import UserError  # noqa: E402


def config(root, name="toy", **fields):
    return PrepareConfig(
        str(root), name, "toy_tasks", {"inputs": 12, "targets": 8}, **{"examples_per_shard": 60, **fields}
    )


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("held_out", [(), ("toy:validation",)])
def test_the_bytes_are_the_same(tmp_path, held_out):
    plain = config(tmp_path / "plain", held_out=held_out)
    prepare(plain)
    prepare(dataclasses.replace(plain, store_dir=str(tmp_path / "beam"), runner="DirectRunner"))
    made, expected = contents(tmp_path / "beam"), contents(tmp_path / "plain")
    assert sum(name.endswith(".array_record") for name in made) == 5
    assert made == expected


def test_an_error_of_the_task_is_its_own(tmp_path):
    with pytest.raises(UserError, match=r"'toy_empty'.* empty target"):
        prepare(config(tmp_path, "toy_empty", runner="DirectRunner"))


def test_an_unknown_runner_is_one_line(tmp_path):
    with pytest.raises(UserError, match="Beam refuses the runner 'DirectRuner'"):
        prepare(config(tmp_path, runner="DirectRuner"))


def test_without_beam_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"cannot import Apache Beam .*: pip install 'cat-jax\[beam\]'"):
        beam.run_units_with_beam([], None, "DirectRunner", ())


def test_a_worker_with_another_vocabulary_is_refused(tmp_path):
    """As one on another machine, whose environment names another model."""
    prepare(config(tmp_path, splits=["validation"]))
    recipe = read_manifest(tmp_path / "toy/validation").recipe
    others = {name: dataclasses.replace(info, vocabulary="another") for name, info in recipe.features.items()}
    unit = Unit(str(tmp_path / "elsewhere"), dataclasses.replace(recipe, features=others), 0, None)
    with pytest.raises(UserError, match="'toy' has another vocabulary in the worker of shard 0 than where it began"):
        list(write_shard(unit))
    assert not (tmp_path / "elsewhere").exists()
