"""Kernels in int8, each output with a scale: a frozen model in half the memory of bfloat16, a quarter of float32.

Symmetric, weights alone: scale = largest |weight| of the output / 127, weight = int8 * scale. `layers.Linear`
multiplies with the int8s as they are, which bfloat16 holds exactly, and scales what comes out. (The library qwix would
intercept `dot_general`, which our products are not, and keeps arrays of a class of its own where all here is a tree of
arrays.)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cat_jax.errors import UserError
from cat_jax.models.adapters import linears
from cat_jax.models.axes import axes_of, parameter
from cat_jax.models.config_fields import DTYPES
from cat_jax.models.stack import LAYERS
from cat_jax.models.wrapped import WrappedConfig

INT8 = "int8"
KERNEL_SCALE = "kernel_scale"
"""Name of a `Linear`'s parameter."""

_LARGEST = 127.0


def in_dtype(config: Any, dtype: str) -> Any:
    """The configuration of a model as it is loaded to run without training.

    Args:
        config: of any family.
        dtype: of parameters and computation; "int8" is bfloat16 but for kernels of attention and MLP.

    Raises:
        UserError: there is no such dtype.
    """
    if dtype == INT8:
        return Int8Config(in_dtype(config, "bfloat16"))
    if dtype not in DTYPES:
        raise UserError(f"a model cannot be loaded as {dtype!r}", f"give one of {', '.join((*DTYPES, INT8))}")
    return dataclasses.replace(config, dtype=dtype, param_dtype=dtype)


@dataclasses.dataclass(frozen=True)
class Int8Config(WrappedConfig):
    """`base`, whose kernels of attention and MLP are in int8. Embedding, norms, biases and head are as in `base`."""

    def build(self, key: jax.Array) -> Any:
        """A model with the kernels that `key` draws, rounded."""
        model = self.base.build(key)
        for module in linears(model).values():
            axes = axes_of(module.kernel)
            shape = scale_shape(module.kernel.shape, module.contract, stacked=axes[0] == LAYERS)
            rounded, scale = quantized(module.kernel[...], shape)
            kept = tuple(
                axis if size == whole else None for axis, size, whole in zip(axes, shape, rounded.shape, strict=True)
            )
            module.kernel = nnx.data(parameter(rounded, axes))
            module.kernel_scale = nnx.data(parameter(scale, kept))
        return model


def scale_shape(shape: tuple[int, ...], contract: int, *, stacked: bool) -> tuple[int, ...]:
    """Of a kernel's scales: one for each output, of each layer."""
    return (*shape[:stacked], *(1,) * contract, *shape[stacked + contract :])


def quantized(kernel: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """(int8 of the kernel's shape, f32 scales of `shape`), whose product is the kernel but for half a scale.

    >>> rounded, scale = quantized(jnp.array([[1.0, 0.0], [-12.7, 0.0]]), (1, 2))
    >>> rounded.tolist(), [round(float(x), 3) for x in scale[0]]
    ([[10, 0], [-127, 0]], [0.1, 0.0])
    """
    wide = kernel.astype(jnp.float32)
    inputs = tuple(i for i, size in enumerate(shape) if size == 1)
    scale = jnp.max(jnp.abs(wide), axis=inputs, keepdims=True) / _LARGEST
    rounded = jnp.round(wide / jnp.where(scale > 0, scale, 1))
    return jnp.clip(rounded, -_LARGEST, _LARGEST).astype(jnp.int8), scale
