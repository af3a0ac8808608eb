"""The tasks read their vocabulary from the environment when they are imported, once a process."""

import importlib
import importlib.util
import os
import pathlib

import pytest

BESIDE = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
DATA = pathlib.Path(os.environ.get("CAT_JAX_TEST_DATA", BESIDE))

VOCABULARY = str(DATA / "tokenizers" / "t5_spiece.model") if DATA.is_dir() else "byte"
with pytest.MonkeyPatch.context() as patch:  # gone afterwards: other tests look at variables of this prefix
    patch.setenv("CAT_JAX_VOCABULARY", VOCABULARY)
    if importlib.util.find_spec("seqio") is not None:
        for module in ("joint", "at_hand"):
            importlib.import_module(f"cat_jax_tasks.{module}")


@pytest.fixture(scope="session")
def data():
    """The directory of real data."""
    if not DATA.is_dir():
        pytest.skip("no real data: set CAT_JAX_TEST_DATA")
    return DATA
