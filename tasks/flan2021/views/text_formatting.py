"""Fields of the sets that restore English text: ParaCrawl's English side, and a copy of it that has lost something."""

from __future__ import annotations

import tensorflow as tf
from cat_jax_tasks.flan2021.views import text
from cat_jax_tasks.flan2021.views.text import Fields, Row

# Hyphens count as dashes at the edge of a word, and belong to it inside. RE2 knows the Unicode marks by their code.
_MARKS = r"[.,;:!?\"'`()\[\]{}\-" + r"\x{2010}-\x{201F}\x{2026}\x{2039}\x{203A}\x{AB}\x{BB}]+"


def true_case(row: Row) -> Fields:
    """Every letter is in lower case."""
    answer = text.one_line(row["en"])
    return {"lowercase": tf.strings.lower(answer, encoding="utf-8"), "answer": answer}


def fix_punct(row: Row) -> Fields:
    """Marks at the edges of words are gone; those inside (don't, 3.5, e-mail) are part of the word and stay."""
    answer = text.one_line(row["en"])
    bare = tf.strings.regex_replace(answer, _MARKS + r"(\s|$)", r"\1")
    bare = text.one_line(tf.strings.regex_replace(bare, r"(^|\s)" + _MARKS, r"\1"))
    return {"unpunctuated": bare, "answer": text.given(answer, bare)}


def word_segment(row: Row) -> Fields:
    """Every space is gone."""
    answer = text.one_line(row["en"])
    return {"unspaced": tf.strings.regex_replace(answer, " ", ""), "answer": answer}
