"""Rules from the logical axes of parameters to the axes of the mesh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cat_jax.errors import UserError
from cat_jax.parallel.names import path_name

AxisRules = Sequence[tuple[str, str | Sequence[str] | None]]
"""(logical axis, mesh axis, several mesh axes, or None for "not split") pairs; each logical axis once. They place
parameters alone: which axes split the rows of a batch is said in `parallel.batches`."""

DEFAULT_RULES: AxisRules = (
    ("vocab", "tensor"),
    ("embed", "fsdp"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("kv", None),
    ("layers", None),
    ("rank", None),
    ("relpos_buckets", None),
)

AXES_KEY = "logical_axes"
"""The metadata key under which a parameter carries its logical axis names (see models.axes)."""


def partition_spec(
    logical_axes: Sequence[str | None], rules: AxisRules, shape: Sequence[int], mesh: Mesh, name: str = "parameter"
) -> PartitionSpec:
    """How to split an array of `shape` whose dimensions are called `logical_axes`.

    Args:
      logical_axes: a name for each dimension; None for one that is never split.
      rules: see `AxisRules`.
      shape: the array's shape.
      mesh: the mesh.
      name: the array's name, for errors.

    Raises:
      UserError: a logical axis without a rule, a rule to an axis that the mesh lacks, two dimensions on one mesh
        axis, or a dimension that its mesh axes do not divide.
    """
    table = _rule_table(rules, mesh)
    if len(logical_axes) != len(shape):
        raise UserError(
            f"{name} has shape {tuple(shape)} and {len(logical_axes)} logical axes {tuple(logical_axes)}",
            "give each dimension one logical axis",
        )
    entries, used = [], {}
    for axis, size in zip(logical_axes, shape, strict=True):
        if axis is not None and axis not in table:
            raise UserError(
                f"{name} has the logical axis {axis!r} and no rule maps it",
                f"add ({axis!r}, None) or a mesh axis to axis_rules (there are {', '.join(table)})",
            )
        mesh_axes = table[axis] if axis is not None else ()
        for mesh_axis in mesh_axes:
            if mesh_axis in used:
                raise UserError(
                    f"{name} would be split twice over mesh axis {mesh_axis!r}: as {used[mesh_axis]!r} and as {axis!r}",
                    "map one of the two logical axes to None in axis_rules",
                )
            used[mesh_axis] = axis
        parts = math.prod(mesh.shape[mesh_axis] for mesh_axis in mesh_axes)
        if size % parts:
            raise UserError(
                f"dimension {axis!r} = {size} of {name} cannot be split into {parts} equal parts "
                f"(mesh {', '.join(f'{a}={mesh.shape[a]}' for a in mesh_axes)})",
                f"make it a multiple of {parts}, choose another mesh, or map {axis!r} to None in axis_rules",
            )
        entries.append(mesh_axes[0] if len(mesh_axes) == 1 else mesh_axes or None)
    return PartitionSpec(*entries)


def param_shardings(abstract_model: Any, mesh: Mesh, rules: AxisRules = DEFAULT_RULES) -> Any:
    """A `NamedSharding` for every parameter.

    Args:
      abstract_model: a model or the `nnx.State` of its parameters, concrete or abstract (`nnx.eval_shape`), whose
        `nnx.Param`s carry logical axis names.
      mesh: the mesh.
      rules: see `AxisRules`.

    Returns:
      A tree with the structure of the parameters' `nnx.State`.

    Raises:
      UserError: as `partition_spec`, and for a parameter without logical axes.
    """
    params = nnx.state(abstract_model) if isinstance(abstract_model, nnx.Module) else abstract_model
    variables = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: isinstance(x, nnx.Variable))[0]
    shardings = []
    for path, variable in variables:
        name = f"parameter {path_name(path)}"
        axes = variable.get_metadata().get(AXES_KEY) if isinstance(variable, nnx.Variable) else None
        if axes is None:
            raise UserError(f"{name} has no logical axes", "create it with cat_jax.models.axes.parameter")
        shape = variable.get_value().shape
        shardings.append(NamedSharding(mesh, partition_spec(axes, rules, shape, mesh, name)))
    return jax.tree.unflatten(jax.tree.structure(params), shardings)


def _rule_table(rules: AxisRules, mesh: Mesh) -> dict[str, tuple[str, ...]]:
    table = {}
    for logical, target in rules:
        mesh_axes = () if target is None else (target,) if isinstance(target, str) else tuple(target)
        for mesh_axis in mesh_axes:
            if mesh_axis not in mesh.axis_names:
                raise UserError(
                    f"axis_rules map {logical!r} to {mesh_axis!r}, which is no mesh axis",
                    f"use {', '.join(mesh.axis_names)} or None",
                )
        if logical == "batch":
            raise UserError(
                "axis_rules map 'batch', and no rule splits rows",
                "leave it out: rows are split over the mesh axes data and fsdp",
            )
        if logical in table:
            raise UserError(f"axis_rules map {logical!r} twice", "keep one of the two rules")
        table[logical] = mesh_axes
    return table
