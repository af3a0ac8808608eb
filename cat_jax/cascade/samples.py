"""Rows to read: both models' answers to the same example, and who answered at the chosen threshold."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cat_jax.cascade.pairs import Pair
from cat_jax.cascade.view import View

LONGEST = 240
"""Characters of a text that are kept."""

CASES = (
    "deferred, and only the large model is right",
    "kept, and the small model is right",
    "kept, though only the large model is right",
    "deferred, though the small model is right",
    "kept, and both are wrong",
    "deferred, and both are wrong",
)
UNSCORED = ("kept", "deferred")


def sample_rows(
    pairs: Mapping[str, Pair], views: Mapping[str, View], threshold: float, count: int = 18
) -> list[dict[str, Any]]:
    """At most `count` examples, taken in turn from every case and task, the same ones at every run.

    Args:
      pairs: joined tables by task.
      views: by task, of the same rows.
      threshold: confidences below it are deferred.
      count: how many rows.
    """
    heaps: dict[tuple[str, str], list[int]] = {}
    for task, pair in pairs.items():
        deferred = views[task].confidence < threshold
        names = _cases(views[task], deferred)
        chance = [zlib.crc32(f"{task} {i}".encode()) for i in pair.small.ids]
        for i in np.argsort(chance, kind="stable"):
            heaps.setdefault((names[i], task), []).append(int(i))
    order = [(case, task) for case in (*CASES, *UNSCORED) for task in pairs if (case, task) in heaps]
    taken: list[tuple[int, str, str, int]] = []
    depth = 0
    while len(taken) < count and any(len(heaps[key]) > depth for key in order):
        taken += [(depth, *key, heaps[key][depth]) for key in order if len(heaps[key]) > depth]
        depth += 1
    # Every case first, then the tasks within it: a short list still shows all that can happen.
    turn = {key: i for i, key in enumerate(_alternate(order))}
    taken.sort(key=lambda row: (row[0], turn[row[1], row[2]]))
    chosen = sorted(taken[:count], key=lambda row: (order.index((row[1], row[2])), row[0]))
    return [_row(pairs[task], views[task], i, case, threshold) for _, case, task, i in chosen]


def _alternate(order: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same keys with the cases taken in turn, beginning each round with another task."""
    by_case: dict[str, list[tuple[str, str]]] = {}
    for key in order:
        by_case.setdefault(key[0], []).append(key)
    lists = [keys[i % len(keys) :] + keys[: i % len(keys)] for i, keys in enumerate(by_case.values())]
    return [keys[depth] for depth in range(max(map(len, lists))) for keys in lists if depth < len(keys)]


def _cases(view: View, deferred: np.ndarray) -> list[str]:
    right = view.right()
    if right is None:
        return [UNSCORED[int(d)] for d in deferred]
    names = {
        (True, False, True): CASES[0],
        (False, True, True): CASES[1],
        (False, True, False): CASES[1],
        (False, False, True): CASES[2],
        (True, True, True): CASES[3],
        (True, True, False): CASES[3],
        (False, False, False): CASES[4],
        (True, False, False): CASES[5],
    }
    return [names[bool(d), bool(s), bool(t)] for d, s, t in zip(deferred, *right, strict=True)]


def _row(pair: Pair, view: View, i: int, case: str, threshold: float) -> dict[str, Any]:
    def text(side: str, column: str) -> str:
        value = getattr(pair, side).table.column(column)[i].as_py()
        value = "" if value is None else str(value)
        return value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"

    right = view.right()
    return {
        "task": pair.task,
        "example_id": pair.large.table.column("example_id")[i].as_py(),
        "input": text("large", "input"),
        "target": text("large", "target"),
        "small": text("small", "prediction"),
        "large": text("large", "prediction"),
        "small_right": None if right is None else bool(right[0][i]),
        "large_right": None if right is None else bool(right[1][i]),
        "confidence": float(view.confidence[i]),
        "answered_by": "large" if view.confidence[i] < threshold else "small",
        "case": case,
    }
