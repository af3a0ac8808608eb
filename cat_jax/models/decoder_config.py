"""Configuration of the decoder-only family: Llama, Mistral, Qwen, SmolLM2 and Gemma differ only in these fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from cat_jax.errors import UserError
from cat_jax.models import config_fields
from cat_jax.models.config_fields import ACTIVATION_NAMES, DTYPES, REMAT_POLICIES, refuse

if TYPE_CHECKING:  # reading a configuration must not wait for JAX
    import jax

    from cat_jax.models.decoder import Decoder
    from cat_jax.types import Count, Prompt

GLOBAL, LOCAL = "global", "local"
ATTENTION_NAMES = ("dense", "splash")
ROPE_SCALINGS = ("none", "linear", "llama3", "yarn")

_COUNTS = (
    "vocab_size",
    "vocab_multiple",
    "embed_dim",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "mlp_dim",
    "num_layers",
    "window",
    "rope_original_length",
)
_FLAGS = ("tie_embeddings", "embedding_scale", "post_norms", "qk_norm", "qkv_bias", "prefix_lm", "scan_layers")
_POSITIVE = (
    "norm_epsilon",
    "query_pre_attn_scalar",
    "attention_softcap",
    "logit_softcap",
    "rope_theta",
    "local_rope_theta",
    "rope_factor",
    "rope_low_frequency_factor",
    "rope_high_frequency_factor",
    "rope_beta_fast",
    "rope_beta_slow",
    "rope_attention_factor",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and options of a decoder-only Transformer; the defaults are Llama's, with a head of its own.

    Attributes:
        vocab_size: ids that the model knows and gives a probability to.
        embed_dim: width D of the residual stream.
        num_heads: heads of the queries; `num_heads * head_dim` need not be `embed_dim`.
        head_dim: size of one head.
        mlp_dim: hidden width of the MLP.
        num_layers: how many layers.
        num_kv_heads: heads of keys and values, each for as many queries' heads; None is `num_heads`.
        bos_id: the id that is embedded where an example begins, in place of the id 0 that batches have there. None for
            a model that was trained without one: nothing stands there then, the first token of the inputs is at
            position 0, and every example must have inputs.
        prefix_lm: inputs see each other in both directions; else every token sees those up to its own.
        activations: of the MLP: ('silu', 'linear') is SwiGLU, ('gelu', 'linear') Gemma's.
        tie_embeddings: the head is the embedding table.
        embedding_scale: embeddings are multiplied by sqrt(embed_dim), rounded to `dtype`, as in Gemma.
        norm_epsilon: of every RMSNorm.
        norm_offset: what the stored scales of RMSNorms lack; 1 in Gemma, which stores a scale of one as zero.
        post_norms: a norm after attention and after the MLP too, before they are added, as in Gemma 2 and 3.
        qk_norm: every head's queries and keys are normalised before they are rotated, as in Qwen3 and Gemma 3.
        qkv_bias: queries, keys and values have biases, as in Qwen2.
        query_pre_attn_scalar: attention logits are divided by its square root; None is `head_dim`.
        attention_softcap: attention logits x become c tanh(x / c); None leaves them.
        logit_softcap: the same for the head's.
        window: a local layer's token sees so many tokens, its own included; None where there is no such layer.
        layer_pattern: 'global' or 'local' by layer, repeated over the layers: Gemma 3 is five local ones and a global.
        rope_theta: base of the rotary positions' wavelengths.
        local_rope_theta: of local layers, which are not scaled then, as in Gemma 3; None rotates all layers alike.
        rope_scaling: 'none', 'linear', 'llama3' or 'yarn'.
        rope_factor: by which a scaling lengthens wavelengths.
        rope_original_length: length of the training before scaling, of 'llama3' and 'yarn'.
        rope_low_frequency_factor: of 'llama3': wavelengths above original length / this are lengthened.
        rope_high_frequency_factor: of 'llama3': those below original length / this are not.
        rope_beta_fast: of 'yarn': so many turns within the original length, and more, are not lengthened.
        rope_beta_slow: of 'yarn': so many, and fewer, are.
        rope_attention_factor: of 'yarn': on queries and on keys; None is 0.1 ln(rope_factor) + 1.
        rotary_fraction: the part of each head that is rotated, from its first dimension on.
        dropout_rate: of embeddings and of what each layer adds; in [0, 1).
        dtype: of the computation; softmax, norms, rotations and logits are f32 in any case.
        param_dtype: of the parameters.
        attention: how it is computed: 'dense' makes all logits, 'splash' is a kernel for TPUs that does not.
        scan_layers: keep the layers' parameters stacked and loop over them: compile time independent of depth.
        remat: what the backward pass computes again: 'none', 'minimal' (all but the products with kernels), or
            'full' (whole layers).
        vocab_multiple: the embedding table and the head are padded with zeros up to a multiple of this, so that the
            tensor axis divides them; no id of the padding has a probability.
    """

    family: ClassVar[str] = "decoder"
    prompt: ClassVar[Prompt] = "prefix"

    vocab_size: int
    embed_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_layers: int
    num_kv_heads: int | None = None
    bos_id: int | None = 0
    prefix_lm: bool = False
    activations: tuple[str, ...] = ("silu", "linear")
    tie_embeddings: bool = False
    embedding_scale: bool = False
    norm_epsilon: float = 1e-6
    norm_offset: float = 0.0
    post_norms: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False
    query_pre_attn_scalar: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    window: int | None = None
    layer_pattern: tuple[str, ...] = (GLOBAL,)
    rope_theta: float = 10_000.0
    local_rope_theta: float | None = None
    rope_scaling: str = "none"
    rope_factor: float = 1.0
    rope_original_length: int | None = None
    rope_low_frequency_factor: float = 1.0
    rope_high_frequency_factor: float = 4.0
    rope_beta_fast: float = 32.0
    rope_beta_slow: float = 1.0
    rope_attention_factor: float | None = None
    rotary_fraction: float = 1.0
    dropout_rate: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"
    attention: str = "dense"
    scan_layers: bool = False
    remat: str = "none"
    vocab_multiple: int = 1

    def __post_init__(self):
        """Refuses what no model can be built from; each refusal names the field."""
        absent = {f.name for f in dataclasses.fields(self) if f.default is None and getattr(self, f.name) is None}
        config_fields.check_counts(self, [name for name in _COUNTS if name not in absent])
        config_fields.check_flags(self, _FLAGS)
        config_fields.check_names(self, "activations", ACTIVATION_NAMES, "('silu', 'linear')")
        config_fields.check_names(self, "layer_pattern", (GLOBAL, LOCAL), "('local', 'global')")
        for name, known in (
            ("dtype", DTYPES),
            ("param_dtype", DTYPES),
            ("remat", REMAT_POLICIES),
            ("attention", ATTENTION_NAMES),
            ("rope_scaling", ROPE_SCALINGS),
        ):
            config_fields.check_one_of(self, name, known)
        for name in _POSITIVE:
            if name not in absent:
                config_fields.check_number(self, name, lambda x: x > 0, "give a number above 0")
        config_fields.check_number(self, "dropout_rate", lambda x: 0 <= x < 1, "give a number in [0, 1)")
        config_fields.check_number(self, "norm_offset", lambda x: x in (0, 1), "give 0, or 1 for a Gemma")
        config_fields.check_number(self, "rotary_fraction", lambda x: 0 < x <= 1, "give a number in (0, 1]")
        self._check_heads()
        self._check_windows()
        self._check_rope()
        for name, default in (("num_kv_heads", self.num_heads), ("query_pre_attn_scalar", self.head_dim)):
            if getattr(self, name) == default:  # said or left out: one model, and so one description
                object.__setattr__(self, name, None)
        for name in (*_POSITIVE, "norm_offset", "rotary_fraction", "dropout_rate"):
            if getattr(self, name) is not None:  # 500000 and 500000.0 are one configuration, and so one description
                object.__setattr__(self, name, float(getattr(self, name)))

    def _check_heads(self) -> None:
        if self.num_heads % self.kv_heads:
            refuse(self, "num_kv_heads", f"give a divisor of num_heads = {self.num_heads}")
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise UserError(
                f"DecoderConfig.head_dim {self.head_dim} x rotary_fraction {self.rotary_fraction} gives "
                f"{self.rotary_dim} dimensions to rotate, and they are rotated in pairs",
                "give sizes of which it is an even number",
            )
        bos_id = self.bos_id
        if bos_id is not None and (
            not isinstance(bos_id, int) or isinstance(bos_id, bool) or not 0 <= bos_id < self.vocab_size
        ):
            refuse(self, "bos_id", f"give an id below vocab_size = {self.vocab_size}, or None")

    def _check_windows(self) -> None:
        if LOCAL in self.layer_pattern and self.window is None:
            refuse(self, "window", "give the tokens that a local layer sees, or make layer_pattern ('global',)")
        if LOCAL not in self.layer_pattern and self.window is not None:
            refuse(self, "layer_pattern", f"call the layers with window = {self.window} 'local'")
        if LOCAL not in self.layer_pattern and self.local_rope_theta is not None:
            refuse(self, "local_rope_theta", "leave it out: no layer is local")
        if self.attention == "splash" and self.prefix_lm:
            raise UserError(
                "DecoderConfig.attention 'splash' has no mask for prefix_lm, which differs by example",
                "set attention to 'dense'",
            )

    def _check_rope(self) -> None:
        if self.rope_scaling == "none" and self.rope_factor != 1:
            refuse(self, "rope_factor", "say which rope_scaling, or leave it at 1")
        if self.rope_scaling in ("llama3", "yarn") and self.rope_original_length is None:
            refuse(self, "rope_original_length", f"rope_scaling {self.rope_scaling!r} needs it")
        if self.rope_low_frequency_factor >= self.rope_high_frequency_factor:
            refuse(self, "rope_low_frequency_factor", f"give less than {self.rope_high_frequency_factor}")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that are rotated."""
        return int(self.head_dim * self.rotary_fraction)

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        """'global' or 'local' for each layer."""
        return tuple(self.layer_pattern[i % len(self.layer_pattern)] for i in range(self.num_layers))

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table, and columns of the head."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def needs_inputs(self) -> bool:
        """Whether an example without inputs has nothing to begin from; see `types.ModelConfig`."""
        return self.bos_id is None

    def build(self, key: jax.Array) -> Decoder:
        """A new `Decoder`, its parameters drawn from `key`."""
        from cat_jax.models.decoder import Decoder

        return Decoder(self, key)

    def forward_flops(self, input_length: Count, target_length: Count) -> Count:
        """FLOPs of one example's teacher-forced pass; see `models.decoder_flops`."""
        from cat_jax.models.decoder_flops import forward_flops

        return forward_flops(self, input_length, target_length)

    def answer_flops(self, input_length: Count, output_length: Count) -> Count:
        """FLOPs of answering one example; see `models.decoder_flops`."""
        from cat_jax.models.decoder_flops import answer_flops

        return answer_flops(self, input_length, output_length)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `family` included."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            "family": self.family,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()},
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> DecoderConfig:
        """The inverse of `to_dict`; `family` may be absent."""
        return config_fields.from_fields(cls, fields)
