"""Run by test_decoder_structure.py in a process of its own, with eight devices."""

import jax
import numpy as np
from decoder_cases import BOTH_KINDS, INPUTS, packed_batch, prompts_of, split, tiny_config
from flax import nnx
from jax.sharding import Mesh

from cat_jax.losses.objective import Objective
from cat_jax.parallel.activations import rows_over
from cat_jax.parallel.batches import shard_batch
from cat_jax.parallel.rules import param_shardings

MESHES = ((1, 1, 1), (2, 2, 2))
CONFIG = tiny_config("gemma3", vocab_multiple=4, scan_layers=True, **BOTH_KINDS)
BATCH, PROMPTS = packed_batch([[0, 1], [2], [1, 2], [0]], 24), prompts_of([*INPUTS, INPUTS[1]], 9)


def compute(shape):
    """By name: loss, gradients, and hidden states of two decoded tokens."""
    devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
    mesh = Mesh(devices, ("data", "fsdp", "tensor"))
    graphdef, params = split(CONFIG)
    params = jax.device_put(params, param_shardings(params, mesh))

    def loss(params, batch):
        with rows_over(mesh):
            output = nnx.merge(graphdef, params)(batch)
            return Objective(w=1.0, keep="all")(output, batch, None).loss_sum

    def write(params, batch):
        with rows_over(mesh):
            model = nnx.merge(graphdef, params)
            cache, first = model.prefill(batch, 6)
            return {"first": first, "second": model.step(batch.decoder_input_tokens[:, 2], cache)[1]}

    value, gradient = jax.jit(jax.value_and_grad(loss))(params, shard_batch(BATCH, mesh))
    states = jax.jit(write)(params, shard_batch(PROMPTS, mesh))
    found = jax.tree_util.tree_leaves_with_path({"loss": value, "gradient": gradient, **states})
    return {jax.tree_util.keystr(path): np.array(x) for path, x in found}


def main():
    expected = compute(MESHES[0])
    for shape in MESHES[1:]:
        found = compute(shape)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4, err_msg=f"{shape} {name}")


if __name__ == "__main__":
    main()
