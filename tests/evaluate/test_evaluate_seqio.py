"""`evaluate` on tasks of SeqIO: texts and metrics are the tasks' own."""

import json
from typing import ClassVar

import numpy as np
import pytest

from cat_jax.errors import UserError
from cat_jax.evaluate.run import evaluate
from cat_jax.table import read_table

pytest.importorskip("seqio", reason="tasks are checked where SeqIO is installed")
WORDS = ["a0", "b1", "c2", "a3", "b4", "c5", "a6"]  # of `choice_world`


@pytest.fixture(scope="module")
def world(choice_world):
    return choice_world


def run(world, output_dir, task, mode, **fields):
    models = {"m": str(world / "model")}
    return evaluate(models, str(world / "store"), task, str(output_dir), None, ["test"], mode, batch_size=4, **fields)


def test_generate(world, tmp_path):
    from cat_jax.data import seqio_task

    metrics = run(world, tmp_path, "shout", "generate")["m"]["test"]["tasks"]["shout"]["metrics"]
    table, info = read_table(tmp_path / "m" / "shout.test.parquet")
    rows = table.to_pylist()
    assert [(row["input"], row["target"]) for row in rows] == [(word, word.upper()) for word in WORDS]
    vocabulary = seqio_task.vocabulary("shout")
    assert [row["prediction"] for row in rows] == [vocabulary.decode(row["prediction_tokens"]) for row in rows]
    right = [row["prediction"] == row["target"] for row in rows]
    first = [row["target"][0] == row["prediction"][:1] for row in rows]
    assert metrics == info.metrics == pytest.approx({"accuracy": 100 * np.mean(right), "first": np.mean(first)})
    assert (info.metric, info.metric_kind) == ("accuracy", "mean")
    assert [row["score"] for row in rows] == [100.0 * r for r in right]


def test_score(world, tmp_path):
    metrics = run(world, tmp_path, "choose", "auto")["m"]["test"]["tasks"]["choose"]["metrics"]
    table, info = read_table(tmp_path / "m" / "choose.test.parquet")
    rows = table.to_pylist()
    # Options are tokenised as targets are: UTF-8 bytes, then the end of sequence.
    assert [row["option_lengths"] for row in rows] == [[3, 3, 20]] * 7
    assert [row["prediction"] for row in rows] == [row["options"][np.argmax(row["option_scores"])] for row in rows]
    lead = np.mean([row["option_scores"][0] - row["option_scores"][1] for row in rows])
    np.testing.assert_allclose(metrics["lead"], lead, rtol=1e-6)
    assert metrics["accuracy"] == pytest.approx(100 * np.mean([row["prediction"] == row["target"] for row in rows]))
    assert info.mode == "score"
    ends = [row["prediction_tokens"][-1] for row in rows]
    assert ends == [1] * 7


def test_a_mixture_takes_each_task_in_its_mode(world, tmp_path):
    content = run(world, tmp_path, "shout_and_choose", "generate")["m"]["test"]
    assert list(content["tasks"]) == ["choose", "shout"]
    headline = [task["metrics"]["accuracy"] for task in content["tasks"].values()]
    assert content["average"]["headline"] == np.mean(headline)
    assert content["average"]["metrics"] == {"accuracy": content["average"]["headline"]}


def test_groups_of_tasks_have_averages_of_what_was_evaluated(world, tmp_path):
    content = run(world, tmp_path, "shout", "generate", averages=["shout_and_choose"])["m"]["test"]
    found = content["averages"]["shout_and_choose"]
    assert (found["tasks"], found["of"]) == (1, 2)
    assert found["headline"] == content["tasks"]["shout"]["metrics"]["accuracy"]
    whole = run(world, tmp_path, "shout_and_choose", "generate", averages=["shout_and_choose"])["m"]["test"]
    assert whole["averages"]["shout_and_choose"] == {**whole["average"], "tasks": 2, "of": 2}
    with pytest.raises(UserError, match="no task or mixture 'shout_and_chose' is registered"):
        run(world, tmp_path, "shout", "generate", averages=["shout_and_chose"])


def test_tables_keep_the_fields_that_are_asked_for(world, tmp_path, caplog):
    run(world, tmp_path, "shout", "generate", keep_fields=["inputs_pretokenized", "absent"])
    told = "no example of shout (test) has the field 'absent' to keep; they have inputs_pretokenized, options, targets"
    assert told in caplog.text
    path = tmp_path / "m" / "shout.test.parquet"
    kept = read_table(path)[0]["fields"].to_pylist()
    assert [json.loads(fields) for fields in kept] == [{"inputs_pretokenized": word} for word in WORDS]
    run(world, tmp_path, "shout", "generate")
    assert read_table(path)[0]["fields"].to_pylist() == kept, "a finished table is left alone"
    run(world, tmp_path, "shout", "generate", rescore=True)
    assert read_table(path)[0]["fields"].to_pylist() == kept, "nothing else was asked for"
    run(world, tmp_path, "shout", "generate", rescore=True, keep_fields=["targets_pretokenized"])
    assert json.loads(read_table(path)[0]["fields"][0].as_py()) == {"targets_pretokenized": WORDS[0].upper()}


def test_metrics_state_their_signatures(world, tmp_path, monkeypatch):
    from cat_jax.data import seqio_task

    class Signed:
        __name__ = "signed"
        signatures: ClassVar = {}

        def __call__(self, targets, predictions):
            self.signatures = {"signed": f"n:{len(targets)}"}
            return {"signed": 1.0}

    task = seqio_task.get_task("shout")
    signed = Signed()
    monkeypatch.setattr(type(task), "predict_metric_fns", property(lambda self: [signed]))
    content = run(world, tmp_path, "shout", "generate")["m"]["test"]
    assert content["tasks"]["shout"]["signatures"] == {"signed": "n:7"}
    assert read_table(tmp_path / "m" / "shout.test.parquet")[1].signatures == {"signed": "n:7"}


def test_an_unknown_module_is_told_before_anything_runs(world, tmp_path):
    with pytest.raises(UserError, match="no module 'absent_tasks'"):
        evaluate(
            {"m": str(world / "model")}, str(world / "store"), "shout", str(tmp_path / "out"), "absent_tasks", ["test"]
        )
    assert not (tmp_path / "out").exists()


def test_a_task_that_scores_nothing_is_refused_before_its_answers_are_made(world, tmp_path, monkeypatch):
    from cat_jax.data import seqio_task

    task = seqio_task.get_task("shout")
    for name in ("predict_metric_fns", "score_metric_fns"):
        monkeypatch.setattr(type(task), name, property(lambda self: []))
    with pytest.raises(UserError, match="task 'shout' has no metric for predicted texts: give the task metric_fns"):
        run(world, tmp_path, "shout", "generate")
    assert list(tmp_path.iterdir()) == []
