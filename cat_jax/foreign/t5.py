"""T5 outside: the original T5, T5 1.1, mT5, Flan-T5 and ByT5 as `transformers` and T5X have them.

T5 1.1 and its kin have a head of their own and do not scale hidden states; the original T5's head is the embedding
table, and it scales them by embed_dim ** -0.5. `transformers` 4 tells them apart by `tie_word_embeddings`; 5 writes
`scale_decoder_outputs` beside it, and ties what a file has only once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cat_jax.errors import UserError
from cat_jax.foreign.arrays import Checkpoint
from cat_jax.foreign.families import ForeignFamily, register
from cat_jax.foreign.hugging_face import check_numbers
from cat_jax.foreign.names import (
    HEADS_IN,
    HEADS_OUT,
    SAME,
    TURNED,
    VECTOR,
    Axes,
    Copy,
    Entry,
    NameTable,
    Place,
    Slice,
    layered,
    plain,
)
from cat_jax.models.t5_config import T5Config

# Axes of a parameter [D, H, K] or [H, K, D] in the tensor.
_JOINED: Axes = ((0,), (1, 2))
_JOINED_OUTPUT: Axes = ((0, 1), (2,))
_APART: Axes = ((0,), (1,), (2,))

_PROJECTIONS = ("query", "key", "value", "output")

# config.json

_SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "embed_dim",
    "num_heads": "num_heads",
    "d_kv": "head_dim",
    "d_ff": "mlp_dim",
    "num_layers": "num_encoder_layers",
}
_OPTIONS = {
    "num_decoder_layers": "num_decoder_layers",
    "relative_attention_num_buckets": "relative_buckets",
    "relative_attention_max_distance": "relative_max_distance",
    "dropout_rate": "dropout_rate",
    "layer_norm_epsilon": "norm_epsilon",
}
_ACTIVATIONS = {
    "relu": "relu",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu_exact",
    "gelu_python": "gelu_exact",
    "silu": "silu",
    "swish": "silu",
    "linear": "linear",
}
_PROJECTION_OF = {
    ("relu",): "relu",
    ("gelu", "linear"): "gated-gelu",  # which means the tanh form there
    ("gelu",): "gelu_new",
    ("gelu_exact",): "gelu",
    ("gelu_exact", "linear"): "gated-gelu_python",
    ("silu",): "silu",
    ("silu", "linear"): "gated-silu",
    ("relu", "linear"): "gated-relu",
}
_FIXED = {"pad_token_id": 0, "decoder_start_token_id": 0}
"""What every model here has."""


def from_hugging_face(fields: Mapping[str, Any]) -> T5Config:
    """The configuration of a T5's or mT5's config.json.

    Raises:
      UserError: a field is missing, or says what this T5 cannot be.
    """
    check_numbers(fields, _SIZES)
    for name, value in _FIXED.items():
        if fields.get(name) not in (None, value):
            raise UserError(f"its config.json has {name} {fields[name]}", f"this T5 has {value}: use another model")
    found = {ours: fields[theirs] for theirs, ours in _SIZES.items()}
    found["num_decoder_layers"] = fields["num_layers"]
    found |= {ours: fields[theirs] for theirs, ours in _OPTIONS.items() if fields.get(theirs) is not None}
    return T5Config(**found, activations=_activations(fields), tie_embeddings=_scales(fields))


def to_hugging_face(config: T5Config, described: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config.json that `transformers` 4 and 5 open as this model.

    Args:
      config: of the model.
      described: the config.json that it came with; empty if it came with none.

    Raises:
      UserError: it is none that they have.
    """
    projection = _PROJECTION_OF.get(config.activations)
    if projection is None:
        raise UserError(
            f"transformers' T5 has no MLP with activations {config.activations}", "export it as T5X's checkpoint"
        )
    # The classes differ in this alone: `transformers` 5 scales no mT5's hidden states.
    name = "mt5" if described.get("model_type") == "mt5" and not config.tie_embeddings else "t5"
    return {
        **described,
        **{theirs: getattr(config, ours) for theirs, ours in (_SIZES | _OPTIONS).items()},
        **_FIXED,
        "eos_token_id": described.get("eos_token_id"),
        "feed_forward_proj": projection,
        "is_gated_act": projection.startswith("gated-"),
        "dense_act_fn": "gelu_new" if projection == "gated-gelu" else projection.removeprefix("gated-"),
        "tie_word_embeddings": config.tie_embeddings,
        "scale_decoder_outputs": config.tie_embeddings,
        "is_encoder_decoder": True,
        "architectures": [f"{'MT5' if name == 'mt5' else 'T5'}ForConditionalGeneration"],
        "model_type": name,
    }


def _activations(fields: Mapping[str, Any]) -> tuple[str, ...]:
    gated_gelu = fields.get("model_type") == "mt5"  # the default of each
    projection = fields.get("feed_forward_proj") or ("gated-gelu" if gated_gelu else "relu")
    gated, _, name = projection.rpartition("-")
    name = "gelu_new" if projection == "gated-gelu" else name
    name = fields.get("dense_act_fn") or name  # written beside it, and what counts there
    if name not in _ACTIVATIONS or gated not in ("", "gated"):
        raise UserError(f"its config.json has feed_forward_proj {projection!r}", "use a model with another MLP")
    return (_ACTIVATIONS[name], "linear") if gated else (_ACTIVATIONS[name],)


def _scales(fields: Mapping[str, Any]) -> bool:
    """Whether hidden states are scaled before the head, which only a tied head's are here."""
    if fields.get("model_type") == "mt5":  # 5 scales none, and says of every one that it is tied
        return bool(fields.get("tie_word_embeddings", False)) and _major(fields) < 5
    if fields.get("scale_decoder_outputs") is not None:
        return bool(fields["scale_decoder_outputs"])
    return bool(fields.get("tie_word_embeddings", True))


def _major(fields: Mapping[str, Any]) -> int:
    """The version of `transformers` that wrote the file; 4 where it does not say."""
    first = str(fields.get("transformers_version", "4")).split(".")[0]
    return int(first) if first.isdecimal() else 4


# Names in transformers

_HF_ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "o"}


def hugging_face_names(config: T5Config) -> NameTable:
    """Where the parameters are in a folder of `transformers`."""
    table = Slice("shared.weight")
    entries = {"embedding.table": plain(table.name, SAME, vocabulary=0)}
    copies = [Copy(Slice(f"{stack}.embed_tokens.weight"), table) for stack in ("encoder", "decoder")]
    if config.tie_embeddings:
        copies.append(Copy(Slice("lm_head.weight"), table))
    else:  # `transformers` 5 leaves a head out that equals the table
        entries["output.kernel"] = plain("lm_head.weight", TURNED, vocabulary=1, instead=(table.name,))
    for stack, count, parts in (
        ("encoder", config.num_encoder_layers, {"attention": "SelfAttention"}),
        (
            "decoder",
            config.num_decoder_layers,
            {"self_attention": "SelfAttention", "cross_attention": "EncDecAttention"},
        ),
    ):
        first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        entries[f"{stack}.relative.table"] = plain(first, TURNED)
        entries[f"{stack}.norm.scale"] = plain(f"{stack}.final_layer_norm.weight", VECTOR)
        places: dict[str, Callable[[int], Place]] = {}
        for number, (ours, theirs) in enumerate(parts.items()):
            places[f"{ours}_norm.scale"] = _hf(stack, f"{number}.layer_norm", VECTOR)
            for projection, letter in _HF_ATTENTION.items():
                axes = HEADS_IN if projection == "output" else HEADS_OUT
                places[f"{ours}.{projection}.kernel"] = _hf(stack, f"{number}.{theirs}.{letter}", axes)
        mlp = f"{len(parts)}.DenseReluDense"
        places["mlp_norm.scale"] = _hf(stack, f"{len(parts)}.layer_norm", VECTOR)
        for number, name in enumerate(_inputs(config)):
            places[f"mlp.inputs.{number}.kernel"] = _hf(stack, f"{mlp}.{name}", TURNED)
        places["mlp.output.kernel"] = _hf(stack, f"{mlp}.wo", TURNED)
        entries |= layered(stack, count, config.scan_layers, places)
    # The last is a leftover in the original T5's files, which no program reads.
    ignored = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
    return NameTable(entries, tuple(copies), ignored)


def _hf(stack: str, name: str, axes: Axes) -> Callable[[int], Place]:
    return lambda i: Place(Slice(f"{stack}.block.{i}.layer.{name}.weight"), axes)


def _inputs(config: T5Config) -> list[str]:
    """The names of an MLP's input kernels, in transformers and in T5X."""
    count = len(config.activations)
    return ["wi"] if count == 1 else [f"wi_{i}" for i in range(count)]


# Names in T5X


def t5x_names(config: T5Config, checkpoint: Checkpoint) -> NameTable:
    """Where the parameters are in one of T5X's checkpoints: layers apart, or stacked along whichever axis.

    Raises:
      UserError: it has no embedding table.
    """
    anchor = "token_embedder/embedding"
    scopes = [name.removesuffix(anchor) for name in checkpoint.arrays if name.endswith(anchor)]
    scopes.sort(key=lambda scope: (scope != "target/", len(scope)))
    if not scopes:
        raise UserError(f"{checkpoint.label} has no {anchor}", "name a checkpoint of a T5")
    scope = scopes[0]
    scale = checkpoint.arrays.get(f"{scope}encoder/encoder/pre_mlp_layer_norm/scale")
    axis = None if scale is None else 0 if scale.shape == (config.num_encoder_layers, config.embed_dim) else 1
    if scale is not None and config.num_encoder_layers == config.embed_dim:
        axis = 1  # T5X's own default
    own = scale is not None or f"{scope}encoder/layers_0/relpos_bias/rel_embedding" in checkpoint.arrays
    first = "encoder/attention" if scale is not None else "layers_0/attention"
    kernel = checkpoint.arrays.get(f"{scope}encoder/{first}/query/kernel")
    apart = kernel is not None and len(kernel.shape) == (3 if axis is None else 4)
    return _t5x_table(config, scope, axis, own=own, apart=apart)


def t5x_names_to_write(config: T5Config, scan: bool) -> NameTable:
    """Where T5X's `examples/t5` wants the parameters, or with `scan` its `examples/scalable_t5`."""
    return _t5x_table(config, "target/", 1 if scan else None, own=scan, apart=scan)


def _t5x_table(config: T5Config, scope: str, axis: int | None, *, own: bool, apart: bool) -> NameTable:
    """The table.

    Args:
      config: the model.
      scope: what all names begin with.
      axis: along which layers are stacked; None where they are not.
      own: whether each layer has a relative bias, which here must all be equal.
      apart: whether kernels keep heads and their sizes as two axes.
    """
    entries = {
        "embedding.table": plain(f"{scope}token_embedder/embedding", SAME, vocabulary=0),
    }
    if not config.tie_embeddings:
        entries["output.kernel"] = plain(f"{scope}decoder/logits_dense/kernel", SAME, vocabulary=1)
    copies: list[Copy] = []
    into, out_of = (_APART, _APART) if apart else (_JOINED, _JOINED_OUTPUT)
    for stack, count, parts in (
        ("encoder", config.num_encoder_layers, {"attention": "attention"}),
        (
            "decoder",
            config.num_decoder_layers,
            {"self_attention": "self_attention", "cross_attention": "encoder_decoder_attention"},
        ),
    ):
        at = _T5XStack(f"{scope}{stack}", stack, axis)
        bias = [at.slice("relpos_bias/rel_embedding", i) for i in range(count)]
        if not own:
            bias = [Slice(f"{scope}{stack}/relpos_bias/rel_embedding")]
        entries[f"{stack}.relative.table"] = Entry((Place(bias[0], SAME),))
        copies += [Copy(each, bias[0], needed=True) for each in bias[1:]]
        entries[f"{stack}.norm.scale"] = plain(f"{scope}{stack}/{stack}_norm/scale", VECTOR)
        places: dict[str, Callable[[int], Place]] = {"mlp_norm.scale": at.place("pre_mlp_layer_norm/scale", VECTOR)}
        for ours, theirs in parts.items():
            places[f"{ours}_norm.scale"] = at.place(f"pre_{ours}_layer_norm/scale", VECTOR)
            for projection in _PROJECTIONS:
                name, axes = ("out", out_of) if projection == "output" else (projection, into)
                places[f"{ours}.{projection}.kernel"] = at.place(f"{theirs}/{name}/kernel", axes)
        for number, name in enumerate(_inputs(config)):
            places[f"mlp.inputs.{number}.kernel"] = at.place(f"mlp/{name}/kernel", SAME)
        places["mlp.output.kernel"] = at.place("mlp/wo/kernel", SAME)
        entries |= layered(stack, count, config.scan_layers, places)
    return NameTable(entries, tuple(copies), scope=scope)


class _T5XStack:
    """Names of a stack's layers."""

    def __init__(self, prefix: str, stack: str, axis: int | None):
        self._prefix, self._stack, self._axis = prefix, stack, axis

    def slice(self, name: str, layer: int) -> Slice:
        if self._axis is None:
            return Slice(f"{self._prefix}/layers_{layer}/{name}")
        return Slice(f"{self._prefix}/{self._stack}/{name}", self._axis, layer)

    def place(self, name: str, axes: Axes) -> Callable[[int], Place]:
        return lambda layer: Place(self.slice(name, layer), axes)


register(
    ForeignFamily(
        family="t5",
        model_types=("t5", "mt5"),
        from_hugging_face=from_hugging_face,
        to_hugging_face=to_hugging_face,
        hugging_face_names=hugging_face_names,
        tokenizer_class="T5Tokenizer",
        tokenizer_file="spiece.model",
        extra_ids=100,
        t5x_names=t5x_names,
        t5x_names_to_write=t5x_names_to_write,
    )
)
