"""View of the data set that grades likeness from 0 to 5."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf


def stsb(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The score is rounded to the nearest 0.2, as T5 does; a hidden one is -1."""
    score = tf.strings.as_string(tf.round(row["label"] * 5) / 5, precision=1)
    answer = tf.where(row["label"] < 0, "", score)
    return {"sentence1": row["sentence1"], "sentence2": row["sentence2"], "answer": answer}
