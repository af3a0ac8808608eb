"""The objective without whole logits: a block of tokens at a time, its gradient made as soon as its loss is known.

No array of [tokens, vocabulary] exists, for student or teacher, forward or backward. Tokens may be split over some axes
of a mesh and the vocabulary over another, for both models; sums are f32 (f64 where the inputs are). `losses.dense`,
which this must equal, is its oracle. Gradients in the forward pass: Hsu et al. 2024, arXiv 2410.10989; a vocabulary
split over devices: Shoeybi et al. 2019, arXiv 1909.08053.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from cat_jax.losses.blocks import Blocks, HeadPart, Tokens
from cat_jax.losses.dense import distribution_of
from cat_jax.losses.terms import Coefficients, Terms, TokenLosses
from cat_jax.losses.vocabulary import Columns
from cat_jax.types import Array, Head, ModelOutput, SparseDistribution, TeacherSignal

_KNOWN = ("w", "temperature", "label_smoothing", "z_loss")
"""The terms that `losses.block` has."""

_BLOCK_BYTES = {"cpu": 32 << 20, "tpu": 32 << 20, "gpu": 256 << 20}
"""About how large a block's logits are on a device: on TPU what the compiler still keeps on the chip (VMEM)."""

_LEAST_TOKENS = {"cpu": 256, "tpu": 512, "gpu": 512}
"""Smaller blocks read the head too often."""


@dataclasses.dataclass(frozen=True)
class FusedHead:
    """A `LossHead` that never holds logits of more than a block of tokens.

    Attributes:
      mesh: where; None for one device.
      row_axes: the mesh axes over which rows are split.
      vocab_axis: the one over which the columns of both heads are split, or None.
      block_tokens: tokens of a block on each device; None for what suits the device.
    """

    mesh: Mesh | None = None
    row_axes: tuple[str, ...] = ()
    vocab_axis: str | None = None
    block_tokens: int | None = None

    def takes(self, terms: Terms) -> bool:
        """Whether every term is known here: one that is not must be at its default."""
        added = [field for field in dataclasses.fields(terms) if field.name not in _KNOWN]
        return all(getattr(terms, field.name) == field.default for field in added)

    def __call__(
        self,
        terms: Terms,
        coefficients: Coefficients,
        student: ModelOutput,
        targets: Array,
        weights: Array,
        signal: TeacherSignal | None,
        uniform: Array | None,
    ) -> tuple[Array, TokenLosses]:
        """See `LossHead`. It has a gradient in reverse mode only, which lies on the mesh as what it is of."""
        teacher = _teacher_of(terms, signal, student.head.vocab_size)
        width = self._width(student.head)
        teacher_kernel = teacher_part = None
        if isinstance(teacher, ModelOutput):
            # To be compared column by column both must be cut alike; for the bit alone the teacher keeps its own.
            teacher_width = width if terms.w < 1 else self._width(teacher.head)
            teacher_kernel = _of_width(teacher.head.kernel, teacher_width, 0)
            teacher_part = self._part(teacher.head, teacher_width)
        right = None if signal is None or signal.top1_correct is None else signal.top1_correct.astype(bool)
        tokens = Tokens(
            targets=targets,
            weights=weights,
            uniform=uniform,
            teacher_right=right,
            teacher_hidden=teacher.hidden if isinstance(teacher, ModelOutput) else None,
            teacher_logits=_logits_of(teacher, student.head, width) if isinstance(teacher, jax.Array) else None,
            sparse=teacher if isinstance(teacher, SparseDistribution) else None,
        )
        blocks = Blocks(
            terms=terms,
            coefficients=coefficients,
            student=self._part(student.head, width),
            teacher=teacher_part,
            size=self._block_tokens(width),
            row_axes=tuple(axis for axis in self.row_axes if self._devices(axis) > 1),
            for_tpu=self._platform() == "tpu",
        )
        kernel = _of_width(student.head.kernel, width, 0)
        rest = jax.lax.stop_gradient((tokens, teacher_kernel))
        return self._with_gradient(blocks, student.hidden, kernel, rest)

    def _with_gradient(
        self, blocks: Blocks, hidden: Array, kernel: Array, rest: tuple[Tokens, Array | None]
    ) -> tuple[Array, TokenLosses]:
        """The pass over all blocks, as a function of `hidden` and `kernel` whose gradient is made on the way."""

        @jax.custom_vjp
        def losses(hidden: Array, kernel: Array, rest: Any) -> tuple[Array, TokenLosses]:
            return self._on_mesh(blocks.losses, rest[0], gradients=False)(hidden, kernel, *rest)

        def forward(hidden: Array, kernel: Array, rest: Any) -> tuple[Any, tuple[Array, Array]]:
            return self._on_mesh(blocks.losses_and_gradients, rest[0], gradients=True)(hidden, kernel, *rest)

        def backward(gradients: tuple[Array, Array], cotangents: tuple[Array, TokenLosses]) -> tuple[Any, Any, None]:
            d_hidden, d_kernel = (g * cotangents[0].astype(g.dtype) for g in gradients)
            return d_hidden, d_kernel, None

        losses.defvjp(forward, backward)
        return losses(hidden, kernel, rest)

    def _on_mesh(self, function: Any, tokens: Tokens, *, gradients: bool) -> Any:
        """`function` on every device's own tokens and columns."""
        if self.mesh is None:
            return function
        rows, columns = PartitionSpec(self.row_axes), PartitionSpec(None, self.vocab_axis)
        of_tokens = jax.tree.map(lambda _: rows, tokens)
        if tokens.teacher_logits is not None:
            of_tokens = dataclasses.replace(
                of_tokens, teacher_logits=PartitionSpec(self.row_axes, None, self.vocab_axis)
            )
        results = (PartitionSpec(), rows)
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=(rows, columns, of_tokens, columns),
            out_specs=(results, (rows, columns)) if gradients else results,
            check_vma=False,
        )

    def _part(self, head: Head, width: int) -> HeadPart:
        # XLA copies what an axis of one device adds up.
        parts = self._parts()
        axis = self.vocab_axis if parts > 1 else None
        return HeadPart(Columns(width // parts, head.vocab_size, axis, parts), head.softcap)

    def _parts(self) -> int:
        return 1 if self.vocab_axis is None else self._devices(self.vocab_axis)

    def _devices(self, axis: str) -> int:
        return 1 if self.mesh is None else self.mesh.shape[axis]

    def _width(self, head: Head) -> int:
        """Columns of `head`, made a multiple of the devices that share them."""
        return -(-head.kernel.shape[-1] // self._parts()) * self._parts()

    def _platform(self) -> str:
        return jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform

    def _block_tokens(self, width: int) -> int:
        if self.block_tokens is not None:
            return self.block_tokens
        platform = self._platform()
        known = platform if platform in _BLOCK_BYTES else "gpu"
        return max(_LEAST_TOKENS[known], _BLOCK_BYTES[known] * self._parts() // (4 * width) // 128 * 128)


def _teacher_of(
    terms: Terms, signal: TeacherSignal | None, vocab_size: int
) -> Array | ModelOutput | SparseDistribution | None:
    """What must be known of the teacher beside the bit, or to make the bit of."""
    if signal is not None and signal.top1_correct is None and signal.output is None:
        raise ValueError("a teacher signal needs top1_correct or output")
    if terms.w < 1:
        return distribution_of(signal, terms.temperature, vocab_size)
    return signal.output if signal is not None and signal.top1_correct is None else None


def _logits_of(teacher: Array, head: Head, width: int) -> Array:
    """Stored logits as the dense head reads them: what is beyond the student's columns is left out."""
    return _of_width(teacher[..., : head.kernel.shape[-1]], width, -jnp.inf)


def _of_width(x: Array, width: int, filling: float) -> Array:
    """`x` with so many columns: what lies beyond them is padding, and so is what is put there."""
    more = width - x.shape[-1]
    if more <= 0:
        return x[..., :width] if more else x
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)], constant_values=filling)
