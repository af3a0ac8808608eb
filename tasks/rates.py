"""Rates of tasks in a mixture."""

from __future__ import annotations

from collections.abc import Callable

import seqio


def examples_up_to(maximum: int | None = None) -> Callable[[seqio.Task], float]:
    """The number of a task's training examples, `maximum` at most: examples-proportional mixing with a cap.

    A task that has none, or none on this machine's disk yet, has 1: where only splits of evaluation are mixed, rates
    count for nothing. The sources of this package say what is on disk; others are asked for their number of examples.
    """

    def rate(task: seqio.Task) -> float:
        if "train" not in task.splits:
            return 1.0
        there = getattr(task.source, "rows_at_hand", task.num_input_examples)
        count = float(there("train") or 1)
        return count if maximum is None else min(count, float(maximum))

    return rate
