"""Making parameters, and T5's initialisers.

Layers ask a `Maker` for parameters and get empty ones; `Maker.draw` fills all of a model at once. Every random call
compiles to a kernel of its own, which takes XLA:CPU some tenths of a second, so parameters of one shape are drawn
together: a T5 needs about eight calls, however deep it is.

The initialisers are those of Mesh TensorFlow's T5 1.1 and of t5x's minimal T5: attention logits are not divided by
sqrt(head_dim), so the query kernel starts smaller by that factor.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from cat_jax.models.axes import LAYERS, parameter

_DRAWS: dict[str, Callable[[jax.Array, tuple[int, ...]], jax.Array]] = {
    "normal": lambda key, shape: jax.random.normal(key, shape, jnp.float32),
    # Cut at two sigma, which leaves this standard deviation.
    "truncated_normal": lambda key, shape: jax.random.truncated_normal(key, -2.0, 2.0, shape) / 0.87962566103423978,
    "uniform": lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0),
    "ones": lambda key, shape: jnp.ones(shape, jnp.float32),
}


_FLAT = 2**26
"""Up to how many numbers are drawn flat; see `_draw`."""


@dataclasses.dataclass(frozen=True)
class Initializer:
    """`scale` times a draw of `kind`: 'normal' and 'truncated_normal' have variance 1, 'uniform' is on [-1, 1)."""

    kind: str
    scale: float = 1.0


def normal(stddev: float) -> Initializer:
    """A normal distribution of the given standard deviation."""
    return Initializer("normal", stddev)


def truncated_normal(stddev: float) -> Initializer:
    """A normal distribution cut at two sigma, of the given standard deviation after the cut."""
    return Initializer("truncated_normal", stddev)


def uniform(bound: float) -> Initializer:
    """The uniform distribution on [-bound, bound)."""
    return Initializer("uniform", bound)


ONES = Initializer("ones")


class Maker:
    """Makes parameters of one dtype, and later fills them."""

    def __init__(self, param_dtype: str, *, layers: int | None = None):
        """With `layers`, every parameter gets a leading axis of that size."""
        self.param_dtype = param_dtype
        self.layers = layers
        self._made: list[tuple[nnx.Param, Initializer]] = []

    def stacked(self, layers: int) -> Maker:
        """A maker for the layers of a stack; what it makes is filled with this one's."""
        maker = Maker(self.param_dtype, layers=layers)
        maker._made = self._made
        return maker

    def __call__(self, shape: tuple[int, ...], axes: tuple[str, ...], initializer: Initializer) -> nnx.Param:
        """An empty parameter whose dimensions are called `axes`."""
        if self.layers is not None:
            shape, axes = (self.layers, *shape), (LAYERS, *axes)
        param = parameter(jax.ShapeDtypeStruct(shape, self.param_dtype), axes)
        self._made.append((param, initializer))
        return param

    def draw(self, key: jax.Array) -> None:
        """Fills everything made so far."""
        groups: dict[tuple, list[tuple[nnx.Param, float]]] = {}
        for param, initializer in self._made:
            groups.setdefault((param.get_value().shape, initializer.kind), []).append((param, initializer.scale))
        keys = jax.random.split(key, len(groups))
        for ours, ((shape, kind), members) in zip(keys, groups.items(), strict=True):
            drawn = _draw(kind, ours, (len(members), *shape))
            for unit, (param, scale) in zip(drawn, members, strict=True):
                param.set_value((unit * scale).astype(self.param_dtype))
        self._made.clear()


def _draw(kind: str, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Unit variates.

    A flat draw and one of the whole shape give the same numbers (a test holds that). The flat one compiles six times
    as fast on CPU, but only the other can be made shard by shard, so that no device holds all of a large group.
    """
    size = math.prod(shape)
    return _DRAWS[kind](key, (size,)).reshape(shape) if size <= _FLAT else _DRAWS[kind](key, shape)
