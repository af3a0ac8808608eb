"""The types on the arrows between rooms, and nothing else.

Shape letters: B examples (rows), T target positions, S input positions, D model width, V vocabulary (padded),
K entries of a sparse distribution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Token ids under SeqIO's feature-converter names; the same meaning for both model families.

    Padding is id 0 with weight 0. A decoder-only model has no encoder fields; its prompt is a prefix of weight 0.
    Segment ids and positions are present only when rows are packed: segment 0 is padding, examples count from 1.
    """

    decoder_target_tokens: Array  # i32[B, T]
    decoder_input_tokens: Array  # i32[B, T]: targets shifted right, 0 at the start of each example
    decoder_loss_weights: Array  # f32[B, T]: 1 where the target counts, 0 at padding and prompt
    encoder_input_tokens: Array | None = None  # i32[B, S]
    decoder_segment_ids: Array | None = None  # i32[B, T]
    decoder_positions: Array | None = None  # i32[B, T]
    encoder_segment_ids: Array | None = None  # i32[B, S]
    encoder_positions: Array | None = None  # i32[B, S]
    task_ids: Array | None = None  # i32[B, T]: index of the task of each target position, for per-task sums


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head:
    """The map from hidden states to logits: `softcap(hidden @ kernel)` over the first `vocab_size` columns.

    Columns beyond `vocab_size` are padding for sharding and are masked to -inf.
    """

    kernel: Array  # [D, V]
    vocab_size: int = dataclasses.field(metadata={"static": True})
    softcap: float | None = dataclasses.field(default=None, metadata={"static": True})

    def logits(self, hidden: Array) -> Array:
        """f32[..., V] logits of hidden [..., D]: the product accumulates in f32, or in f64 if an input is f64."""
        dtype = jnp.promote_types(jnp.result_type(hidden, self.kernel), jnp.float32)
        logits = jnp.einsum("...D,DV->...V", hidden, self.kernel, preferred_element_type=dtype)
        if self.softcap is not None:
            logits = self.softcap * jnp.tanh(logits / self.softcap)
        if self.kernel.shape[-1] > self.vocab_size:
            logits = jnp.where(jnp.arange(self.kernel.shape[-1]) < self.vocab_size, logits, -jnp.inf)
        return logits


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModelOutput:
    """What a model makes of a Batch. Position t of `hidden` predicts position t of `decoder_target_tokens`."""

    hidden: Array  # [B, T, D]
    head: Head


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseDistribution:
    """A distribution over the vocabulary kept as a few weighted entries and the mass that they leave out.

    An entry is an exact probability (top-k) or the weight of one unbiased tail draw (tail mass / number of draws);
    an id may occur more than once, and its weights add. Unused entries have weight 0.
    """

    token_ids: Array  # i32[B, T, K]
    probabilities: Array  # f32[B, T, K]
    tail_mass: Array | None  # f32[B, T]: what the probabilities lack to 1; None, or 0, where draws stand for the tail
    temperature: float = dataclasses.field(default=1.0, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TeacherSignal:
    """What the loss knows of the teacher, live or read from disk: the loss cannot tell which.

    Whether the teacher's top-1 is the target: the bit, or None where `output` tells. For the distillation term exactly
    one of: full logits, the teacher's (hidden, head), or a sparse distribution; the bit alone is enough without it.
    """

    top1_correct: Array | None  # bool[B, T]
    logits: Array | None = None  # f32[B, T, V]
    output: ModelOutput | None = None
    sparse: SparseDistribution | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossOutput:
    """Sums, never means: add over microbatches and devices, then divide once."""

    loss_sum: Array  # f32[]
    weight_sum: Array  # f32[]: the normaliser; 0 only if no token counts
    sums: Mapping[str, Array]  # f32[] or f32[tasks] each; see losses.metrics


class Model(Protocol):
    """A language model: neither vocabulary, loss, decoding nor optimizer.

    `__call__` runs teacher-forced; dropout is off when `dropout_key` is None. `prefill` reads the prompt (encoder
    inputs, or a decoder-only prompt) and returns the hidden state [B, D] that predicts the first new token; `step`
    takes the tokens i32[B] just chosen and returns the hidden state that predicts the next. `cache` is a pytree.
    """

    config: Any

    def __call__(self, batch: Batch, *, dropout_key: Array | None = None) -> ModelOutput: ...

    def head(self) -> Head: ...

    def prefill(self, batch: Batch, max_decode_length: int) -> tuple[Any, Array]: ...

    def step(self, tokens: Array, cache: Any) -> tuple[Any, Array]: ...


class ModelConfig(Protocol):
    """A model family's configuration: JSON-able, hashable, and enough to build the model."""

    family: str
    vocab_size: int

    def build(self, key: Array) -> Any:
        """A new `Model` (an `nnx.Module`), its parameters drawn from `key`."""
        ...

    def to_dict(self) -> dict[str, Any]: ...
