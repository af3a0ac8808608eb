"""With parameters split over fsdp, devices gather parameters, never activations; read off the compiled program."""

import json
import subprocess
import sys

import pytest
from fake_devices import environment

PROGRAM = """
import json, math, re, sys
import jax, numpy as np
from cat_jax.losses.objective import Objective
from cat_jax.models.t5_config import T5Config
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.train.optimizer import AdamW
from cat_jax.train.program import build_program
from cat_jax.types import Batch

model = T5Config(vocab_size=512, embed_dim=64, num_heads=8, head_dim=16, mlp_dim=128, num_encoder_layers=2,
                 num_decoder_layers=2, dropout_rate=0.0, scan_layers=sys.argv[1] == "scanned")
program = build_program(model, Objective(w=1.0, keep="all"), AdamW(), MeshConfig(fsdp=8, data=1).build())
tokens = lambda length, dtype=np.int32: jax.ShapeDtypeStruct((40, length), dtype)
batch = Batch(tokens(11), tokens(11), tokens(11, np.float32), tokens(23))
text = program.step.lower(program.abstract_state, [], batch, None).compile().as_text()
shapes = re.findall(r"= f32\\[([\\d,]+)\\]\\S* all-gather\\(", text)
gathered = sorted({math.prod(map(int, shape.split(","))) for shape in shapes})
params = program.abstract_state.params.values()
known = sorted({math.prod(p.shape) for p in params} | {math.prod(p.shape[1:]) for p in params})
print(json.dumps([gathered, known]))
"""


@pytest.mark.parametrize("layers", [pytest.param("unrolled", marks=pytest.mark.exhaustive), "scanned"])
def test_only_parameters_are_gathered(layers):
    command = [sys.executable, "-c", PROGRAM, layers]
    done = subprocess.run(command, env=environment(8), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    gathered, known = json.loads(done.stdout)
    assert 64 * 128 in gathered, "an MLP's kernel is gathered before it is used"
    assert set(gathered) <= set(known), "activations are gathered"
