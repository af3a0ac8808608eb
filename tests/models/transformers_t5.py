"""A random T5 of `transformers`, and the same numbers as our parameters."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cat_jax.models.axes import axes_of, parameter
from cat_jax.models.t5_config import T5Config


def build_theirs(config: T5Config, seed: int = 0):
    """A `T5ForConditionalGeneration` with the sizes of `config`; torch and transformers must be there."""
    import torch
    import transformers

    torch.manual_seed(seed)
    gated = len(config.activations) == 2
    theirs = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.embed_dim,
            d_kv=config.head_dim,
            d_ff=config.mlp_dim,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            num_heads=config.num_heads,
            relative_attention_num_buckets=config.relative_buckets,
            relative_attention_max_distance=config.relative_max_distance,
            dropout_rate=config.dropout_rate,
            layer_norm_epsilon=config.norm_epsilon,
            feed_forward_proj="gated-gelu" if gated else "relu",
            tie_word_embeddings=config.tie_embeddings,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
    ).eval()
    with torch.no_grad():
        # Their initialiser leaves norms at one, which would hide a norm that is not applied.
        for name, weight in theirs.named_parameters():
            if "layer_norm" in name:
                weight.uniform_(0.5, 1.5)
        # They tie the head whatever the configuration says, and scale the hidden states where they tie.
        if not config.tie_embeddings:
            head = torch.nn.Linear(config.embed_dim, config.vocab_size, bias=False)
            head.weight.normal_(0.0, config.embed_dim**-0.5)
            theirs.lm_head = head
            theirs.config.tie_word_embeddings = False
            theirs.model_dim = config.embed_dim
    return theirs


def params_from_theirs(theirs, params: nnx.State) -> nnx.State:
    """Parameters with the structure of ours (unrolled) and the numbers of theirs."""
    weights = {name: weight.detach().numpy() for name, weight in theirs.named_parameters(remove_duplicate=False)}
    gated = any(name.endswith("wi_0.weight") for name in weights)
    ours = {}
    for path, param in nnx.to_flat_state(params):
        weight = weights[_their_name(path, gated)]
        if path[-1] != "scale" and path != ("embedding", "table"):  # their linear maps are [out, in], relative [N, H]
            weight = weight.T
        ours[path] = parameter(jnp.asarray(np.reshape(weight, param.shape)), axes_of(param))
    return nnx.from_flat_state(ours)


def _their_name(path: tuple, gated: bool) -> str:
    if path == ("embedding", "table"):
        return "shared.weight"
    if path == ("output", "kernel"):
        return "lm_head.weight"
    stack, rest = path[0], path[1:]
    if rest == ("norm", "scale"):
        return f"{stack}.final_layer_norm.weight"
    if rest == ("relative", "table"):
        return f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    block, part, what = rest[1], rest[2], rest[3:]
    sublayer = {"cross": 1, "mlp": 1 if stack == "encoder" else 2}.get(part.split("_")[0], 0)
    prefix = f"{stack}.block.{block}.layer.{sublayer}"
    if part.endswith("norm"):
        return f"{prefix}.layer_norm.weight"
    if part == "mlp":
        inputs = ["wi_0", "wi_1"] if gated else ["wi"]
        return f"{prefix}.DenseReluDense.{'wo' if what[0] == 'output' else inputs[what[1]]}.weight"
    attention = "EncDecAttention" if sublayer == 1 else "SelfAttention"
    return f"{prefix}.{attention}.{what[0][0]}.weight"  # q, k, v, o
