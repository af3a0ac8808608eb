"""Quick compilation: these tests run each program a few times only."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(tmp_path_factory):
    """LLVM's expensive passes off, and programs compiled once for all tests."""
    cache = tmp_path_factory.getbasetemp() / "xla"
    names = (
        "jax_disable_most_optimizations",
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: jax.config.values[name] for name in names}
    for name, value in zip(names, (True, str(cache), 0.0), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
