"""Every snippet of README.md, run as it stands: files are written, commands run, and what one makes the next uses."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("seqio", reason="needs the `data` extra")

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
FILES = {name: text for _, name, text in BLOCKS if name}
COMMANDS = [
    line for language, _, text in BLOCKS if language == "bash" for line in text.replace("\\\n", " ").splitlines()
]
EXPERIMENT = next(line for line in COMMANDS if line.startswith("cat-jax run"))
POD = next(line for line in COMMANDS if line.startswith("cat-jax train"))


def run(command, directory, code=0, **environment):
    """Runs a README command in a shell, `cat-jax` being the one of this interpreter; what it said."""
    command = command.replace("cat-jax ", f"{sys.executable} -m cat_jax.cli.main ", 1)
    result = subprocess.run(
        command,
        shell=True,
        cwd=directory,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        timeout=600,
    )
    assert result.returncode == code, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result.stdout + result.stderr


REPORT = "report: runs/reversal/report.html"
SMALL = (
    "--gin.TRAIN_STEPS=3 --gin.teacher/TRAIN_STEPS=3 --gin.cascade.resamples=20 --gin.JOBS=1 "
    "--gin.T5Config.num_encoder_layers=1 --gin.T5Config.num_decoder_layers=1"
)
"""Flags that leave little to compute."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A directory with the README's files, in which its experiment has run. Fewer steps: the snippet is the same."""
    directory = tmp_path_factory.mktemp("readme")
    for name, text in FILES.items():
        (directory / name).write_text(text)
    (directory / "said").write_text(run(f"{EXPERIMENT} {SMALL}", directory))
    return directory


def test_every_snippet_is_looked_at_by_a_test():
    names = {"my_tasks.py", "my_experiment.gin", "my_losses.py", "upweighted.gin", "my_models.gin"}
    assert set(FILES) == names
    others = [line for line in COMMANDS if line not in (EXPERIMENT, POD)]
    assert all(line.startswith(("make ", "pip install -e ")) for line in others), others
    assert {language for language, _, _ in BLOCKS} == {"bash", "python", "gin"}


def test_the_make_targets_exist():
    for line in COMMANDS:
        if line.startswith("make "):
            target = line.split("#")[0].split()[1]
            subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_extras_exist():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for line in COMMANDS:
        for extra in re.findall(r"pip install -e '\.\[(\w+)\]'", line):
            assert extra in extras


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_experiment_draws_a_report(workspace):
    assert (workspace / "runs/reversal/report.html").exists()
    assert (workspace / "runs/reversal/results.json").exists()
    for model in ("teacher", "student.xent.0"):
        described = json.loads((workspace / f"runs/reversal/models/{model}/model.json").read_text())
        assert described["config"]["vocab_size"] == 384


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_experiment_leaves_what_repeats_it(workspace):
    made = workspace / "runs/reversal"
    for name in ("curve.svg", "tables/teacher/reversal.validation.parquet"):
        assert (made / name).exists(), name
    for model in ("teacher", "student.cat_xent.0"):
        assert (made / "models" / model / "operative_config.gin").exists()
    saved = {
        "config.gin": "run",
        "report.config.gin": "cascade",
        "store/reversal/validation/config.gin": "prepare",
        "signals/teacher/reversal/train/config.gin": "teach",
        "models/student.cat_xent.0/config.gin": "train",
        "tables/teacher/reversal.validation.config.gin": "evaluate",
        "tables/student.xent.0/reversal.validation.config.gin": "evaluate",
    }
    for name, command in saved.items():
        text = (made / name).read_text()
        again = f"# Do it again: cat-jax {command} --gin_file=runs/reversal/{name}"
        assert text.startswith(f"{again} " if command == "run" else f"{again}\n")
        assert (made / name.replace("config.gin", "operative_config.gin")).exists()
        if command == "evaluate":
            assert f"EVAL_MODELS = {{'{name.split('/')[1]}': " in text
    whole = (made / "config.gin").read_text().partition("\n")[0]
    said = run(whole.removeprefix("# Do it again: "), workspace)
    assert REPORT in said
    assert "started" not in said
    record = json.loads((made / "run.json").read_text())["stages"]
    students = [f"train/student.{objective}.0" for objective in ("xent", "cat_xent")]
    made_by = ["prepare", "train/teacher", "teach/teacher", "evaluate/teachers", *students, "cascade"]
    assert {name for name in record if not name.startswith("evaluate/students")} == set(made_by)
    assert {stage["state"] for stage in record.values()} == {"finished"}
    first = (made / "logs" / "train.teacher.log").read_text().splitlines()[0]
    assert first.startswith("$ cat-jax train --gin_file=models/t5_tiny.gin --gin_file=my_experiment.gin")
    assert "--gin_scope=teacher" in first


@pytest.mark.slow
@pytest.mark.exhaustive
def test_started_again_the_experiment_does_nothing_and_another_one_is_refused(workspace):
    report = (workspace / "runs/reversal/report.html").read_bytes()
    again = run(f"{EXPERIMENT} {SMALL}", workspace)
    printed, printed_first = (text.partition(REPORT) for text in (again, (workspace / "said").read_text()))
    assert printed[:2] == printed_first[:2]  # the table of objectives, and where the report is
    assert "cat_xent" in printed[0]
    assert printed[1] == REPORT
    assert "started" not in again
    assert (workspace / "runs/reversal/report.html").read_bytes() == report
    said = run(f"{EXPERIMENT} {SMALL} --gin.student/TRAIN_STEPS=5", workspace, code=2)
    last = said.splitlines()[-1]
    assert re.match(r"cat-jax run: error: stage train/student\.(cat_)?xent\.0 was begun with another", last)
    assert "then TRAIN_STEPS = 3, now TRAIN_STEPS = 5" in last


@pytest.mark.slow
@pytest.mark.exhaustive
def test_an_objective_of_ones_own_trains_a_student(workspace):
    assert "Experiment.objectives = ['xent', 'cat_xent', 'upweighted.gin']" in README
    mine = "include 'my_experiment.gin'\nExperiment.objectives = ['xent', 'cat_xent', 'upweighted.gin']\n"
    (workspace / "with_upweighted.gin").write_text(mine)
    flags = f"--gin.RUN_DIR='\"runs/reversal\"' {SMALL}"
    output = run(f"cat-jax run --gin_file=with_upweighted.gin {flags}", workspace)
    assert "upweighted" in output
    assert (workspace / "runs/reversal/models/student.upweighted.0/checkpoints").exists()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_ones_own_models_are_teacher_and_start(workspace):
    flags = f"{SMALL} --gin.Experiment.objectives=\"['cat_xent', 'cat_dist']\""
    run(f"cat-jax run --gin_file=my_models.gin --gin.RUN_DIR='\"runs/own\"' {flags}", workspace)
    assert (workspace / "runs/own/report.html").exists()
    assert not (workspace / "runs/own/models/teacher").exists()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_command_for_a_pod_trains_on_processes_of_this_machine(workspace):
    """The same command in 2 processes of 2 devices, with a mesh, paths, sizes and steps for them."""
    command = POD.replace("cat-jax train --multiprocess", "train").replace("/shared/xl", "runs/reversal/models/teacher")
    for there, here in {
        "/shared/store": "runs/reversal/store",
        "/shared/small": "runs/pod",
        "TRAIN_STEPS=100000": "TRAIN_STEPS=2",
        "{'inputs': 512, 'targets': 128}": "{'inputs': 8, 'targets': 8}",
        "models/t5_small.gin": "models/t5_tiny.gin",
        "MeshConfig.fsdp=4 --gin.MeshConfig.tensor=4": "MeshConfig.fsdp=2 --gin.MeshConfig.tensor=2",
    }.items():
        assert there in command
        command = command.replace(there, here)
    launcher = f"{sys.executable} -m cat_jax_launch.local --processes 2 --devices_per_process 2 --"
    sizes = "--gin.T5Config.embed_dim=32 --gin.T5Config.mlp_dim=64 --gin.T5Config.num_encoder_layers=1 "
    sizes += "--gin.T5Config.num_decoder_layers=1"
    run(f"{launcher} {command} {sizes} --gin.BATCH_SIZE=32", workspace)
    assert (workspace / "runs/pod/checkpoints").exists()
