"""What a training step costs, and how many numbers a model is: of any family, from its configuration alone."""

from __future__ import annotations

import functools

import jax
from flax import nnx

from cat_jax.types import Count, ModelConfig


def train_flops(
    config: ModelConfig,
    input_length: Count,
    target_length: Count,
    teacher: ModelConfig | None = None,
    trained: float = 1.0,
) -> Count:
    """FLOPs of one example's training step: a forward and a backward pass, which counts twice.

    What rematerialisation computes again is not counted, and the optimizer's element-wise work is not.

    Args:
        config: the student's.
        input_length: positions of the inputs, padding included.
        target_length: positions of the targets, padding included.
        teacher: a teacher that runs forward in the same step.
        trained: share of the parameters that have a gradient: half of the backward pass makes it.
    """
    flops = (2.0 + trained) * config.forward_flops(input_length, target_length)
    return flops if teacher is None else flops + teacher.forward_flops(input_length, target_length)


def generation_flops(config: ModelConfig, input_length: Count, steps: Count, beams: int = 1) -> Count:
    """FLOPs of reading an input once and writing `steps` >= 1 tokens of so many beams.

    The state after the input predicts the first token of all beams: each is fed from its second token on.
    """
    first = config.answer_flops(input_length, 1)
    return first + beams * (config.answer_flops(input_length, steps) - first)


@functools.cache
def parameter_count(config: ModelConfig) -> int:
    """Number of parameters of a model, padding of the vocabulary included; nothing is allocated."""
    return sum(
        leaf.size for leaf in jax.tree.leaves(nnx.state(nnx.eval_shape(lambda: config.build(jax.random.key(0)))))
    )
