"""A SeqIO task for the test of `cat-jax run`: reverse a few letters."""

import functools

import seqio
import tensorflow as tf

FEATURES = {name: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for name in ("inputs", "targets")}
SIZES = {"train": 96, "validation": 24, "test": 24}


def rows(split, shuffle_files, seed=None):
    del shuffle_files, seed
    words = [f"{ord(split[0]) * 1000 + k * 37}" for k in range(SIZES[split])]
    return tf.data.Dataset.from_tensor_slices({"inputs": words, "targets": [word[::-1][:3] for word in words]})


def accuracy(targets, predictions):
    return {"accuracy": 100.0 * sum(t == p for t, p in zip(targets, predictions, strict=True)) / len(targets)}


seqio.TaskRegistry.add(
    "reverse",
    source=seqio.FunctionDataSource(functools.partial(rows), list(SIZES), num_input_examples=SIZES),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features=FEATURES,
    metric_fns=[accuracy],
)
