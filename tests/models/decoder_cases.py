"""Small decoder-only models and batches for the tests of models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cat_jax.evaluate.prompts import prompt_batch
from cat_jax.models.decoder_config import GLOBAL, LOCAL, DecoderConfig
from cat_jax.types import Batch

VOCAB = 60
WINDOW = 4

FAMILIES = {
    "llama": {"bos_id": 1, "rope_scaling": "llama3", "rope_factor": 4, "rope_original_length": 40, "rope_theta": 500},
    "smollm2": {"bos_id": None, "tie_embeddings": True, "rope_theta": 100_000.0},
    "mistral": {"bos_id": 1, "window": WINDOW, "layer_pattern": (LOCAL,), "norm_epsilon": 1e-5},
    "qwen2": {
        "bos_id": None,
        "qkv_bias": True,
        "window": WINDOW,
        "layer_pattern": (GLOBAL, LOCAL, LOCAL),
        "rope_theta": 1e6,
        "rope_scaling": "linear",
        "rope_factor": 3.0,
    },
    "qwen3": {
        "bos_id": None,
        "qk_norm": True,
        "tie_embeddings": True,
        "rope_theta": 50.0,
        "rope_scaling": "yarn",
        "rope_factor": 4.0,
        "rope_original_length": 40,
    },
    "gemma": {"bos_id": 2, "num_kv_heads": 1},
    "gemma2": {
        "bos_id": 2,
        "post_norms": True,
        "attention_softcap": 2.0,
        "logit_softcap": 3.0,
        "query_pre_attn_scalar": 5.0,
        "window": WINDOW,
        "layer_pattern": (LOCAL, GLOBAL),
    },
    "gemma3": {
        "bos_id": 2,
        "post_norms": True,
        "qk_norm": True,
        "query_pre_attn_scalar": 5.0,
        "window": WINDOW,
        "layer_pattern": (LOCAL, LOCAL, GLOBAL),
        "rope_theta": 1e6,
        "local_rope_theta": 100.0,
        "rope_scaling": "linear",
        "rope_factor": 8.0,
    },
}
GEMMA = {"activations": ("gelu", "linear"), "norm_offset": 1, "embedding_scale": True, "tie_embeddings": True}
"""Of all Gemmas."""


BOTH_KINDS = {"num_layers": 2, "layer_pattern": (LOCAL, GLOBAL)}
"""As few layers as have both kinds."""


def tiny_config(family: str = "llama", **changes) -> DecoderConfig:
    """Three layers of a published family; what makes it one is chosen so that it tells at a dozen tokens."""
    sizes = {
        "vocab_size": VOCAB,
        "embed_dim": 16,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "mlp_dim": 24,
        "num_layers": 3,
    }
    gemma = GEMMA if family.startswith("gemma") else {}
    return DecoderConfig(**{**sizes, **gemma, **FAMILIES[family], **changes})


@functools.cache
def split(config: DecoderConfig, seed: int = 0):
    """Graph definition and random parameters of a model, drawn by NumPy: nothing is compiled."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: config.build(jax.random.key(0))))
    rng = np.random.default_rng(seed)

    def draw(path, param):
        stddev = 0.3 if param.ndim == 1 else (param.shape[0] if path[-1] == "kernel" else config.embed_dim) ** -0.5
        return param.replace((rng.normal(0, stddev, param.shape) + (path[-1] == "scale")).astype(param.dtype))

    return graphdef, nnx.from_flat_state([(path, draw(path, param)) for path, param in nnx.to_flat_state(params)])


def drawn(config, seed: int = 0):
    """The parameters of a model of any family, of one size all of them, drawn by NumPy: nothing is compiled."""
    draw = np.random.default_rng(seed)
    state = nnx.state(nnx.eval_shape(lambda: config.build(jax.random.key(0))))
    return jax.tree.map(lambda p: jnp.asarray(draw.normal(size=p.shape) * 0.2, p.dtype), state)


def random_rows(seed: int, lengths: list[int]) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCAB, length).tolist() for length in lengths]


INPUTS, TARGETS = random_rows(0, [9, 4, 6]), random_rows(1, [5, 2, 7])
"""Three examples of unlike lengths."""


def batch_of(inputs: list[list[int]], targets: list[list[int]], columns: int | None = None) -> Batch:
    """One example a row, padded on the right, as training pads them."""
    columns = columns or max(len(i) + len(t) for i, t in zip(inputs, targets, strict=True))
    tokens, weights = np.zeros((2, len(inputs), columns), np.int32)
    for row, (i, t) in enumerate(zip(inputs, targets, strict=True)):
        tokens[row, : len(i) + len(t)] = [*i, *t]
        weights[row, len(i) : len(i) + len(t)] = 1
    shifted = np.pad(tokens, [(0, 0), (1, 0)])[:, :-1]
    return Batch(tokens, shifted, weights.astype(np.float32))


def packed_batch(rows: list[list[int]], columns: int) -> Batch:
    """Rows of several examples, by their numbers in INPUTS and TARGETS."""
    arrays = np.zeros((5, len(rows), columns), np.int32)  # targets, inputs, weights, segments, positions
    for r, numbers in enumerate(rows):
        at = 0
        for segment, number in enumerate(numbers, start=1):
            tokens = [*INPUTS[number], *TARGETS[number]]
            here = slice(at, at + len(tokens))
            arrays[0, r, here], arrays[1, r, here] = tokens, [0, *tokens[:-1]]
            arrays[2, r, at + len(INPUTS[number]) : here.stop] = 1
            arrays[3, r, here], arrays[4, r, here] = segment, range(len(tokens))
            at = here.stop
    targets, inputs, weights, segments, positions = arrays
    return Batch(
        targets,
        inputs,
        weights.astype(np.float32),
        decoder_segment_ids=segments,
        decoder_positions=positions,
    )


def prompts_of(inputs: list[list[int]], columns: int, side: str = "right") -> Batch:
    """Prompts to decode from, padded on one side."""
    rows = np.array([row + [0] * (columns - len(row)) for row in inputs], np.int32)
    prompts = jax.tree.map(np.array, prompt_batch(jnp.array(rows), "prefix"))
    if side == "right":
        return prompts
    roll = lambda x: np.stack([np.roll(r, columns - len(i)) for r, i in zip(x, inputs, strict=True)])  # noqa: E731
    return jax.tree.map(roll, prompts)


@functools.partial(jax.jit, static_argnums=0)
def run(graphdef, params, batch, dropout_key=None):
    return nnx.merge(graphdef, params)(batch, dropout_key=dropout_key)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(graphdef, params, batch):
    output = nnx.merge(graphdef, params)(batch)
    return output.head.logits(output.hidden)
