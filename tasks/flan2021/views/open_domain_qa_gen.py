"""Fields of the open-domain questions that are answered in free text."""

from __future__ import annotations

import tensorflow as tf
from cat_jax_tasks.flan2021.views.fields import first
from cat_jax_tasks.flan2021.views.text import Fields, Row


def natural_questions(row: Row) -> Fields:
    """Questions are typed searches, published without question marks; every answer listed is right."""
    question = tf.strings.regex_replace(row["question"], r"\s*\??\s*$", "?")
    return {"question": question, "answer": first(row["answer"]), "answers": row["answer"]}


def trivia_qa(row: Row) -> Fields:
    """Without the documents, as the question is open; every alias of the answer is right."""
    answer = row["answer"]["value"]
    return {
        "question": tf.strings.strip(row["question"]),
        "answer": tf.where(tf.equal(answer, "<unk>"), "", answer),  # TFDS's mark for the hidden answers of test
        "answers": tf.concat([[answer], row["answer"]["aliases"]], axis=0),
    }
