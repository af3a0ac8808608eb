"""Fields of the reading comprehension sets that are answered in free text."""

from __future__ import annotations

import tensorflow as tf
from cat_jax_tasks.flan2021.views import text
from cat_jax_tasks.flan2021.views.fields import first
from cat_jax_tasks.flan2021.views.text import Fields, Row


def squad_v1(row: Row) -> Fields:
    """Every annotator's answer is right; titles come with underscores."""
    answers = row["answers"]["text"]
    return _squad(row, answers)


def squad_v2(row: Row) -> Fields:
    """A question without answers has the one answer "unanswerable"; plausible_answers are wrong and unused."""
    answers = row["answers"]["text"]
    answers = tf.concat([answers, [text.UNANSWERABLE]], axis=0)[: tf.maximum(tf.size(answers), 1)]
    return _squad(row, answers)


def _squad(row: Row, answers: tf.Tensor) -> Fields:
    return {
        "title": text.without_underscores(row["title"]),
        "context": tf.strings.strip(row["context"]),
        "question": tf.strings.strip(row["question"]),
        "answer": first(answers),
        "answers": answers,
    }


def drop(row: Row) -> Fields:
    """Of an answer with several spans TFDS keeps the first; only the dev split has validated answers."""
    answer = _dated(row["answer"])
    return {
        "passage": tf.strings.strip(row["passage"]),
        "question": tf.strings.strip(row["question"]),
        "answer": answer,
        "answers": tf.concat([[answer], text.filled(_dated(row["validated_answers"]))], axis=0),
    }


def _dated(answer: tf.Tensor) -> tf.Tensor:
    # TFDS writes dates as "1944-June-6", "-June-6" or "--6"; the passages as "June 6, 1944", and commas do not count.
    return text.one_line(tf.strings.regex_replace(answer, r"^(\d*)-([A-Za-z]*)-(\d+)$", r"\2 \3 \1"))
