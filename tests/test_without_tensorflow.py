"""The core trains, teaches and evaluates its loss where neither TensorFlow nor SeqIO can be imported."""

import os
import subprocess
import sys

import pytest

PROGRAM = '''
import importlib, pkgutil, sys

ABSENT = {"tensorflow", "seqio", "tensorflow_datasets", "tensorflow_text", "sacrebleu", "torch", "transformers"}

class Without:
    """A finder that finds what the other does, less what is not to be installed here."""
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import cat_jax
for module in pkgutil.walk_packages(cat_jax.__path__, "cat_jax."):
    importlib.import_module(module.name)  # every file of every room

import numpy as np
from cat_jax.data.loader import DatasetConfig
from cat_jax.data.manifest import FeatureInfo, Recipe
from cat_jax.data.store import Example
from cat_jax.data.writer import write_store
from cat_jax.losses.objective import Objective
from cat_jax.models.t5_config import T5Config
from cat_jax.teacher.layout import BitLayout
from cat_jax.teacher.store import StoredTeacher
from cat_jax.teacher.writer import teach
from cat_jax.train.loop import train

rng, lengths = np.random.default_rng(0), {"inputs": 6, "targets": 5}
feature = FeatureInfo(vocabulary="toy", vocab_size=16, eos_id=1, add_eos=True)
recipe = Recipe("toy", "train", {"inputs": feature, "targets": feature}, lengths, num_shards=1, keep_raw=False)
ids = lambda n: np.append(rng.integers(2, 16, n), 1).astype(np.int32)
write_store("store", recipe, [Example(str(i), ids(4), ids(3), None) for i in range(24)])
dataset = DatasetConfig("store", "toy", "train", lengths, batch_size=8)
model = T5Config(vocab_size=16, embed_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1,
                 num_decoder_layers=1, dropout_rate=0.0)
train("teacher", model, Objective(w=1.0, keep="all"), dataset, 2)
teach("teacher", "store", "toy", "signal", layout=BitLayout())
train("student", model, Objective(w=1.0, keep="either"), dataset, 2, teacher=StoredTeacher("signal"))
print("trained without", not {"tensorflow", "seqio"} & set(sys.modules))
'''


@pytest.mark.slow
def test_training_from_a_prepared_store_needs_neither_tensorflow_nor_seqio(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.strip().endswith("trained without True")
