"""Views of the pronoun puzzles; `marked_text` has asterisks about the pronoun, of which a text may hold several."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from cat_jax_tasks.flan2021.views.fields import marked, no_or_yes, option_at


def wsc(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The pronoun's index counts the words of the text, split at white space."""
    words, index = tf.strings.split(row["text"]), row["span2_index"]
    before = tf.strings.reduce_join(words[:index], separator=" ")
    rest = tf.strings.reduce_join(words[index:], separator=" ")
    marked_text = marked(tf.strings.join([before, " "]), rest, row["span2_text"])
    return {
        "text": row["text"],
        "marked_text": tf.strings.strip(marked_text),
        "noun_phrase": row["span1_text"],
        "pronoun": row["span2_text"],
        **no_or_yes(row["label"]),
    }


def wsc273(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The pronoun's start counts characters, not bytes."""
    text, start = row["text"], row["pronoun_start"]
    before = tf.strings.substr(text, 0, start, unit="UTF8_CHAR")
    rest = tf.strings.substr(text, tf.strings.length(before), -1)
    options = tf.stack([row["option1"], row["option2"]])
    return {
        "text": text,
        "marked_text": marked(before, rest, row["pronoun_text"]),
        "pronoun": row["pronoun_text"],
        "option1": row["option1"],
        "option2": row["option2"],
        "options": options,
        "answer": option_at(options, row["label"]),
    }


def definite_pronoun_resolution(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """If the pronoun occurs twice, the first is meant."""
    options = row["candidates"]
    return {
        "sentence": row["sentence"],
        "pronoun": row["pronoun"],
        "candidate1": option_at(options, tf.constant(0)),
        "candidate2": option_at(options, tf.constant(1)),
        "options": options,
        "answer": option_at(options, row["label"]),
    }
