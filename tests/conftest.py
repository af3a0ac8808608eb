"""Quick compilation, and the order of the tests.

LLVM's expensive passes are off in the tests and in what they start, as each program runs only a few times and
compilation is most of the suite's time; the passes over HLO, which fuse and partition, stay on. jaxlib 0.10 can also
write fusions without MLIR, in two thirds of the time; later ones have one way alone. What is compiled is kept from run
to run beside pytest's own cache, for every worker and process that a test starts.
Types are promoted by JAX's standard rules: under `jax_numpy_dtype_promotion = "strict"` optax's Adam fails, which
raises a float to the power of an integer count (optax 0.2.8, `tree_bias_correction`).
"""

import gc
import importlib.metadata
import os
import pathlib
import resource
import shutil
import sys

import pytest

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_OLD_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
if importlib.metadata.version("jaxlib").startswith("0.10.") and _OLD_EMITTERS not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_OLD_EMITTERS}".strip()
for name in [name for name in os.environ if name.startswith("CAT_JAX_") and name != "CAT_JAX_TEST_DATA"]:
    del os.environ[name]  # what a user has set for runs of one's own

BESIDE = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
DATA = pathlib.Path(os.environ.get("CAT_JAX_TEST_DATA", BESIDE))
if DATA.is_dir():  # before anything imports sacreBLEU, which looks once
    os.environ.setdefault("TFDS_DATA_DIR", str(DATA / "tfds"))
    os.environ.setdefault("SACREBLEU", str(DATA / "sacrebleu"))


_CACHE_LIMIT = 2 << 30


def pytest_configure(config):
    """Before any worker starts: the programs of all are kept, unless a directory is set or pytest keeps nothing."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or not hasattr(config, "cache"):
        return
    directory = config.cache.mkdir("xla")
    if sum(entry.stat().st_size for entry in os.scandir(directory) if entry.is_file()) > _CACHE_LIMIT:
        # jax adds only; its own limit would list the directory for every program
        shutil.rmtree(directory, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that parallel workers end together (with `--no-loadscope-reorder`)."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


_LARGEST = 3 << 30


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """What was compiled is dropped when a worker has become large: it would grow to 5 GB otherwise."""
    yield
    if "jax" in sys.modules and _resident_bytes() > _LARGEST:
        sys.modules["jax"].clear_caches()
        gc.collect()


def _resident_bytes():
    """Of this process, where Linux tells; elsewhere the most that it ever was."""
    try:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
