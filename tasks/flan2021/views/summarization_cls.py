"""View of the news items that are sorted by topic."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from cat_jax_tasks.flan2021.views.fields import HTML_ENTITIES, option_at, replaced

# In the order of the builder's label names; its "Sci/Tech" is no word.
TOPICS = ("world", "sports", "business", "science and technology")
ESCAPES = {r"\\+\s*": " ", **HTML_ENTITIES, r"<[A-Za-z/][^<>]*(>|$)": " ", r"  +": " "}


def ag_news_subset(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Line ends became backslashes, some HTML entities lost their ampersand, and a few items hold tags."""
    options = tf.constant(TOPICS)
    return {
        "title": replaced(row["title"], ESCAPES),
        "description": replaced(row["description"], ESCAPES),
        "options": options,
        "answer": option_at(options, row["label"]),
    }
