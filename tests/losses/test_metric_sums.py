"""Sums per task, and the scalars read off them, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from losses_cases import B, T, batch_of, random_case, run_once, signal_of, student_of
from losses_oracle import answer

from cat_jax.losses import metrics
from cat_jax.losses.objective import Objective

SUMS = {
    "target_tokens": [8.0, 2.0, 0.0],
    "kept_tokens": [6.0, 2.0, 0.0],
    "normalizer": [6.0, 2.0, 0.0],
    "loss": [3.0, 4.0, 0.0],
    "cross_entropy": [16.0, 6.0, 0.0],
    "student_right": [2.0, 1.0, 0.0],
    "both_right": [1.0, 0.0, 0.0],
    "student_only_right": [1.0, 1.0, 0.0],
    "teacher_only_right": [4.0, 1.0, 0.0],
    "both_wrong": [2.0, 0.0, 0.0],
}


def test_summarize_by_hand():
    summary = metrics.summarize({k: np.array(v, np.float32) for k, v in SUMS.items()}, ["en", "de", "unseen"])
    expected = {
        "loss": 7 / 8,
        "cross_entropy": 2.2,
        "kept_fraction": 0.8,
        "student_accuracy": 0.3,
        "teacher_accuracy": 0.6,
        "target_tokens": 10.0,
        "cells/both_right": 0.1,
        "cells/student_only_right": 0.2,
        "cells/teacher_only_right": 0.5,
        "cells/both_wrong": 0.2,
        "en/loss": 0.5,
        "en/cross_entropy": 2.0,
        "en/kept_fraction": 0.75,
        "en/student_accuracy": 0.25,
        "en/teacher_accuracy": 5 / 8,
        "en/target_tokens": 8.0,
        "en/cells/both_right": 1 / 8,
        "en/cells/student_only_right": 1 / 8,
        "en/cells/teacher_only_right": 0.5,
        "en/cells/both_wrong": 0.25,
        "de/loss": 2.0,
        "de/cross_entropy": 3.0,
        "de/kept_fraction": 1.0,
        "de/student_accuracy": 0.5,
        "de/teacher_accuracy": 0.5,
        "de/target_tokens": 2.0,
        "de/cells/both_right": 0.0,
        "de/cells/student_only_right": 0.5,
        "de/cells/teacher_only_right": 0.5,
        "de/cells/both_wrong": 0.0,
    }
    assert summary == pytest.approx(expected)
    assert all(type(value) is float for value in summary.values())


def test_summarize_where_nothing_counted():
    summary = metrics.summarize({name: np.zeros(2) for name in SUMS}, ["en", "de"])
    assert set(summary.values()) == {0.0}
    assert not any(name.startswith(("en/", "de/")) for name in summary)


def test_without_a_teacher_there_are_no_cells():
    case = random_case()
    output, _ = run_once(Objective(w=1, keep="all"), student_of(case, jnp.float32), batch_of(case), None)
    assert set(output.sums) == set(metrics.SUMS)
    summary = metrics.summarize(output.sums, ["en"])  # pyright: ignore[reportArgumentType]
    assert set(summary) == {
        f"{prefix}{name}"
        for prefix in ("", "en/")
        for name in ("loss", "cross_entropy", "kept_fraction", "student_accuracy", "target_tokens")
    }


@pytest.mark.parametrize("normalizer", ["target_tokens", "kept_tokens"])
def test_per_task_sums_equal_the_oracle_on_each_tasks_tokens(normalizer):
    case = random_case()
    task_ids = np.arange(B * T).reshape(B, T) % 3
    objective = Objective(w=0.3, normalizer=normalizer)
    signal = signal_of(case, "logits", jnp.float32)
    output, _ = run_once(objective, student_of(case, jnp.float32), batch_of(case, task_ids), signal, num_tasks=4)
    for task in range(4):
        part = random_case()
        part.weights = case.weights * (task_ids == task)
        expected = answer(part, w=0.3, normalizer=normalizer)
        got = {name: float(values[task]) for name, values in output.sums.items()}
        counts = {
            "target_tokens": part.weights.sum(),
            "kept_tokens": (part.weights * expected.alpha).sum(),
            "student_right": (part.weights * expected.student_right).sum(),
            "normalizer": expected.weight_sum,
        }
        assert {name: got[name] for name in counts} == counts
        assert got["loss"] == pytest.approx(expected.loss_sum, rel=1e-5)
        assert got["cross_entropy"] == pytest.approx(expected.cross_entropy, rel=1e-5)
        assert sum(got[cell] for cell in metrics.CELLS) == counts["target_tokens"]
    np.testing.assert_allclose(np.sum(output.sums["loss"]), output.loss_sum, rtol=1e-6)
    np.testing.assert_allclose(np.sum(output.sums["normalizer"]), output.weight_sum, rtol=1e-6)


def test_without_task_ids_all_is_of_task_zero():
    case = random_case()
    output, _ = run_once(Objective(w=1, keep="all"), student_of(case, jnp.float32), batch_of(case), None, num_tasks=3)
    assert output.sums["target_tokens"].tolist() == [case.weights.sum(), 0, 0]


def test_counts_stay_whole_numbers():
    """Sums of many ones must be exact: in bfloat16 they would stop at 256."""
    ones = jnp.ones(10_000)
    sums = metrics.sum_by_task({"n": ones}, jnp.arange(10_000) % 2, 2)
    assert sums["n"].tolist() == [5000, 5000]


@pytest.mark.parametrize(("num_tasks", "expected"), [(1, [2]), (2, [2, 1]), (3, [2, 1, 0])])
def test_ids_beyond_the_last_task_count_nowhere(num_tasks, expected):
    sums = metrics.sum_by_task({"n": jnp.ones(6)}, jnp.array([[0, 1, 0], [5, 3, -1]]), num_tasks)
    assert sums["n"].tolist() == expected
