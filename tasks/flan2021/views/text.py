"""What the views of the generation tasks share: operations on text tensors, all traceable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

Row = Mapping[str, Any]
Fields = dict[str, tf.Tensor]

UNANSWERABLE = "unanswerable"  # what a model answers where the passage does not hold the answer


def numbered(texts: tf.Tensor, before: str = "", after: str = ". ", separator: str = "\n") -> tf.Tensor:
    """One text of a vector: "1. the first", a line end, "2. the second"; an empty text of an empty vector."""
    numbers = tf.strings.as_string(tf.range(1, tf.size(texts) + 1))
    return tf.strings.reduce_join(tf.strings.join([before, numbers, after, texts]), separator=separator)


def bulleted(texts: tf.Tensor) -> tf.Tensor:
    """One text of a vector, a line each that begins with "- "."""
    return tf.strings.reduce_join(tf.strings.join(["- ", texts]), separator="\n")


def filled(texts: tf.Tensor) -> tf.Tensor:
    """A vector's texts without blanks at their ends, and without the empty ones."""
    texts = tf.strings.strip(texts)
    return tf.boolean_mask(texts, tf.not_equal(texts, ""))


def given(answer: tf.Tensor, *needed: tf.Tensor) -> tf.Tensor:
    """The answer, or an empty one, which leaves the row out, where a text that templates need is empty."""
    return tf.where(tf.reduce_all(tf.not_equal(tf.stack(needed), "")), answer, "")


def one_line(text: tf.Tensor) -> tf.Tensor:
    """Runs of blanks and line ends become one space."""
    return tf.strings.strip(tf.strings.regex_replace(text, r"\s+", " "))


def lines(text: tf.Tensor) -> tf.Tensor:
    """Line ends of every system become a line feed; blanks at both ends go."""
    return tf.strings.strip(tf.strings.regex_replace(text, r"\r\n?", "\n"))


def without_underscores(text: tf.Tensor) -> tf.Tensor:
    """Names as Wikipedia's addresses write them, "Robert_Koch", as a person writes them."""
    return one_line(tf.strings.regex_replace(text, "_", " "))


def without_tags(text: tf.Tensor) -> tf.Tensor:
    """Markup such as <em> goes."""
    return one_line(tf.strings.regex_replace(text, r"</?[A-Za-z][^<>]*>", ""))
