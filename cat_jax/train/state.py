"""The train state: everything that an update changes, and where it lies on the mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cat_jax.parallel.batches import replicated
from cat_jax.parallel.names import flatten_names, unflatten_names
from cat_jax.train.frozen import IsFrozen, nothing, separate
from cat_jax.train.matrices import ParameterAxes, joined_shape, joined_sharding

Params = dict[str, jax.Array]
"""A model's parameters by name; see parallel.names."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Parameters, optimizer state, the number of updates behind them, and the run's random key.

    The key never changes: update n draws from `fold_in(key, n)`, so that a restored run draws what it would have.
    """

    step: jax.Array  # i32[]
    params: Params
    opt_state: Any
    key: jax.Array  # u32[...], the data of a typed key


def new_state(
    params: Params, optimizer: optax.GradientTransformation, seed: jax.Array | int, is_frozen: IsFrozen = nothing
) -> TrainState:
    """The state before the first update."""
    key = jax.random.key_data(jax.random.key(seed))
    trained, _ = separate(params, is_frozen)
    return TrainState(jnp.zeros((), jnp.int32), params, _first_state(optimizer, trained), key)


def _first_state(optimizer: optax.GradientTransformation, params: Params) -> Any:
    """The optimizer's state, in the dtypes in which an update leaves it.

    Gradients are f32 where parameters are of half precision, and so are the moments from the first update on: of
    another dtype before it, they would be rounded when a checkpoint is restored, and the step compiled twice.
    """
    state = optimizer.init(params)
    if all(p.dtype == _of_gradient(p) for p in params.values()):
        return state

    def update(state: Any, params: Params) -> Any:
        gradient = {name: jnp.zeros(p.shape, _of_gradient(p)) for name, p in params.items()}
        return optimizer.update(gradient, state, params)[1]

    after = jax.eval_shape(update, state, params)
    return jax.tree.map(lambda x, y: x.astype(y.dtype), state, after)


def _of_gradient(parameter: jax.Array) -> Any:
    """The dtype of its gradient, see `step.sum_gradients`."""
    return jnp.promote_types(parameter.dtype, jnp.float32)


def place_state(
    abstract: TrainState, params: Mapping[str, NamedSharding], mesh: Mesh, axes: ParameterAxes
) -> TrainState:
    """`abstract` with a sharding on every leaf: optimizer state lies as the parameter it belongs to.

    Args:
      abstract: shapes and dtypes.
      params: where each parameter lies.
      mesh: the mesh.
      axes: the parameters' logical axes, which the optimizer was built with; a name may be absent.
    """
    everywhere = replicated(mesh)

    def place(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        keys = [key.key for key in path if isinstance(key, jax.tree_util.DictKey) and key.key in params]
        sharding = everywhere
        if keys:
            name = keys[-1]
            shape, known = abstract.params[name].shape, axes.get(name, ())
            sharding = _like_parameter(leaf.shape, shape, params[name])
            if leaf.shape != shape and (joined := joined_shape(shape, known)) != shape:
                sharding = _like_parameter(leaf.shape, joined, joined_sharding(params[name], known))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, abstract)


def _like_parameter(shape: tuple[int, ...], parameter: tuple[int, ...], sharding: NamedSharding) -> NamedSharding:
    """The sharding of a moment: the parameter's, or what is left of it where the moment is a mean over one axis."""
    entries = (*sharding.spec, *([None] * (len(parameter) - len(sharding.spec))))
    if shape == parameter:
        return sharding
    reduced = [i for i in range(len(parameter)) if shape == (*parameter[:i], *parameter[i + 1 :])]
    if len(reduced) == 1:
        (axis,) = reduced
        return NamedSharding(sharding.mesh, PartitionSpec(*entries[:axis], *entries[axis + 1 :]))
    # Factored moments of square parameters (either axis may be the mean's) and placeholders: small, so everywhere.
    return NamedSharding(sharding.mesh, PartitionSpec())


def to_checkpoint(state: TrainState) -> tuple[Params, dict[str, jax.Array]]:
    """(parameters, the rest), both by name."""
    return state.params, flatten_names(_rest(state))


def from_checkpoint(abstract: TrainState, params: Params, rest: Mapping[str, jax.Array]) -> TrainState:
    """The inverse of `to_checkpoint`."""
    return dataclasses.replace(abstract, params=params, **unflatten_names(_rest(abstract), dict(rest)))


def _rest(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state, "key": state.key}


def parameter_count(params: Mapping[str, Any]) -> int:
    """How many numbers the parameters are."""
    return sum(int(np.prod(p.shape)) for p in params.values())
