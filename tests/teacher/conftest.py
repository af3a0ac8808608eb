"""One store, one teacher and one signal of each layout for all tests of this room."""

import types

import jax
import pytest
from flax import nnx
from teacher_cases import write_store, write_teacher

from cat_jax.checkpoint.params import load_model
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.teacher.layout import BitLayout, FullLayout, SparseLayout
from cat_jax.teacher.writer import teach

LAYOUTS = {"bit": BitLayout(), "sparse": SparseLayout(top_k=4, tail_draws=6, draw_mass=1 / 16), "full": FullLayout()}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """`root`, `store` of task toy:a, `model` (the teacher itself) and `signals` {layout: directory}; read only."""
    root = tmp_path_factory.mktemp("world")
    store = write_store(root / "store")
    write_teacher(root / "model")
    signals = {}
    for name, layout in LAYOUTS.items():
        signals[name] = root / name
        teach(root / "model", root / "store", "toy:a", signals[name], layout=layout, batch_size=8)
    _, graphdef, params, _ = load_model(root / "model", mesh=MeshConfig(data=1).build(jax.devices()[:1]))
    model = nnx.merge(graphdef, params)
    return types.SimpleNamespace(root=root, store=store, model=model, signals=signals)
