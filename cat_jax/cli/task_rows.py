"""Rows of a SeqIO task as the model sees them, and what feature lengths would cut of a sample."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from cat_jax.data import seqio_task
from cat_jax.errors import UserError

SAMPLE = 1_000
"""Rows that lengths are judged by, at most."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """The first rows of a split.

    Attributes:
      split: which one.
      texts: of each row {feature: (its text, its tokens)}.
      lengths: what the features may have.
      tokens: {feature: tokens of each row of a sample}.
    """

    split: str
    texts: list[dict[str, tuple[str, int]]]
    lengths: Mapping[str, int]
    tokens: Mapping[str, np.ndarray]

    def cut(self, name: str) -> float:
        """The share of the sample (0 to 1) that is longer than the feature's length."""
        return float(np.mean(self.tokens[name] > self.lengths.get(name, 1 << 30)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        sample = {
            name: {
                "rows": len(tokens),
                "median": float(np.median(tokens)),
                "longest": int(tokens.max()),
                "length": self.lengths.get(name),
                "cut": self.cut(name),
            }
            for name, tokens in self.tokens.items()
        }
        rows = [{name: {"text": text, "tokens": count} for name, (text, count) in row.items()} for row in self.texts]
        return {"split": self.split, "rows": rows, "sample": sample}


def rows(name: str, split: str | None, count: int, lengths: Mapping[str, int]) -> Rows:
    """The first `count` rows of a task: text as SeqIO decodes the ids, and how many tokens that is.

    Raises:
      UserError: no such split, or a source that cannot be read.
    """
    task = seqio_task.get_task(name)
    split = split or next(iter(task.splits))
    if split not in task.splits:
        raise UserError(f"{name!r} has no split {split!r}", f"name one of {', '.join(task.splits)}")
    whole = dict.fromkeys(task.output_features, 1 << 20)
    with seqio_task.source_errors(name, split):
        pipeline = seqio_task.dataset(task, split, 0, 1, whole, seed=0).take(max(count, SAMPLE))
        found = list(seqio_task.arrays(pipeline))
    if not found:
        raise UserError(f"{name!r} has no row in {split!r}", "name another split")
    texts = []
    for row in itertools.islice(found, count):
        vocabularies = {feature: task.output_features[feature].vocabulary for feature in task.output_features}
        texts.append(
            {
                feature: (seqio_task.decode(vocabulary, row[feature]), len(row[feature]))
                for feature, vocabulary in vocabularies.items()
            }
        )
    tokens = {feature: np.array([len(row[feature]) for row in found]) for feature in task.output_features}
    return Rows(split, texts, lengths, tokens)
