"""View of the entailment data set whose passages are web pages, too."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from cat_jax_tasks.flan2021.views.fields import option_at, replaced

# In the order of the builder's label names: e, n, c.
VERDICTS = ("supported", "neither", "contradicted")


def anli_r3(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Lines are parted by HTML's line breaks."""
    options = tf.constant(VERDICTS)
    return {
        "context": replaced(row["context"], {r"\s*(<br>\s*)+": "\n"}),
        "hypothesis": row["hypothesis"],
        "options": options,
        "answer": option_at(options, row["label"]),
    }
