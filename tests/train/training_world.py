"""A small world to train in: two tasks over 14 symbols (reverse a word, copy it), and tiny models."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from cat_jax.checkpoint.retention import CheckpointConfig, checkpoints_dir
from cat_jax.checkpoint.seal import read_seal, sealed_steps
from cat_jax.data.loader import DatasetConfig
from cat_jax.data.manifest import FeatureInfo, Recipe
from cat_jax.data.mixture import Mixture, MixtureTask, write_mixture
from cat_jax.data.record import Example
from cat_jax.data.writer import write_store
from cat_jax.losses.objective import Objective
from cat_jax.models.t5_config import T5Config
from cat_jax.train.optimizer import AdamW
from cat_jax.types import Head, ModelOutput

LENGTHS = {"inputs": 5, "targets": 6}
VOCABULARY = 16
FEATURE = FeatureInfo("vocabulary-a", VOCABULARY, 1, True)
XENT = Objective(w=1.0, keep="all")
CAT_XENT = Objective(w=1.0, keep="either")
CAT_DIST = Objective(w=0.5, keep="either")


def write_world(root, feature=FEATURE, examples=40):
    """Stores of both tasks and the mixture `both`; a store is a fixed function of its arguments."""
    for seed, task in enumerate(("reverse", "copy")):
        for split, count in (("train", examples), ("validation", 10)):
            recipe = Recipe(task, split, {"inputs": feature, "targets": feature}, LENGTHS, 2, False)
            write_store(root, recipe, _examples(task, count, seed + 10 * (split == "validation")))
    tasks = tuple(MixtureTask(task, 1.0, ("train", "validation")) for task in ("copy", "reverse"))
    write_mixture(root, Mixture("both", tasks))
    return root


def _examples(task, count, seed):
    draw = np.random.default_rng(seed)
    for k in range(count):
        word = draw.integers(2, VOCABULARY, draw.integers(1, 6))
        answer = word[::-1] if task == "reverse" else word
        yield Example(str(k), word.astype(np.int32), np.append(answer, 1).astype(np.int32))


def dataset(root, name="both", split="train", batch_size=8, **fields):
    return DatasetConfig(str(root), name, split, LENGTHS, batch_size, **fields)


def model(**fields):
    sizes = {"embed_dim": 8, "num_heads": 4, "head_dim": 2, "mlp_dim": 8, "dropout_rate": 0.0}
    layers = {"num_encoder_layers": 1, "num_decoder_layers": 1}
    return T5Config(**{"vocab_size": VOCABULARY, **sizes, **layers, **fields})


def arguments(model_dir, root, **fields):
    """Arguments of `train` for a short run of everything."""
    return {
        "model_dir": str(model_dir),
        "model": model(),
        "objective": XENT,
        "train_dataset": dataset(root),
        "train_steps": 6,
        "eval_dataset": dataset(root, split="validation"),
        "optimizer": AdamW(learning_rate=0.01),
        "log_period": 2,
        "eval_period": 4,
        "checkpoint": CheckpointConfig(period=3, keep=2),
        **fields,
    }


def toy_params(seed=0):
    """Parameters of `toy_apply`: a model of one hidden layer, quick to compile."""
    draw = np.random.default_rng(seed)
    shapes = {"table": (VOCABULARY, 6), "encoder": (VOCABULARY, 6), "kernel": (6, 6), "head": (6, VOCABULARY)}
    return {name: jnp.asarray(draw.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def toy_apply(params, batch, dropout_key):
    """The input token, the mean of the encoder's tokens, a hidden layer, dropout of one half."""
    inputs = jnp.mean(params["encoder"][batch.encoder_input_tokens], axis=1, keepdims=True)
    hidden = jnp.tanh((params["table"][batch.decoder_input_tokens] + inputs) @ params["kernel"])
    if dropout_key is not None:
        hidden = hidden * jax.random.bernoulli(dropout_key, 0.5, hidden.shape[-1:])
    return ModelOutput(hidden, Head(params["head"], VOCABULARY))


def records(model_dir):
    """The records of `metrics.jsonl`, without what a clock said."""
    lines = (pathlib.Path(model_dir) / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "timing"} for line in lines]


def steps_and_digest(model_dir):
    """(checkpoints there, the name of the last one's parameter values)."""
    directory = checkpoints_dir(model_dir)
    steps = sealed_steps(directory)
    return steps, read_seal(directory / str(steps[-1])).digest
