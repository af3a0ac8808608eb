"""XLA's count of a model's FLOPs, for any family."""

import jax
import jax.numpy as jnp
from flax import nnx

BATCH = 2


def xla_flops(f, *arguments) -> float:
    """Of one example, of the program before optimisation: nothing is allocated or compiled."""
    return jax.jit(f).lower(*arguments).cost_analysis()["flops"] / BATCH


def logits(graphdef, params, batch):
    output = nnx.merge(graphdef, params)(batch)
    return output.head.logits(output.hidden)


def xla_forward_flops(graphdef, params, batch) -> float:
    """Of a teacher-forced pass, head included."""
    return xla_flops(lambda params, batch: logits(graphdef, params, batch), params, batch)


def xla_train_flops(graphdef, params, batch) -> float:
    """Of a pass and its gradient."""
    loss = lambda params, batch: jnp.sum(jnp.square(logits(graphdef, params, batch)))  # noqa: E731
    return xla_flops(jax.grad(loss), params, batch)


def xla_answer_flops(graphdef, params, batch, length) -> float:
    """Of reading a prompt and writing so many tokens."""

    def first(params, batch):
        model = nnx.merge(graphdef, params)
        cache, hidden = model.prefill(batch, length)
        return cache, model.head().logits(hidden)

    def following(params, tokens, cache):
        model = nnx.merge(graphdef, params)
        cache, hidden = model.step(tokens, cache)
        return cache, model.head().logits(hidden)

    cache, _ = jax.eval_shape(first, params, batch)
    tokens = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    return xla_flops(first, params, batch) + (length - 1) * xla_flops(following, params, tokens, cache)
