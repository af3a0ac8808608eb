"""Views of the multiple-choice and yes/no data sets about a passage."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from cat_jax_tasks.flan2021.views.fields import no_or_yes, option_at


def bool_q(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Questions are published without their question mark."""
    question = tf.strings.regex_replace(row["question"], r"\s*\??\s*$", "?")
    return {"title": row["title"], "passage": row["passage"], "question": question, **no_or_yes(row["answer"])}


def multirc(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The text to judge is `candidate`, for `answer` is yes or no; candidates of one question share a `group`."""
    identity = row["idx"]
    group = tf.strings.join([tf.strings.as_string(identity[name]) for name in ("paragraph", "question")], separator="-")
    return {
        "paragraph": tf.strings.strip(row["paragraph"]),
        "question": row["question"],
        "candidate": row["answer"],
        "group": group,
        **no_or_yes(row["label"]),
    }


def openbookqa(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """`fact` is the line of the open book that the question was written from."""
    question = row["question"]
    options = tf.stack([question[f"choice_{letter}"] for letter in "ABCD"])
    answer = option_at(options, row["answerKey"])
    return {"fact": row["fact1"], "stem": question["stem"], "options": options, "answer": answer}
