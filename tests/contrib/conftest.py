"""The plug-in beside a stub of t5x, or beside t5x itself."""

import contextlib
import importlib
import sys

import pytest
import t5x_stub


@contextlib.contextmanager
def imported(modules):
    """The plug-in, imported anew while these modules stand in `sys.modules`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        patch.delitem(sys.modules, "cat_jax.contrib.t5x", raising=False)
        yield importlib.import_module("cat_jax.contrib.t5x")
        sys.modules.pop("cat_jax.contrib.t5x")


@pytest.fixture(scope="module", params=["stub", "t5x"])
def t5x(request):
    if request.param == "t5x":
        pytest.importorskip("t5x", reason="t5x is in no package registry")
    with imported(t5x_stub.modules() if request.param == "stub" else {}) as module:
        module.is_stub = request.param == "stub"
        yield module


@pytest.fixture
def absent_t5x():
    with imported(dict.fromkeys(t5x_stub.modules())) as module:
        yield module


@pytest.fixture(scope="module")
def t5x_beside_seqio():
    """Its converter is made of SeqIO's own."""
    seqio = pytest.importorskip("seqio", reason="needs the `data` extra")
    with imported(t5x_stub.modules(seqio.EncDecFeatureConverter)) as module:
        yield module
