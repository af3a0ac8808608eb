"""Reading a compiled program: loops, collectives, bytes."""

import jax
import jax.numpy as jnp
import pytest

from cat_jax.planning.hlo import Collective, HloProgram

TEXT = """HloModule jit_step, is_scheduled=true

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[], f32[8,128]{1,0}) parameter(0)
  %x = f32[8,128]{1,0} get-tuple-element(%p), index=1
  %fused = f32[8,128]{1,0} fusion(%x), kind=kLoop, calls=%inside, backend_config={"estimated_cycles":"100"}
  %sum = f32[8,128]{1,0} all-reduce(%fused), channel_id=1, replica_groups=[4,8]<=[32], to_apply=%add
  ROOT %out = (s32[], f32[8,128]{1,0}) tuple(%i, %sum)
}

%condition (p: (s32[], f32[8,128])) -> pred[] {
  %p = (s32[], f32[8,128]{1,0}) parameter(0)
  %limit = s32[]{:T(128)} constant(12)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%inside (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0} parameter(0)
  %part = bf16[2,128]{1,0} all-gather(%a), channel_id=7, replica_groups=mesh['data'=4,'fsdp'=2] {'data'}
  ROOT %b = f32[8,128]{1,0} add(%a, %a)
}

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  %loop = (s32[], f32[8,128]{1,0}) while(%t), condition=%condition, body=%body
  %scatter = f32[2,128]{1,0} reduce-scatter(%x), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %end = f32[8,128]{1,0} negate(%x), backend_config={"estimated_cycles":"5"}
}
"""


def test_loops_count_as_often_as_they_run():
    assert HloProgram(TEXT).cycles() == 12 * 100 + 5


def test_collectives_with_their_groups_and_sizes():
    found = {each.kind: each for each in HloProgram(TEXT).collectives()}
    assert found["all-reduce"] == Collective("all-reduce", 8 * 128 * 4, 8, 12)
    assert found["all-gather"] == Collective("all-gather", 2 * 128 * 2, 4, 12)
    assert found["reduce-scatter"] == Collective("reduce-scatter", 4 * 2 * 128 * 4, 4, 1)
    assert found["all-reduce"].sent() == 2 * (7 / 8) * 4096 * 12
    assert found["reduce-scatter"].sent() == 3 / 4 * 4096


def test_a_loop_that_may_end_early_counts_in_full():
    def run(x, kernel):
        def body(carry):
            step, x = carry
            return step + 1, jnp.tanh(x @ kernel)

        return jax.lax.while_loop(lambda carry: (carry[0] < 9) & ~jnp.all(carry[1] > 2), body, (0, x))

    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    compiled = jax.jit(run).lower(shape, shape).compile()
    assert HloProgram(compiled.as_text()).bytes_moved() > 9 * 3 * 4 * 64 * 64


ASYNCHRONOUS = """ENTRY %main (x: f32[2,128]) -> f32[8,128] {
  %x = f32[2,128]{1,0} parameter(0)
  %start = (f32[2,128]{1,0}, f32[8,128]{1,0}) all-gather-start(%x), channel_id=1, replica_groups={{0,1,2,3}}
  %done = f32[8,128]{1,0} all-gather-done(%start)
  %copy = (f32[8,128]{1,0}, f32[8,128]{1,0}, u32[]) copy-start(%done)
  ROOT %end = f32[8,128]{1,0} copy-done(%copy)
}
"""


def test_of_what_is_asynchronous_the_result_counts():
    program = HloProgram(ASYNCHRONOUS)
    assert program.collectives() == [Collective("all-gather", 8 * 128 * 4, 4, 1)]
    assert program.bytes_moved() == 1024 + 4096 + 2 * 4096


def test_of_branches_the_larger_one_counts():
    def run(x, large):
        return jax.lax.cond(large, lambda x: jnp.tanh(x @ x) @ x, lambda x: x + 1, x)

    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    compiled = jax.jit(run).lower(shape, jax.ShapeDtypeStruct((), bool)).compile()
    assert HloProgram(compiled.as_text()).bytes_moved() > 4 * 4 * 64 * 64


def test_bytes_on_the_chip_are_not_moved():
    """Negate reads what is on the chip and writes 4 KiB; the scatter writes 1 KiB; the loop moves 4 x 4 KiB a round."""
    assert HloProgram(TEXT).bytes_moved() == 4096 + 1024 + 12 * 4 * 4096


def test_of_a_stack_only_the_layer_at_hand_is_read():
    layers, width = 16, 64

    def run(stack, x):
        return jax.lax.scan(lambda x, layer: (jnp.tanh(x @ layer), None), x, stack)[0]

    shape = jax.ShapeDtypeStruct
    text = jax.jit(run).lower(shape((layers, width, width), jnp.float32), shape((8, width), jnp.float32)).compile()
    moved, stack = HloProgram(text.as_text()).bytes_moved(), 4 * layers * width * width
    assert stack <= moved < 4 * stack


@pytest.mark.parametrize("attributes", ["replica_groups={}", "use_global_device_ids=true"])
def test_a_collective_of_one_is_none(attributes):
    text = f"ENTRY %e (x: f32[2]) -> f32[2] {{\n  %y = f32[2] all-reduce(%x), {attributes}\n}}"
    assert not HloProgram(text).collectives()
