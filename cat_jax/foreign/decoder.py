"""Decoder-only models outside: Llama, Mistral, SmolLM2, Qwen2, Qwen3, Gemma, Gemma 2 and Gemma 3 as `transformers` has
them, versions 4 and 5, which write rotary positions and windows differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cat_jax.errors import UserError
from cat_jax.foreign.families import ForeignFamily, register
from cat_jax.foreign.feeding import bos_id_of, with_bos_id
from cat_jax.foreign.hugging_face import check_numbers
from cat_jax.foreign.names import (
    HEADS_IN,
    HEADS_OUT,
    SAME,
    TURNED,
    VECTOR,
    Axes,
    Copy,
    NameTable,
    Place,
    Slice,
    layered,
    plain,
)
from cat_jax.models.decoder_config import GLOBAL, LOCAL, DecoderConfig

_BIAS: Axes = ((0, 1),)  # [H*K] of [H, K], in the tensor

_CLASSES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3_text": "Gemma3",
}
_GEMMAS = ("gemma", "gemma2", "gemma3_text")
_WITHOUT_BOS = ("qwen2", "qwen3")
"""What was trained on texts that nothing begins, although their config.json may name an id."""

_LATER_GEMMA = {"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096, "query_pre_attn_scalar": 256}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"num_key_value_heads": 32, "sliding_window": 4096},
    "qwen3": {"num_key_value_heads": 32, "sliding_window": 4096, "head_dim": 128},
    "gemma": {"num_key_value_heads": 16, "head_dim": 256},
    "gemma2": {**_LATER_GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {**_LATER_GEMMA, "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0},
}
"""What a config.json means by a field that it leaves out, where that is not the same for all kinds."""

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "embed_dim",
    "intermediate_size": "mlp_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}
_OPTIONS = {"num_key_value_heads": "num_kv_heads", "rms_norm_eps": "norm_epsilon"}
_SOFTCAPS = {"attn_logit_softcapping": "attention_softcap", "final_logit_softcapping": "logit_softcap"}
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu", "gelu_new": "gelu", "gelu": "gelu_exact"}
_ROPE = {
    "factor": "rope_factor",
    "original_max_position_embeddings": "rope_original_length",
    "low_freq_factor": "rope_low_frequency_factor",
    "high_freq_factor": "rope_high_frequency_factor",
    "beta_fast": "rope_beta_fast",
    "beta_slow": "rope_beta_slow",
    "attention_factor": "rope_attention_factor",
}
_ROPE_OF = {
    "linear": ("factor",),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor"),
}


def from_hugging_face(fields: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a config.json.

    What stands where an example begins is said in a key of our own, if it has that; else it is its `bos_token_id`, but
    for a Qwen, where nothing does.

    Raises:
      UserError: a field is missing, or says what this decoder cannot be.
    """
    kind = fields["model_type"]
    fields = {**_DEFAULTS.get(kind, {}), **fields}
    check_numbers(fields, _SIZES)
    for name in ("mlp_bias", "attention_bias"):
        if fields.get(name) and kind != "qwen2":
            raise UserError(f"its config.json has {name}", "use a model without: this decoder has none there")
    if fields.get("use_bidirectional_attention"):
        raise UserError("its config.json has use_bidirectional_attention", "use a model that reads from left to right")
    found: dict[str, Any] = {ours: fields[theirs] for theirs, ours in _SIZES.items()}
    found |= {ours: fields[theirs] for theirs, ours in _OPTIONS.items() if fields.get(theirs) is not None}
    found["head_dim"] = fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]
    if kind in ("gemma2", "gemma3_text"):
        found |= {ours: fields[theirs] for theirs, ours in _SOFTCAPS.items() if fields.get(theirs) is not None}
        found["query_pre_attn_scalar"] = fields["query_pre_attn_scalar"]
    windows = _windows(kind, fields)
    return DecoderConfig(
        **found,
        **windows,
        **_positions(fields, local=LOCAL in windows["layer_pattern"]),
        activations=(_activation(kind, fields), "linear"),
        tie_embeddings=bool(fields.get("tie_word_embeddings", kind in _GEMMAS)),
        bos_id=bos_id_of(fields, begins=kind not in _WITHOUT_BOS),
        embedding_scale=kind in _GEMMAS,
        norm_offset=1.0 if kind in _GEMMAS else 0.0,
        post_norms=kind in ("gemma2", "gemma3_text"),
        qk_norm=kind in ("qwen3", "gemma3_text"),
        qkv_bias=kind == "qwen2",
    )


def _activation(kind: str, fields: Mapping[str, Any]) -> str:
    # Gemma's first files say `gelu` and mean the tanh form; `hidden_activation`, where it is set, says which.
    name = fields.get("hidden_activation") or ("gelu_pytorch_tanh" if kind in _GEMMAS else fields.get("hidden_act"))
    if name not in _ACTIVATIONS:
        raise UserError(f"its config.json has the activation {name!r}", f"what is read: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _windows(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    window, count = fields.get("sliding_window"), fields["num_hidden_layers"]
    types = fields.get("layer_types")
    if types is not None:
        kinds = [LOCAL if name == "sliding_attention" else GLOBAL for name in types]
        odd = sorted(set(types) - {"sliding_attention", "full_attention"})
        if odd or len(types) != count:
            raise UserError(
                f"its config.json has layer_types {odd or len(types)}", f"use a model of {count} such layers"
            )
    elif kind == "mistral" and window is not None:
        kinds = [LOCAL]
    elif kind in ("qwen2", "qwen3") and fields.get("use_sliding_window"):
        kinds = [LOCAL if i >= fields.get("max_window_layers", 28) else GLOBAL for i in range(count)]
    elif kind == "gemma2":
        kinds = [LOCAL, GLOBAL]
    elif kind == "gemma3_text":
        kinds = [LOCAL] * (fields.get("sliding_window_pattern", 6) - 1) + [GLOBAL]
    else:
        kinds = [GLOBAL]
    pattern = _shortest(kinds[:count])
    return {"layer_pattern": pattern, "window": window if LOCAL in pattern else None}


def _shortest(kinds: Sequence[str]) -> tuple[str, ...]:
    """The shortest pattern that is `kinds` when it is repeated.

    >>> _shortest(["local", "global", "local", "global", "local"])
    ('local', 'global')
    """
    lengths = (n for n in range(1, len(kinds) + 1) if all(kind == kinds[i % n] for i, kind in enumerate(kinds)))
    return tuple(kinds[: next(lengths)])


def _positions(fields: Mapping[str, Any], *, local: bool) -> dict[str, Any]:
    """Of the rotary positions; those of local layers are read where there are some."""
    parameters = fields.get("rope_parameters") or {}
    whole = dict(parameters.get("full_attention", parameters))
    of_local = parameters.get("sliding_attention", {}).get("rope_theta", fields.get("rope_local_base_freq"))
    if not parameters:
        whole = dict(fields.get("rope_scaling") or {})
    if {whole.get("partial_rotary_factor"), fields.get("partial_rotary_factor")} - {None, 1}:
        raise UserError("its config.json rotates a part of each head (partial_rotary_factor)", "use another model")
    name = whole.get("rope_type", whole.get("type")) or "default"
    found = {"rope_theta": float(whole.get("rope_theta", fields.get("rope_theta", 10_000.0)))}
    if local and of_local is not None:
        found["local_rope_theta"] = float(of_local)
    if name == "default":
        return found
    if name not in _ROPE_OF:
        raise UserError(
            f"its config.json scales rotary positions by {name!r}", f"use a model with one of {', '.join(_ROPE_OF)}"
        )
    for key, is_read in (("mscale", not whole.get("mscale")), ("truncate", whole.get("truncate") is not False)):
        if not is_read:
            raise UserError(
                f"its config.json scales rotary positions by {name!r} with {key} {whole[key]!r}",
                f"use a model without {key}",
            )
    kept = {_ROPE[key]: whole[key] for key in _ROPE_OF[name] if whole.get(key) is not None}
    if name == "yarn":
        kept.setdefault("rope_original_length", fields.get("max_position_embeddings"))
    return {**found, **kept, "rope_scaling": name}


def to_hugging_face(config: DecoderConfig, described: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config.json that `transformers` opens as this model.

    Args:
      config: of the model.
      described: the config.json that it came with; empty if it came with none.

    Raises:
      UserError: it is none that they have.
    """
    c, kind = config, _kind(config)
    activation = next((name for name, ours in _ACTIVATIONS.items() if (ours, "linear") == c.activations), None)
    if activation is None or c.prefix_lm:
        what = "is a prefix-LM" if c.prefix_lm else f"has an MLP with activations {c.activations}"
        raise UserError(f"the model {what}, which transformers has not", "keep it here: it cannot be exported")
    kinds = {LOCAL: "sliding_attention", GLOBAL: "full_attention"}
    fields = {
        "eos_token_id": None,  # what is left out is one of each kind's own, and ends nothing here
        **described,
        **{theirs: getattr(c, ours) for theirs, ours in _SIZES.items()},
        "num_key_value_heads": c.kv_heads,
        "rms_norm_eps": c.norm_epsilon,
        "head_dim": c.head_dim,
        "hidden_act": activation,
        "tie_word_embeddings": c.tie_embeddings,
        "sliding_window": c.window,
        "rope_theta": c.rope_theta,
        "rope_parameters": _rope_parameters(c, apart=kind == "gemma3_text"),
        "attention_bias": c.qkv_bias,
        "bos_token_id": c.bos_id,
        "architectures": [f"{_CLASSES[kind]}ForCausalLM"],
        "model_type": kind,
    }
    if kind in _GEMMAS:
        fields["hidden_activation"] = activation
    if kind in ("qwen2", "qwen3", "gemma2", "gemma3_text"):
        fields["layer_types"] = [kinds[name] for name in c.layer_kinds]
        fields["use_sliding_window"] = c.window is not None
    if kind in ("gemma2", "gemma3_text"):
        fields |= {theirs: getattr(c, ours) for theirs, ours in _SOFTCAPS.items()}
        scalar = c.head_dim if c.query_pre_attn_scalar is None else c.query_pre_attn_scalar
        fields["query_pre_attn_scalar"] = int(scalar) if scalar == int(scalar) else scalar
    if c.local_rope_theta is not None:
        fields["rope_local_base_freq"] = c.local_rope_theta
    fields["rope_scaling"] = None
    if c.rope_scaling != "none":  # for version 4; of a Gemma 3 both take it as that of its global layers
        fields["rope_scaling"] = {k: v for k, v in _rope_parameters(c).items() if k != "rope_theta"}
    # Of a scaled model early versions take the length that it is scaled to from here, and the factor from that.
    longest = max(fields.get("max_position_embeddings") or 0, int((c.rope_original_length or 0) * c.rope_factor))
    return with_bos_id(fields | ({"max_position_embeddings": longest} if longest else {}), c.bos_id)


def _kind(config: DecoderConfig) -> str:
    """Which of their models has this one's parts.

    Raises:
      UserError: none has.
    """
    c = config
    parts = (c.norm_offset == 1 and c.embedding_scale, c.post_norms, c.qk_norm, c.qkv_bias)
    known = {
        (False, False, False, False): "mistral" if c.layer_pattern == (LOCAL,) else "llama",
        (False, False, False, True): "qwen2",
        (False, False, True, False): "qwen3",
        (True, False, False, False): "gemma",
        (True, True, False, False): "gemma2",
        (True, True, True, False): "gemma3_text",
    }
    kind = known.get(parts)
    lacking = {
        "norms, biases and a scale of embeddings together": kind is None or (c.norm_offset == 1) != c.embedding_scale,
        "softcaps": (c.attention_softcap, c.logit_softcap) != (None, None) and not c.post_norms,
        "query_pre_attn_scalar": c.query_pre_attn_scalar is not None and not c.post_norms,
        "rotary_fraction": c.rotary_fraction != 1,
        "layer_pattern": c.window is not None and kind in ("llama", "gemma"),
        # Gemma 3 turns its local layers by a base of their own, and no other model does.
        "local_rope_theta": (c.local_rope_theta is not None) != (kind == "gemma3_text" and c.window is not None),
    }
    odd = [name for name, is_odd in lacking.items() if is_odd]
    if kind is None or odd:
        raise UserError(f"transformers has no model with this one's {odd[0]}", "keep it here: it cannot be exported")
    return kind


def _rope_parameters(config: DecoderConfig, *, apart: bool = False) -> dict[str, Any]:
    """As version 5 has them; `apart` by kind of layer."""
    c, kind = config, "default" if config.rope_scaling == "none" else config.rope_scaling
    values = {key: getattr(c, _ROPE[key]) for key in _ROPE_OF.get(kind, ())}
    whole = {"rope_type": kind, "rope_theta": c.rope_theta, **{k: v for k, v in values.items() if v is not None}}
    of_local = {"rope_type": "default", "rope_theta": c.local_rope_theta or c.rope_theta}
    return {"full_attention": whole, "sliding_attention": of_local} if apart else whole


def hugging_face_names(config: DecoderConfig) -> NameTable:
    """Where the parameters are in a folder of `transformers`."""
    c, table = config, Slice("model.embed_tokens.weight")
    entries = {
        "embedding.table": plain(table.name, SAME, vocabulary=0),
        "norm.scale": plain("model.norm.weight", VECTOR),
    }
    if not c.tie_embeddings:
        entries["output.kernel"] = plain("lm_head.weight", TURNED, vocabulary=1)
    places: dict[str, Callable[[int], Place]] = {}
    for ours in ("query", "key", "value"):
        places[f"attention.{ours}.kernel"] = _at(f"self_attn.{ours[0]}_proj.weight", HEADS_OUT)
        if c.qkv_bias:
            places[f"attention.{ours}.bias"] = _at(f"self_attn.{ours[0]}_proj.bias", _BIAS)
    if c.qk_norm:
        places["attention.query_norm.scale"] = _at("self_attn.q_norm.weight", VECTOR)
        places["attention.key_norm.scale"] = _at("self_attn.k_norm.weight", VECTOR)
    places["attention.output.kernel"] = _at("self_attn.o_proj.weight", HEADS_IN)
    norms = {"attention_norm": "input", "mlp_norm": "post_attention"}
    if c.post_norms:
        norms |= {"mlp_norm": "pre_feedforward", "mlp_post_norm": "post_feedforward"}
        norms["attention_post_norm"] = "post_attention"
    places |= {f"{ours}.scale": _at(f"{theirs}_layernorm.weight", VECTOR) for ours, theirs in norms.items()}
    for ours, theirs in (("inputs.0", "gate"), ("inputs.1", "up"), ("output", "down")):
        places[f"mlp.{ours}.kernel"] = _at(f"mlp.{theirs}_proj.weight", TURNED)
    entries |= layered("", c.num_layers, c.scan_layers, places)
    copies = (Copy(Slice("lm_head.weight"), table),) if c.tie_embeddings else ()
    return NameTable(entries, copies, ignored=("*.rotary_emb.inv_freq",))


def _at(name: str, axes: Axes) -> Callable[[int], Place]:
    return lambda i: Place(Slice(f"model.layers.{i}.{name}"), axes)


register(
    ForeignFamily(
        family="decoder",
        model_types=tuple(_CLASSES),
        from_hugging_face=from_hugging_face,
        to_hugging_face=to_hugging_face,
        hugging_face_names=hugging_face_names,
        tokenizer_class="LlamaTokenizer",
        tokenizer_classes=dict.fromkeys(_GEMMAS, "GemmaTokenizer"),
    )
)
