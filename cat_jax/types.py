"""The types on the arrows between rooms, and nothing else.

Shape letters: B examples (rows), T target positions, S input positions, D model width, V vocabulary (padded),
K entries of a sparse distribution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp

Array = jax.Array

Count = Any
"""A whole number, or a NumPy array of them."""

Prompt = Literal["encoder", "prefix"]
"""Where a family reads an example's inputs: in an encoder, or as a prefix of the targets (a decoder-only family)."""

PROMPTS = get_args(Prompt)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Token ids under SeqIO's feature-converter names; the decoder fields mean the same for every family.

    Padding is id 0 with weight 0. What an example's inputs are read as is the family's `Prompt`: "encoder" has the
    encoder fields; "prefix" has none, and the inputs stand before the targets in the decoder fields, with weight 0.
    Segment ids and positions are present when rows are packed, where a prefix is to be decoded from (see
    `Model.prefill`), and where id 0 is a token, too: segment 0 is padding, examples count from 1, positions from 0 in
    each example.
    """

    decoder_target_tokens: Array  # i32[B, T]
    decoder_input_tokens: Array  # i32[B, T]: the same shifted right, 0 at the start of each example
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
    """A language model, an `nnx.Module` of parameters alone: neither vocabulary, loss, decoding nor optimizer.

    Everything but `config` is traced inside `jax.jit`. A row may be all padding: what comes of it is never read, but
    must be finite.
    """

    config: ModelConfig

    def __call__(self, batch: Batch, *, dropout_key: Array | None = None) -> ModelOutput:
        """Runs teacher-forced.

        Args:
          batch: in the form of `config.prompt`, one example a row (padded on the right) or packed. Position t of an
            example sees its own decoder inputs up to t, and its own encoder inputs: no padding, no other example.
          dropout_key: a typed random key, which turns dropout on; None runs without.

        Returns:
          Hidden states [B, T, D] at the decoder's positions, in the dtype of the computation, and `head()`.

        Raises:
          ValueError: the batch is of another form.
        """
        ...

    def head(self) -> Head:
        """The map from hidden states [..., D] to logits [..., V], V >= `config.vocab_size`: decoding needs no batch."""
        ...

    def prefill(self, batch: Batch, max_decode_length: int) -> tuple[Any, Array]:
        """Reads the prompts and starts decoding.

        Args:
          batch: prompts, one a row, and no targets. "encoder": i32[B, S] `encoder_input_tokens`; where there are
            `encoder_segment_ids`, they are 1 where a prompt stands and 0 at padding, else id 0 is padding.
            "prefix": i32[B, T] `decoder_input_tokens`, which are 0 and then the prompt, with segment id 1 and positions
            from 0 where it stands, and segment id 0 at padding, which may lie on the right or on the left.
          max_decode_length: L, not traced. `step` will be called at most L - 1 times.

        Returns:
          (cache, hidden [B, D]): what `step` takes, and the state that predicts the first new token. The cache is a
          pytree whose every array has the batch as its leading axis: rows of it can be gathered, from one cache or
          from several of equal shapes, without knowing the family.

        Raises:
          ValueError: the batch is of another form, or packed.
        """
        ...

    def step(self, tokens: Array, cache: Any) -> tuple[Any, Array]:
        """Takes the tokens i32[B] just chosen; returns the next cache, of the same shapes, and the hidden state [B, D].

        The hidden state is, up to rounding, what `__call__` would give at that position, and predicts the next token.
        """
        ...


class ModelConfig(Protocol):
    """A family's configuration: a frozen dataclass, JSON-able, hashable, and enough to build the model.

    `models.registry.register_family` makes a class known. Loading a model in another dtype replaces `dtype` and
    `param_dtype`. A configuration whose models have nothing to begin an example with that has no inputs says so in an
    attribute `needs_inputs`, which may be absent: such examples are then refused. So may a method
    `kernel_positions(name, input_length, target_length)`: how many positions of an example a kernel reads, for the
    FLOPs of LoRA's adapters; without it all are counted.
    """

    family: str  # of the class: its name in `model.json`
    prompt: Prompt  # of the class
    vocab_size: int  # ids that have a meaning; tables and head may be padded beyond
    dtype: str  # of the computation, "float32" or "bfloat16"
    param_dtype: str  # of the parameters

    def build(self, key: Array) -> Any:
        """A new `Model`, its parameters drawn from `key` and each with logical axes (`models.axes.parameter`)."""
        ...

    def forward_flops(self, input_length: Count, target_length: Count) -> Count:
        """f64 FLOPs of one example's teacher-forced pass, head included, at lengths that include padding.

        A multiply-add is 2, and only products count. Lengths may be arrays of one shape, which the result then has.
        """
        ...

    def answer_flops(self, input_length: Count, output_length: Count) -> Count:
        """f64 FLOPs of reading an input once and writing `output_length` >= 1 tokens with a cache; counted alike."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """JSON-able fields, and `family`. Equal configurations give equal dictionaries: models are named by them."""
        ...

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Any:
        """The inverse of `to_dict`.

        Raises:
          UserError: a field is unknown, missing or out of range; names it.
        """
        ...
