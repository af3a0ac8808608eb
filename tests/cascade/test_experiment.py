"""The whole of `cascade`: from tables to results.json, and what it says about bad input."""

import json
import shutil

import cascade_tables
import numpy as np
import pyarrow.parquet as pq
import pytest

from cat_jax.cascade.experiment import cascade, jsonable
from cat_jax.errors import UserError
from cat_jax.report.files import write_report
from cat_jax.table import read_table, table_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An experiment of four tasks, four objectives and two seeds, and its results."""
    root = tmp_path_factory.mktemp("cascade")
    students = cascade_tables.experiment(root / "tables", count=60)
    histories = {name: cascade_tables.history(root / f"{name}.jsonl") for name in students}
    arguments = {
        "tables_dir": root / "tables",
        "large": "teacher",
        "students": students,
        "tasks": list(cascade_tables.TASKS),
        "rules": ("chow_average", "entropy"),
        "resamples": 60,
        "histories": histories,
        "configs": {"run.gin": "train.steps = 400\n"},
    }
    return root, arguments, cascade(output_dir=root / "out", **arguments)


def test_results_are_on_disk_as_returned(made):
    root, _, results = made
    written = (root / "out" / "results.json").read_text()
    assert json.loads(written) == results
    assert "Infinity" not in written
    assert "NaN" not in written


def test_equal_input_gives_equal_bytes(made):
    root, arguments, _ = made
    cascade(output_dir=root / "again", **arguments)
    assert (root / "again" / "results.json").read_bytes() == (root / "out" / "results.json").read_bytes()


def test_rows_in_another_order_give_the_same_results(made, tmp_path):
    root, arguments, results = made
    for task in arguments["tasks"]:
        for model in ("teacher", *arguments["students"]):
            for split in ("validation", "test"):
                table, _ = read_table(table_path(root / "tables", model, task, split))
                shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
                path = table_path(tmp_path, model, task, split)
                path.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(shuffled, path)
    again = cascade(output_dir=tmp_path / "out", **arguments | {"tables_dir": tmp_path})
    assert again == results


def test_curve_ends_are_the_metrics_of_the_tables(made):
    root, _, results = made
    results = results
    for task in cascade_tables.TASKS:
        for objective in results["objectives"]:
            found = results["summary"][f"task:{task}"][objective]
            for seed in ("0", "1"):
                for model, name in ((f"{objective}-{seed}", "small_quality"), ("teacher", "large_quality")):
                    _, info = read_table(table_path(root / "tables", model, task, "test"))
                    assert found[name]["seeds"][seed] == pytest.approx(info.metrics["accuracy"], abs=1e-9)
            curve = results["curves"][f"task:{task}"][objective]["quality"]
            assert curve[0] == pytest.approx(found["small_quality"]["mean"], abs=1e-9)
            assert curve[-1] == pytest.approx(found["large_quality"]["mean"], abs=1e-9)


def test_pooled_numbers_are_those_of_all_examples(made):
    root, arguments, results = made
    scores = [
        np.mean(read_table(table_path(root / "tables", "xent-0", task, "test"))[0].column("score").to_pylist())
        for task in arguments["tasks"]
    ]
    pooled = results["summary"]["pooled"]["xent"]
    assert pooled["small_quality"]["seeds"]["0"] == pytest.approx(np.mean(scores))
    equal = results["summary"]["equal_rates"]["xent"]
    for name in ("small_quality", "large_quality"):
        assert equal[name]["mean"] == pytest.approx(pooled[name]["mean"])
    assert equal["auc_df"]["mean"] != pytest.approx(pooled["auc_df"]["mean"], abs=1e-3)
    assert results["pooling"] == "mean over examples"


def test_differences_are_those_of_the_seeds(made):
    _, _, results = made
    for scope, differences in results["differences"].items():
        assert set(differences) == {"dist", "cat_xent", "cat_dist"}
        for objective, found in differences.items():
            ours, theirs = (results["summary"][scope][o]["auc_df"] for o in (objective, "xent"))
            assert found["auc_df"]["mean"] == pytest.approx(ours["mean"] - theirs["mean"], abs=1e-9)
            for seed, value in found["auc_df"]["seeds"].items():
                assert value == pytest.approx(ours["seeds"][seed] - theirs["seeds"][seed], abs=1e-9)
            low, high = found["auc_df"]["interval"]
            assert low < high


def test_thresholds_meet_their_targets_on_validation(made):
    _, _, results = made
    rows = results["thresholds"]["pooled"]
    assert [(r["target"], r["objective"]) for r in rows[:2]] == [("rate=0.3", "xent"), ("rate=0.3", "dist")]
    assert len(rows) == 12
    large = results["thresholds"]
    for row in rows:
        if row["target"] == "rate=0.3":
            assert row["validation"]["rate"] <= 0.3
            assert row["validation"]["rate"] > 0.28
        if row["target"] == "cost=0.5":
            assert row["validation"]["flops"] <= 0.5
        low, high = row["test"]["rate"]["interval"]
        assert low <= row["test"]["rate"]["mean"] <= high
    assert set(large) == {"pooled", *(f"task:{t}" for t in cascade_tables.TASKS)}


def test_a_task_without_validation_is_left_out_of_thresholds_alone(made, tmp_path, caplog):
    root, arguments, results = made
    shutil.copytree(root / "tables", tmp_path / "tables")
    for path in (tmp_path / "tables").glob("*/speak_de.validation.parquet"):
        path.unlink()
    changed = {"tables_dir": tmp_path / "tables", "resamples": 20}
    found = cascade(output_dir=tmp_path / "out", **arguments | changed)
    rest = [task for task in arguments["tasks"] if task != "speak_de"]
    assert found["threshold_tasks"] == rest
    assert set(found["thresholds"]) == {"pooled", *(f"task:{task}" for task in rest)}
    assert {row["task"] for row in found["samples"]["rows"]} == set(rest)
    assert "no model has a table of split 'validation' of speak_de" in caplog.text
    assert found["tasks"]["speak_de"]["examples"] == {"test": 60}
    assert set(found["summary"]) == set(results["summary"]), "the curves are of all tasks"
    alone = cascade(output_dir=tmp_path / "alone", **arguments | changed | {"tasks": rest})
    assert found["thresholds"] == alone["thresholds"]
    page = write_report(found, tmp_path / "report").report_path.read_text()
    assert "without speak_de, of which there is no validation" in page


def test_a_table_that_one_model_lacks_is_missed(made, tmp_path):
    root, arguments, _ = made
    shutil.copytree(root / "tables", tmp_path / "tables")
    table_path(tmp_path / "tables", "dist-1", "speak_de", "validation").unlink()
    with pytest.raises(UserError, match=r"dist-1.speak_de\.validation\.parquet"):
        cascade(output_dir=tmp_path / "out", **arguments | {"tables_dir": tmp_path / "tables"})


def test_samples_say_who_answered(made):
    _, _, results = made
    samples = results["samples"]
    assert samples["student"] in made[1]["students"]
    assert 12 <= len(samples["rows"]) <= 18
    assert len({row["case"] for row in samples["rows"]}) >= 4
    assert {row["task"] for row in samples["rows"]} == set(cascade_tables.TASKS)
    for row in samples["rows"]:
        assert row["answered_by"] == ("large" if row["confidence"] < samples["threshold"] else "small")
        assert row["small_right"] == (row["small"] == row["target"])


def test_four_cells_add_up_and_give_the_accuracies(made):
    _, _, results = made
    for scope, by_objective in results["cells"].items():
        for objective, cells in by_objective.items():
            assert sum(cells.values()) == pytest.approx(1)
            found = results["summary"][scope][objective]
            assert 100 * (cells["both_right"] + cells["small_only_right"]) == pytest.approx(
                found["small_quality"]["mean"]
            )
            assert 100 * (cells["both_right"] + cells["large_only_right"]) == pytest.approx(
                found["large_quality"]["mean"]
            )


def test_one_task_has_no_pooled_scopes(made, tmp_path):
    _, arguments, _ = made
    changed = {"tasks": ["speak_en"], "resamples": 5, "histories": None, "validation_split": None}
    found = cascade(output_dir=tmp_path, **arguments | changed)
    assert found["scopes"] == ["task:speak_en"]
    assert found["headline_scope"] == "task:speak_en"
    assert found["thresholds"] == {}
    assert found["samples"] is None
    assert found["training"] == {}


def test_no_resamples_give_no_intervals(made, tmp_path):
    _, arguments, _ = made
    results = cascade(output_dir=tmp_path, **arguments | {"resamples": 0})
    found = results["summary"]["pooled"]["xent"]["auc_df"]
    assert found["interval"] is None
    assert found["nested"] is None


def write_corpus(tmp_path, task="mt"):
    """Three models on a BLEU task of six sentences."""
    generator = np.random.default_rng(0)
    for split in ("validation", "test"):
        for model in ("teacher", "a", "b"):
            correct = generator.integers(1, 4, (6, 4))
            rows = np.concatenate([np.full((6, 2), 9), correct, np.tile([9, 8, 7, 6], (6, 1))], axis=1)
            cascade_tables.write(
                tmp_path,
                model,
                task,
                split,
                ids=[str(i) for i in range(6)],
                kind="bleu",
                statistics=rows.tolist(),
                logprobs=[[-float(v)] for v in generator.random(6)],
                info={"metric": "bleu"},
            )
    return {"a": ("xent", 0), "b": ("cat", 0)}


def test_a_corpus_metric_has_neither_cells_nor_ideal(tmp_path):
    students = write_corpus(tmp_path)
    arguments = {"tables_dir": tmp_path, "large": "teacher", "students": students, "output_dir": tmp_path / "out"}
    found = cascade(tasks=["mt"], resamples=20, **arguments)
    assert found["cells"]["task:mt"] == {"xent": None, "cat": None}
    assert found["summary"]["task:mt"]["cat"]["share_of_ideal"]["mean"] is None
    assert found["curves"]["task:mt"]["cat"]["ideal"] is None
    assert found["summary"]["task:mt"]["cat"]["auc_df"]["interval"] is not None


def test_a_mix_of_metrics_is_pooled_as_the_mean_of_tasks(tmp_path):
    students = write_corpus(tmp_path)
    for split in ("validation", "test"):
        for model, score in (("teacher", 1.0), ("a", 0.0), ("b", 0.5)):
            cascade_tables.write(tmp_path, model, "qa", split, ids=["1", "2"], scores=[score, 1.0])
    arguments = {"tables_dir": tmp_path, "large": "teacher", "students": students, "output_dir": tmp_path / "out"}
    found = cascade(tasks=["mt", "qa"], resamples=10, **arguments)
    assert found["pooling"] == "mean over tasks"
    assert found["tasks"]["qa"]["scale"] == 100.0
    for objective in ("xent", "cat"):
        parts = [found["summary"][f"task:{t}"][objective]["small_quality"]["mean"] for t in ("mt", "qa")]
        assert found["summary"]["pooled"][objective]["small_quality"]["mean"] == pytest.approx(np.mean(parts))


def functional(tmp_path, **changes):
    """A cascade on a task whose metric is the squared share of the teacher's answers, and its calls by split."""
    for split in ("validation", "test"):
        for model, metric in (("teacher", 1.0), ("a", 0.0)):
            fields = {"ids": [str(i) for i in range(30)], "logprobs": [[-float(i)] for i in range(30)]}
            info = {"metric": "share", "metrics": {"share": metric}}
            cascade_tables.write(tmp_path, model, "t", split, kind="function", info=info, **fields)
    calls = {"validation": 0, "test": 0}

    def share_of_teacher(predictions, rows, split):
        calls[split] += 1
        assert rows.column("prediction").to_pylist() == predictions
        assert not any("token" in name for name in rows.column_names)
        return np.mean([p.startswith("teacher") for p in predictions]) ** 2

    arguments = {"tables_dir": tmp_path, "large": "teacher", "students": {"a": ("cat", 0)}, "tasks": ["t"]}
    arguments |= {"output_dir": tmp_path / "out", "functions": {"t": share_of_teacher}, "targets": ("rate=0.3",)}
    return cascade(**arguments | changes), calls


def test_a_metric_of_any_kind_is_recomputed_on_few_resamples(tmp_path, caplog):
    with caplog.at_level("INFO"):
        found, calls = functional(tmp_path, resamples=50, function_resamples=20)
    assert "the metric of t is computed anew" in caplog.text
    assert "from 20 resamples, not 50 (cascade.function_resamples)" in caplog.text
    assert (found["settings"]["resamples"], found["settings"]["function_resamples"]) == (50, 20)
    assert found["resamples"] == {"task:t": 20}
    assert 20 * 21 <= calls["test"] <= 20 * 21 + 20 + 200
    assert calls["validation"] > 0
    assert found["tasks"]["t"]["scale"] == 100, "the metric is on 0 to 1"
    summary = found["summary"]["task:t"]["cat"]
    assert (summary["small_quality"]["mean"], summary["large_quality"]["mean"]) == (0, 100)
    assert found["curves"]["task:t"]["cat"]["quality"][20] == pytest.approx(4)
    low, high = summary["quality_at_30"]["interval"]
    assert low <= summary["quality_at_30"]["mean"] <= high
    [row] = found["thresholds"]["task:t"]
    low, high = row["test"]["quality"]["interval"]
    assert low < row["test"]["quality"]["mean"] < high
    assert found["settings"]["baseline"] == "cat"


def test_a_metric_of_any_kind_without_resamples_has_no_intervals(tmp_path):
    found, calls = functional(tmp_path, function_resamples=0)
    assert found["resamples"] == {"task:t": 0}
    assert found["summary"]["task:t"]["cat"]["auc_df"]["interval"] is None
    assert calls["test"] < 250


def test_a_function_that_disagrees_with_the_tables_is_refused(tmp_path):
    for function in (lambda predictions, rows, split: 0.5, lambda predictions, rows, split: float("nan")):
        with pytest.raises(UserError, match=r"the table of a on t \(test\) states share 0, but its rows give (50|nan)"):
            functional(tmp_path, functions={"t": function})


def test_a_metric_of_any_kind_needs_its_function(tmp_path):
    with pytest.raises(UserError, match="the metric share of t can only be scored by the task's own function"):
        functional(tmp_path, functions=None)


@pytest.mark.parametrize(
    ("changes", "problem", "mend"),
    [
        ({"students": {}}, "at least one small model", "students"),
        ({"tasks": []}, "one task", "tasks"),
        ({"large": "nobody"}, "no per-example table at", "cat-jax evaluate"),
        ({"tasks": ["speak_xx"]}, "speak_xx.test.parquet", "cat-jax evaluate"),
        ({"validation_split": "dev"}, "speak_en.dev.parquet", "cat-jax evaluate"),
        ({"rules": ("chow_men",)}, "chow_men", "choose one of|did you mean"),
        ({"rules": ()}, "needs a confidence rule", "chow_average"),
        ({"rules": ("margin",)}, "token_margins", "confidence rule"),
        ({"baseline": "xnet"}, "the baseline 'xnet'", "xent, dist"),
        ({"targets": ("quality=95%",)}, "quality=95%", "rate=0.3"),
        ({"rates": (30,)}, "deferral rates", "from 0 to 1"),
        ({"rates": ()}, "deferral rates", "from 0 to 1"),
        ({"kept": (0,)}, "not positive", "0.95"),
        ({"level": 95}, "level 95", "between 0 and 1"),
        ({"resamples": -1}, "-1 resamples", "count from 0"),
        ({"resamples": 9, "function_resamples": -1}, "-1 resamples", "count from 0"),
        ({"students": {"xent-0": ("a", 0), "xent-1": ("a", 0)}}, "both a with seed 0", "own objective or seed"),
        ({"histories": {"nobody": "x"}}, "nobody", "leave it out"),
        ({"histories": {"xent-0": "/nowhere/metrics.jsonl"}}, "/nowhere/metrics.jsonl", "train this model"),
    ],
)
def test_bad_input_is_named_with_a_mend(made, tmp_path, changes, problem, mend):
    _, arguments, _ = made
    with pytest.raises(UserError) as error:
        cascade(output_dir=tmp_path / "out", **arguments | {"resamples": 0} | changes)
    assert problem in error.value.problem
    assert any(part in error.value.mend for part in mend.split("|"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("small", "problem"),
    [
        ({"ids": ["1", "2"]}, "the table of s on t (test) lacks 2 (3, 4)"),
        ({"ids": ["1", "2", "3", "4", "9"]}, "the table of large on t (test) lacks 1 (9)"),
        ({"ids": ["1", "2", "3", "5"]}, "lacks 1 (4) and the table of large on t (test) lacks 1 (5)"),
        ({"store": "other"}, "has store_fingerprint 'other', the table of large on t (test) has 'store'"),
        ({"info": {"metric": "f1"}}, "has metric 'f1'"),
        ({"kind": "bleu"}, "has metric_kind 'bleu'"),
        ({"flops": 0.0}, "FLOPs that are not positive"),
        ({"flops": float("inf")}, "flops is not finite in a row of the table of s"),
        ({"scores": [0.0, float("nan"), 1.0, 1.0]}, "score is not finite in a row of the table of s"),
        ({"scores": [0.0, 0.0, 0.0, 1.0], "info": {"metrics": {"accuracy": 75.0}}}, "states accuracy 75, but its rows"),
    ],
)
def test_tables_that_do_not_fit_are_named(tmp_path, small, problem):
    def write(model, **changes):
        fields = {"ids": ["1", "2", "3", "4"], "kind": "mean"} | changes
        fields.setdefault("scores", [1.0] * len(fields["ids"]))
        cascade_tables.write(tmp_path, model, "t", "test", **fields)

    write("large")
    write("s", **small)
    with pytest.raises(UserError) as error:
        cascade(
            tables_dir=tmp_path,
            large="large",
            students={"s": ("xent", 0)},
            tasks=["t"],
            output_dir=tmp_path / "out",
            validation_split=None,
            resamples=0,
        )
    assert problem in error.value.problem


def test_an_empty_table_is_refused(tmp_path):
    cascade_tables.write(tmp_path, "large", "t", "test", ids=[], scores=[])
    with pytest.raises(UserError, match="has no rows"):
        cascade(
            tables_dir=tmp_path,
            large="large",
            students={"s": ("xent", 0)},
            tasks=["t"],
            output_dir=tmp_path / "out",
            validation_split=None,
        )


def test_infinities_are_spelt():
    value = {"a": [float("inf"), float("-inf"), float("nan"), 1.0, None, "x", 3, True]}
    assert jsonable(value) == {"a": ["inf", "-inf", None, 1.0, None, "x", 3, True]}
