"""Small models as GGUF files, written by the library of that name as llama.cpp's converter does it."""

import json

import numpy as np

from cat_jax.foreign.arrays import read_all
from cat_jax.foreign.decoder import to_hugging_face
from cat_jax.foreign.safetensors_file import SafetensorsWriter, read_header

MIXED = {"embed_tokens": "Q8_0", "q_proj": "Q4_K", "k_proj": "Q4_1", "v_proj": "F16", "gate_proj": "Q4_K"}
"""Encodings by part of a model; what is not here is in F32."""

WHOLE = dict.fromkeys(MIXED, "F32")


def write_folder(folder, config, seed=0):
    """A folder of transformers, of small weights."""
    c, rng = config, np.random.default_rng(seed)
    heads, grouped = c.num_heads * c.head_dim, c.kv_heads * c.head_dim
    shapes = {"model.embed_tokens.weight": (c.vocab_size, c.embed_dim), "model.norm.weight": (c.embed_dim,)}
    if not c.tie_embeddings:
        shapes["lm_head.weight"] = (c.vocab_size, c.embed_dim)
    for layer in range(c.num_layers):
        of_layer = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (c.embed_dim,))
        for name, size in {"q": heads, "k": grouped, "v": grouped}.items():
            of_layer[f"self_attn.{name}_proj"] = (size, c.embed_dim)
            if c.qk_norm and name != "v":
                of_layer[f"self_attn.{name}_norm"] = (c.head_dim,)
        of_layer |= {"self_attn.o_proj": (c.embed_dim, heads), "mlp.down_proj": (c.embed_dim, c.mlp_dim)}
        of_layer |= dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (c.mlp_dim, c.embed_dim))
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
        if c.qkv_bias:
            biases = {
                name: shape[:1] for name, shape in of_layer.items() if name[10:] in ("q_proj", "k_proj", "v_proj")
            }
            shapes |= {f"model.layers.{layer}.{name}.bias": shape for name, shape in biases.items()}
    folder.mkdir()
    writer = SafetensorsWriter(
        folder / "model.safetensors", {name: (np.dtype(np.float32), s) for name, s in shapes.items()}
    )
    for name, shape in shapes.items():
        writer.write(name, (rng.normal(size=shape) * (0.2 if len(shape) > 1 else 1)).astype(np.float32))
    writer.close()
    (folder / "config.json").write_text(json.dumps(to_hugging_face(config, {"max_position_embeddings": 64})))
    return folder


def tensors_of(folder):
    """{name: array} of a folder of transformers."""
    return {name: read_all(array) for name, array in read_header(folder / "model.safetensors").items()}


def encode(array, encoding):
    """(what is in a file, what it stands for, its type)."""
    import gguf

    kind = gguf.GGMLQuantizationType[encoding]
    if encoding == "Q4_K":  # which the library reads and does not write: any bytes are numbers, and these are small
        block, size = gguf.GGML_QUANT_SIZES[kind]
        drawn = np.random.default_rng(array.size).integers(0, 256, (*array.shape[:-1], array.shape[-1] // block, size))
        data = drawn.astype(np.uint8)
        data[..., :4] = np.array([0.0004, 0.003], np.float16).view(np.uint8)
        data = data.reshape(*array.shape[:-1], -1)
    else:
        data = gguf.quantize(array, kind)
    return data, gguf.dequantize(data, kind), kind


def interleaved(array, heads):
    """As `convert_hf_to_gguf.py` reorders queries and keys of a Llama."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def write_gguf(path, config, tensors, *, arch="llama", encodings=WHOLE, more=lambda writer: None):
    """Writes a model; returns {name: array}: what its tensors stand for, under the names of transformers."""
    import gguf

    writer = gguf.GGUFWriter(path, arch)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config.num_layers)
    writer.add_context_length(64)
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.embed_dim)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.mlp_dim)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rope_theta)
    if arch == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    stands_for = {}
    for name, array in tensors.items():
        part = next((part for part in encodings if part in name and name.endswith("weight")), None)
        heads = {"q_proj": config.num_heads, "k_proj": config.kv_heads}.get(name.split(".")[-2], 0)
        ordered = interleaved(array, heads) if heads and arch == "llama" else array
        data, value, kind = encode(ordered, encodings.get(part, "F32"))
        stands_for[name] = value
        if heads and arch == "llama":
            stands_for[name] = value.reshape(heads, -1, 2, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        stem, _, suffix = name.rpartition(".")
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", data, raw_dtype=kind)
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stands_for
