"""What a stored signal keeps of each target position, and how a layout is named in a manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np

from cat_jax.errors import UserError
from cat_jax.teacher.bit import BitLayout
from cat_jax.teacher.full import FullLayout
from cat_jax.teacher.ragged import Ragged
from cat_jax.teacher.sparse import SparseLayout
from cat_jax.types import TeacherSignal

__all__ = ["LAYOUTS", "BitLayout", "FullLayout", "SignalLayout", "SparseLayout", "layout_from_dict", "pack_records"]


class SignalLayout(Protocol):
    """One way to keep a teacher's word on a target position.

    Every layout keeps the bit `top1_correct`; `record_dtype` describes what it keeps beyond that, if anything. On the
    way to training, arrays of positions are padded with zero bytes before `assemble` sees them.
    """

    @property
    def kind(self) -> str:
        """Its name in manifests, a key of `LAYOUTS`."""
        ...

    @property
    def has_distribution(self) -> bool:
        """Whether it serves an objective with a distillation term."""
        ...

    def record_dtype(self, vocab_size: int) -> np.dtype | None:
        """The structured dtype of what is kept of one target position beside the bit, at most; None for nothing.

        Its fields are those of `encode` but the bit, little-endian; ids may be three bytes, least first.

        Raises:
          UserError: the layout does not fit a vocabulary of this size.
        """
        ...

    def ragged(self, vocab_size: int) -> Ragged | None:
        """How records are shorter on disk than `record_dtype`; None if they are not."""
        ...

    def encode(self, logits: jax.Array, targets: jax.Array, uniforms: jax.Array) -> dict[str, jax.Array]:
        """What is kept of N positions, inside jit: 'top1_correct' bool[N], and an array [N, ...] for each field.

        A layout that has a distribution also gives 'squared_error' f32[N], for the manifest: the squared Euclidean
        distance of the distribution that `assemble` will make from the teacher's, at the layout's temperature. The ids
        of a ghost bucket count as 0 there.

        Args:
          logits: f32[N, V] of the teacher, columns of padding at -inf.
          targets: i32[N].
          uniforms: f32[N] in [0, 1), one random number a position.
        """
        ...

    def assemble(self, padded: Mapping[str, np.ndarray], vocab_size: int) -> TeacherSignal:
        """The signal [B, T, ...] of a batch, on the host.

        Args:
          padded: 'top1_correct' bool[B, T], and 'records' u8[B, T, bytes of a record] where there are records. Where no
            target stands all bytes are 0, and what comes of them must be finite.
          vocab_size: that of `record_dtype`.
        """
        ...

    def check_temperature(self, temperature: float) -> str | None:
        """What is wrong with an objective that divides logits by `temperature`, as words; None if nothing is."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: `kind` and the arguments of the constructor. Equal layouts give equal dictionaries."""
        ...


LAYOUTS: dict[str, Any] = {layout.kind: layout for layout in (BitLayout, SparseLayout, FullLayout)}
"""Kind to class: how a manifest names its layout."""


def layout_from_dict(fields: Mapping[str, Any]) -> SignalLayout:
    """The layout that `to_dict` described.

    >>> layout_from_dict(SparseLayout(top_k=4, tail_draws=8).to_dict()).top_k
    4

    Raises:
      UserError: an unknown kind, or fields that it does not have.
    """
    fields = dict(fields)
    layout = LAYOUTS.get(fields.pop("kind", None))
    if layout is None or not set(fields) <= {field.name for field in dataclasses.fields(layout)}:
        raise UserError(
            f"unknown signal layout {dict(fields)}", f"use one of {', '.join(LAYOUTS)}, or a newer cat-jax to read it"
        )
    return layout(**fields)


def pack_records(dtype: np.dtype, fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """Records of `dtype` [N] from the arrays [N, ...] that `encode` made, one for each field."""
    records = np.zeros(len(fields["top1_correct"]), dtype)
    for name in dtype.names or ():
        values, shape = fields[name], dtype[name].shape
        if len(shape) == 2:  # ids of three bytes
            values = np.ascontiguousarray(values.astype("<u4")).view(np.uint8).reshape(*values.shape, 4)[..., :3]
        elif shape:
            values = values[:, : shape[0]]  # logits without the vocabulary's padding
        records[name] = values
    return records
