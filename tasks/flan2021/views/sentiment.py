"""Views of the reviews and tweets whose texts hold escapes of the files they were published in."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from cat_jax_tasks.flan2021.views.fields import HTML_ENTITIES, option_at, replaced

SENTIMENTS = ("negative", "positive")


def judged(text: tf.Tensor, label: tf.Tensor) -> dict[str, tf.Tensor]:
    """Fields of a text whose label is 0 if it is negative, 1 if positive; any other is no answer."""
    options = tf.constant(SENTIMENTS)
    return {"text": text, "options": options, "answer": option_at(options, label)}


def sentiment140(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Polarity is 0 or 4. The test split's neutral tweets (2) get no answer: the training split has none."""
    polarity = row["polarity"]
    label = tf.where(polarity == 0, 0, tf.where(polarity == 4, 1, -1))
    return judged(replaced(row["text"], HTML_ENTITIES), label)


def imdb_reviews(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Paragraphs are parted by HTML's line breaks."""
    return judged(replaced(row["text"], {r"\s*(<br />\s*)+": "\n"}), row["label"])


def yelp_polarity_reviews(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """TFDS cuts the lines of a CSV file without undoing its escapes of line ends and quotes."""
    return judged(replaced(row["text"], {r"(\\n)+": "\n", r'\\?""': '"'}), row["label"])
