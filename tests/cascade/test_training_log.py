"""Training logs: the four cells over time, whatever state the file is in."""

import json

import numpy as np
import pytest

from cat_jax.cascade.inputs import Student
from cat_jax.cascade.training import POINTS, read_history, training_histories
from cat_jax.errors import UserError


def lines(path, rows, tail=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def test_reads_plain_and_prefixed_names(tmp_path):
    rows = [{"step": 1, "kept_fraction": 0.5, "loss": 9.0}, {"step": 2, "train/kept_fraction": 0.75}]
    history = read_history(lines(tmp_path / "m.jsonl", rows))
    assert {name: values.tolist() for name, values in history.items()} == {"step": [1, 2], "kept_fraction": [0.5, 0.75]}


def test_steps_logged_again_after_a_resume_count_once(tmp_path):
    rows = [{"step": s, "kept_fraction": k} for s, k in ((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.25), (3, 0.35))]
    history = read_history(lines(tmp_path / "m.jsonl", rows))
    assert history["step"].tolist() == [1, 2, 3]
    assert history["kept_fraction"].tolist() == [0.1, 0.25, 0.35]


def test_a_line_cut_short_by_a_kill_is_skipped_and_a_broken_one_is_not(tmp_path):
    row = {"step": 1, "kept_fraction": 0.5}
    assert read_history(lines(tmp_path / "a", [row], '{"step": 2, "kept'))["step"].tolist() == [1]
    (tmp_path / "b").write_text('{"step": 2, "kept\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"line 1 of .*b is not a training record"):
        read_history(tmp_path / "b")


def test_other_records_are_skipped(tmp_path):
    rows = [{"step": 1, "kept_fraction": 0.5}, {"step": 1, "eval/loss": 3.0}, {"step": 2, "kept_fraction": None}]
    assert read_history(lines(tmp_path / "m", rows))["step"].tolist() == [1]
    assert len(read_history(lines(tmp_path / "n", []))["step"]) == 0


def test_long_logs_are_averaged_in_runs(tmp_path):
    rows = [{"step": s, "kept_fraction": s / 1000} for s in range(1, 1001)]
    groups = {"cat": (Student("cat-0", "cat", 0),)}
    found = training_histories(groups, {"cat-0": lines(tmp_path / "m", rows)})["cat"]
    assert len(found["series"]["step"]) == POINTS
    np.testing.assert_allclose(found["series"]["kept_fraction"], np.array(found["series"]["step"]) / 1000)
    assert found["kept_fraction"]["mean"] == pytest.approx(0.5005)


def test_seeds_are_averaged_where_they_logged_the_same_steps(tmp_path):
    groups = {"cat": (Student("cat-0", "cat", 0), Student("cat-1", "cat", 1)), "xent": (Student("xent-0", "xent", 0),)}
    paths = {
        "cat-0": lines(tmp_path / "0", [{"step": s, "kept_fraction": 0.4} for s in (10, 20)]),
        "cat-1": lines(tmp_path / "1", [{"step": s, "kept_fraction": 0.6} for s in (10, 20)]),
    }
    found = training_histories(groups, paths)
    assert set(found) == {"cat"}
    assert found["cat"]["series"] == {"step": [10, 20], "kept_fraction": [0.5, 0.5]}
    assert found["cat"]["kept_fraction"] == {"mean": pytest.approx(0.5), "seeds": {"cat-0": 0.4, "cat-1": 0.6}}
    paths["cat-1"] = lines(tmp_path / "1", [{"step": s, "kept_fraction": 0.6} for s in (10, 30)])
    found = training_histories(groups, paths)
    assert found["cat"]["models"] == ["cat-0"]
    assert found["cat"]["series"]["kept_fraction"] == [0.4, 0.4]
    assert found["cat"]["kept_fraction"]["mean"] == pytest.approx(0.5)
