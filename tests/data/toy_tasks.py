"""SeqIO tasks for the tests of prepare: small, odd, and wrong ones."""

import functools

import numpy as np
import seqio
import tensorflow as tf

VOCABULARY = seqio.ByteVocabulary()
FEATURES = {
    "inputs": seqio.Feature(VOCABULARY, add_eos=True),
    "targets": seqio.Feature(VOCABULARY, add_eos=True),
}
SIZES = {"train": 230, "validation": 23}


def rows(split, shuffle_files, seed=None, *, sizes=SIZES):
    del shuffle_files, seed
    count = sizes[split]
    return tf.data.Dataset.from_tensor_slices(
        {
            "inputs": [f"{split} {k} äß" for k in range(count)],
            "targets": [f"{k * k}" for k in range(count)],
            "answers": tf.ragged.constant([[f"{k * k}", f"={k}"][: 1 + k % 2] for k in range(count)]),
            "label": tf.range(count) % 3,
            "weight": tf.range(count, dtype=tf.float32) / 2,
            "even": tf.range(count) % 2 == 0,
        }
    )


def seedless_rows(split, shuffle_files):
    return rows(split, shuffle_files)


def accepted(output, example=None, is_target=False):
    return [a.decode() for a in example["answers"]] if is_target else output


def any_of(targets, predictions):
    return {"accuracy": 100.0 * sum(p in t for t, p in zip(targets, predictions, strict=True)) / len(targets)}


@seqio.map_over_dataset(num_seeds=1)
def drop_randomly(example, seed):
    keep = tf.random.stateless_uniform(tf.shape(example["targets"]), seed) < 0.5
    keep = tf.concat([[True], keep[1:]], 0)
    return {**example, "targets": tf.boolean_mask(example["targets"], keep)}


def add(name, *steps, source=rows, sizes=SIZES, last=(seqio.preprocessors.append_eos,), **fields):
    fields = {"output_features": FEATURES, "postprocess_fn": accepted, "metric_fns": [any_of], **fields}
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(source, list(sizes), num_input_examples=sizes),
        preprocessors=[seqio.preprocessors.tokenize, *steps, *last],
        **fields,
    )


def each(function):
    return lambda dataset, **_: dataset.map(function)


add("toy")
add("toy_seedless", source=seedless_rows)
add("toy_random", drop_randomly)
add("toy_random_seedless", drop_randomly, source=seedless_rows)
add("toy_filtered", lambda dataset: dataset.filter(lambda e: e["label"] > 0))
add("toy_doubled", lambda dataset: dataset.flat_map(lambda e: tf.data.Dataset.from_tensors(e).repeat(2)))
add("toy_named", each(lambda e: {**e, "example_id": tf.strings.join(["row/", tf.strings.as_string(e["label"])])}))
add(
    "toy_ids",
    each(
        lambda e: {
            **e,
            "example_id": tf.strings.join(["id ", tf.strings.as_string(tf.cast(2 * e["weight"], tf.int32))]),
        }
    ),
)
add("toy_textless", each(lambda e: {k: v for k, v in e.items() if k != "targets_pretokenized"}))
add("toy_lm", each(lambda e: {"targets": e["targets"]}), output_features={"targets": FEATURES["targets"]})
add("toy_empty", each(lambda e: {**e, "targets": e["targets"][:0]}), last=())
add("toy_beyond", each(lambda e: {**e, "targets": e["targets"] + 250}))
add("toy_zero", each(lambda e: {**e, "inputs": tf.concat([e["inputs"], [0], e["inputs"]], 0)}))
add("toy_no_targets", each(lambda e: {"inputs": e["inputs"]}), last=())
add("toy_other_features", output_features={**FEATURES, "extra": FEATURES["inputs"]})
add("toy_nothing", lambda dataset: dataset.take(0))


def broken(split, shuffle_files, seed=None):
    raise OSError("disk on fire")


add("toy_broken", source=broken)


def bug(example):
    return {**example, "label": example["lable"]}


add("toy_bug", each(bug))
NOWHERE = seqio.Feature(seqio.SentencePieceVocabulary("/nowhere/spiece.model"), add_eos=True)
add("toy_no_model", output_features={"inputs": NOWHERE, "targets": NOWHERE})


def small_label(example):
    with tf.control_dependencies([tf.debugging.assert_less(example["label"], 2, "label too large")]):
        return {**example, "label": tf.identity(example["label"])}


add("toy_late", each(small_label))
PAIRS = seqio.Feature(seqio.PassThroughVocabulary(900), add_eos=False, rank=2)
add(
    "toy_pairs",
    each(lambda e: {**e, "targets": tf.zeros([3, 2], tf.int32)}),
    output_features={"inputs": FEATURES["inputs"], "targets": PAIRS},
    last=(),
)
OTHER = {"inputs": seqio.Feature(seqio.ByteVocabulary(extra_ids=5)), "targets": seqio.Feature(VOCABULARY)}
add("toy_other_vocabulary", output_features=OTHER)


def capped(task, cap=100):
    return min(task.num_input_examples("train"), cap)


add("toy_small", source=functools.partial(rows, sizes={"train": 20}), sizes={"train": 20})
seqio.MixtureRegistry.add("toy_inner", ["toy_random"], default_rate=1.0)
seqio.MixtureRegistry.add("toy_mixture", [("toy", capped), ("toy_small", capped), ("toy_inner", 50)])
BIG = {"train": 10_500}
add("toy_big", source=functools.partial(rows, sizes=BIG), sizes=BIG)


def f1(targets, predictions):
    """F1 of answers that begin with "1": no mean over examples."""
    truth = [any(a.startswith("1") for a in t) for t in targets]
    said = [p.startswith("1") for p in predictions]
    both = sum(t and s for t, s in zip(truth, said, strict=True))
    return {"f1": 200.0 * both / (sum(truth) + sum(said)) if both else 0.0, "said": seqio.metrics.Text("no number")}


def mean_score(targets, scores):
    return {"mean_score": seqio.metrics.Scalar(sum(np.sum(s) for s in scores) / len(targets))}


def error_rate(targets, predictions):
    return {"error_rate": 100.0 - any_of(targets, predictions)["accuracy"]}


def with_aux(targets, predictions, aux_values):
    raise AssertionError("never called")


add("toy_metrics", metric_fns=[any_of, f1, mean_score, with_aux])
add("toy_objects", metric_fns=[], metric_objs=[seqio.metrics.PassthroughLegacyMetric.from_metric_fn(any_of, accepted)])
add("toy_twice", metric_fns=[any_of, lambda targets, predictions: any_of(targets, predictions)])
add("toy_errors", metric_fns=[error_rate])
add("toy_unscored", metric_fns=[])


def picky(targets, predictions):
    return {"picky": 100.0 / sum(p == "1" for p in predictions)}


add("toy_picky", metric_fns=[picky])


def with_group(output, example=None, is_target=False):
    return (output, example["group"].decode()) if is_target else output


def whole_groups(targets, predictions):
    groups = {}
    for (text, group), prediction in zip(targets, predictions, strict=True):
        groups[group] = groups.get(group, True) and text == prediction
    return {"whole_groups": 100.0 * sum(groups.values()) / len(groups)}


add("toy_groups", metric_fns=[whole_groups], postprocess_fn=with_group)
add("toy_number", metric_fns=[lambda targets, predictions: 0.5])
add("toy_failing", metric_fns=[lambda targets, predictions: {"x": 1 / 0}])
