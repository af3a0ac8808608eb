"""A SeqIO task's metric on any mixture of answers to its examples: some of one model, some of another."""

from __future__ import annotations

import collections
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from cat_jax.data import seqio_task
from cat_jax.data.scoring import Measure, OptionScores, as_numpy, measures
from cat_jax.data.store import ExampleStore
from cat_jax.errors import UserError

logger = logging.getLogger(__name__)


class MixedMetric:
    """One metric of the task of a store, for predictions with the ids of their examples.

    The raw fields of the examples are read once, and every answer is postprocessed once: a cascade asks for thousands
    of mixtures of the same answers. The module that registers the task must be loaded.

    Args:
      store: of the examples.
      metric: its name.

    Raises:
      UserError: the store holds no raw fields, or the task is not registered.
    """

    def __init__(self, store: ExampleStore, metric: str):
        self._store, self._name = store, metric
        self._task = seqio_task.get_task(store.task)
        self._examples: list[Mapping[str, Any]] = []
        self._index: dict[str, int] = {}
        store.require_texts()
        for index, example in enumerate(store):
            self._examples.append(as_numpy(example.raw or {}))
            self._index[example.example_id] = index
        self._count = len(self._examples)
        self._is_grouped = any("group" in example for example in self._examples)
        self._owner: Measure | None = None
        self._warned: set[str] = set()

    def __call__(self, ids: Sequence[str], predictions: Sequence[str], option_scores: OptionScores = None) -> float:
        """The metric; NaN where it is not defined. An id may come more than once, or not at all.

        Args:
          ids: of the examples.
          predictions: an answer to each.
          option_scores: log-likelihoods of the options of each, where answers were chosen.

        Raises:
          UserError: the task has no such metric, or it fails on the very first output.
        """
        indices = self._apart([self._index[example_id] for example_id in ids])
        if self._owner is None:
            self._owner = self._find(indices, predictions, option_scores)
        try:
            return self._owner(indices, predictions, option_scores).get(self._name, float("nan"))
        except Exception as e:  # a metric need not be defined on every resample
            self._warn(f"{type(e).__name__}: {e}")
            return float("nan")

    def _apart(self, indices: Sequence[int]) -> list[int]:
        """Indices of which a repetition names a copy of its own, if the metric looks at groups of examples.

        A question that a resample has drawn twice counts as two, not as one with twice the answers.
        """
        if not self._is_grouped:
            return list(indices)
        seen: collections.Counter[int] = collections.Counter()
        found = []
        for index in indices:
            found.append(index + seen[index] * self._count)
            seen[index] += 1
        while len(self._examples) < max(seen.values()) * self._count:
            copy = len(self._examples) // self._count
            originals = self._examples[: self._count]
            self._examples += [{**e, "group": b"%s (%d)" % (_bytes(e.get("group", "")), copy)} for e in originals]
            self._owner = None
        return found

    def _find(self, indices: Sequence[int], predictions: Sequence[str], option_scores: OptionScores) -> Measure:
        """The task's function that gives the metric."""
        for measure in measures(self._task, self._examples, option_scores):
            try:
                if self._name in measure(indices, predictions, option_scores):
                    return measure
            except Exception as e:
                problem = f"a metric of task {self._task.name!r} fails ({type(e).__name__}: {e})"
                raise UserError(problem, "check the task's metric_fns and postprocess_fn on its own targets") from e
        raise UserError(
            f"task {self._task.name!r} has no metric {self._name!r}, which its tables state",
            "run `cat-jax evaluate --rescore` with the task module as it is now",
        )

    def _warn(self, reason: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            logger.warning("%s of %s is not defined on some outputs (%s)", self._name, self._task.name, reason)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
