"""From the description of an experiment to its stages."""

import dataclasses
import shlex

import pytest

from cat_jax.checkpoint.params import write_model_file
from cat_jax.checkpoint.seal import Seal, write_seal
from cat_jax.cli import configuration, outputs
from cat_jax.cli.command import GinFlags
from cat_jax.cli.experiment import Experiment, default_jobs, objective_file, objective_name
from cat_jax.cli.plan import Plan
from cat_jax.cli.stages import fingerprints
from cat_jax.errors import UserError
from cat_jax.models.t5_config import T5Config

BASE = """
include 'runs/experiment.gin'
MIXTURE_OR_TASK_NAME = 'toy'
MIXTURE_OR_TASK_MODULE = 'toy_tasks'
TASK_FEATURE_LENGTHS = {'inputs': 16, 'targets': 8}
TRAIN_STEPS = 20
teacher/TRAIN_STEPS = 30
student/AdamW.learning_rate = 0.5
student/cat_xent/AdamW.learning_rate = 0.25
Experiment:
  teachers = {'teacher': 'models/t5_small.gin'}
  students = {'student': 'models/t5_tiny.gin'}
  objectives = ['xent', 'cat_xent']
  seeds = [0, 1]
"""


def plan(tmp_path, *flags, more="", jobs=2):
    path = tmp_path / "mine.gin"
    path.write_text(BASE + more)
    given = GinFlags(files=(str(path),), bindings=(f'RUN_DIR="{tmp_path}/run"', *flags))
    command = configuration.configure(configuration.of_flags(given), "run")
    return Plan(command.arguments["experiment"], command.arguments["run_dir"], given, jobs)


def test_the_saved_configuration_is_the_whole_experiment(tmp_path):
    """By itself, too: of the flags only those are lost that win over an objective's file."""
    flags = ("T5Config.mlp_dim=96", "student/BATCH_SIZE=4")
    first = plan(tmp_path, *flags)
    given = GinFlags((str(tmp_path / "mine.gin"),), (f'RUN_DIR="{tmp_path}/run"', *flags))
    command = configuration.configure(configuration.of_flags(given), "run")
    outputs.save_configuration(tmp_path, command, after=dataclasses.replace(given, files=()).arguments())
    saved = tmp_path / "config.gin"
    words = shlex.split(saved.read_text().partition("\n")[0].removeprefix("# Do it again: "))
    assert words[:3] == ["cat-jax", "run", f"--gin_file={saved}"]
    for bindings in ((), tuple(word.removeprefix("--gin.") for word in words[3:])):
        again = GinFlags((str(saved),), bindings)
        command = configuration.configure(configuration.of_flags(again), "run")
        second = Plan(command.arguments["experiment"], command.arguments["run_dir"], again, 2)
        assert [stage.configuration for stage in second.stages] == [stage.configuration for stage in first.stages]


def stages(made):
    return {stage.name: stage for stage in made.stages}


def value(stage, key):
    """What a stage's command makes of a key of its configuration."""
    flags = [flag.removeprefix("--gin.") for flag in stage.arguments if flag.startswith("--gin.")]
    files = [flag.partition("=")[2] for flag in stage.arguments if flag.startswith("--gin_file=")]
    scopes = [flag.partition("=")[2] for flag in stage.arguments if flag.startswith("--gin_scope=")]
    return configuration.read(files, flags).in_scope((scopes or [""])[0]).merged()[key].value


def test_stages_and_their_needs(tmp_path):
    made = {name: stage.needs for name, stage in stages(plan(tmp_path)).items()}
    students = [f"student.{objective}.{seed}" for seed in (0, 1) for objective in ("xent", "cat_xent")]
    assert made == {
        "prepare": (),
        "train/teacher": ("prepare",),
        "teach/teacher": ("prepare", "train/teacher"),
        "evaluate/teachers": ("prepare", "train/teacher"),
        **{f"train/{name}": ("prepare", "teach/teacher") for name in students},
        "evaluate/students.0": ("prepare", *(f"train/{name}" for name in students[:2])),
        "evaluate/students.1": ("prepare", *(f"train/{name}" for name in students[2:])),
        "cascade": ("evaluate/teachers", "evaluate/students.0", "evaluate/students.1"),
    }


def test_every_stage_reads_its_own_scope(tmp_path):
    made = stages(plan(tmp_path))
    assert value(made["train/teacher"], "TRAIN_STEPS") == 30
    assert value(made["train/student.xent.0"], "TRAIN_STEPS") == 20
    assert value(made["train/student.xent.0"], "AdamW.learning_rate") == 0.5
    assert value(made["train/student.cat_xent.1"], "AdamW.learning_rate") == 0.25
    assert value(made["train/student.cat_xent.1"], "SEED") == 1
    assert value(made["train/student.cat_xent.1"], "Objective.keep") == "either"
    assert value(made["train/teacher"], "Objective.keep") == "all"
    assert value(made["train/teacher"], "T5Config.embed_dim") == 512
    assert value(made["train/student.xent.0"], "T5Config.embed_dim") == 256
    assert value(made["train/teacher"], "TEACHER") is None
    assert repr(value(made["train/student.xent.0"], "TEACHER")) == "@StoredTeacher()"
    assert value(made["train/student.xent.0"], "SIGNAL_DIR") == value(made["teach/teacher"], "SIGNAL_DIR")
    assert value(made["prepare"], "PREPARE_SPLITS") == ["train", "validation", "test"]
    assert value(made["evaluate/students.1"], "EVAL_MODELS") == {
        f"student.{name}.1": f"{tmp_path}/run/models/student.{name}.1" for name in ("xent", "cat_xent")
    }
    assert value(made["cascade"], "STUDENTS")["student.cat_xent.1"] == ("cat_xent", 1)


def test_scoped_macros_work_as_flags_as_they_do_in_files(tmp_path):
    flags = ["teacher/TRAIN_STEPS=10", "student/cat_xent/TRAIN_STEPS=7", "eval/DatasetConfig.seed=4"]
    made = stages(plan(tmp_path, *flags))
    assert value(made["train/teacher"], "TRAIN_STEPS") == 10, "the flag wins over the file"
    assert value(made["train/student.cat_xent.0"], "TRAIN_STEPS") == 7
    assert value(made["train/student.xent.0"], "TRAIN_STEPS") == 20
    assert "TRAIN_STEPS = 10\n" in made["train/teacher"].configuration
    assert "eval/DatasetConfig.seed = 4\n" in made["train/teacher"].configuration
    demo = GinFlags(files=("runs/demo.gin",), bindings=(f'RUN_DIR="{tmp_path}/run"', "teacher/TRAIN_STEPS=900"))
    experiment = configuration.configure(configuration.of_flags(demo), "run").arguments["experiment"]
    assert value(stages(Plan(experiment, tmp_path / "run", demo, 2))["train/teacher"], "TRAIN_STEPS") == 900


def test_the_cascade_knows_the_module_and_the_stores(tmp_path):
    text = stages(plan(tmp_path))["cascade"].configuration
    for line in (
        "MIXTURE_OR_TASK_MODULE = 'toy_tasks'",
        "STORE_DIR = 'RUN_DIR/store'",
        "cascade.functions = @TaskMetrics()",
    ):
        assert f"{line}\n" in text


def changed(tmp_path, *flags, more=""):
    """Names of the stages that are in both plans and mean something else in the second."""
    before = fingerprints(plan(tmp_path).stages)
    after = fingerprints(plan(tmp_path, *flags, more=more).stages)
    return {name for name in before if name in after and before[name] != after[name]}


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["MeshConfig.fsdp=2"], set()),
        (["JOBS=1"], set()),
        (["PrepareConfig.workers=2"], set()),
        (["CheckpointConfig.keep=3"], set()),
        (["cascade.resamples=10"], {"cascade"}),
        (["evaluate.batch_size=64"], {"evaluate/teachers", "evaluate/students.0", "evaluate/students.1", "cascade"}),
        (["LAYOUT=@BitLayout()"], {"teach", "train/student", "evaluate/students", "cascade"}),
        (["student/cat_xent/Objective.w=0.9"], {"train/student.cat_xent", "evaluate/students", "cascade"}),
        (["student/TRAIN_STEPS=5"], {"train/student", "evaluate/students", "cascade"}),
        (["TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8}"], {"prepare", "train", "teach", "evaluate", "cascade"}),
        (["Experiment.objectives=['xent', 'cat_xent', 'dist']"], {"evaluate/students", "cascade"}),
        (["Experiment.test_split='test2'"], {"evaluate", "cascade"}),
    ],
)
def test_what_a_change_reaches(tmp_path, flags, what):
    found = changed(tmp_path, *flags)
    assert {name for name in found if not any(name.startswith(prefix) for prefix in what)} == set()
    assert all(any(name.startswith(prefix) for name in found) for prefix in what)


def test_more_splits_are_prepared_without_touching_what_was_trained(tmp_path):
    before, after = (stages(plan(tmp_path, *flags))["prepare"] for flags in ([], ["Experiment.test_split='test2'"]))
    assert before.configuration == after.configuration
    assert before.extent != after.extent


def test_the_place_of_a_run_is_no_part_of_its_configuration(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert fingerprints(plan(tmp_path / "a").stages) == fingerprints(plan(tmp_path / "b").stages)


@pytest.mark.parametrize(
    ("flag", "step"), [("JOBS=1", None), ("teacher/teach.step=12", 12), ("teach.step='best'", "best")]
)
def test_a_stored_signal_must_be_from_the_teacher_that_is_there_now(tmp_path, flag, step):
    student = stages(plan(tmp_path, flag))["train/student.cat_xent.0"]
    assert repr(value(student, "StoredTeacher.model_dir")) == "%TEACHER_DIR"
    assert value(student, "TEACHER_DIR") == f"{tmp_path}/run/models/teacher"
    assert ("StoredTeacher.step=" in str(student.arguments)) == (step is not None)
    if step is not None:
        assert value(student, "StoredTeacher.step") == step


def test_a_live_teacher_needs_no_signal(tmp_path):
    made = stages(plan(tmp_path, "Experiment.signal='live'"))
    assert "teach/teacher" not in made
    student = made["train/student.cat_xent.0"]
    assert student.needs == ("prepare", "train/teacher")
    assert repr(value(student, "TEACHER")) == "@LiveTeacher()"
    assert value(student, "TEACHER_DIR") == f"{tmp_path}/run/models/teacher"
    assert "StoredTeacher" not in str(student.arguments)


def seal(step):
    return Seal(step, f"params-{step}", {}, None, "max", {}, {})


@pytest.fixture
def trained(tmp_path):
    """The directory of a model with two checkpoints; no file of them but what names them."""
    directory = tmp_path / "xl"
    sizes = {"embed_dim": 8, "num_heads": 1, "head_dim": 8, "mlp_dim": 8}
    config = T5Config(vocab_size=8, num_encoder_layers=1, num_decoder_layers=1, **sizes)
    write_model_file(directory, config, {})
    for step in (10, 20):
        write_seal(directory / "checkpoints" / str(step), seal(step))
    return directory


def test_a_teacher_that_is_trained_already(tmp_path, trained):
    made = stages(plan(tmp_path, f"Experiment.teachers={{'teacher': '{trained}'}}"))
    assert "train/teacher" not in made
    assert made["teach/teacher"].needs == ("prepare",)
    assert value(made["teach/teacher"], "TEACHER_DIR") == str(trained)
    assert value(made["evaluate/teachers"], "EVAL_MODELS") == {"teacher": str(trained)}
    assert "teacher" not in value(made["cascade"], "CONFIGS"), "it has none"


def test_the_configuration_of_one_checkpoint_is_that_of_its_run(tmp_path, trained):
    (trained / "operative_config.gin").write_text("")
    made = stages(plan(tmp_path, f"Experiment.teachers={{'teacher': '{trained}/checkpoints/10'}}"))
    assert value(made["cascade"], "CONFIGS")["teacher"] == str(trained / "operative_config.gin")


@pytest.mark.parametrize("signal", ["stored", "live"])
def test_a_trained_teacher_is_known_by_its_parameters(tmp_path, trained, signal):
    def prints(*more):
        flags = [f"Experiment.teachers={{'teacher': '{trained}'}}", f"Experiment.signal='{signal}'", *more]
        return fingerprints(plan(tmp_path, *flags).stages)

    pin = ("teach.step=20", "LiveTeacher.step=20")
    before, pinned_before = prints(), prints(*pin)
    assert prints() == before
    write_seal(trained / "checkpoints" / "30", seal(30))
    now, pinned = prints(), prints(*pin)
    assert {name for name in now if now[name] == before[name]} == {"prepare"}
    assert {name for name in now if pinned[name] == pinned_before[name]} >= {
        name for name in now if name.startswith(("teach", "train"))
    }


def test_paths_in_the_run_directory_are_the_same_wherever_it_lies(tmp_path):
    made = stages(plan(tmp_path))
    assert str(tmp_path) not in made["train/student.xent.0"].configuration
    assert "SIGNAL_DIR = 'RUN_DIR/signals/teacher'" in made["train/student.xent.0"].configuration
    here = stages(plan(tmp_path, "RUN_DIR='.'"))["train/student.xent.0"].configuration
    assert "AdamW.learning_rate = 0.5" in here


def test_the_experiments_file_changes_what_model_files_bind(tmp_path):
    """But not what an objective is: the table would call it by a wrong name."""
    made = stages(plan(tmp_path, more="T5Config.vocab_size = 384\nObjective.w = 0.25\n"))
    for name in ("train/teacher", "train/student.xent.0", "teach/teacher"):
        assert value(made[name], "T5Config.vocab_size") == 384, name
    assert value(made["train/student.xent.0"], "Objective.w") == 1.0


def test_two_teachers_and_two_students_make_four_reports(tmp_path):
    two = "{'a': 'models/t5_small.gin', 'b': 'models/t5_base.gin'}"
    students = "{'s': 'models/t5_tiny.gin', 't': 'models/t5_small.gin'}"
    made = plan(tmp_path, f"Experiment.teachers={two}", f"Experiment.students={students}")
    names = stages(made)
    assert "train/b.t.cat_xent.1" in names
    assert {name for name in names if name.startswith("cascade")} == {
        f"cascade/{teacher}.{student}" for teacher in "ab" for student in "st"
    }
    assert value(names["train/b.t.cat_xent.1"], "SIGNAL_DIR").endswith("signals/b")
    assert str(made.report_dir("a", "t")).endswith("run/reports/a.t")


def test_an_objective_of_the_users_own(tmp_path):
    (tmp_path / "sharp.gin").write_text("Objective.w = 1.0\nObjective.keep = 'teacher'\nOBJECTIVE = @Objective()\n")
    made = stages(plan(tmp_path, f"Experiment.objectives=['xent', '{tmp_path}/sharp.gin']"))
    assert value(made["train/student.sharp.0"], "Objective.keep") == "teacher"
    assert (objective_name("a/sharp.gin"), objective_file("a/sharp.gin")) == ("sharp", "a/sharp.gin")
    assert (objective_name("dist"), objective_file("dist")) == ("dist", "objectives/dist.gin")


def test_without_a_validation_split_nothing_is_evaluated_while_training(tmp_path):
    made = stages(plan(tmp_path, "VALIDATION_SPLIT=None"))
    assert value(made["train/student.xent.0"], "EVAL_DATASET") is None
    assert value(made["prepare"], "PREPARE_SPLITS") == ["train", "test"]
    assert value(made["cascade"], "VALIDATION_SPLIT") is None


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("student/cat_xent/Objective.tempreature=2.0", "Objective has no parameter tempreature"),
        ("teacher/AdmaW.learning_rate=2.0", "unknown name AdmaW"),
        ("Experiment.objectives=['xent', 'cat_xnet']", "objectives/cat_xnet.gin"),
        ("teacher/TRAIN_STPES=10", "nothing reads the macro teacher/TRAIN_STPES (--gin.teacher/TRAIN_STPES=10)"),
        ("techer/TRAIN_STEPS=10", "no teacher or student is called 'techer' (--gin.techer/TRAIN_STEPS=10): did you"),
        ("techer/AdamW.learning_rate=0.1", "no teacher or student is called 'techer'"),
        ("TRAIN_STEPS=%NUM_STEPS", "stage train/student.xent.0: train needs a value for NUM_STEPS"),
        ("Experiment.seeds=[]", "Experiment.seeds is []"),
        ("Experiment.seeds=[1, 1]", "has an entry twice"),
        ("Experiment.objectives='xent'", "Experiment.objectives cannot be 'xent'"),
        ("Experiment.students={'teacher': 'models/t5_tiny.gin'}", "both a teacher and a student"),
        ("Experiment.students={'eval': 'models/t5_tiny.gin'}", "cannot be called 'eval'"),
        ("Experiment.students={'a.b': 'models/t5_tiny.gin'}", "cannot be called 'a.b'"),
        ("Experiment.teachers={}", "Experiment.teachers names nothing"),
        ("Experiment.signal='radio'", "Experiment.signal is 'radio'"),
    ],
)
def test_a_wrong_experiment_is_refused_before_anything_starts(tmp_path, flag, said):
    with pytest.raises(UserError) as caught:
        plan(tmp_path, flag)
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("techer/TRAIN_STEPS = 10", "no teacher or student is called 'techer' ({file} line 15): did you mean teacher?"),
        ("TRAIN_STPES = 10", "nothing reads the macro TRAIN_STPES ({file} line 15): did you mean TRAIN_STEPS or "),
        ("big/TRAIN_STEPS = 10", None),
        ("JIGSAW = 10", None),
        ("teacher/JIGSAW = 10", "nothing reads the macro teacher/JIGSAW ({file} line 15): leave it out"),
    ],
)
def test_a_file_sets_what_nothing_reads(tmp_path, caplog, line, said):
    """It may be shared; but what is in a scope, or looks like a misspelt other, is told, once for all stages."""
    plan(tmp_path, more=line)
    assert len(caplog.messages) == (said is not None)
    for message in caplog.messages:
        assert message.startswith("warning: " + said.format(file=tmp_path / "mine.gin"))


def test_a_teacher_may_start_from_another_model(tmp_path):
    made = stages(plan(tmp_path, "teacher/INITIAL_CHECKPOINT_PATH='hf'"))
    assert value(made["train/teacher"], "INITIAL_CHECKPOINT_PATH") == "hf"
    assert value(made["train/student.xent.0"], "INITIAL_CHECKPOINT_PATH") is None
    assert repr(value(made["train/teacher"], "train.initial_checkpoint_path")) == "%INITIAL_CHECKPOINT_PATH"


def test_a_flag_that_no_stage_reads_is_told_once_and_one_that_any_reads_is_not(tmp_path, caplog):
    """Models and objectives are of files that only some stages name."""
    read = ["Experiment.seeds=[0]", "T5Config.dropout_rate=0.0", "student/Objective.w=0.3", "CheckpointConfig.keep=2"]
    plan(tmp_path, *read, "BeamSearch.beams=8")
    line = "warning: nothing refers to @BeamSearch(): BeamSearch.beams has no effect (--gin.BeamSearch.beams=8)"
    assert caplog.messages == [line]


def test_default_jobs_leave_an_accelerator_to_one_process(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert default_jobs() >= 1
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setattr("cat_jax.cli.experiment._ACCELERATORS", ("/dev/null",))
    assert default_jobs() == 1


def test_an_experiment_has_the_splits_it_evaluates():
    experiment = Experiment({"t": "x.gin"}, {"s": "y.gin"}, ["xent"], validation_split=None)
    assert experiment.evaluation_splits == ["test"]


def test_a_macros_own_scope_may_stand_inside_a_students(tmp_path):
    """Gin calls a macro in a scope of its name: `LEARNING_RATE/CosineDecay.peak` is of that macro's schedule."""
    flags = ["LEARNING_RATE=@CosineDecay()", "CosineDecay.peak=0.1", "student/LEARNING_RATE/CosineDecay.peak=0.5"]
    made = stages(plan(tmp_path, *flags, "student/AdamW.learning_rate=%LEARNING_RATE", "CosineDecay.warmup_steps=2"))
    assert "LEARNING_RATE/CosineDecay.peak = 0.5\n" in made["train/student.xent.0"].configuration
    assert "LEARNING_RATE/CosineDecay.peak" not in made["train/teacher"].configuration
