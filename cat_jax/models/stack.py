"""A stack of equal layers: unrolled or scanned, with or without rematerialisation; one set of numbers either way.

Unrolled, layer i's parameters are at `layers.<i>.<path>`. Scanned, all layers' are at `layers.<path>` with a leading
axis called 'layers'. `stack_layers` and `unstack_layers` convert one into the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cat_jax.models.axes import axes_of, parameter
from cat_jax.models.layers import PRODUCT
from cat_jax.parallel.activations import by_rows

LAYERS = "layers"


def make_layers(key: jax.Array, make_layer: Callable[[jax.Array], nnx.Module], count: int, *, scan: bool) -> Any:
    """`count` layers, layer i drawn from the key folded with i: the same numbers scanned or not.

    Returns:
        An `nnx.List` of layers, or one layer whose parameters have a leading axis of `count`.
    """
    keys = [jax.random.fold_in(key, i) for i in range(count)]
    if not scan:
        return nnx.List([make_layer(key) for key in keys])
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_layer(keys[0])))
    params = jax.vmap(lambda key: nnx.state(make_layer(key)))(jnp.stack(keys))
    return nnx.merge(graphdef, _map_params(params, lambda p: parameter(p[...], (LAYERS, *axes_of(p)))))


def apply_layers(layers: Any, x: jax.Array, *context: Any, keep: Any = None, remat: str = "none") -> jax.Array:
    """Calls `layer(x, *context, keep=...)` for every layer in turn; what it returns stays split by rows.

    Args:
        layers: what `make_layers` made.
        x: what the layers hand on.
        *context: arrays (or None) that every layer sees: masks, biases, the encoder's output.
        keep: a tree of arrays whose leading axis counts the layers, one slice for each; None for no dropout.
        remat: 'none', 'minimal' or 'full'; see `T5Config`.
    """

    def apply(x, params, keep, context):
        return by_rows(nnx.merge(graphdef, params)(x, *context, keep=keep))

    if isinstance(layers, nnx.List):
        for i, layer in enumerate(layers):
            graphdef, params = nnx.split(layer)
            x = _rematerialised(apply, remat)(x, params, jax.tree.map(lambda k, i=i: k[i], keep), context)
        return x
    graphdef, params = nnx.split(layers)
    body = _rematerialised(apply, remat)
    x, _ = jax.lax.scan(lambda x, each: (body(x, *each, context), None), x, (params, keep))
    return x


def each_layer(layers: Any) -> list[Any]:
    """The layers one by one; of stacked ones, each with its slice of the parameters."""
    if isinstance(layers, nnx.List):
        return list(layers)
    graphdef, params = nnx.split(layers)
    return [nnx.merge(graphdef, jax.tree.map(lambda p, i=i: p[i], params)) for i in range(_count(params))]


def stack_layers(params: nnx.State) -> nnx.State:
    """Parameters of an unrolled model (`scan_layers=False`) as those of the same model with `scan_layers=True`."""
    stacked: dict[tuple, Any] = {}
    groups: dict[tuple, list[nnx.Param]] = {}
    for path, param in nnx.to_flat_state(params):
        at = layer_number(path)
        if at is None:
            stacked[path] = param
        else:
            groups.setdefault(path[:at] + path[at + 1 :], []).append(param)  # flat states are sorted: 0, 1, 2, ...
    for path, layers in groups.items():
        stacked[path] = parameter(jnp.stack([p[...] for p in layers]), (LAYERS, *axes_of(layers[0])))
    return nnx.from_flat_state(stacked)


def unstack_layers(params: nnx.State) -> nnx.State:
    """Parameters of a scanned model (`scan_layers=True`) as those of the same model with `scan_layers=False`."""
    unrolled: dict[tuple, Any] = {}
    for path, param in nnx.to_flat_state(params):
        axes = axes_of(param)
        if axes[0] != LAYERS:
            unrolled[path] = param
            continue
        at = path.index(LAYERS) + 1
        for i in range(param.shape[0]):
            unrolled[(*path[:at], i, *path[at:])] = parameter(param[i], axes[1:])
    return nnx.from_flat_state(unrolled)


def layer_number(path: tuple) -> int | None:
    """Where in a path an unrolled layer's number stands; None where there is none."""
    at = path.index(LAYERS) + 1 if LAYERS in path else len(path)
    return at if at < len(path) and isinstance(path[at], int) else None


def _count(params: nnx.State) -> int:
    return jax.tree.leaves(params)[0].shape[0]


def _map_params(params: nnx.State, f: Callable[[nnx.Param], nnx.Param]) -> nnx.State:
    return jax.tree.map(f, params, is_leaf=lambda x: isinstance(x, nnx.Param))


def _rematerialised(f: Callable, remat: str) -> Callable:
    if remat == "none":
        return f
    # 'minimal' keeps the products with kernels, which are the dear ones, and computes again what is cheap or, as the
    # attention weights, large. (By name: a policy for dots does not know `linear`, which is a primitive of its own.)
    policy = jax.checkpoint_policies.save_only_these_names(PRODUCT) if remat == "minimal" else None
    return jax.checkpoint(f, policy=policy)
