"""Views of the data sets that ask what comes next, or why."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from cat_jax_tasks.flan2021.views.fields import option_at, replaced

# The half of HellaSwag that is from wikiHow holds the marks of that site's headings.
WIKIHOW_MARKS = {
    r"[.!?]?\s*\[title\]\s*": ". ",
    r"\[(header|title|step|substeps)\]\s*": "",
    r"^[.\s]+": "",
}


def story_cloze(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Labels count from 1; `ending` is the right one, for templates that list none."""
    answer = option_at(row["endings"], row["label"] - 1)
    return {"context": row["context"], "ending": answer, "options": row["endings"], "answer": answer}


def copa(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """`stem` and `connective` begin one sentence that an alternative ends: "My head hurt, so"."""
    options = tf.stack([row["choice1"], row["choice2"]])
    is_cause = row["question"] == "cause"
    return {
        "premise": row["premise"],
        "choice1": row["choice1"],
        "choice2": row["choice2"],
        "question": row["question"],
        "question_text": tf.where(is_cause, "What was the cause of this?", "What happened as a result?"),
        "stem": tf.strings.regex_replace(row["premise"], r"[.\s]+$", ""),
        "connective": tf.where(is_cause, "because", "so"),
        "options": options,
        "answer": option_at(options, row["label"]),
    }


def hellaswag(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Texts without wikiHow's marks; `topic` is the activity or the kind of article, `ending` the right one."""
    endings = replaced(row["endings"], WIKIHOW_MARKS)
    return {
        "topic": row["activity_label"],
        "context": replaced(row["context"], WIKIHOW_MARKS),
        "ending": option_at(endings, row["label"]),
        "options": endings,
        "answer": option_at(endings, row["label"]),
    }
