"""Scores of segments that a neural metric gave elsewhere (COMET, MetricX ...), read from a file.

Each line of the file is JSON with `src`, `mt` and `score`, as COMET's inputs and outputs are called. A higher score
must be a better one (negate MetricX's, which counts errors), on 0 to 100 if reports shall show its digits.

Evaluate first, score the predictions of the tables (small and large model's alike), set `WMT22_SEGMENT_SCORES` to the
file, and run `cat-jax evaluate --rescore`: the scores are then the headline metric, and each example has its own, so
that a cascade's mixture of two models' answers needs no further scoring.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cat_jax_tasks.metrics import target

VARIABLE = "WMT22_SEGMENT_SCORES"


class SourcedReferences(list):
    """References as a list of texts that knows its `source`, which BLEU does not need and a neural metric does."""

    def __init__(self, references: Sequence[str], source: str):
        super().__init__(references)
        self.source = source


def references_of_source(output: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> Any:
    """`target.references`, together with the example's raw field `source`."""
    found = target.references(output, example, is_target)
    return SourcedReferences(found, target.strings((example or {})["source"])[0]) if is_target else found


def from_environment() -> tuple[Callable[..., dict[str, float]], ...]:
    """The metric of the file that the environment names; () if it names none."""
    path = os.environ.get(VARIABLE)
    if not path:
        return ()

    def segment_score(targets: Sequence[SourcedReferences], predictions: Sequence[str]) -> dict[str, float]:
        scores = read(path)
        pairs = [(target.source, prediction) for target, prediction in zip(targets, predictions, strict=True)]
        # An empty answer, which the program tries, was not scored and need not be.
        missing = sorted((pair for pair in pairs if pair not in scores), key=lambda pair: not pair[1].strip())
        if missing and missing[0][1].strip():
            raise ValueError(f"{path} has no score of {missing[0][1]!r} for the source {missing[0][0]!r}")
        if missing:
            return {"segment_score": math.nan}
        return {"segment_score": math.fsum(scores[pair] for pair in pairs) / len(pairs)}

    return (segment_score,)


@functools.cache
def read(path: str) -> dict[tuple[str, str], float]:
    """{(source, translation): score}.

    Raises:
      ValueError: a line is not JSON with `src`, `mt` and a number `score`; names it.
    """
    found = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                found[row["src"], row["mt"]] = float(row["score"])
            except (ValueError, KeyError, TypeError) as e:
                problem = f"line {number} of {path} is no JSON object with src, mt and score"
                raise ValueError(problem) from e
    return found
