"""One device's pass over its tokens, a block at a time, with gradients made on the way.

Shape letters: B rows, T positions, D width; N tokens of a block, C columns of the vocabulary on this device.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cat_jax.losses.block import Block, Gradient
from cat_jax.losses.formulas import widen
from cat_jax.losses.terms import Coefficients, Terms, TokenLosses
from cat_jax.losses.vocabulary import Columns
from cat_jax.types import Array, SparseDistribution


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
    """What is known of tokens beside the student's hidden states: [B, T, ...], or [N, ...] in a block."""

    targets: Array
    weights: Array
    uniform: Array | None
    teacher_right: Array | None
    teacher_hidden: Array | None
    teacher_logits: Array | None
    sparse: SparseDistribution | None


@dataclasses.dataclass(frozen=True)
class HeadPart:
    """A head without its kernel: the columns of it that lie on this device, and the soft-cap."""

    columns: Columns
    softcap: float | None

    def logits(self, hidden: Array, kernel: Array) -> Array:
        """f32[N, C] (f64 if an input is): -inf at padding."""
        dtype = jnp.promote_types(jnp.result_type(hidden, kernel), jnp.float32)
        logits = jnp.einsum("ND,DC->NC", hidden, kernel, preferred_element_type=dtype)
        if self.softcap is not None:
            logits = self.softcap * jnp.tanh(logits / self.softcap)
        return jnp.where(self.columns.real(), logits, -jnp.inf) if self.columns.padded else logits

    def through_softcap(self, gradient: Array, logits: Array) -> Array:
        """From the gradient with respect to `logits` to that of the product: times 1 - tanh^2."""
        if self.softcap is None:
            return gradient
        slope = 1 - jnp.square(logits / self.softcap)
        return gradient * (jnp.where(logits > -jnp.inf, slope, 0) if self.columns.padded else slope)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The pass.

    Attributes:
      terms: the coefficients of a token's loss.
      coefficients: the factor on each token's loss.
      student: its head.
      teacher: its head, where logits are made of the teacher's hidden states.
      size: tokens of a block, at most, rounded up to a multiple of 8.
      row_axes: the mesh axes over which tokens are split.
      for_tpu: goes the ways that suit XLA:TPU: see `FirstChoice.by_maxima`; and the logits' gradient is made once for
        each of the two products that it enters, so that it is never written down: a pass over a block's logits costs
        more than the exponentials. (Entries of a sparse teacher are scattered into a written gradient, once.)
    """

    terms: Terms
    coefficients: Coefficients
    student: HeadPart
    teacher: HeadPart | None
    size: int
    row_axes: tuple[str, ...]
    for_tpu: bool

    def losses(
        self, hidden: Array, kernel: Array, tokens: Tokens, teacher_kernel: Array | None
    ) -> tuple[Array, TokenLosses]:
        """(f[] sum over all devices, [B, T] of this one's tokens); kernels are this device's columns."""

        def body(carry: None, of_block: tuple[Array, Tokens]) -> tuple[None, TokenLosses]:
            return carry, self._block(*of_block, kernel, teacher_kernel)[0]

        losses = self._scan(body, None, hidden, tokens)[1]
        return self._sum(losses, tokens), losses

    def losses_and_gradients(
        self, hidden: Array, kernel: Array, tokens: Tokens, teacher_kernel: Array | None
    ) -> tuple[tuple[Array, TokenLosses], tuple[Array, Array]]:
        """The same, and the gradients of the sum with respect to `hidden` and `kernel`."""

        def body(d_kernel: Array, of_block: tuple[Array, Tokens]) -> tuple[Array, tuple[TokenLosses, Array]]:
            losses, known, gradient, arguments = self._block(*of_block, kernel, teacher_kernel)
            d_logits = gradient(*arguments).astype(kernel.dtype)
            back = jnp.einsum("NC,DC->ND", d_logits, kernel, preferred_element_type=d_kernel.dtype)
            if self.for_tpu and tokens.sparse is None:
                d_logits = gradient(*jax.lax.optimization_barrier(arguments)).astype(kernel.dtype)
            d_kernel += jnp.einsum("ND,NC->DC", known, d_logits, preferred_element_type=d_kernel.dtype)
            return d_kernel, (losses, self.student.columns.total(back).astype(hidden.dtype))

        zeros = jnp.zeros(kernel.shape, jnp.promote_types(jnp.result_type(hidden, kernel), jnp.float32))
        d_kernel, (losses, d_hidden) = self._scan(body, zeros, hidden, tokens)
        d_kernel = jax.lax.psum(d_kernel, self.row_axes) if self.row_axes else d_kernel
        return (self._sum(losses, tokens), losses), (d_hidden, d_kernel.astype(kernel.dtype))

    def _block(
        self, hidden: Array, tokens: Tokens, kernel: Array, teacher_kernel: Array | None
    ) -> tuple[TokenLosses, Array, Gradient, tuple[Array, Array | None]]:
        """(losses [N], hidden states without what does not count, gradient function, its arguments)."""
        counted = tokens.weights > 0
        hidden, tokens = _blank((hidden, tokens), counted)
        logits = self.student.logits(hidden, kernel)
        teacher_logits = None if tokens.teacher_logits is None else widen(tokens.teacher_logits)
        if self.teacher is not None:
            assert tokens.teacher_hidden is not None
            assert teacher_kernel is not None
            teacher_logits = self.teacher.logits(tokens.teacher_hidden, teacher_kernel)
        losses, gradient_for = Block(
            terms=self.terms,
            columns=self.student.columns,
            targets=tokens.targets,
            counted=counted,
            logits=logits,
            teacher=teacher_logits,
            teacher_columns=self.student.columns if self.teacher is None else self.teacher.columns,
            teacher_right=tokens.teacher_right,
            sparse=None if tokens.sparse is None else _wide(tokens.sparse),
            by_maxima=self.for_tpu,
        ).losses()
        gradient_of = gradient_for(self.coefficients(losses, tokens.weights, tokens.uniform))

        def gradient(logits: Array, teacher_logits: Array | None) -> Array:
            return self.student.through_softcap(gradient_of(logits, teacher_logits), logits)

        return losses, hidden, gradient, (logits, teacher_logits)

    def _sum(self, losses: TokenLosses, tokens: Tokens) -> Array:
        """f[]: over the tokens of all devices."""
        flat = jax.tree.map(lambda x: x.reshape(-1), (losses, tokens.weights, tokens.uniform))
        coefficients = self.coefficients(*flat)
        total = jnp.sum(jnp.where(coefficients != 0, coefficients * flat[0].loss, 0))
        return jax.lax.psum(total, self.row_axes) if self.row_axes else total

    def _scan(self, body: Any, carry: Any, hidden: Array, tokens: Tokens) -> tuple[Any, Any]:
        """Runs `body` over blocks of equal size, the last filled up with tokens of weight 0; stacks to [B, T, ...]."""
        rows, positions = tokens.targets.shape
        count = rows * positions
        size = -(-count // -(-count // self.size))  # equal blocks
        size = -(-size // 8) * 8 if size < count else size
        blocks = -(-count // size)

        def split(x: Array) -> Array:
            x = x.reshape(count, *x.shape[2:])
            missing = blocks * size - count
            x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) if missing else x
            return x.reshape(blocks, size, *x.shape[1:])

        def join(x: Array) -> Array:
            return x.reshape(blocks * size, *x.shape[2:])[:count].reshape(rows, positions, *x.shape[2:])

        carry, results = jax.lax.scan(body, carry, jax.tree.map(split, (hidden, tokens)))
        return carry, jax.tree.map(join, results)


def _blank(tree: Any, counted: Array) -> Any:
    """`tree` with 0 wherever a token does not count: NaN there must reach neither loss nor gradient."""

    def blank(x: Array) -> Array:
        return jnp.where(counted.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros((), x.dtype))  # a bool stays one

    return jax.tree.map(blank, tree)


def _wide(sparse: SparseDistribution) -> SparseDistribution:
    tail = None if sparse.tail_mass is None else widen(sparse.tail_mass)
    return dataclasses.replace(sparse, probabilities=widen(sparse.probabilities), tail_mass=tail)
