"""Configuration of the T5 family: the original T5, T5 1.1, mT5, Flan-T5 and ByT5 differ only in these fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from cat_jax.errors import UserError
from cat_jax.models import config_fields
from cat_jax.models.config_fields import ACTIVATION_NAMES, DTYPES, REMAT_POLICIES

if TYPE_CHECKING:  # reading a configuration must not wait for JAX
    import jax

    from cat_jax.models.t5 import T5
    from cat_jax.types import Count, Prompt

_POSITIVE = (
    "vocab_size",
    "vocab_multiple",
    "embed_dim",
    "num_heads",
    "head_dim",
    "mlp_dim",
    "num_encoder_layers",
    "num_decoder_layers",
    "relative_buckets",
    "relative_max_distance",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """Sizes and options of an encoder-decoder T5; the defaults are T5 1.1's where it has one.

    Attributes:
        vocab_size: ids that the model knows and gives a probability to.
        embed_dim: width D of the residual stream.
        num_heads: attention heads; `num_heads * head_dim` need not be `embed_dim`.
        head_dim: size of one head.
        mlp_dim: hidden width of the MLP.
        num_encoder_layers: layers of the encoder.
        num_decoder_layers: layers of the decoder.
        dropout_rate: of every dropout; in [0, 1).
        activations: of the MLP: ('gelu', 'linear') is T5 1.1's gated GELU, ('relu',) the original T5's.
        tie_embeddings: the head is the embedding table, with hidden states scaled by embed_dim ** -0.5.
        relative_buckets: buckets of the relative position bias.
        relative_max_distance: distance from which on all positions share a bucket.
        dtype: of the computation; softmax, norms and logits are f32 in any case.
        param_dtype: of the parameters.
        scan_layers: keep the layers' parameters stacked and loop over them: compile time independent of depth.
        remat: what the backward pass computes again: 'none', 'minimal' (all but the products with kernels), or
            'full' (whole layers).
        norm_epsilon: of RMSNorm.
        vocab_multiple: the embedding table and the head are padded with zeros up to a multiple of this, so that the
            tensor axis divides them; no id of the padding has a probability.
    """

    family: ClassVar[str] = "t5"
    prompt: ClassVar[Prompt] = "encoder"

    vocab_size: int
    embed_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    dropout_rate: float = 0.1
    activations: tuple[str, ...] = ("gelu", "linear")
    tie_embeddings: bool = False
    relative_buckets: int = 32
    relative_max_distance: int = 128
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan_layers: bool = False
    remat: str = "none"
    norm_epsilon: float = 1e-6
    vocab_multiple: int = 1

    def __post_init__(self):
        """Refuses what no model can be built from; each refusal names the field."""
        config_fields.check_counts(self, _POSITIVE)
        config_fields.check_names(self, "activations", ACTIVATION_NAMES, "('gelu', 'linear')")
        config_fields.check_one_of(self, "dtype", DTYPES)
        config_fields.check_one_of(self, "param_dtype", DTYPES)
        config_fields.check_one_of(self, "remat", REMAT_POLICIES)
        config_fields.check_flags(self, ("scan_layers", "tie_embeddings"))
        config_fields.check_number(self, "dropout_rate", lambda x: 0 <= x < 1, "give a number in [0, 1)")
        config_fields.check_number(self, "norm_epsilon", lambda x: x > 0, "give a number above 0")
        if self.relative_buckets % 4:
            raise UserError(f"T5Config.relative_buckets is {self.relative_buckets}", "give a multiple of 4")
        if self.relative_max_distance <= self.relative_buckets // 2:
            raise UserError(
                f"T5Config.relative_max_distance {self.relative_max_distance} is within the exact buckets",
                f"give more than relative_buckets / 2 = {self.relative_buckets // 2}",
            )

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table, and columns of the head."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    def build(self, key: jax.Array) -> T5:
        """A new `T5`, its parameters drawn from `key`."""
        from cat_jax.models.t5 import T5

        return T5(self, key)

    def forward_flops(self, input_length: Count, target_length: Count) -> Count:
        """FLOPs of one example's teacher-forced pass; see `models.t5_flops`."""
        from cat_jax.models.t5_flops import forward_flops

        return forward_flops(self, input_length, target_length)

    def answer_flops(self, input_length: Count, output_length: Count) -> Count:
        """FLOPs of answering one example; see `models.t5_flops`."""
        from cat_jax.models.t5_flops import answer_flops

        return answer_flops(self, input_length, output_length)

    def kernel_positions(self, name: str, input_length: Count, target_length: Count) -> Count:
        """Positions of an example that a layer's kernel reads, by its name; see `types.ModelConfig`."""
        of_inputs = name.startswith("encoder.") or ".cross_attention.key." in name or ".cross_attention.value." in name
        return input_length if of_inputs else target_length

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `family` included."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.vocab_multiple == 1:  # models are known by this dictionary, and there are some from before the field
            del fields["vocab_multiple"]
        return {"family": self.family, **fields, "activations": list(self.activations)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> T5Config:
        """The inverse of `to_dict`; `family` may be absent."""
        return config_fields.from_fields(cls, fields)
