"""SST-2 from TFDS: a classification task whose options are ranked by their likelihood."""

import os

import numpy as np
import seqio
import tensorflow as tf

VOCABULARY = seqio.SentencePieceVocabulary(os.environ["SST2_VOCABULARY"])
OPTIONS = ["negative", "positive"]


@seqio.map_over_dataset
def to_text(row):
    label = tf.constant(OPTIONS)[row["label"]]
    return {"inputs": row["sentence"], "targets": label, "options": OPTIONS}


def accuracy(targets, predictions):
    return {"accuracy": 100 * float(np.mean(np.equal(targets, predictions)))}


seqio.TaskRegistry.add(
    "sst2",
    # The official test labels are hidden: validation is cut from train, the official validation is our test.
    source=seqio.TfdsDataSource(
        "glue/sst2:2.0.0", splits={"train": "train[:-872]", "validation": "train[-872:]", "test": "validation"}
    ),
    preprocessors=[to_text, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={name: seqio.Feature(VOCABULARY) for name in ("inputs", "targets")},
    metric_fns=[accuracy],
)
