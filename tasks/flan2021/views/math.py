"""Fields of the mathematics questions."""

from __future__ import annotations

import tensorflow as tf
from cat_jax_tasks.flan2021.views.text import Fields, Row


def math_dataset(row: Row) -> Fields:
    """All questions of algebra__linear_1d read "Solve EQUATION for VARIABLE."; templates word that themselves, too."""
    question = tf.strings.strip(row["question"])
    pattern = r"^Solve (.+) for (\w+)\.$"
    return {
        "question": question,
        "equation": tf.strings.regex_replace(question, pattern, r"\1"),
        "variable": tf.strings.regex_replace(question, pattern, r"\2"),
        "answer": tf.strings.strip(row["answer"]),
    }
