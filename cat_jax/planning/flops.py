"""FLOPs of a traced function: products alone, loops as often as they run, what is computed again counted again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def traced_flops(jaxpr: Any, devices: int, trips: int = 1) -> float:
    """FLOPs on all devices together; a multiply-add is 2. Of branches the one with most counts.

    Args:
      jaxpr: of `jax.make_jaxpr` or `jax.jit(...).trace(...).jaxpr`.
      devices: how many run the body of a `shard_map`, whose shapes are those on one device.
      trips: how often a loop runs that has no fixed count, as decoding's.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "linear"):
            total += _product(equation)
        each = [traced_flops(inner, devices, trips) for inner in _inner(equation.params)]
        inner = max(each, default=0.0) if "branches" in equation.params else sum(each)
        if equation.primitive.name == "scan":
            inner *= equation.params["length"]
        elif equation.primitive.name == "while":
            inner *= trips
        elif equation.primitive.name == "shard_map":
            inner *= devices
        total += inner
    return total


def _product(equation: Any) -> float:
    left = equation.invars[0].aval.shape
    if equation.primitive.name == "linear":
        count = equation.params["contract"]
        shared = left[len(left) - count :]
    else:
        (contracting, _), _ = equation.params["dimension_numbers"]
        shared = [left[axis] for axis in contracting]
    return 2.0 * float(np.prod(equation.outvars[0].aval.shape, dtype=np.float64)) * math.prod(shared)


def _inner(params: dict[str, Any]) -> list[Any]:
    """The jaxprs among an equation's parameters."""
    found = []
    for value in params.values():
        values = value if isinstance(value, tuple | list) else [value]
        for each in values:
            each = getattr(each, "jaxpr", each)  # a closed one
            if hasattr(each, "eqns"):
                found.append(each)
    return found
