"""SuperGLUE in T5's text-to-text form, so that T5 and Flan-T5 checkpoints know the prompts.

Tasks `super_glue_<name>` for the eight, `super_glue_wsc_choice` besides, and the mixture `super_glue`, whose rates are
the numbers of training examples. An example lists its options where there are some: with EVAL_MODE='score' (or
'auto') the likeliest is chosen, with 'generate' the answer is written. WSC in T5's form asks for the noun, so it is
always generated; `super_glue_wsc_choice` is T5's older form of it with options.

What differs from the `t5` package, on purpose: a question of ReCoRD has one row outside of `train`, not one for each
right answer; and one task for WSC has what T5 splits in two (in `train` only the nouns that the pronoun refers to).
The labels of official test rows are hidden: their metrics are undefined, and `cat_jax_tasks.submission` writes the
files that gluebenchmark's SuperGLUE server takes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import seqio
import tensorflow as tf
from cat_jax_tasks import catalog, rates
from cat_jax_tasks.metrics.registry import scoring
from cat_jax_tasks.metrics.target import HIDDEN
from cat_jax_tasks.metrics.wsc import same_referent
from cat_jax_tasks.tfds_source import ORIGIN, TfdsSource, as_written
from cat_jax_tasks.vocabulary import text_features

Row = dict[str, Any]


def joined(row: Row, name: str, fields: tuple[str, ...], options: list[str]) -> Row:
    """`name field: value field: value ...`, and the text of the label."""
    parts = [part for field in fields for part in (f"{field}:", row[field])]
    return {
        **_origin(row),
        "example_id": tf.strings.as_string(row["idx"]),
        "inputs": tf.strings.join([name, *parts], separator=" "),
        "targets": label_text(row["label"], options),
        "options": tf.constant(options),
    }


def multirc(row: Row, options: list[str]) -> Row:
    """Question, answer and paragraph without their HTML; `group` is the question."""
    places = [tf.strings.as_string(row["idx"][name]) for name in ("paragraph", "question", "answer")]
    found = joined({**row, "idx": 0}, "multirc", ("question", "answer", "paragraph"), options)
    plain = tf.strings.regex_replace(tf.strings.regex_replace(found["inputs"], "<br>", " "), "</?b>", "")
    return {
        **found,
        "inputs": plain,
        "example_id": tf.strings.join(places, "-"),
        "group": tf.strings.join(places[:2], "-"),
    }


def record(rows: tf.data.Dataset) -> tf.data.Dataset:
    """In `train` one row for each entity that is right, elsewhere one for each question."""

    @as_written
    def of_row(row: Row) -> Row:
        passage = tf.strings.regex_replace(row["passage"], r"""([.?!"'])\n@highlight\n""", r"\1 ")
        passage = tf.strings.regex_replace(passage, r"\n@highlight\n", ". ")
        entities = tf.strings.reduce_join(row["entities"], separator=", ")
        place = [tf.strings.as_string(row["idx"][name]) for name in ("passage", "query")]
        parts = ["record query:", row["query"], "entities:", entities, "passage:", passage]
        return {
            **_origin(row),
            "example_id": tf.strings.join(place, "-"),
            "inputs": tf.strings.join(parts, separator=" "),
            "targets": tf.concat([row["answers"], [HIDDEN]], 0)[0],
            "answers": row["answers"],
            "options": row["entities"],
        }

    @as_written
    def copies(row: Row) -> tf.data.Dataset:
        count = tf.where(row["split"] == "train", tf.size(row["answers"]), 1)

        @as_written
        def copy(k: tf.Tensor) -> Row:
            numbered = tf.strings.join([row["example_id"], tf.strings.as_string(k)], "-")
            again = row["split"] == "train"
            return {
                **row,
                "example_id": tf.where(again, numbered, row["example_id"]),
                "targets": tf.concat([row["answers"], [row["targets"]]], 0)[k],
            }

        return tf.data.Dataset.range(tf.cast(count, tf.int64)).map(copy)

    return rows.map(of_row, num_parallel_calls=tf.data.AUTOTUNE).flat_map(copies)


def wsc(rows: tf.data.Dataset) -> tf.data.Dataset:
    """`wsc: ... *pronoun* ...`, and the noun that it refers to; elsewhere than in `train` also nouns that it does not.

    `label` says whether it does; T5's postprocessor compares the noun that is written with the one of the row.
    """

    @as_written
    def of_row(row: Row) -> Row:
        words = tf.strings.split(row["text"], " ")
        place = row["span2_index"]
        marked = tf.strings.join(["*", row["span2_text"], "*"])
        text = tf.strings.reduce_join(tf.concat([words[:place], [marked], words[place + 1 :]], 0), separator=" ")
        for mistaken, mended in _WSC_MENDED.items():
            text = tf.where(row["text"] == mistaken, mended, text)
        return {
            **_origin(row),
            "example_id": tf.strings.as_string(row["idx"]),
            "inputs": tf.strings.join(["wsc:", text], separator=" "),
            "targets": row["span1_text"],
            "label": row["label"],
        }

    rows = rows.filter(lambda row: (row["split"] != "train") | (row["label"] == 1))
    return rows.map(of_row, num_parallel_calls=tf.data.AUTOTUNE)


# Two rows whose index of the pronoun is wrong in the data; T5 mends them so.
_PONY = "The boy continued to whip the pony , and eventually the pony threw him over. John laughed out quite loud."
_PEBBLE = (
    "When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the magic pebble in an iron "
    "safe . Some day they might want to use "
)
_WSC_MENDED = {
    f'{_PONY} "Good for him," he said. ': f'{_PONY} "Good for *him* ," he said.',
    f"{_PEBBLE}it , but really for now, what more could they wish for?": (
        f"{_PEBBLE}*it* , but really for now, what more could they wish for?"
    ),
}


def wsc_choice(row: Row, options: list[str]) -> Row:
    """`wsc text: ... * noun * ... # pronoun # ...`."""
    text = _marked(row["text"], row["span1_text"], row["span1_index"], "*")
    moved = 2 * tf.cast(row["span1_index"] < row["span2_index"], row["span2_index"].dtype)  # by the two marks
    text = _marked(text, row["span2_text"], row["span2_index"] + moved, "#")
    return {
        **_origin(row),
        "example_id": tf.strings.as_string(row["idx"]),
        "inputs": tf.strings.join(["wsc", "text:", text], separator=" "),
        "targets": label_text(row["label"], options),
        "options": tf.constant(options),
    }


def _marked(text: tf.Tensor, span: tf.Tensor, index: tf.Tensor, mark: str) -> tf.Tensor:
    """`text` with marks around `span`, which begins at word `index`."""
    before = tf.strings.join([r"^((?:\S+\s){", tf.strings.as_string(index), "})"])
    escaped = tf.strings.regex_replace(span, r"([.?*+()\[\]{}|^$\\])", r"\\\1")
    pattern = tf.strings.join([before, "(", escaped, ")"])
    return tf.strings.regex_replace(text, pattern, rf"\1{mark} \2 {mark}")


def label_text(label: tf.Tensor, options: list[str]) -> tf.Tensor:
    """The text of a label; of a hidden one (-1) T5's `<unk>`."""
    return tf.gather([*options, HIDDEN], tf.where(label < 0, len(options), tf.cast(label, tf.int32)))


def _origin(row: Mapping[str, Any]) -> Row:
    return {name: row[name] for name in ORIGIN}


_FIELDS = {
    "boolq": ("passage", "question"),
    "cb": ("hypothesis", "premise"),
    "copa": ("choice1", "choice2", "premise", "question"),
    "rte": ("hypothesis", "premise"),
    "wic": ("sentence1", "sentence2", "word"),
}


def _preprocessor(name: str, options: list[str]) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    of_dataset = {"record": record, "wsc": wsc}
    if name in of_dataset:
        return of_dataset[name]
    of_row = {"multirc": multirc, "wsc_choice": wsc_choice}
    if name in of_row:
        function = functools.partial(of_row[name], options=options)
    else:
        function = functools.partial(joined, name=name, fields=_FIELDS[name], options=options)
    return seqio.map_over_dataset(as_written(function))


def _add(entry: catalog.Entry) -> None:
    name = entry.name.removeprefix("super_glue_")
    how = scoring(entry.metrics)
    seqio.TaskRegistry.add(
        entry.name,
        source=TfdsSource(entry.source, entry.splits),
        preprocessors=[
            _preprocessor(name, list(entry.options)),
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos_after_trim,
        ],
        postprocess_fn=same_referent if name == "wsc" else how.postprocess,
        metric_fns=list(how.functions),
        output_features=text_features(),
    )


_ENTRIES = catalog.super_glue()
for _entry in _ENTRIES:
    _add(_entry)
seqio.MixtureRegistry.add(
    "super_glue", [entry.name for entry in _ENTRIES if not entry.extra], default_rate=rates.examples_up_to()
)
