"""`cat-jax run` for real: a tiny experiment from its gin file to its report, and what starting it again does."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("seqio")

EXPERIMENT = """
include 'runs/experiment.gin'
MIXTURE_OR_TASK_NAME = 'reverse'
MIXTURE_OR_TASK_MODULE = 'toy_experiment'
TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 4}
TRAIN_STEPS = 4
BATCH_SIZE = 16
Experiment:
  teachers = {'teacher': 'toy_model.gin'}
  students = {'student': 'toy_model.gin'}
  objectives = ['cat_dist']
  seeds = [0]
teacher/T5Config.embed_dim = 16
train.log_period = 2
teach.batch_size = 16
cascade.resamples = 10
"""

MODEL = """
MODEL = @T5Config()
T5Config:
  vocab_size = 384
  embed_dim = 8
  num_heads = 2
  head_dim = 4
  mlp_dim = 8
  num_encoder_layers = 1
  num_decoder_layers = 1
"""


def run(directory, *flags):
    """`cat-jax run` in `directory`; its exit code, stdout and stderr."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(directory / "cache")}
    command = [sys.executable, "-m", "cat_jax.cli.main", "run", "--gin_file=mine.gin", "--gin.RUN_DIR='out'", *flags]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_an_experiment_from_its_description_to_its_report(tmp_path):
    (tmp_path / "mine.gin").write_text(EXPERIMENT)
    (tmp_path / "toy_model.gin").write_text(MODEL)
    shutil.copy(pathlib.Path(__file__).parent / "toy_experiment.py.txt", tmp_path / "toy_experiment.py")
    code, out, err = run(tmp_path)
    assert code == 0, err
    made = tmp_path / "out"
    assert "report: out/report.html" in out
    assert "cat_dist" in out
    for name in ("report.html", "results.json", "curve.svg", "config.gin", "tables/teacher/reverse.test.parquet"):
        assert (made / name).exists(), name
    for model in ("teacher", "student.cat_dist.0"):
        assert (made / "models" / model / "operative_config.gin").exists()
    saved = {
        "config.gin": "run",
        "report.config.gin": "cascade",
        "store/reverse/validation/config.gin": "prepare",
        "signals/teacher/reverse/train/config.gin": "teach",
        "models/student.cat_dist.0/config.gin": "train",
        "tables/teacher/reverse.test.config.gin": "evaluate",
        "tables/student.cat_dist.0/reverse.validation.config.gin": "evaluate",
    }
    for name, command in saved.items():
        text = (made / name).read_text()
        assert text.startswith(f"# Do it again: cat-jax {command} --gin_file=out/{name}\n")
        assert (made / name.replace("config.gin", "operative_config.gin")).exists()
        if command == "evaluate":
            assert f"EVAL_MODELS = {{'{name.split('/')[1]}': " in text
    record = json.loads((made / "run.json").read_text())["stages"]
    assert len(record) == 7
    assert {stage["state"] for stage in record.values()} == {"finished"}

    report = (made / "report.html").read_bytes()
    code, again, err = run(tmp_path)
    assert (code, again) == (0, out), err
    assert "started" not in err
    assert (made / "report.html").read_bytes() == report

    code, _, err = run(tmp_path, "--gin.student/TRAIN_STEPS=5")
    assert code == 2
    assert err.splitlines()[-1].startswith("cat-jax run: error: stage train/student.cat_dist.0 was begun with another")
    assert "then TRAIN_STEPS = 4, now TRAIN_STEPS = 5" in err

    first = (made / "logs" / "train.teacher.log").read_text().splitlines()[0]
    assert first.startswith("$ cat-jax train --gin_file=toy_model.gin --gin_file=mine.gin")
    assert "--gin_scope=teacher" in first
