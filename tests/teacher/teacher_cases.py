"""A small store and a small teacher for the tests of this room."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cat_jax.checkpoint.manager import CheckpointManager
from cat_jax.checkpoint.params import write_model_file
from cat_jax.data import layout
from cat_jax.data.manifest import FeatureInfo, Recipe
from cat_jax.data.record import Example
from cat_jax.data.store import ExampleStore
from cat_jax.data.writer import StoreWriter
from cat_jax.models.t5_config import T5Config
from cat_jax.parallel.names import flatten_names
from cat_jax.types import Batch

VOCAB = 40
FEATURE = FeatureInfo(vocabulary="v" * 64, vocab_size=VOCAB, eos_id=1, add_eos=True)
LENGTHS = {"inputs": 12, "targets": 20}
CONFIG = T5Config(
    vocab_size=VOCAB, embed_dim=8, num_heads=2, head_dim=4, mlp_dim=16, num_encoder_layers=1, num_decoder_layers=1
)


def write_store(
    root, task="toy:a", split="train", num_shards=3, per_shard=20, seed=0, feature=FEATURE, lengths=LENGTHS
):
    """Examples of all lengths, targets random: an untrained teacher is right on a few of them."""
    recipe = Recipe(task, split, {"inputs": feature, "targets": feature}, lengths, num_shards, False, seed)
    writer = StoreWriter(layout.store_directory(root, task, split), recipe)
    rng = np.random.default_rng(seed)
    for shard in range(num_shards):
        with writer.shard(shard) as out:
            for k in range(per_shard):
                inputs, targets = (
                    rng.integers(2, feature.vocab_size, rng.integers(1, lengths[name] + 1), np.int32)
                    for name in ("inputs", "targets")
                )
                out.write(Example(str(k * num_shards + shard), inputs, targets))
    writer.finish()
    return ExampleStore.open(root, task, split)


def teacher_params(seed=0, config=CONFIG):
    """Random, with a head that has opinions."""
    flat = flatten_names(jax.jit(lambda: nnx.state(config.build(jax.random.key(seed))))())
    return {name: value * 3 if name.startswith("output") else value for name, value in flat.items()}


def write_teacher(model_dir, seed=0, step=7, config=CONFIG, vocabulary=FEATURE.vocabulary, params=None):
    write_model_file(model_dir, config, {"inputs": vocabulary, "targets": vocabulary})
    with CheckpointManager(model_dir) as manager:
        manager.save(step, params or teacher_params(seed, config), {"step": jnp.asarray(step)}, None)
    return model_dir


def fitted_params(batch, config):
    """A random model's, with a head fitted to the batch's targets: right often, and wrong often."""
    model = config.build(jax.random.key(0))
    counted = np.asarray(batch.decoder_loss_weights) > 0
    hidden = np.asarray(nnx.jit(lambda model, batch: model(batch).hidden)(model, batch))[counted]
    targets = np.eye(config.padded_vocab_size)[batch.decoder_target_tokens[counted]]
    flat = flatten_names(nnx.state(model))
    return {**flat, "output.kernel": jnp.asarray(np.linalg.lstsq(hidden, targets)[0], jnp.float32)}


def contents(directory):
    """Every file below a directory, by relative path."""
    directory = pathlib.Path(directory)
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@nnx.jit
def _logits(model, batch):
    output = model(batch)
    return output.head.logits(output.hidden)


def reference_logits(model, example, lengths=LENGTHS):
    """f32[T, V] of one example, alone in its batch: position t predicts target t."""
    n = len(example.targets)
    targets = np.zeros((1, lengths["targets"]), np.int32)
    targets[0, :n] = example.targets
    shifted = np.zeros_like(targets)
    shifted[0, 1:] = targets[0, :-1]
    inputs = np.zeros((1, lengths["inputs"]), np.int32)
    inputs[0, : len(example.inputs)] = example.inputs
    batch = Batch(
        decoder_target_tokens=targets,
        decoder_input_tokens=shifted,
        decoder_loss_weights=(targets > 0).astype(np.float32),
        encoder_input_tokens=inputs,
    )
    return np.asarray(_logits(model, batch))[0, :n]
