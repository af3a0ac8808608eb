"""Fields of the question answering dialogues."""

from __future__ import annotations

import tensorflow as tf
from cat_jax_tasks.flan2021.views import text
from cat_jax_tasks.flan2021.views.fields import first
from cat_jax_tasks.flan2021.views.text import Fields, Row


def coqa(row: Row) -> Fields:
    """A row is a whole dialogue: its numbered questions are answered by as many numbered answers, compared as one."""
    answer = text.numbered(text.one_line(row["answers"]["input_text"]))
    return {
        "story": text.lines(row["story"]),
        "questions": text.numbered(text.one_line(row["questions"])),
        "count": tf.strings.as_string(tf.size(row["questions"])),
        "answer": answer,
        "answers": answer[None],
    }


def quac(row: Row) -> Fields:
    """A row is one question of a dialogue that TFDS does not keep together; CANNOTANSWER is "unanswerable"."""
    answers = tf.strings.regex_replace(row["answers"]["text"], r"^CANNOTANSWER$", text.UNANSWERABLE)
    return {
        "title": text.one_line(row["title"]),
        "section_title": text.one_line(row["section_title"]),
        "background": text.lines(row["background"]),
        # QuAC ends each passage with the mark, so that it can be the span that answers.
        "context": tf.strings.strip(tf.strings.regex_replace(row["context"], r"CANNOTANSWER\s*$", "")),
        "question": tf.strings.strip(row["question"]),
        "answer": first(answers),
        "answers": answers,
    }
