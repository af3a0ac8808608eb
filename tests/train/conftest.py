"""Programs compiled once for all tests of training."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def compilation_cache(tmp_path_factory):
    cache = tmp_path_factory.getbasetemp() / "xla"
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    for name, value in zip(names, (str(cache), 0.0), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
