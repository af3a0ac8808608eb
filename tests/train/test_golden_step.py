"""Two updates of a tiny T5, number for number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_world import VOCABULARY, model

from cat_jax.losses.objective import Objective
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.train.optimizer import Adafactor, AdamW
from cat_jax.train.program import build_program
from cat_jax.train.schedule import Schedule
from cat_jax.types import Batch, TeacherSignal

MESSAGE = """
The golden step gives other numbers: {name} is {got!r}, not {expected!r}.
This is legitimate only if a change was meant to alter training: initialisation, the model's mathematics, the
objective, an optimizer's or a schedule's definition. Then show in the change that training still converges, and put the
new numbers here. A refactoring, a faster kernel, another sharding, a new version of a library must not alter them:
find out why it does.
"""

GOLDEN = {
    "AdamW": {
        "loss 1": 0.6139287,
        "grad_norm 1": 0.5929263,
        "loss 2": 1.7849415,
        "grad_norm 2": 1.7795938,
        "parameters": 19.6952402,
    },
    "Adafactor": {
        "loss 1": 0.6139287,
        "grad_norm 1": 0.5929263,
        "loss 2": 1.6181828,
        "grad_norm 2": 0.3849604,
        "parameters": 19.7985821,
    },
}
OPTIMIZERS = {
    "AdamW": AdamW(0.01, weight_decay=0.1, max_grad_norm=1.0),
    "Adafactor": Adafactor(Schedule("constant * decay_every", 0.1, steps_per_decay=1)),
}


def observe(optimizer):
    """What two steps of cat_dist with a full-distribution teacher report, and the size of the parameters after them."""
    objective = Objective(w=0.75, temperature=2.0, label_smoothing=0.1, z_loss=1e-3, keep="either")
    program = build_program(
        model(),
        objective,
        optimizer,
        MeshConfig(data=1).build(jax.devices()[:1]),
        num_microbatches=2,
    )
    rows, length = 4, 5
    tokens = (np.arange(3 * rows * length).reshape(3, rows, length) * 7 % (VOCABULARY - 2) + 2).astype(np.int32)
    weights = (np.arange(length) < np.array([[5], [2], [4], [1]])).astype(np.float32)
    logits = np.sin(np.arange(rows * length * VOCABULARY, dtype=np.float32)).reshape(rows, length, VOCABULARY) * 3
    batch = Batch(tokens[0], tokens[1], weights, tokens[2])
    signal = TeacherSignal(logits.argmax(-1) == tokens[0], logits=logits)
    state = program.init(0)
    seen = {}
    for step in (1, 2):
        state, packed = program.step(state, [], batch, signal)
        metrics = packed.fetch()
        seen[f"loss {step}"] = float(metrics["loss_sum"] / metrics["weight_sum"])
        seen[f"grad_norm {step}"] = float(metrics["grad_norm"])
    seen["parameters"] = float(jnp.sqrt(sum(jnp.sum(p**2) for p in state.params.values())))
    return seen


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_step(name):
    seen = observe(OPTIMIZERS[name])
    for what, expected in GOLDEN[name].items():
        assert seen[what] == pytest.approx(expected, rel=2e-5), MESSAGE.format(
            name=f"{name}, {what}", got=seen[what], expected=expected
        )
