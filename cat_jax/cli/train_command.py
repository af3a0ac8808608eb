"""`cat-jax train`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from cat_jax.cli.command import MULTIPROCESS, Manual, parse_gin_flags
from cat_jax.cli.outputs import check_writable, recorded
from cat_jax.cli.stores import ensure_prepared, wanted_in

MANUAL = Manual(
    name="train",
    what="""
    Trains a model on a prepared task or mixture, with the plain, the distilled or the cascade-aware objective. Started
    again it goes on exactly where its last checkpoint is. SIGTERM saves and ends with exit code 75; a loss or gradient
    that is not finite ends with 3. A store that is missing is prepared first. Imports neither TensorFlow nor SeqIO.
    """,
    macros={
        "MODEL_DIR": "checkpoints, metrics and configuration go there",
        "MIXTURE_OR_TASK_NAME": "the registered SeqIO task or mixture",
        "MIXTURE_OR_TASK_MODULE": "the module that registers it; needed only to prepare a missing store",
        "TASK_FEATURE_LENGTHS": "tokens of each feature, e.g. {'inputs': 128, 'targets': 32}",
        "STORE_DIR": "where the stores are",
        "TRAIN_STEPS": "when to stop",
        "MODEL": "set by models/*.gin; by models/from_checkpoint.gin from INITIAL_CHECKPOINT_PATH",
        "OBJECTIVE": "set by objectives/*.gin",
        "TEACHER": "None, @StoredTeacher() with SIGNAL_DIR, or @LiveTeacher() with TEACHER_DIR",
        "TEACHER_MODEL": "gin file(s) of a live teacher that does not say what it is, as a checkpoint of T5X",
        "TEACHER_DTYPE": "of a live teacher: float32 (default), bfloat16 or int8",
        "LORA": "@Lora() trains low-rank adapters alone (runs/lora.gin; docs/training.md)",
        "BATCH_SIZE, LEARNING_RATE, SEED": "have defaults",
        "VALIDATION_SPLIT": "what is measured while training; EVAL_DATASET=None for a task that has none",
    },
    switches=MULTIPROCESS,
    example="""
    cat-jax train --gin_file=runs/train.gin --gin_file=models/t5_tiny.gin --gin_file=objectives/cat_xent.gin \\
      --gin.MODEL_DIR='"runs/small"' --gin.TRAIN_STEPS=1000 --gin.STORE_DIR='"runs/store"' \\
      --gin.MIXTURE_OR_TASK_NAME='"pronunciation"' --gin.MIXTURE_OR_TASK_MODULE='"cat_jax_tasks.pronunciation"' \\
      --gin.TASK_FEATURE_LENGTHS="{'inputs': 16, 'targets': 16}" \\
      --gin.TEACHER='@StoredTeacher()' --gin.SIGNAL_DIR='"runs/signal"'
    """,
)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    flags, given = parse_gin_flags(MANUAL, argv)
    from cat_jax.cli import configuration, devices
    from cat_jax.cli.model_files import resolved

    several = devices.start("--multiprocess" in given)
    command = configuration.configure(configuration.of_flags(flags), "train")
    changes = resolved(command, flags)
    model_dir = command.arguments["model_dir"]
    check_writable(model_dir, "MODEL_DIR")
    ensure_prepared(wanted_in(command.arguments), flags, several)
    with recorded(model_dir, command) if devices.is_first() else contextlib.nullcontext():
        command.call(**changes)
    return 0
