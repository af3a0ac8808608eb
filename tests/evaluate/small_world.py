"""A store without SeqIO, and a T5 of a few thousand numbers with a checkpoint, for the tests of evaluation."""

import itertools
import os
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cat_jax.checkpoint.manager import CheckpointManager
from cat_jax.checkpoint.params import write_model_file
from cat_jax.data import seqio_task
from cat_jax.data.manifest import FeatureInfo, Recipe
from cat_jax.data.mixture import Mixture, MixtureTask, write_mixture
from cat_jax.data.record import Example
from cat_jax.data.scoring import Scored
from cat_jax.data.store import ExampleStore
from cat_jax.data.writer import write_store
from cat_jax.evaluate import text
from cat_jax.models.t5_config import T5Config
from cat_jax.parallel.names import flatten_names

VOCABULARY = 30
FEATURE = FeatureInfo("letters", VOCABULARY, 1, True)
LENGTHS = {"inputs": 40, "targets": 6}
CONFIG = T5Config(
    vocab_size=32,  # some ids have no letter; every size can be split over 4 devices
    embed_dim=8,
    num_heads=4,
    head_dim=4,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
)


def write_examples(root, count=37, task="letters", split="test", seed=0, longest=40, options=False, keep_raw=True):
    """A store of `count` examples with inputs of 2 to `longest` tokens and, if `options`, two to four of them."""
    recipe = Recipe(task, split, {"inputs": FEATURE, "targets": FEATURE}, LENGTHS, num_shards=2, keep_raw=keep_raw)
    rng = np.random.default_rng(seed)
    letters = Letters()

    def word(most):
        return "".join(chr(ord("a") + i) for i in rng.integers(0, 26, rng.integers(1, most)))

    def examples():
        for k in range(count):
            asked, choices = word(longest), [word(6) for _ in range(rng.integers(2, 5))]
            raw = {"inputs_pretokenized": asked, "targets_pretokenized": choices[0]} if keep_raw else None
            tokens = (np.array([*letters.encode(x), 1], np.int32) for x in (asked, choices[0]))
            yield Example(f"id{k}", *tokens, {**raw, "options": choices} if raw and options else raw)

    write_store(root, recipe, examples())
    return ExampleStore.open(root, task, split)


def write_world(root):
    """Two tasks in a mixture below `root/store`, one of them with options, and two models in `root/models`."""
    write_examples(root / "store", 37, "letters", longest=32)  # one shape, for every shape is compiled
    write_examples(root / "store", 26, "choices", seed=1, longest=32, options=True)
    tasks = tuple(MixtureTask(task, 1.0, ("test",)) for task in ("choices", "letters"))
    write_mixture(root / "store", Mixture("both", tasks))
    return {f"model{seed}": str(save_model(root / "models" / str(seed), seed)) for seed in (0, 1)}


def model(config=CONFIG, seed=0):
    """(graphdef, params): weights so large that answers differ from input to input, and end at different lengths."""
    net = config.build(jax.random.key(seed))
    kernel = net.output.kernel[...]
    net.output.kernel[...] = 4 * kernel.at[:, 1].mul(3.0)  # the end of sequence is wanted now and then
    graphdef, params = nnx.split(net)
    return graphdef, jax.tree.map(lambda x: x * 2 if x.ndim > 1 else x, params)


def save_model(model_dir, seed=0, config=CONFIG, vocabulary="letters", step=3):
    """A training run's directory with one checkpoint."""
    return save_params(model_dir, model(config, seed)[1], config, vocabulary, step)


def save_params(model_dir, params, config=CONFIG, vocabulary="letters", step=3):
    """The same with these parameters."""
    write_model_file(model_dir, config, {"inputs": vocabulary, "targets": vocabulary})
    with CheckpointManager(model_dir) as manager:
        manager.save(step, flatten_names(params), {"step": jnp.int32(step)}, None)
    return model_dir


class Letters:
    """A vocabulary: id 2 is 'a', and so on; the end of sequence is 1."""

    def encode(self, text):
        return [ord(letter) - ord("a") + 2 for letter in text]

    def decode(self, ids):
        ids = ids[: ids.index(1)] if 1 in ids else ids
        return "".join(chr(ord("a") + i - 2) for i in ids if i >= 2)


def score_letters(task_name, predictions, raws, option_scores=None):
    """Exact match, as `data.scoring.score_table` gives it."""
    del task_name, option_scores
    right = [float(p == raw["targets_pretokenized"]) for p, raw in zip(predictions, raws, strict=True)]
    return Scored({"accuracy": float(np.mean(right))}, "accuracy", "mean", right)


def without_seqio():
    """Puts `Letters` and exact match in the place of SeqIO, which takes ten seconds to import."""
    seqio_task.load_modules = lambda modules: None
    seqio_task.get_task = lambda name: SCORED_TASK
    seqio_task.vocabulary = lambda name, feature="targets": Letters()
    text.score_table = score_letters


SCORED_TASK = types.SimpleNamespace(
    predict_metric_fns=[score_letters], score_metric_fns=[], _metric_objs_constructor_args=[]
)
PATCHED = [(seqio_task, "load_modules"), (seqio_task, "get_task"), (seqio_task, "vocabulary"), (text, "score_table")]


def kill_at_write(number):
    """Kills this process in the middle of its `number`-th atomic write: the file is written, and not yet renamed."""
    calls = itertools.count(1)

    def replace(source, target, replace=os.replace):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace
