"""Random decoder-only models of `transformers`, and the same numbers as our parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cat_jax.models.axes import axes_of, parameter
from cat_jax.models.decoder_config import LOCAL, DecoderConfig

CLASSES = {
    "llama": "Llama",
    "smollm2": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3": "Gemma3Text",
}
LAYER_TYPES = ("qwen2", "qwen3", "gemma2", "gemma3")
"""Families whose configuration says of each layer whether it has a window."""

NAMES = {
    "embedding.table": "model.embed_tokens.weight",
    "norm.scale": "model.norm.weight",
    "output.kernel": "lm_head.weight",
    "layers.#.attention_norm.scale": "model.layers.#.input_layernorm.weight",
    "layers.#.mlp_norm.scale": "model.layers.#.post_attention_layernorm.weight",
    "layers.#.attention.query.kernel": "model.layers.#.self_attn.q_proj.weight",
    "layers.#.attention.key.kernel": "model.layers.#.self_attn.k_proj.weight",
    "layers.#.attention.value.kernel": "model.layers.#.self_attn.v_proj.weight",
    "layers.#.attention.query.bias": "model.layers.#.self_attn.q_proj.bias",
    "layers.#.attention.key.bias": "model.layers.#.self_attn.k_proj.bias",
    "layers.#.attention.value.bias": "model.layers.#.self_attn.v_proj.bias",
    "layers.#.attention.output.kernel": "model.layers.#.self_attn.o_proj.weight",
    "layers.#.attention.query_norm.scale": "model.layers.#.self_attn.q_norm.weight",
    "layers.#.attention.key_norm.scale": "model.layers.#.self_attn.k_norm.weight",
    "layers.#.mlp.inputs.0.kernel": "model.layers.#.mlp.gate_proj.weight",
    "layers.#.mlp.inputs.1.kernel": "model.layers.#.mlp.up_proj.weight",
    "layers.#.mlp.output.kernel": "model.layers.#.mlp.down_proj.weight",
}
"""Our parameters, unrolled, by theirs. Their linear maps are [out, in], heads and head size joined."""

POST_NORM_NAMES = {
    "layers.#.attention_post_norm.scale": "model.layers.#.post_attention_layernorm.weight",
    "layers.#.mlp_norm.scale": "model.layers.#.pre_feedforward_layernorm.weight",
    "layers.#.mlp_post_norm.scale": "model.layers.#.post_feedforward_layernorm.weight",
}
"""What is called otherwise where `post_norms` is set."""


def build_theirs(family: str, config: DecoderConfig, seed: int = 0):
    """A `...ForCausalLM` with the sizes of `config`; torch and transformers must be there."""
    import torch
    import transformers

    torch.manual_seed(seed)
    c, name = config, CLASSES[family]
    rope = {"rope_type": "default" if c.rope_scaling == "none" else c.rope_scaling, "rope_theta": c.rope_theta}
    if c.rope_scaling != "none":
        rope["factor"] = c.rope_factor
    if c.rope_original_length is not None:
        rope["original_max_position_embeddings"] = c.rope_original_length
    if c.rope_scaling == "llama3":
        rope |= {"low_freq_factor": c.rope_low_frequency_factor, "high_freq_factor": c.rope_high_frequency_factor}
    if c.local_rope_theta is not None:
        rope = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": c.local_rope_theta}}
    options = {"sliding_window": c.window} if c.window is not None else {}
    if family in LAYER_TYPES:
        options["layer_types"] = [f"{'sliding' if kind == LOCAL else 'full'}_attention" for kind in c.layer_kinds]
        options["use_sliding_window"] = True
    if family in ("gemma2", "gemma3"):
        options |= {
            "query_pre_attn_scalar": int(c.query_pre_attn_scalar or c.head_dim),
            "attn_logit_softcapping": c.attention_softcap,
            "final_logit_softcapping": c.logit_softcap,
        }
    theirs = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(
        getattr(transformers, f"{name}Config")(
            vocab_size=c.vocab_size,
            hidden_size=c.embed_dim,
            intermediate_size=c.mlp_dim,
            num_hidden_layers=c.num_layers,
            num_attention_heads=c.num_heads,
            num_key_value_heads=c.kv_heads,
            head_dim=c.head_dim,
            rms_norm_eps=c.norm_epsilon,
            tie_word_embeddings=c.tie_embeddings,
            rope_parameters=rope,
            max_position_embeddings=160,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="eager",
            **options,
        )
    ).eval()
    with torch.no_grad():
        # Their initialiser hides much: norms that are not applied, biases of zero, attention that is almost even.
        for name, weight in theirs.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5).sub_(c.norm_offset)
            else:
                weight.normal_(0.0, 0.4)
    return theirs


def split_like(theirs, config: DecoderConfig):
    """Graph definition and parameters of ours (unrolled) with the numbers of theirs, all of which are used."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: config.build(jax.random.key(0))))
    weights = {name: weight.detach().numpy() for name, weight in theirs.named_parameters()}
    names = NAMES | (POST_NORM_NAMES if config.post_norms else {})
    ours = {}
    for path, param in nnx.to_flat_state(params):
        number = str(path[1]) if path[0] == "layers" else ""
        name = ".".join("#" if at == 1 and number else str(part) for at, part in enumerate(path))
        weight = weights.pop(names[name].replace("#", number))
        if path[-1] == "kernel":
            weight = weight.T
        ours[path] = parameter(jnp.asarray(np.reshape(weight, param.shape)), axes_of(param))
    assert not weights, f"not used: {list(weights)}"
    return graphdef, nnx.from_flat_state(ours)
