"""One folder for all tests of this room, and a cache of digests of their own."""

import os
import pathlib

import pytest
from foreign_cases import write_folder

BESIDE = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A directory with `model`, a run's, and `folder`, the same exported."""
    path = tmp_path_factory.mktemp("foreign")
    write_folder(path)
    return path


@pytest.fixture(scope="session")
def fixtures():
    """T5X's own small checkpoints."""
    path = pathlib.Path(os.environ.get("CAT_JAX_TEST_DATA", BESIDE)) / "checkpoints"
    if not path.is_dir():
        pytest.skip("no real data: set CAT_JAX_TEST_DATA")
    return path


@pytest.fixture
def weights(request):
    """The file of real weights that a test is marked to need: `indirect`, by a pattern."""
    path = pathlib.Path(os.environ.get("CAT_JAX_TEST_DATA", BESIDE)) / "weights"
    found = sorted(path.glob(request.param))
    if not found:
        pytest.skip(f"no {request.param} in {path}")
    return found[0]
