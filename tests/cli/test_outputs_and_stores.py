"""Checks of output directories, saved configurations, and stores that are prepared where they are missing."""

import dataclasses
import os
import pathlib

import pytest

from cat_jax.cli import child, configuration, main, outputs, stores
from cat_jax.cli.command import GinFlags
from cat_jax.errors import UserError


@pytest.mark.parametrize("path", [".", "a/b"])
def test_a_directory_that_may_be_written_is_left_as_it_is(tmp_path, path):
    outputs.check_writable(tmp_path / path, "MODEL_DIR")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_in_the_way_is_named(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"MODEL_DIR. is not a directory: move that file away"):
        outputs.check_writable(tmp_path / path, "MODEL_DIR")


def test_a_directory_that_cannot_be_made():
    with pytest.raises(UserError, match="cannot write /proc/nowhere"):
        outputs.check_writable("/proc/nowhere", "MODEL_DIR")


def test_a_full_disk_shows_before_any_work(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        outputs.check_writable(tmp_path, "MODEL_DIR")


RUN = [
    "Experiment.teachers={'t': 'models/t5_tiny.gin'}",
    "Experiment.students={'s': 'models/t5_tiny.gin'}",
    "RUN_DIR='r'",
]
EVERY = [f"{name}='x'" for name in ("MIXTURE_OR_TASK_NAME", "MIXTURE_OR_TASK_MODULE", "STORE_DIR", "MODEL_DIR")]
EVERY += ["TASK_FEATURE_LENGTHS={'targets': 4}", "TRAIN_STEPS=1", "TEACHER_DIR='x'", "SIGNAL_DIR='x'", "TABLES_DIR='x'"]
EVERY += ["EVAL_MODELS={'m': 'x'}", "REPORT_DIR='x'", "LARGE='x'", "STUDENTS={'s': ('xent', 0)}", *RUN]
FILES = ["runs/experiment.gin", "models/t5_tiny.gin", "objectives/xent.gin"]


@pytest.mark.parametrize(
    ("root", "flags", "named"),
    [
        ("prepare", ["STORE_DIR='{}'"], "STORE_DIR"),
        ("train", ["MODEL_DIR='{}'"], "MODEL_DIR"),
        ("train", ["TEACHER=@StoredTeacher()", "SIGNAL_DIR='{}'"], "SIGNAL_DIR"),
        ("train", ["TEACHER=@LiveTeacher()", "TEACHER_DIR='{}'"], "TEACHER_DIR"),
        ("train", ["train.initial_checkpoint_path='{}'"], "train.initial_checkpoint_path"),
        ("train", ["MODEL_DIR=%PLACE", "PLACE='{}'"], "PLACE"),
        ("teach", ["TEACHER_DIR='{}'"], "TEACHER_DIR"),
        ("teach", ["SIGNAL_DIR='{}'"], "SIGNAL_DIR"),
        ("evaluate", ["TABLES_DIR='{}'"], "TABLES_DIR"),
        ("evaluate", ["EVAL_MODELS={{'m': '{}'}}"], "EVAL_MODELS"),
        ("cascade", ["TABLES_DIR='{}'"], "TABLES_DIR"),
        ("cascade", ["REPORT_DIR='{}'"], "REPORT_DIR"),
        ("run", ["RUN_DIR='{}'"], "RUN_DIR"),
        ("run", ["Experiment.teachers={{'t': '{}'}}"], "Experiment.teachers"),
    ],
)
@pytest.mark.parametrize("address", ["gs://bucket/x", "s3://bucket"])
def test_a_bucket_is_refused_whatever_it_is_for(root, flags, named, address):
    given = configuration.read(FILES, [*EVERY, *(flag.format(address) for flag in flags)])
    with pytest.raises(UserError) as caught:
        configuration.check(given, root)
    assert str(caught.value).startswith(f"{named} is {address}, and cat-jax works on local directories only: mount")
    configuration.check(configuration.read(FILES, EVERY), root)


def test_what_a_command_does_not_use_may_be_an_address():
    configuration.check(configuration.read(FILES, [*EVERY, "TABLES_DIR='gs://bucket/x'"]), "prepare")


def test_a_refused_bucket_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [
        "MIXTURE_OR_TASK_NAME='x'",
        "MIXTURE_OR_TASK_MODULE='x'",
        "TASK_FEATURE_LENGTHS={}",
        "STORE_DIR='gs://b/s'",
    ]
    assert main.main(["prepare", "--gin_file=runs/prepare.gin", *(f"--gin.{flag}" for flag in flags)]) == 2
    assert "STORE_DIR is gs://b/s" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_configurations_beside_each_other_have_the_names_of_their_results(tmp_path):
    for stem in ("", "report"):
        outputs.save_configuration(tmp_path, configuration.Command("run", {}, f"A = '{stem}'\n", ""), stem)
    names = ["config.gin", "operative_config.gin", "report.config.gin", "report.operative_config.gin"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    text = (tmp_path / "report.config.gin").read_text()
    assert text == f"# Do it again: cat-jax run --gin_file={tmp_path}/report.config.gin\nA = 'report'\n"


def test_the_saved_configuration_says_how_to_do_it_again(tmp_path):
    command = configuration.Command("train", {}, "A = 1\n", "train.b = 2\n")
    outputs.save_configuration(tmp_path, command)
    text = (tmp_path / "config.gin").read_text()
    assert text == f"# Do it again: cat-jax train --gin_file={tmp_path}/config.gin\nA = 1\n"
    assert (tmp_path / "operative_config.gin").read_text().endswith("\ntrain.b = 2\n")


@dataclasses.dataclass(frozen=True)
class Dataset:
    store_dir: str
    mixture_or_task: str = "toy"
    split: str = "train"
    feature_lengths: dict = dataclasses.field(default_factory=lambda: {"targets": 8})
    batch_size: int = 4


def test_datasets_are_found_in_arguments():
    arguments = {"dataset": Dataset("a"), "eval": [Dataset("b", split="test")], "model_dir": "x", "steps": 3, "n": None}
    assert [(w.store_dir, w.split) for w in stores.wanted_in(arguments)] == [("a", "train"), ("b", "test")]


@pytest.fixture
def prepared(monkeypatch):
    """Records what children are asked to run; they end with the code in `codes`."""
    calls, codes = [], [0]

    def run(arguments):
        calls.append(list(arguments))
        return codes[0]

    monkeypatch.setattr(child, "run", run)
    return calls, codes


FLAGS = GinFlags(files=("x.gin",), bindings=("A=1",), scope="student")


def test_missing_stores_are_prepared_in_one_child_with_the_commands_configuration(tmp_path, prepared):
    calls, _ = prepared
    wanted = stores.wanted_in([Dataset(str(tmp_path)), Dataset(str(tmp_path), split="validation")])
    stores.ensure_prepared(wanted, FLAGS, multiprocess=False)
    assert calls == [
        [
            "prepare",
            "--gin_file=runs/prepare.gin",
            "--gin_file=x.gin",
            "--gin_scope=student",
            "--gin.A=1",
            "--gin.prepare.config=@PrepareConfig()",
            f"--gin.PrepareConfig.store_dir='{tmp_path}'",
            "--gin.PrepareConfig.mixture_or_task='toy'",
            "--gin.PrepareConfig.splits=['train', 'validation']",
            "--gin.PrepareConfig.feature_lengths={'targets': 8}",
        ]
    ]


def test_stores_that_are_there_are_left_alone(tmp_path, prepared):
    calls, _ = prepared
    (tmp_path / "toy" / "train").mkdir(parents=True)
    (tmp_path / "toy" / "train" / "manifest.json").write_text("{}")
    stores.ensure_prepared([stores.Wanted(str(tmp_path), "toy", "train")], FLAGS, multiprocess=False)
    assert calls == []


def test_a_child_that_fails_ends_the_command_with_its_code(tmp_path, prepared):
    _, codes = prepared
    codes[0] = 2
    with pytest.raises(SystemExit) as caught:
        stores.ensure_prepared([stores.Wanted(str(tmp_path), "toy", "train")], FLAGS, multiprocess=False)
    assert caught.value.code == 2


def test_one_of_several_processes_does_not_prepare(tmp_path, prepared):
    calls, _ = prepared
    with pytest.raises(UserError, match="run `cat-jax prepare` once before a job of several processes"):
        stores.ensure_prepared([stores.Wanted(str(tmp_path), "toy", "train")], FLAGS, multiprocess=True)
    assert calls == []


def test_the_documentation_lists_every_name():
    from cat_jax.cli.names import NAMES

    text = (pathlib.Path(__file__).parents[2] / "docs" / "gin.md").read_text()
    rows = text.split("## Names")[1].split("## Macros")[0]
    assert set(rows.split("`")[1::2]) >= set(NAMES)


def recorded(tmp_path, text, begins, error=None):
    with outputs.recorded(tmp_path / "m", configuration.Command("train", {}, text, "")):
        assert (tmp_path / "m" / "config.gin").exists()
        if begins:
            (tmp_path / "m" / "training.json").write_text("{}")
        if error:
            raise error


def test_a_refused_training_leaves_nothing(tmp_path):
    with pytest.raises(UserError):
        recorded(tmp_path, "A = 1\n", begins=False, error=UserError("no", "mend"))
    assert not (tmp_path / "m").exists()


def test_a_training_that_was_stopped_keeps_its_configuration_until_another_succeeds(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        recorded(tmp_path, "A = 1\n", begins=True, error=KeyboardInterrupt())
    with pytest.raises(UserError):
        recorded(tmp_path, "A = 2\n", begins=True, error=UserError("changed", "mend"))
    assert (tmp_path / "m" / "config.gin").read_text().endswith("\nA = 1\n")
    recorded(tmp_path, "A = 3\n", begins=True)
    assert (tmp_path / "m" / "config.gin").read_text().endswith("\nA = 3\n")
