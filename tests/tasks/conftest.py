"""The tasks read their data and vocabulary from the environment when they are imported, once a process."""

import os
import pathlib

import pytest

DATA = pathlib.Path(
    os.environ.get("CAT_JAX_TEST_DATA", pathlib.Path(__file__).resolve().parents[3] / "shared" / "data")
)

if DATA.is_dir():
    os.environ.setdefault("TFDS_DATA_DIR", str(DATA / "tfds"))
    os.environ.setdefault("SACREBLEU", str(DATA / "sacrebleu"))
    os.environ.setdefault("CAT_JAX_VOCABULARY", str(DATA / "tokenizers" / "t5_spiece.model"))
else:
    os.environ.setdefault("CAT_JAX_VOCABULARY", "byte")


@pytest.fixture(scope="session")
def data():
    """The directory of real data."""
    if not DATA.is_dir():
        pytest.skip("no real data: set CAT_JAX_TEST_DATA")
    return DATA
