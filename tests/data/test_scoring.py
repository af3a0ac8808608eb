"""The task's own metrics, as SeqIO's Evaluator computes them, and how they fall apart into examples."""

import math
import os
import pathlib

import numpy as np
import pytest

from cat_jax.data import seqio_task
from cat_jax.data.convert import plain
from cat_jax.data.scoring import as_numpy, score_table
from cat_jax.errors import UserError

pytest.importorskip("seqio", reason="SeqIO is not installed")
pytestmark = pytest.mark.usefixtures("toy_tasks")

HERE = pathlib.Path(__file__).parent
DATA = pathlib.Path(os.environ.get("CAT_JAX_TEST_DATA", HERE.parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / "tfds").is_dir(), reason="no real data: set CAT_JAX_TEST_DATA")


RAWS = [
    {"targets_pretokenized": str(k * k), "answers": [str(k * k), f"={k}"][: 1 + k % 2], "inputs_pretokenized": "?"}
    for k in range(10)
]
PREDICTIONS = ["0", "=1", "x", "9", "=4", "25", "36", "=7", "1", "1"]  # right: 0, 1, 3, 5, 6, 7


def test_metrics_and_single_scores():
    scored = score_table("toy_metrics", PREDICTIONS, RAWS)
    assert scored.metrics["accuracy"] == 60.0
    # Targets that begin with 1: 1, 16, (=1 does not) -> examples 1, 4; predictions: examples 8, 9. None in common.
    assert scored.metrics["f1"] == 0.0
    assert list(scored.metrics) == ["accuracy", "f1"]
    assert (scored.headline, scored.kind, scored.statistics) == ("accuracy", "mean", None)
    assert scored.scores == [100, 100, 0, 100, 0, 100, 100, 100, 0, 0]


def test_a_metric_that_looks_like_a_mean_is_not_taken_for_one():
    truth = [raw["targets_pretokenized"] for raw in RAWS if raw["targets_pretokenized"].startswith("1")] * 4
    raws = [{"targets_pretokenized": t, "answers": [t]} for t in truth]
    scored = score_table("toy_metrics", truth, raws, headline="f1")
    assert scored.metrics["f1"] == 100.0
    assert set(scored.scores) == {100.0}
    assert scored.kind == "function"


@pytest.mark.parametrize("predictions", [PREDICTIONS, [raw["targets_pretokenized"] for raw in RAWS], [""] * 10])
def test_an_error_rate_is_known_by_what_it_says_of_right_answers(predictions):
    assert score_table("toy_metrics", predictions, RAWS).higher_is_better
    assert score_table("toy_metrics", predictions, RAWS, headline="f1").higher_is_better
    scored = score_table("toy_errors", predictions, RAWS)
    assert not scored.higher_is_better
    assert scored.kind == "mean"


def test_a_metric_that_does_not_look_at_answers_is_taken_at_its_word():
    scores = [[-float(k)] for k in range(10)]
    assert score_table("toy_metrics", PREDICTIONS, RAWS, scores, headline="mean_score").higher_is_better


def test_scores_of_options():
    one = score_table("toy_metrics", PREDICTIONS, RAWS, option_scores=[[-float(k)] for k in range(10)])
    assert one.metrics["mean_score"] == -4.5
    two = score_table("toy_metrics", PREDICTIONS, RAWS, option_scores=[[-1.0, -3.0]] * 10, headline="mean_score")
    assert two.metrics["mean_score"] == -4.0
    assert two.scores == [-4.0] * 10


def test_metric_objects():
    scored = score_table("toy_objects", PREDICTIONS, RAWS)
    assert scored.metrics == {"accuracy": 60.0}
    assert scored.kind == "mean"
    assert sum(scored.scores) == 600


def test_raw_fields_come_back_as_seqio_gives_them():
    value = as_numpy({"a": "é", "b": ["x", "y"], "c": [[1, 2], [3, 4]], "d": 0.5, "e": [[1], [2, 3]], "f": True})
    assert value["a"] == "é".encode()
    assert value["b"].tolist() == [b"x", b"y"]
    assert value["b"].dtype == object
    assert value["c"].shape == (2, 2)
    assert isinstance(value["d"], np.float64)
    assert [v.tolist() for v in value["e"]] == [[1], [2, 3]]
    assert isinstance(value["f"], np.bool_)
    assert plain(value["c"]) == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("name", "fields", "problem"),
    [
        ("toy_twice", {}, "task 'toy_twice' has two metrics called 'accuracy'"),
        ("toy_unscored", {}, "task 'toy_unscored' has no metric for predicted texts: give the task metric_fns"),
        (
            "toy_number",
            {},
            r"task 'toy_number' fails \(TypeError: it returned a float, not a dict of names",
        ),
        ("toy_failing", {}, r"a metric of task 'toy_failing' fails \(ZeroDivisionError: division by zero\)"),
        ("toy", {"headline": "bleu"}, "task 'toy' has no metric 'bleu': name one of: accuracy"),
        ("toy_mixture", {}, "'toy_mixture' is a mixture: name one of its tasks: toy, toy_random, toy_small"),
    ],
)
def test_user_errors(name, fields, problem):
    with pytest.raises(UserError, match=problem):
        score_table(name, PREDICTIONS, RAWS, **fields)


def through_the_evaluator(name, split, count, predictions):
    """What seqio.Evaluator computes when a model emits the predictions' tokens."""
    import seqio

    task = seqio_task.get_task(name)
    vocabulary = task.output_features["targets"].vocabulary
    evaluator = seqio.Evaluator(
        name,
        seqio.EncDecFeatureConverter(pack=False),
        split,
        num_examples=count,
        sequence_length={"inputs": 256, "targets": 64},
        use_memory_cache=False,
    )
    tokens = [[*vocabulary.encode(p), 1] for p in predictions]
    rows = np.array([row + [0] * (64 - len(row)) for row in tokens])
    metrics, _ = evaluator.evaluate(compute_metrics=True, predict_fn=lambda ds: list(enumerate(rows)))
    return metrics.result()[name], [vocabulary.decode(row) for row in rows]


@needs_data
@pytest.mark.parametrize(("name", "split", "kind"), [("cb", "validation", "mean"), ("multi30k_en_de", "test", "bleu")])
def test_equals_seqios_evaluator(name, split, kind):
    seqio_task.load_modules("real_tasks")
    count = 56
    task = seqio_task.get_task(name)
    pipeline = task.get_dataset({"inputs": 256, "targets": 64}, split, shuffle=False)
    raws = [
        {k: plain(v) for k, v in element.items() if k not in ("inputs", "targets")}
        for element in seqio_task.arrays(pipeline.take(count))
    ]
    targets = [raw["targets_pretokenized"] for raw in raws]
    draw = np.random.default_rng(0)
    predictions = [t if draw.random() < 0.5 else " ".join(targets[k - 1].split()[:9]) for k, t in enumerate(targets)]
    expected, texts = through_the_evaluator(name, split, count, predictions)
    scored = score_table(name, texts, raws)
    assert scored.metrics == pytest.approx(expected, abs=1e-9)
    assert scored.kind == kind
    assert 20 < scored.metrics[scored.headline] < 95
    if kind == "mean":
        assert math.fsum(scored.scores) / count == pytest.approx(expected[scored.headline])
    else:
        from cat_jax.cascade.bleu import bleu

        sums = np.sum(scored.statistics, axis=0)
        assert bleu(sums) == pytest.approx(expected["bleu"], abs=1e-9)
        # A merged output: the first half of these answers, the second half wrong.
        merged = [t if k < count // 2 else targets[k - 1] for k, t in enumerate(texts)]
        other = score_table(name, [targets[k - 1] for k in range(count)], raws)
        half = np.sum(scored.statistics[: count // 2] + other.statistics[count // 2 :], axis=0)
        assert bleu(half) == pytest.approx(score_table(name, merged, raws).metrics["bleu"], abs=1e-9)


def test_describe_names_what_a_task_is():
    about = seqio_task.describe(seqio_task.get_task("toy_metrics"))
    assert about["splits"] == {"train": 230, "validation": 23}
    assert about["features"]["targets"]["vocab_size"] == 259
    assert about["metrics"] == ["any_of", "f1", "mean_score", "with_aux"]
    assert seqio_task.decode(seqio_task.vocabulary("toy"), [60, 59, 1, 99]) == "98"
