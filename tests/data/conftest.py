"""Task modules are imported by the tests that need SeqIO, not by pytest's search for doctests."""

import pathlib
import sys

import pytest

from cat_jax.data import seqio_task

collect_ignore = ["real_tasks.py", "tokenizer_tasks.py", "toy_tasks.py"]


@pytest.fixture(scope="module")
def toy_tasks():
    """The toy tasks are registered, and their module can be imported by name."""
    here = str(pathlib.Path(__file__).parent)
    sys.path.insert(0, here)
    seqio_task.load_modules("toy_tasks")
    yield
    sys.path.remove(here)
