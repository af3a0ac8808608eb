"""LoRA's matrices: where they are put into a model, and how they are added to its kernels for good.

Shape letters: L layers of a stack, I inputs and O outputs of a kernel, R rank.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cat_jax.models import initializers
from cat_jax.models.axes import axes_of, parameter
from cat_jax.models.layers import Linear
from cat_jax.models.lora import LORA_A, LORA_B, Lora
from cat_jax.models.stack import LAYERS, layer_number

KERNEL = "kernel"
"""Name of a `Linear`'s parameter, beside which lie `LORA_A` and `LORA_B`."""


def linears(model: Any) -> dict[tuple, Linear]:
    """The linear maps of a model by their path; not the head, which is read as a matrix."""
    found = ((path, module) for path, module in nnx.iter_modules(model) if isinstance(module, Linear))
    return {path: module for path, module in found if "vocab" not in axes_of(module.kernel)}


def attach(model: Any, lora: Lora, key: jax.Array) -> None:
    """Gives kernels of a model their adapters: A normal of variance 1 / fan-in, B zero, both f32.

    Drawn are the same numbers whether layers are stacked or not, and whatever else gets adapters. They are f32 where
    the base's parameters are not: a step of training may be too small for bfloat16.

    Raises:
        UserError: a target is in no kernel's name.
    """
    modules = linears(model)
    paths = {".".join(map(str, (*path, KERNEL))): path for path in modules}
    for name in lora.chosen(list(paths)):
        _attach(modules[paths[name]], lora, paths[name], key)


def _attach(module: Linear, lora: Lora, path: tuple, key: jax.Array) -> None:
    shape, axes = module.kernel.shape, axes_of(module.kernel)
    stack, axes = (shape[:1], axes[1:]) if axes[0] == LAYERS else ((), axes)
    inputs, outputs = np.split(np.array(shape[len(stack) :]), [module.contract])
    at = layer_number(path)
    # By name and layer, so that neither stacking nor other targets change a draw.
    name = path if at is None else (*path[:at], *path[at + 1 :])
    key = jax.random.fold_in(key, zlib.crc32("/".join(map(str, name)).encode()))
    draw = initializers.normal(math.prod(inputs) ** -0.5)
    each = lambda layer: draw(jax.random.fold_in(key, layer), (*inputs, lora.rank), "float32")  # noqa: E731
    a = jax.vmap(each)(jnp.arange(stack[0])) if stack else each(0 if at is None else path[at])
    b = jnp.zeros((*stack, lora.rank, *outputs), jnp.float32)
    first = (LAYERS,) * len(stack)
    setattr(module, LORA_A, nnx.data(parameter(a, (*first, *axes[: module.contract], "rank"))))
    setattr(module, LORA_B, nnx.data(parameter(b, (*first, "rank", *axes[module.contract :]))))
    module.lora_factor = lora.factor


def merged(kernel: Any, a: Any, b: Any, factor: float, array: Any = jnp) -> Any:
    """f32: a kernel [*I, *O] and what its adapters [*I, R] and [R, *O] add; or stacks of them, [L, ...] each.

    Args:
        kernel: of any dtype.
        a: A.
        b: B.
        factor: alpha / rank.
        array: the module that computes: `jax.numpy`, or `numpy`.
    """
    stacked = a.ndim + b.ndim - kernel.ndim == 3  # 2 without: the rank twice
    layers, rank = (a.shape[0] if stacked else 1), a.shape[-1]
    wide = [x.astype("float32") for x in (kernel, a, b)]
    a, b = wide[1].reshape(layers, -1, rank), wide[2].reshape(layers, rank, -1)
    # At highest precision, for TPUs would round both to bfloat16; NumPy knows no other.
    precision = {} if array is np else {"precision": jax.lax.Precision.HIGHEST}
    return wide[0] + np.float32(factor) * array.matmul(a, b, **precision).reshape(kernel.shape)
