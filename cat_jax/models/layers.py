"""The blocks that every family is made of: linear maps, embeddings, RMSNorm and the gated MLP.

Shape letters: B rows, T positions, D width, F hidden width of the MLP, V vocabulary. Parameters are kept in
`param_dtype` and cast to `dtype` where they are used; norms compute in f32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from cat_jax.models import initializers
from cat_jax.models.axes import parameter
from cat_jax.models.dropout import dropout
from cat_jax.models.linear import linear

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),  # the tanh form: T5 1.1's `gelu_new`
    "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "linear": lambda x: x,
}


PRODUCT = "product"
"""The name under which a rematerialisation policy finds the products with kernels."""


class Linear(nnx.Module):
    """A linear map from the leading `contract` dimensions of its kernel to the others, without bias or with one.

    It is made plain. `models.adapters` puts LoRA's adapters beside the kernel, `models.int8` keeps it in int8 with the
    scales of its outputs. Neither ever makes a whole other kernel: both work on what goes in and comes out.
    """

    def __init__(
        self,
        key: jax.Array,
        shape: tuple[int, ...],
        axes: tuple[str, ...],
        *,
        initializer: initializers.Initializer | None = None,
        contract: int = 1,
        bias: bool = False,
        param_dtype: str,
    ):
        """Draws the kernel, by default a truncated normal of variance 1 / fan-in; a bias starts at zero."""
        initializer = initializer or initializers.truncated_normal(math.prod(shape[:contract]) ** -0.5)
        self.contract = contract
        self.kernel = parameter(initializer(key, shape, param_dtype), axes)
        self.bias = parameter(jnp.zeros(shape[contract:], param_dtype), axes[contract:]) if bias else None
        self.lora_a: nnx.Param | None = None  # [*inputs, rank]
        self.lora_b: nnx.Param | None = None  # [rank, *outputs]
        self.lora_factor = 0.0
        self.kernel_scale: nnx.Param | None = None  # f32[1 for each input, *outputs]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., *kernel.shape[:contract]] to [..., *kernel.shape[contract:]] in the dtype of `x`."""
        kernel = self.kernel[...]
        if self.kernel_scale is not None:  # else a compiler may convert all layers' kernels at once, or before a loop
            kernel, x = jax.lax.optimization_barrier((kernel, x))
        product = linear(x, kernel.astype(x.dtype), self.contract)
        if self.kernel_scale is not None:
            scale = self.kernel_scale[...]
            product = (product * scale.reshape(scale.shape[self.contract :])).astype(x.dtype)
        if self.lora_a is not None and self.lora_b is not None:
            narrow = self.lora_factor * linear(x, self.lora_a[...].astype(x.dtype), self.contract)
            product = product + linear(narrow, self.lora_b[...].astype(x.dtype), 1)
        product = checkpoint_name(product, PRODUCT)
        return product if self.bias is None else product + self.bias[...].astype(x.dtype)


class RMSNorm(nnx.Module):
    """Divides by the root mean square over the last axis and scales; no mean, no bias; f32 inside."""

    def __init__(self, width: int, *, epsilon: float, offset: float = 0.0, axis: str = "embed", param_dtype: str):
        """Starts with a scale of one, of which `offset` is not stored: Gemma stores what a scale is more than one."""
        self.epsilon, self.offset = epsilon, offset
        self.scale = parameter(jnp.full((width,), 1.0 - offset, param_dtype), (axis,))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., D]; the result has the dtype of `x`."""
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + self.epsilon)
        scale = self.scale[...].astype(jnp.float32)
        return (normed * (scale + self.offset if self.offset else scale)).astype(x.dtype)


class Embedding(nnx.Module):
    """A table of token vectors, read by lookup."""

    def __init__(
        self,
        key: jax.Array,
        vocab_size: int,
        width: int,
        *,
        rows: int | None = None,
        stddev: float = 1.0,
        param_dtype: str,
    ):
        """Draws the table from a normal distribution; of its `rows`, those beyond `vocab_size` are zero."""
        self.vocab_size = vocab_size
        initialize = initializers.padded(initializers.normal(stddev), 0, vocab_size)
        self.table = parameter(initialize(key, (rows or vocab_size, width), param_dtype), ("vocab", "embed"))

    def __call__(self, tokens: jax.Array, dtype: str) -> jax.Array:
        """[..., D] vectors of `tokens` i32[...]; one outside the vocabulary gives NaN, so as not to pass unseen."""
        table = self.table[...]
        known = tokens if len(table) == self.vocab_size else jnp.where(tokens < self.vocab_size, tokens, len(table))
        return jnp.take(table, known, axis=0, mode="fill").astype(dtype)


class MLP(nnx.Module):
    """`output(act_0(input_0(x)) * act_1(input_1(x)) * ...)`: gated with two activations, plain with one."""

    def __init__(
        self,
        key: jax.Array,
        width: int,
        hidden: int,
        activations: tuple[str, ...],
        dropout_rate: float,
        *,
        param_dtype: str,
    ):
        """Draws one input kernel per activation, and the output kernel."""
        *input_keys, output_key = jax.random.split(key, len(activations) + 1)
        self.activations = activations
        self.dropout_rate = dropout_rate
        self.inputs = nnx.List(
            [Linear(k, (width, hidden), ("embed", "mlp"), param_dtype=param_dtype) for k in input_keys]
        )
        self.output = Linear(output_key, (hidden, width), ("mlp", "embed"), param_dtype=param_dtype)

    def __call__(self, x: jax.Array, *, keep: jax.Array | None = None) -> jax.Array:
        """[B, T, D] to [B, T, D]; `keep` bool[B, 1, F] is the hidden layer's dropout."""
        hidden = None
        for name, layer in zip(self.activations, self.inputs, strict=True):
            branch = ACTIVATIONS[name](layer(x))
            hidden = branch if hidden is None else hidden * branch
        assert hidden is not None
        return self.output(dropout(hidden, self.dropout_rate, keep))
