"""View of the school-science questions, which have three to five choices."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from cat_jax_tasks.flan2021.views.fields import first


def arc(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The key is a letter's id, not a position: it is looked up among the letters of the choices."""
    texts, letters = row["choices"]["text"], row["choices"]["label"]
    answer = first(tf.boolean_mask(texts, letters == row["answerKey"]))
    return {"question": row["question"], "options": texts, "answer": answer}
