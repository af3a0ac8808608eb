"""The kinds of bad input: what is wrong, and what must be said of it."""

import dataclasses
from collections.abc import Callable

from bad_input_files import flip, flip_record, one, own_loss, truncate, write

BASE = """
include 'runs/experiment.gin'
MIXTURE_OR_TASK_NAME = 'reverse'
MIXTURE_OR_TASK_MODULE = 'toy_experiment'
TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 4}
STORE_DIR = 'store'
TRAIN_STEPS = 2
BATCH_SIZE = 16
MODEL = @T5Config()
T5Config:
  vocab_size = 384
  embed_dim = 8
  num_heads = 2
  head_dim = 4
  mlp_dim = 8
  num_encoder_layers = 1
  num_decoder_layers = 1
teach.batch_size = 16
EVAL_SPLITS = ['validation', 'test']
"""

TRAIN = ["--gin_file=objectives/xent.gin", "--gin.MODEL_DIR='out'"]
STORED = ["--gin.TEACHER=@StoredTeacher()", "--gin.SIGNAL_DIR='signal'"]
TEACH = ["--gin.TEACHER_DIR='teacher'", "--gin.SIGNAL_DIR='out'"]
EVALUATE = ["--gin.EVAL_MODELS={'m': 'teacher'}", "--gin.TABLES_DIR='out'"]
CASCADE = [
    "--gin.TABLES_DIR='tables'", "--gin.REPORT_DIR='out'", "--gin.LARGE='teacher'",
    "--gin.STUDENTS={'student': ('xent', 0)}", "--gin.cascade.resamples=0",
]  # fmt: skip
RUN = [
    "--gin.RUN_DIR='out'", "--gin.Experiment.teachers={'t': 'base.gin'}", "--gin.Experiment.students={'s': 'base.gin'}",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of bad input.

    Attributes:
      name: of the kind.
      argv: the command, and its flags beyond `--gin_file=base.gin`.
      said: what the line must say: the thing, and the mend.
      spoil: makes one thing wrong in the current directory.
      code: the exit code.
      left: files that the command may leave: it had begun to work, and they are whole.
      base: whether base.gin is given.
    """

    name: str
    argv: list[str]
    said: list[str]
    spoil: Callable[[], object] = lambda: None
    code: int = 2
    left: tuple[str, ...] = ()
    base: bool = True


CASES = [
    # The command line and gin.
    Case("unknown_command", ["trian"], ["no command trian", "did you mean train?"], base=False),
    Case(
        "scope_of_a_run", ["run", "--gin_file=base.gin", "--gin_scope=student"], ["--gin_scope=student", "SCOPE/NAME"]
    ),
    Case("unknown_flag", ["train", "--gin_scop=x"], ["unknown flag --gin_scop=x", "--gin_scope"]),
    Case("nothing_configured", ["train"], ["--gin_file=runs/train.gin"], base=False),
    Case("missing_gin_file", ["train", "--gin_file=runs/trian.gin"], ["runs/trian.gin", "did you mean runs/train.gin"]),
    Case(
        "not_gin",
        ["train", "--gin_file=bad.gin"],
        ["bad.gin line 2", "B = = 3"],
        lambda: write("bad.gin", "A = 1\nB = = 3\n"),
    ),
    Case("unknown_name", ["train", *TRAIN, "--gin.AdmaW.b1=0.5"], ["unknown name AdmaW", "did you mean AdamW?"]),
    Case("unknown_parameter", ["train", *TRAIN, "--gin.AdamW.bata=1"], ["AdamW has no parameter bata", "b1"]),
    Case(
        "missing_macros",
        ["train", "--gin_file=runs/train.gin"],
        ["MODEL_DIR", "TRAIN_STEPS", "OBJECTIVE", "TASK_FEATURE_LENGTHS", "--gin."],
        base=False,
    ),
    Case("unquoted_string", ["train", *TRAIN, "--gin.MODEL_DIR=out/x"], ["--gin.MODEL_DIR='\"out/x\"'"]),
    Case("macro_of_itself", ["train", *TRAIN, "--gin.SEED=%SEED"], ["the macro SEED is %SEED", "give it a value"]),
    Case("misspelt_macro", ["train", *TRAIN, "--gin.TRIAN_STEPS=3"], ["TRIAN_STEPS", "did you mean TRAIN_STEPS"]),
    Case(
        "missing_module_of_a_gin_file",
        ["train", "--gin_file=own.gin"],
        ["no module my_losses_that_are_not", "PYTHONPATH"],
        lambda: write("own.gin", "import my_losses_that_are_not\n"),
    ),
    # Values that no run can use.
    Case(
        "wrong_type",
        ["train", *TRAIN, "--gin.T5Config.embed_dim='eight'"],
        ["T5Config.embed_dim cannot be 'eight'", "a whole number"],
    ),
    Case(
        "models_in_one_string",
        ["evaluate", *EVALUATE, "--gin.EVAL_MODELS='teacher'"],
        ["evaluate.models cannot be 'teacher' (--gin.EVAL_MODELS", "{a string in quotes: a string in quotes}"],
    ),
    Case(
        "students_without_objective_and_seed",
        ["cascade", *CASCADE, "--gin.STUDENTS=['student']"],
        ["cascade.students cannot be ['student']", "{a string in quotes: (a string in quotes, a whole number)}"],
    ),
    Case(
        "one_rule_outside_a_list",
        ["cascade", *CASCADE, "--gin.cascade.rules='entropy'"],
        ["cascade.rules cannot be 'entropy'", "[a string in quotes, ...]"],
    ),
    Case(
        "misspelt_parameter_of_ones_own_class",
        ["train", *TRAIN, "--gin_file=own.gin"],
        ["own_losses.Boosted has no parameter bost", "own.gin line 5", "did you mean boost"],
        own_loss("bost = 3.0"),
    ),
    Case(
        "own_weights_of_a_wrong_shape",
        ["train", *TRAIN, "--gin_file=own.gin"],
        ["Boosted.token_weights gives the shape (1,) for 64 tokens", "(64,)"],
        own_loss("boost = 3.0"),
        left=("out/*.json*", "out/*.gin", "out/tensorboard/*", "out/.train.lock"),
    ),
    Case("no_steps", ["train", *TRAIN, "--gin.TRAIN_STEPS=0"], ["train_steps is 0", "above 0"]),
    Case("unknown_keep_rule", ["train", *TRAIN, "--gin.Objective.keep='eihter'"], ["eihter", "either"]),
    Case("weight_out_of_range", ["train", *TRAIN, "--gin.Objective.w=1.5"], ["1.5", "[0, 1]"]),
    Case(
        "unknown_factor_of_a_schedule",
        ["train", *TRAIN, "--gin.LEARNING_RATE=@Schedule()", "--gin.Schedule.factors='constant * liner_warmup'"],
        ["liner_warmup", "linear_warmup"],
    ),
    Case("wrong_mesh", ["train", *TRAIN, "--gin.MeshConfig.data=3"], ["data=3", "devices"]),
    Case("two_open_axes", ["train", *TRAIN, "--gin.MeshConfig.fsdp=-1"], ["more than one axis open"]),
    Case("batch_and_microbatches", ["train", *TRAIN, "--gin.NUM_MICROBATCHES=3"], ["16", "3"]),
    Case("small_vocabulary", ["train", *TRAIN, "--gin.T5Config.vocab_size=100"], ["100", "vocab"]),
    Case(
        "loss_not_finite",
        ["train", *TRAIN, "--gin.LEARNING_RATE=1e38", "--gin.TRAIN_STEPS=20", "--gin.train.log_period=1"],
        ["not finite", "step"],
        code=3,
        left=("out/*.json*", "out/*.gin", "out/tensorboard/*", "out/.train.lock"),
    ),
    # Data.
    Case("unknown_task", ["prepare", "--gin.MIXTURE_OR_TASK_NAME='revers'"], ["'revers'", "reverse"]),
    Case(
        "task_module_that_exits",
        ["prepare", "--gin.MIXTURE_OR_TASK_MODULE='exits'", "--gin.STORE_DIR='out'"],
        ["'exits' fails when imported (SystemExit: set DATA)"],
        lambda: write("exits.py", "import sys\nsys.exit('set DATA')\n"),
    ),
    Case(
        "missing_package_of_an_imported_module",
        ["train", *TRAIN, "--gin_file=own.gin"],
        ["the package no_such_package is not installed", "needy.py line 1"],
        lambda: (write("needy.py", "import no_such_package\n"), write("own.gin", "import needy\n")),
    ),
    Case(
        "missing_task_module",
        ["prepare", "--gin.MIXTURE_OR_TASK_MODULE='no_tasks_here'", "--gin.STORE_DIR='out'"],
        ["no module 'no_tasks_here'", "MIXTURE_OR_TASK_MODULE"],
    ),
    Case(
        "split_without_texts",
        ["evaluate", *EVALUATE, "--gin.EVAL_SPLITS=['train']"],
        ["store/reverse/train holds no texts", "PrepareConfig.keep_raw = 'all'"],
    ),
    Case(
        "unknown_split_of_a_store_that_is_there",
        ["evaluate", *EVALUATE, "--gin.EVAL_SPLITS=['dev']", "--gin.TASK_FEATURE_LENGTHS=None"],
        ["no split 'dev'", "validation"],
    ),
    Case("unknown_split", ["prepare", "--gin.PREPARE_SPLITS=['dev']"], ["no split 'dev'", "validation"]),
    Case(
        "missing_feature_length",
        ["prepare", "--gin.TASK_FEATURE_LENGTHS={'inputs': 8}", "--gin.STORE_DIR='out'"],
        ["'targets'", "TASK_FEATURE_LENGTHS"],
    ),
    Case(
        "store_of_other_lengths",
        ["prepare", "--gin.TASK_FEATURE_LENGTHS={'inputs': 9, 'targets': 4}"],
        ["store/reverse", "overwrite"],
    ),
    Case(
        "missing_store_whose_task_is_unknown",
        ["train", *TRAIN, "--gin.STORE_DIR='nowhere'", "--gin.MIXTURE_OR_TASK_NAME='revers'"],
        ["'revers'", "reverse"],
    ),
    Case("shorter_than_the_store", ["train", *TRAIN, "--gin.TASK_FEATURE_LENGTHS={'inputs': 4, 'targets': 4}"], ["8"]),
    Case("truncated_shard", ["train", *TRAIN], ["array_record", "prepare"], lambda: truncate("store/*/train/*record")),
    Case(
        "flipped_byte_in_a_store",
        ["train", *TRAIN],
        ["record", "array_record", "prepare"],
        lambda: flip_record("store/*/train/*.array_record"),
        left=("out/*.json*", "out/*.gin", "out/tensorboard/*", "out/.train.lock"),
    ),
    Case(
        "changed_manifest",
        ["train", *TRAIN],
        ["store/reverse/train/manifest.json", "prepare"],
        lambda: flip("store/*/train/manifest.json"),
    ),
    Case(
        "missing_shard",
        ["train", *TRAIN],
        ["missing", "array_record", "prepare"],
        lambda: one("store/*/train/*.array_record").unlink(),
    ),
    # Teachers and signals.
    Case("no_teacher", ["train", *TRAIN, "--gin_file=objectives/cat_xent.gin"], ["cat_xent", "TEACHER"]),
    Case(
        "a_bit_where_a_distribution_is_needed",
        ["train", *TRAIN, *STORED, "--gin_file=objectives/dist.gin", "--gin.SIGNAL_DIR='bits'"],
        ["bits", "SparseLayout"],
    ),
    Case(
        "another_temperature",
        ["train", *TRAIN, *STORED, "--gin_file=objectives/dist.gin", "--gin.Objective.temperature=2.0"],
        ["signal", "temperature"],
    ),
    Case(
        "signal_of_another_store",
        ["train", *TRAIN, *STORED, "--gin.STORE_DIR='other'"],
        ["signal/reverse", "other/reverse", "teach"],
    ),
    Case("no_signal", ["train", *TRAIN, *STORED, "--gin.SIGNAL_DIR='silence'"], ["silence", "teach"]),
    Case(
        "flipped_byte_in_a_signal",
        ["train", *TRAIN, *STORED],
        ["signal/reverse", "teach"],
        lambda: flip("signal/reverse/train/shard*[!n]"),
    ),
    Case(
        "truncated_signal",
        ["train", *TRAIN, *STORED],
        ["signal/reverse", "teach"],
        lambda: truncate("signal/reverse/train/shard*[!n]"),
    ),
    Case(
        "no_live_teacher",
        ["train", *TRAIN, "--gin.TEACHER=@LiveTeacher()", "--gin.TEACHER_DIR='nobody'"],
        ["nobody"],
    ),
    Case(
        "signal_of_another_layout", ["teach", *TEACH, "--gin.SIGNAL_DIR='bits'"], ["bits", "cat-jax teach --overwrite"]
    ),
    Case(
        "a_signal_over_its_store",
        ["teach", *TEACH, "--gin.SIGNAL_DIR='store'", "--overwrite"],
        ["store/reverse/train", "example store", "name another SIGNAL_DIR"],
    ),
    Case("teach_without_a_model", ["teach", *TEACH, "--gin.TEACHER_DIR='nobody'"], ["nobody"]),
    Case(
        "teacher_of_another_vocabulary",
        ["teach", *TEACH],
        ["teacher", "vocabular"],
        lambda: write(
            "teacher/model.json", one("teacher/model.json").read_text().replace('targets": "', 'targets": "0')
        ),
    ),
    # Checkpoints.
    Case(
        "flipped_byte_in_a_checkpoint",
        ["evaluate", *EVALUATE],
        ["teacher/checkpoints/2", "checksum"],
        lambda: flip("teacher/checkpoints/2/params/d/*"),
    ),
    Case(
        "checkpoint_without_its_seal",
        ["evaluate", *EVALUATE],
        ["teacher", "checkpoint"],
        lambda: one("teacher/checkpoints/2/SEAL.json").unlink(),
    ),
    Case("no_initial_checkpoint", ["train", *TRAIN, "--gin.train.initial_checkpoint_path='nobody'"], ["nobody"]),
    Case(
        "directory_of_another_run",
        ["train", *TRAIN, "--gin.MODEL_DIR='teacher'", "--gin.AdamW.b1=0.8"],
        ["teacher", "b1", "0.8", "MODEL_DIR"],
    ),
    # Places that cannot be written.
    Case("a_file_in_the_way", ["train", *TRAIN], ["out", "MODEL_DIR"], lambda: write("out", "a file")),
    Case("a_file_on_the_way", ["teach", *TEACH, "--gin.SIGNAL_DIR='file/x'"], ["file"], lambda: write("file", "")),
    Case("a_bucket", ["train", *TRAIN, "--gin.MODEL_DIR='gs://bucket/m'"], ["MODEL_DIR is gs://bucket/m", "mount"]),
    Case("read_only", ["evaluate", *EVALUATE, "--gin.TABLES_DIR='/proc/tables'"], ["/proc/tables", "may write"]),
    # Evaluation and cascades.
    Case("model_that_is_not", ["evaluate", *EVALUATE, "--gin.EVAL_MODELS={'m': 'nobody'}"], ["nobody"]),
    Case("no_options_to_score", ["evaluate", *EVALUATE, "--gin.EVAL_MODE='score'"], ["option"]),
    Case("unknown_mode", ["evaluate", *EVALUATE, "--gin.EVAL_MODE='beam'"], ["'beam'", "generate"]),
    Case(
        "beams_that_are_none",
        ["evaluate", *EVALUATE, "--gin.evaluate.decoding=@BeamSearch()", "--gin.BeamSearch.beams=0"],
        ["BeamSearch.beams is 0", "above 0"],
    ),
    Case(
        "unknown_decoding",
        ["evaluate", *EVALUATE, "--gin.evaluate.decoding='beam'"],
        ["evaluate.decoding cannot be 'beam'", "@Greedy() or @BeamSearch() or @Sampling()"],
    ),
    Case("tables_that_are_not", ["cascade", *CASCADE, "--gin.LARGE='nobody'"], ["'nobody'", "evaluate", "student"]),
    Case(
        "tables_of_a_student_that_are_not",
        ["cascade", *CASCADE, "--gin.STUDENTS={'studnt': ('xent', 0)}"],
        ["tables/studnt/reverse.test.parquet", "of other models there is one: student, teacher"],
    ),
    Case(
        "truncated_table",
        ["cascade", *CASCADE],
        ["tables/student/reverse.test.parquet", "evaluate"],
        lambda: truncate("tables/student/reverse.test.parquet"),
    ),
    Case("unknown_confidence_rule", ["cascade", *CASCADE, "--gin.cascade.rules=['chow_avrage']"], ["chow_avrage"]),
    Case("unknown_target", ["cascade", *CASCADE, "--gin.cascade.targets=['speed=3']"], ["speed=3", "rate="]),
    # Runs.
    Case("no_jobs", ["run", *RUN, "--gin.JOBS=0"], ["JOBS is 0"]),
    Case("no_such_objective", ["run", *RUN, "--gin.Experiment.objectives=['xnet']"], ["objectives/xnet.gin"]),
    Case(
        "one_split_for_thresholds_and_test",
        ["cascade", *CASCADE, "--gin.TEST_SPLIT='validation'"],
        ["same split 'validation'", "VALIDATION_SPLIT = None"],
    ),
    Case(
        "one_split_of_a_run_for_both",
        ["run", *RUN, "--gin.Experiment.test_split='validation'"],
        ["same split 'validation'", "validation_split = None"],
    ),
    Case(
        "misspelt_objective_of_a_scope",
        ["run", *RUN, "--gin.s/cat_xnet/Objective.w=0.3"],
        ["no objective is called 'cat_xnet'", "did you mean cat_xent"],
    ),
    Case(
        "a_value_that_a_later_stage_refuses",
        ["run", *RUN, "--gin.s/cat_xent/Objective.w=2"],
        ["stage train/s.cat_xent.0: Objective.w = 2", "[0, 1]"],
    ),
    Case(
        "two_objectives_of_one_name",
        ["run", *RUN, "--gin.Experiment.objectives=['xent', 'my/xent.gin']"],
        ["'xent' and 'my/xent.gin'", "rename"],
    ),
    Case("nothing_to_compare", ["run", *RUN, "--gin.Experiment.students={}"], ["Experiment.students"]),
    Case("no_such_module_to_list", ["tasks", "--module=no_tasks_here"], ["no module 'no_tasks_here'"], base=False),
    Case(
        "misspelt_module_to_list",
        ["tasks", "--module=toy_experimnt"],
        ["no module 'toy_experimnt': did you mean toy_experiment? Else check --module"],
        base=False,
    ),
    Case("no_such_task_to_list", ["tasks", "x*", "--module=toy_experiment"], ["'x*'", "reverse"], base=False),
]
