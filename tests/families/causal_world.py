"""Stores of words to be written backwards, without SeqIO, for the tests of a family of a user's own."""

import types

import numpy as np

from cat_jax.data import seqio_task
from cat_jax.data.manifest import FeatureInfo, Recipe
from cat_jax.data.record import Example
from cat_jax.data.scoring import Scored
from cat_jax.data.writer import write_store
from cat_jax.evaluate import text

VOCABULARY = 10
FEATURE = FeatureInfo("letters", VOCABULARY, 1, True)
LENGTHS = {"inputs": 5, "targets": 6}


class Letters:
    """A vocabulary: id 2 is 'a', and so on; the end of sequence is 1."""

    def encode(self, word):
        return [ord(letter) - ord("a") + 2 for letter in word]

    def decode(self, ids):
        ids = ids[: ids.index(1)] if 1 in ids else ids
        return "".join(chr(ord("a") + i - 2) for i in ids if i >= 2)


def write_words(root, task="backwards", features=("inputs", "targets"), options=False, empty=True):
    """Splits of 900, 12 and 21 words, the first without a letter, if `empty`: its inputs are then empty."""
    encode = Letters().encode
    for seed, (split, count) in enumerate({"train": 900, "validation": 12, "test": 21}.items()):
        draw = np.random.default_rng(seed)
        examples = []
        for k in range(count):
            word = "".join(
                chr(ord("a") + i)
                for i in draw.integers(0, VOCABULARY - 2, draw.integers(1, 6) if k or not empty else 0)
            )
            raw = {"inputs_pretokenized": word, "targets_pretokenized": word[::-1]}
            raw |= {"options": [word[::-1], word + "a", "b"]} if options else {}
            inputs = np.array(encode(word), np.int32) if "inputs" in features else None
            examples.append(Example(str(k), inputs, np.array([*encode(word[::-1]), 1], np.int32), raw))
        infos, lengths = dict.fromkeys(features, FEATURE), {name: LENGTHS[name] for name in features}
        write_store(root, Recipe(task, split, infos, lengths, num_shards=2, keep_raw=True), examples)


def without_seqio(patch):
    """Puts `Letters` and exact match in the place of SeqIO, which takes ten seconds to import."""
    patch.setattr(seqio_task, "load_modules", lambda modules: None)
    metrics = {"predict_metric_fns": [_exact_match], "score_metric_fns": [], "_metric_objs_constructor_args": []}
    scored = types.SimpleNamespace(**metrics)
    patch.setattr(seqio_task, "get_task", lambda name: scored)
    patch.setattr(seqio_task, "vocabulary", lambda name, feature="targets": Letters())
    patch.setattr(text, "score_table", _exact_match)


def _exact_match(task, predictions, raws, option_scores=None):
    right = [float(p == raw["targets_pretokenized"]) for p, raw in zip(predictions, raws, strict=True)]
    return Scored({"accuracy": float(np.mean(right))}, "accuracy", "mean", right)
