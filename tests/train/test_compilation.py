"""The compilation cache: a place of its own, a directory that is set, and none."""

import jax
import pytest

from cat_jax.train.compilation import enable_compilation_cache

DIRECTORY, MINIMUM = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture(autouse=True)
def nothing_set():
    before = {name: jax.config.values[name] for name in (DIRECTORY, MINIMUM)}
    jax.config.update(DIRECTORY, None)
    jax.config.update(MINIMUM, 1.0)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_it_has_a_place_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    enable_compilation_cache()
    assert jax.config.values[DIRECTORY] == str(tmp_path / "cat_jax" / "xla")
    assert (tmp_path / "cat_jax" / "xla").is_dir()
    assert jax.config.values[MINIMUM] == 0.0
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    jax.config.update(DIRECTORY, None)
    enable_compilation_cache()
    assert jax.config.values[DIRECTORY] == str(tmp_path / "home" / ".cache" / "cat_jax" / "xla")


def test_a_directory_that_is_set_stays_but_for_one_that_is_named(tmp_path):
    jax.config.update(DIRECTORY, str(tmp_path / "set"))
    enable_compilation_cache()
    assert jax.config.values[DIRECTORY] == str(tmp_path / "set")
    enable_compilation_cache(tmp_path / "named")
    assert jax.config.values[DIRECTORY] == str(tmp_path / "named")


def test_an_empty_name_leaves_it_off():
    enable_compilation_cache("")
    assert jax.config.values[DIRECTORY] is None


def test_where_nothing_can_be_written_there_is_none(tmp_path, caplog):
    (tmp_path / "file").touch()
    enable_compilation_cache(tmp_path / "file" / "xla")
    assert jax.config.values[DIRECTORY] is None
    assert f"no compilation cache: cannot write {tmp_path / 'file' / 'xla'}" in caplog.text
