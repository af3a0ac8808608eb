"""Logical axis names of parameters: written by the layers, read by the sharding rules.

A parameter carries its names as metadata under a key of our own. Flax's own `sharding_names` would make newer
releases place the array eagerly when a mesh is active; ours never does, so where a parameter lives is decided once,
by whoever jits the initialisation.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from cat_jax.parallel.activations import whole
from cat_jax.parallel.names import path_name


class Parameter(nnx.Param):
    """A parameter that is gathered where it is read, if `parallel.activations` wants that of whoever traces."""

    def get_value(self, **where: Any) -> Any:
        """The array, or the part of it at `index`."""
        return whole(super().get_value(**where))


def parameter(value: jax.Array, axes: tuple[str | None, ...]) -> nnx.Param:
    """A parameter whose dimensions are called `axes`, one name each.

    This package's own are vocab, embed, mlp, heads, kv_heads (those of keys and values, where they are fewer), kv (the
    size of one head), layers (the scanned stack), rank (of LoRA) and relpos_buckets. Another name needs a rule in
    `axis_rules`; None is a dimension that is never split.
    """
    if len(axes) != value.ndim:
        raise ValueError(f"axes {axes} do not name the dimensions of a parameter of shape {value.shape}")
    return Parameter(value, logical_axes=axes)


def axes_of(variable: nnx.Variable) -> tuple[str, ...]:
    """The logical axis names of one parameter."""
    return variable.get_metadata("logical_axes")


def logical_axes(model_or_params: Any) -> Any:
    """The axis names of every parameter, in a tree like the parameters'.

    Args:
        model_or_params: a model, or its `nnx.State` of parameters; concrete or abstract (`nnx.eval_shape`).

    Returns:
        An `nnx.State` with the same structure whose parameters hold a tuple of names in place of an array. To map it
        beside the parameters: `jax.tree.map(f, params, axes)`; alone: `is_leaf=lambda x: isinstance(x, tuple)`.
    """
    params = nnx.state(model_or_params) if isinstance(model_or_params, nnx.Module) else model_or_params

    def names(variable):
        return variable.replace(axes_of(variable)) if isinstance(variable, nnx.Variable) else variable

    return jax.tree.map(names, params, is_leaf=lambda x: isinstance(x, nnx.Variable))


def axes_by_name(params: Any) -> dict[str, tuple[str, ...]]:
    """{name: axis names} of the `nnx.State` of a model's parameters, abstract or not; named as in `parallel.names`."""
    variables = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: isinstance(x, nnx.Variable))[0]
    return {path_name(path): axes_of(variable) for path, variable in variables}
