"""The sums that a step logs, and the scalars that are read off them. docs/losses.md says what each means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cat_jax.types import Array

CELLS = ("both_right", "student_only_right", "teacher_only_right", "both_wrong")
"""Who gets a target token right; the four sum to `target_tokens`. Present where there is a teacher."""

SUMS = ("target_tokens", "kept_tokens", "normalizer", "loss", "cross_entropy", "student_right")
"""Present at every step; `distillation` too where w < 1, and the four cells where there is a teacher."""


def cells(student_right: Array, teacher_right: Array) -> dict[str, Array]:
    """The four cells, each bool[N]."""
    return {
        "both_right": student_right & teacher_right,
        "student_only_right": student_right & ~teacher_right,
        "teacher_only_right": ~student_right & teacher_right,
        "both_wrong": ~student_right & ~teacher_right,
    }


def sum_by_task(values: Mapping[str, Array], task_ids: Array | None, num_tasks: int) -> dict[str, Array]:
    """Sums each array [N] over the tokens of each task: float[num_tasks] each. No gradient.

    Without `task_ids` (N of them, in any shape) all tokens are of task 0. Ids beyond the last task count nowhere.
    """
    dtype = jnp.result_type(*values.values())
    stacked = jax.lax.stop_gradient(jnp.stack([v.astype(dtype) for v in values.values()]))
    if task_ids is not None and num_tasks == 1:
        stacked = jnp.where(task_ids.reshape(-1) == 0, stacked, 0)
    if task_ids is None or num_tasks == 1:
        sums = jnp.zeros((len(values), num_tasks), dtype).at[:, 0].set(jnp.sum(stacked, axis=1))
    else:
        # One matrix product, hence one collective; at highest precision, for TPUs would round the summands to bf16.
        member = jax.nn.one_hot(task_ids.reshape(-1), num_tasks, dtype=dtype)
        sums = jnp.matmul(stacked, member, precision=jax.lax.Precision.HIGHEST)
    return dict(zip(values, sums, strict=True))


def summarize(sums: Mapping[str, np.ndarray], task_names: Sequence[str]) -> dict[str, float]:
    """Means and fractions, over all tasks and, as `<task>/...`, over each task that has a target token.

    Args:
      sums: `LossOutput.sums`, added over any number of microbatches, devices and steps; [num_tasks] each.
      task_names: in the order of task ids.

    >>> sums = {name: np.array([8.0, 0.0]) for name in SUMS}
    >>> sums["loss"] = np.array([4.0, 0.0])
    >>> summary = summarize(sums, ["en", "de"])
    >>> summary["loss"], summary["en/loss"], "de/loss" in summary
    (0.5, 0.5, False)
    """
    columns = {name: np.asarray(values, np.float64).reshape(-1) for name, values in sums.items()}
    flat = _means({name: float(values.sum()) for name, values in columns.items()})
    for index, task in enumerate(task_names):
        of_task = {name: float(values[index]) for name, values in columns.items()}
        if of_task["target_tokens"] > 0:
            flat |= {f"{task}/{name}": value for name, value in _means(of_task).items()}
    return flat


def _means(sums: Mapping[str, float]) -> dict[str, float]:
    """The scalars of one task, or of all; 0 where nothing counted."""
    tokens = sums["target_tokens"]

    def fraction(name: str) -> float:
        return sums[name] / tokens if tokens > 0 else 0.0

    means = {
        "loss": sums["loss"] / sums["normalizer"] if sums["normalizer"] > 0 else 0.0,
        "cross_entropy": fraction("cross_entropy"),
        "kept_fraction": fraction("kept_tokens"),
        "student_accuracy": fraction("student_right"),
        "target_tokens": tokens,
    }
    if "distillation" in sums:
        means["distillation"] = fraction("distillation")
    if "both_right" in sums:
        means["teacher_accuracy"] = fraction("both_right") + fraction("teacher_only_right")
        means |= {f"cells/{name}": fraction(name) for name in CELLS}
    return means
