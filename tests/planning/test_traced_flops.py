"""FLOPs of a traced function against what can be counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from plan_cases import LENGTHS, STUDENT

from cat_jax.parallel.mesh import MeshConfig
from cat_jax.planning.flops import traced_flops
from cat_jax.planning.steps import abstract_batch


def flops(function, *shapes, **options):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return traced_flops(jax.make_jaxpr(function)(*arrays).jaxpr, 1, **options)


def test_a_scan_counts_each_round_and_remat_counts_twice():
    def layers(x, kernels):
        return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]

    product = 2 * 4 * 8 * 8
    assert flops(layers, (4, 8), (5, 8, 8)) == 5 * product
    loss = jax.grad(lambda x, kernels: jnp.sum(jax.checkpoint(layers)(x, kernels)), (0, 1))
    assert flops(loss, (4, 8), (5, 8, 8)) == pytest.approx(4 * 5 * product)


def test_a_loop_without_a_count_runs_as_often_as_it_is_told():
    def loop(x, kernel):
        return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ kernel, x)

    assert flops(loop, (4, 8), (8, 8), trips=7) == 7 * 2 * 4 * 8 * 8


def test_of_branches_the_larger_one_counts():
    def run(x, kernel):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ kernel @ kernel, lambda: x @ kernel)

    assert flops(run, (4, 8), (8, 8)) == 2 * 2 * 4 * 8 * 8


def test_a_model_has_the_flops_that_its_configuration_counts():
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    batch = abstract_batch(STUDENT, LENGTHS, 3, False, mesh)

    def forward(batch):
        output = STUDENT.build(jax.random.key(0))(batch)
        return output.head.logits(output.hidden)

    counted = traced_flops(jax.make_jaxpr(forward)(batch).jaxpr, 1)
    assert counted == pytest.approx(3 * STUDENT.forward_flops(LENGTHS["inputs"], LENGTHS["targets"]), rel=0.05)
