"""A task's metric on mixtures of answers, by the ids of their examples."""

import math
import pathlib
import sys

import numpy as np
import pytest

from cat_jax.data import seqio_task
from cat_jax.data.manifest import Recipe
from cat_jax.data.mixed_metric import MixedMetric
from cat_jax.data.record import Example
from cat_jax.data.scoring import score_table
from cat_jax.data.store import ExampleStore
from cat_jax.data.writer import write_store
from cat_jax.errors import UserError

pytest.importorskip("seqio", reason="SeqIO is not installed")
RAWS = [{"targets_pretokenized": str(k), "answers": [str(k), f"={k}"][: 1 + k % 2]} for k in range(20)]


@pytest.fixture(autouse=True, scope="module")
def toy_tasks():
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    seqio_task.load_modules("toy_tasks")
    yield
    sys.path.pop(0)


def metric(directory, task, name, raws=RAWS, keep_raw=True):
    features = seqio_task.feature_infos(seqio_task.get_task(task))
    recipe = Recipe(task, "test", features, {"inputs": 8, "targets": 8}, num_shards=2, keep_raw=keep_raw)
    tokens = np.array([5, 1], np.int32)
    write_store(directory, recipe, [Example(f"id {k}", tokens, tokens, raw) for k, raw in enumerate(raws)])
    return MixedMetric(ExampleStore.open(directory, task, "test"), name)


def test_rows_come_in_any_order_and_number(tmp_path):
    f1 = metric(tmp_path, "toy_metrics", "f1")
    for indices, answers in (
        (range(20), [str(k) for k in range(20)]),
        ([19, 3, 3, 12, 1], ["19", "1", "3", "2", "=1"]),
        ([11, 11, 11], ["1", "2", "11"]),
    ):
        expected = score_table("toy_metrics", answers, [RAWS[k] for k in indices], headline="f1").metrics["f1"]
        assert f1([f"id {k}" for k in indices], answers) == expected
        assert expected > 0


def test_a_group_that_is_drawn_twice_counts_twice(tmp_path):
    raws = [{"targets_pretokenized": str(k), "group": "ab"[k > 1]} for k in range(4)]
    right = metric(tmp_path, "toy_groups", "whole_groups", raws)
    assert right(["id 0", "id 1", "id 2", "id 3"], ["0", "1", "2", "no"]) == 50
    ids, answers = ["id 0", "id 1", "id 2", "id 3"], ["0", "1", "2", "no"]
    assert right(ids + ids[:2] * 2, answers + answers[:2] * 2) == 75, "a, a, a and b"
    assert right(ids[2:] * 3 + ids[:2], answers[2:] * 3 + answers[:2]) == 25


def test_a_metric_of_scores_takes_those_of_the_rows(tmp_path):
    mean = metric(tmp_path, "toy_metrics", "mean_score")
    ids = [f"id {k}" for k in range(20)]
    assert mean(ids, ["x"] * 20, [[-1.0, -2.0]] * 20) == -3
    assert mean(ids[:2], ["x"] * 2, [[-1.0, -2.0], [-5.0]]) == -4


def test_where_a_metric_is_not_defined_it_is_nan_and_told_once(tmp_path, caplog):
    picky = metric(tmp_path, "toy_picky", "picky")
    assert picky(["id 0", "id 1"], ["1", "1"]) == 50
    assert all(math.isnan(picky([name], ["2"])) for name in ("id 0", "id 1"))
    assert [r.message for r in caplog.records] == [
        "picky of toy_picky is not defined on some outputs (ZeroDivisionError: float division by zero)"
    ]


@pytest.mark.parametrize(
    ("task", "name", "said"),
    [
        ("toy_metrics", "accurasy", "task 'toy_metrics' has no metric 'accurasy', which its tables state"),
        ("toy_failing", "x", r"a metric of task 'toy_failing' fails \(ZeroDivisionError"),
    ],
)
def test_a_metric_that_is_not_there_or_fails_is_told(tmp_path, task, name, said):
    found = metric(tmp_path, task, name)
    with pytest.raises(UserError, match=said):
        found(["id 0"], ["0"])


def test_a_store_without_texts_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no texts for the metrics of toy"):
        metric(tmp_path, "toy", "accuracy", raws=[None] * 3, keep_raw=False)
