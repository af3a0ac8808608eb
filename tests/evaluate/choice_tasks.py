"""SeqIO tasks for the tests of evaluation: one to write an answer, one to choose it."""

import seqio
import tensorflow as tf

VOCABULARY = seqio.ByteVocabulary()
FEATURES = {name: seqio.Feature(VOCABULARY, add_eos=True) for name in ("inputs", "targets")}


def rows(split, shuffle_files, seed=None):
    del split, shuffle_files, seed
    texts = [f"{'abc'[k % 3]}{k}" for k in range(7)]
    return tf.data.Dataset.from_tensor_slices(
        {
            "inputs": texts,
            "targets": [text.upper() for text in texts],
            "options": [[text.upper(), "é", "nothing of the kind"] for text in texts],
        }
    )


def accuracy(targets, predictions):
    return {"accuracy": 100 * sum(t == p for t, p in zip(targets, predictions, strict=True)) / len(targets)}


def first_letter(targets, predictions):
    return {"first": sum(t[0] == p[:1] for t, p in zip(targets, predictions, strict=True)) / len(targets)}


def lead(targets, scores):
    """How much likelier the first option is than the second."""
    return {"lead": sum(float(s[0]) - float(s[1]) for s in scores) / len(targets)}


for name, functions in (("shout", [accuracy, first_letter]), ("choose", [accuracy, lead])):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(rows, ["test"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features=FEATURES,
        metric_fns=functions,
    )
seqio.MixtureRegistry.add("shout_and_choose", ["shout", "choose"], default_rate=1)
