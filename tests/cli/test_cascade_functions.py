"""`cat-jax cascade` on a task whose metric is neither a mean nor BLEU: macro-F1, by the task's own function."""

import json
import sys

import numpy as np
import pytest

from cat_jax.cli import main as cli
from cat_jax.cli.task_metrics import TaskMetrics
from cat_jax.data import seqio_task
from cat_jax.data.manifest import Recipe
from cat_jax.data.record import Example
from cat_jax.data.scoring import score_table
from cat_jax.data.writer import write_store
from cat_jax.errors import UserError
from cat_jax.table import TableInfo, read_table, table_path, write_table

seqio = pytest.importorskip("seqio")

MODULE = """
import seqio
import tensorflow as tf

FEATURES = {name: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for name in ("inputs", "targets")}
CALLS = []

def label(text, example=None, is_target=False):
    if is_target:
        return example["names"][example["gold"]].decode()  # of raw fields, not of the text
    CALLS.append(text)
    return text.strip()

def macro_f1(targets, predictions):
    found = []
    for name in sorted(set(targets)):
        both = sum(t == p == name for t, p in zip(targets, predictions))
        found.append(2 * both / (targets.count(name) + predictions.count(name)))
    return {"macro_f1": 100 * sum(found) / len(found)}

seqio.TaskRegistry.add(
    "labels",
    source=seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: None, ["validation", "test"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features=FEATURES,
    postprocess_fn=label,
    metric_fns=[macro_f1],
)
"""
NAMES = ["yes", "no", "perhaps"]
SPLITS = {"validation": 40, "test": 60}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A directory with toy_labels.py, store/ and tables/ of a teacher and two students."""
    root = tmp_path_factory.mktemp("world")
    (root / "toy_labels.py").write_text(MODULE)
    sys.path.insert(0, str(root))
    seqio_task.load_modules("toy_labels")
    features = seqio_task.feature_infos(seqio_task.get_task("labels"))
    for split, count in SPLITS.items():
        draw = np.random.default_rng(count)
        gold = draw.choice(3, count, p=[0.6, 0.3, 0.1])
        # Ids are the rows' numbers: those of one split mean other examples in the other.
        raws = [{"targets_pretokenized": NAMES[g], "names": NAMES, "gold": int(g)} for g in gold]
        tokens = np.array([5, 1], np.int32)
        recipe = Recipe("labels", split, features, {"inputs": 8, "targets": 8}, num_shards=2, keep_raw=True)
        manifest = write_store(root / "store", recipe, [Example(str(k), tokens, tokens, r) for k, r in enumerate(raws)])
        for model, right in (("teacher", 0.9), ("a", 0.5), ("b", 0.6)):
            write_answers(root / "tables", model, split, raws, right, manifest.fingerprint)
    yield root
    sys.path.remove(str(root))


def write_answers(tables_dir, model, split, raws, right, fingerprint):
    """The table of a model that is right on some examples, and surer of those."""
    draw = np.random.default_rng([len(raws), int(100 * right)])
    known = draw.random(len(raws)) < right
    predictions = [NAMES[raw["gold"] if k else draw.integers(3)] + " " for raw, k in zip(raws, known, strict=True)]
    scored = score_table("labels", predictions, raws)
    rows = {
        "example_id": [str(k) for k in range(len(raws))],
        "task": ["labels"] * len(raws),
        "prediction": predictions,
        "target": [raw["targets_pretokenized"] for raw in raws],
        "token_logprobs": [[-float(x)] for x in draw.random(len(raws)) + ~known],
        **dict.fromkeys(["input_length", "target_length", "prediction_length"], [2] * len(raws)),
        "flops": [10.0 if model == "teacher" else 1.0] * len(raws),
        "score": scored.scores,
    }
    what = {"task": "labels", "split": split, "model": model, "mode": "generate", "parameters": 1}
    metric = {"metric": scored.headline, "metric_kind": scored.kind, "metrics": scored.metrics}
    write_table(
        table_path(tables_dir, model, "labels", split),
        rows,
        TableInfo(**what, **metric, store_fingerprint=fingerprint),
    )


def cascade(world, report_dir, *flags):
    students = "{'a': ('xent', 0), 'b': ('cat_xent', 0)}"
    return cli.main(
        [
            "cascade", "--gin_file=runs/cascade.gin", f"--gin.TABLES_DIR='{world}/tables'", "--gin.LARGE='teacher'",
            f"--gin.STUDENTS={students}", f"--gin.REPORT_DIR='{report_dir}'", *flags,
        ]
    )  # fmt: skip


def test_the_ends_of_the_curve_are_the_metrics_of_the_tables(world, tmp_path, caplog):
    calls = sys.modules["toy_labels"].CALLS
    before = len(calls)
    flags = ["--gin.MIXTURE_OR_TASK_MODULE='toy_labels'", f"--gin.STORE_DIR='{world}/store'"]
    assert cascade(world, tmp_path, *flags, "--gin.cascade.function_resamples=20") == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["tasks"]["labels"] | {"examples": None} == {
        "metric": "macro_f1", "metric_kind": "function", "scale": 1.0, "examples": None,
    }  # fmt: skip
    for model, objective in (("a", "xent"), ("b", "cat_xent")):
        curve = results["curves"]["task:labels"][objective]["quality"]
        ends = [read_table(table_path(world / "tables", name, "labels", "test"))[1] for name in (model, "teacher")]
        assert [curve[0], curve[-1]] == pytest.approx([info.metrics["macro_f1"] for info in ends])
        low, high = results["summary"]["task:labels"][objective]["auc_df"]["interval"]
        assert low < high
    assert results["resamples"] == {"task:labels": 20}
    assert "its intervals come from 20 resamples, not 1000" in caplog.text
    assert len(calls) - before <= 3 * sum(SPLITS.values()), "each answer is postprocessed once"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], ["macro_f1 of labels", "MIXTURE_OR_TASK_MODULE and STORE_DIR not given", "--gin.STORE_DIR="]),
        (["--gin.STORE_DIR='store'"], ["MIXTURE_OR_TASK_MODULE not given"]),
        (["--gin.MIXTURE_OR_TASK_MODULE='toy_labels'"], ["STORE_DIR not given"]),
        (["--gin.MIXTURE_OR_TASK_MODULE='toy_labels'", "--gin.STORE_DIR='nowhere'"], ["no store", "nowhere"]),
        (["--gin.MIXTURE_OR_TASK_MODULE='no_labels'", "--gin.STORE_DIR='store'"], ["no module 'no_labels'"]),
    ],
)
def test_what_is_missing_is_told_in_one_line(world, tmp_path, capfd, flags, said):
    assert cascade(world, tmp_path / "out", *flags) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert all(word in line for word in said), line
    assert not (tmp_path / "out").exists()


def test_another_store_is_refused(world, tmp_path):
    store = tmp_path / "store"
    features = seqio_task.feature_infos(seqio_task.get_task("labels"))
    recipe = Recipe("labels", "test", features, {"inputs": 8, "targets": 8}, num_shards=1, keep_raw=True)
    raw = {"targets_pretokenized": "no", "names": NAMES, "gold": 1}
    write_store(store, recipe, [Example("0", np.array([5, 1], np.int32), np.array([5, 1], np.int32), raw)])
    with pytest.raises(UserError, match=r"the tables of labels \(test\) are of the store \w+, .*: name the STORE_DIR"):
        TaskMetrics("toy_labels", str(store)).functions(str(world / "tables"), "teacher", ["labels"], ["test"])


def test_tasks_that_need_no_function_import_nothing(world, tmp_path, monkeypatch):
    table, info = read_table(table_path(world / "tables", "teacher", "labels", "test"))
    rows = {name: table.column(name).to_pylist() for name in table.column_names}
    path = table_path(tmp_path, "teacher", "labels", "test")
    path.parent.mkdir()
    write_table(path, rows, TableInfo(**{**vars(info), "metric_kind": "mean"}))
    monkeypatch.setattr(seqio_task, "load_modules", lambda modules: pytest.fail("a module was loaded"))
    assert TaskMetrics().functions(str(tmp_path), "teacher", ["labels"], ["test"]) == {}
