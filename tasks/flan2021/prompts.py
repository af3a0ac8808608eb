"""From the fields of a row to a prompt and what to answer, by one of ten templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from cat_jax_tasks.catalog import Entry
from cat_jax_tasks.templates import Renderer, Template
from cat_jax_tasks.tfds_source import ORIGIN, as_written

OPTIONS = "OPTIONS:\n- "
LISTS = ("options", "answers")


class Prompts:
    """A SeqIO preprocessor: one example a row, in the order of the rows.

    The example's id decides the template: in `train` any of them, elsewhere one of the straight ones, whose answer the
    metrics know. Rows without an answer (a hidden label, a question without annotation) are left out. What stays beside
    inputs and targets: `options` (empty where the target is none of them), `answers`, `group`, `references`, where the
    data set has them, and `template`, its number.

    Args:
      entry: of the data set; its table has the templates.
      view: makes the fields of a row.

    Raises:
      ValueError: no template is straight.
    """

    def __init__(self, entry: Entry, view: Callable[[Mapping[str, Any]], dict[str, tf.Tensor]]):
        templates = [Template(**table) for table in entry.details["templates"]]
        # Straight ones first, so that evaluation draws from a prefix.
        self.templates = sorted(templates, key=lambda template: template.is_turned)
        self.straight = sum(not template.is_turned for template in templates)
        if not self.straight:
            raise ValueError(f"every template of {entry.name} is turned around: none asks for the answer")
        self._view, self._renderer = view, Renderer(self.templates)
        self._is_ranked = entry.kind == "cls" and entry.details.get("ranked", True)
        self._name = entry.name

    def __call__(self, rows: tf.data.Dataset) -> tf.data.Dataset:
        examples = rows.map(as_written(self.example), num_parallel_calls=tf.data.AUTOTUNE)
        return examples.filter(lambda example: (example["answer"] != "") & (example["targets"] != "")).map(
            lambda example: {name: value for name, value in example.items() if name != "answer"}
        )

    def example(self, row: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Inputs, targets and what metrics read, of a row with `example_id` and `split`.

        Raises:
          ValueError: a template names a field that the row has not.
        """
        fields = dict(self._view({name: value for name, value in row.items() if name not in ORIGIN}))
        lists = {name: fields.pop(name) for name in LISTS if name in fields}
        group, content = fields.pop("group", None), fields.pop("content", row["content"])
        if self._is_ranked:
            fields["options"] = tf.strings.join([OPTIONS, tf.strings.reduce_join(lists["options"], separator="\n- ")])
        count = tf.where(row["split"] == "train", len(self.templates), self.straight)
        which = tf.strings.to_hash_bucket_fast(row["example_id"], 1 << 30) % tf.cast(count, tf.int64)
        try:
            inputs, targets = self._renderer(fields, which)
        except ValueError as e:
            raise ValueError(f"{self._name}: {e}") from e
        found = {
            "example_id": row["example_id"],
            "inputs": inputs,
            "targets": targets,
            "answer": fields["answer"],
            "template": tf.cast(which, tf.int32),
            "content": content,
        }
        if group is not None:
            found["group"] = group
        if self._is_ranked:
            is_straight = which < self.straight
            found["options"] = lists["options"][: tf.where(is_straight, tf.size(lists["options"]), 0)]
        if "answers" in lists:
            found["answers"] = found["references"] = lists["answers"]
        return found
