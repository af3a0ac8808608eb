"""From a metric without a value for some mixtures of answers to the report: what is not defined is drawn as nothing."""

import html
import re

import cascade_tables
import numpy as np
import pytest

from cat_jax.cascade.experiment import cascade
from cat_jax.report.files import write_report

COUNT = 30


def share(predictions, rows):
    """Of answers that are the large model's: 0 for a small one alone, 1 for the large one."""
    return np.mean([p.startswith("teacher") for p in predictions])


def undefined_in_resamples(predictions, rows, split):
    twice = len(set(rows.column("example_id").to_pylist())) < len(rows)
    return np.nan if twice else share(predictions, rows)


def undefined_at_half(predictions, rows, split):
    value = share(predictions, rows)
    return np.nan if value == 0.5 else value


def falling(predictions, rows, split):
    """The small models are the better ones, and half of the answers have no value."""
    return 1 - undefined_at_half(predictions, rows, split)


def undefined_of_xent(predictions, rows, split):
    """The baseline's curve lacks a point, the other's does not."""
    return undefined_at_half(predictions, rows, split) if "xent 0" in predictions else share(predictions, rows)


def report(tmp_path, function, resamples=4):
    """The results of two small models by this metric, the page's text and the table for the terminal."""
    for split in ("validation", "test"):
        for model, value in (("teacher", 1.0), ("xent", 0.0), ("cat", 0.0)):
            stated = 1 - value if function is falling else value
            columns = {"ids": [str(i) for i in range(COUNT)], "logprobs": [[i - 50.0] for i in range(COUNT)][::-1]}
            info = {"metric": "share", "metrics": {"share": stated}}
            cascade_tables.write(tmp_path, model, "t", split, kind="function", info=info, **columns)
    results = cascade(
        tables_dir=tmp_path,
        large="teacher",
        students={"xent": ("xent", 0), "cat": ("cat", 0)},
        tasks=["t"],
        output_dir=tmp_path / "out",
        resamples=resamples,
        functions={"t": function},
        targets=("quality=0.95",),
    )
    made = write_report(results, tmp_path / "out")
    page = made.report_path.read_text()
    for text in (page, made.table, made.picture_path.read_text()):
        assert not re.search(r"\b(None|nan)\b", re.sub(r"<style>.*?</style>", "", text))
    return results, html.unescape(re.sub(r"<[^>]+>", "", page)), made.table


def test_defined_for_the_estimate_and_for_no_resample(tmp_path):
    results, page, table = report(tmp_path, undefined_in_resamples)
    area = results["summary"]["task:t"]["cat"]["auc_df"]
    assert (area["mean"], area["interval"]) == (pytest.approx(50), None)
    assert set(results["curves"]["task:t"]["cat"]["difference"]["low"]) == {None}
    said = "cat minus xent: AUC-DF 0.0 points; quality at 30 % deferral 0.0 points. There is no interval, for AUC-DF is"
    assert said in table
    assert said in page


def test_a_mixture_that_has_no_value(tmp_path):
    results, _, table = report(tmp_path, undefined_at_half)
    found = results["summary"]["task:t"]["cat"]
    assert found["auc_df"]["mean"] is None
    assert found["qnc"]["mean"] == pytest.approx(2), "the quality of the large model has all answers of both"
    assert results["curves"]["task:t"]["cat"]["quality"][49:52] == [None] * 3
    [row, _] = results["thresholds"]["task:t"]
    assert 95 <= row["validation"]["quality"] < 100
    assert re.search(r"cat minus xent: AUC-DF – points; .*\. AUC-DF is not defined, for the metric has no value", table)


def test_a_mixture_that_has_no_value_where_the_large_model_is_no_better(tmp_path):
    _, page, table = report(tmp_path, falling, resamples=0)
    said = "teacher: no better than the small models of xent, cat. Whether deferring gains on average is not known"
    assert said in table
    assert said.removeprefix("teacher: ") in page


def test_answers_to_read_are_of_a_model_whose_area_is_defined(tmp_path):
    results, _, _ = report(tmp_path, undefined_of_xent, resamples=0)
    areas = {o: results["summary"]["task:t"][o]["auc_df"]["mean"] for o in ("xent", "cat")}
    assert areas == {"xent": None, "cat": pytest.approx(50)}
    assert results["samples"]["student"] == "cat"
