"""View of the data set that fills a blank with one of an article's names."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from cat_jax_tasks.flan2021.views.fields import first

PLACEHOLDER = "@placeholder"
BLANK = "_____"


def record(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Highlights become a list under the passage; `filled` is the query with the first right answer in its blank."""
    # Split and joined, not rewritten: a backslash in an answer would be read as a reference.
    parts = tf.strings.split(row["query"], PLACEHOLDER)
    answer = first(row["answers"])
    before, after = first(parts), tf.strings.reduce_join(parts[1:], separator=PLACEHOLDER)
    return {
        "passage": tf.strings.regex_replace(row["passage"], r"\s*@highlight\s*", "\n- "),
        "query": tf.strings.reduce_join(parts, separator=BLANK),
        "filled": tf.strings.join([before, answer, after]),
        "options": row["entities"],
        "answer": answer,
        "answers": row["answers"],
    }
