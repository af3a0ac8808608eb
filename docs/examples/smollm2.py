"""Two tasks for a pretrained decoder-only teacher: the sentiment of a sentence, and a restaurant's data in words."""

import os

import numpy as np
import sacrebleu
import seqio
import tensorflow as tf
from cat_jax_tasks import rates

from cat_jax.data.hugging_face import hugging_face_vocabulary

VOCABULARY = hugging_face_vocabulary(os.environ["SMOLLM2"])  # a folder with tokenizer.json
FEATURES = {
    "inputs": seqio.Feature(VOCABULARY, add_eos=False),  # the answer goes on where the prompt ends
    "targets": seqio.Feature(VOCABULARY),
}
OPTIONS = [" negative", " positive"]


@seqio.map_over_dataset
def sentiment(row):
    inputs = tf.strings.join(["Review: ", row["sentence"], "\nSentiment:"])
    return {"inputs": inputs, "targets": tf.constant(OPTIONS)[row["label"]], "options": OPTIONS}


@seqio.map_over_dataset
def restaurant(row):
    table = row["input_text"]["table"]
    fields = tf.strings.join([table["column_header"], ": ", table["content"]])
    inputs = tf.strings.join(["Data: ", tf.strings.reduce_join(fields, separator="; "), "\nText:"])
    return {"inputs": inputs, "targets": tf.strings.join([" ", row["target_text"]])}


def accuracy(targets, predictions):
    return {"accuracy": 100 * float(np.mean(np.equal(targets, predictions)))}


def bleu(targets, predictions):
    return {"bleu": sacrebleu.corpus_bleu(predictions, [targets]).score}


def add(name, source, to_text, metric):
    preprocessors = [to_text, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    seqio.TaskRegistry.add(
        name, source=source, preprocessors=preprocessors, output_features=FEATURES, metric_fns=[metric]
    )


# The labels of SST-2's own test split are hidden, and E2E's training split is large: each takes others apart.
add(
    "sentiment",
    seqio.TfdsDataSource(
        "glue/sst2:2.0.0", splits={"train": "train[:-872]", "validation": "train[-872:]", "test": "validation"}
    ),
    sentiment,
    accuracy,
)
add(
    "restaurants",
    seqio.TfdsDataSource(
        "e2e_cleaned:0.1.0",
        splits={"train": "validation[:-500]", "validation": "validation[-500:]", "test": "test[:1000]"},
    ),
    restaurant,
    bleu,
)
seqio.MixtureRegistry.add("smollm2", ["sentiment", "restaurants"], default_rate=rates.examples_up_to(6_000))
