"""`cat-jax teach`."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cat_jax.cli.command import MULTIPROCESS, Manual, parse_gin_flags
from cat_jax.cli.outputs import check_writable, save_configuration
from cat_jax.cli.stores import Wanted, ensure_prepared
from cat_jax.errors import UserError

logger = logging.getLogger(__name__)

MANUAL = Manual(
    name="teach",
    what="""
    Runs a frozen model over a prepared task or mixture and writes what it thinks of every target token, beside the
    store and record for record: a bit (enough for cat_xent), a sparse distribution, or full logits. A killed `teach`
    goes on at the shard where it was; a signal of other settings is never mixed in. With --import the teacher is
    another program, an API for example, whose answers are checked against the store token by token. With --align the
    teacher has another vocabulary: the bits that `teach` wrote for the same task, prepared with that vocabulary, are
    carried over to the student's tokens by the targets' text.
    """,
    macros={
        "TEACHER_DIR": "of the teacher's run, or another program's checkpoint (docs/checkpoints.md)",
        "TEACHER_MODEL": "gin file(s) of a teacher that does not say what it is, as a checkpoint of T5X",
        "SIGNAL_DIR": "where the signal goes",
        "MIXTURE_OR_TASK_NAME": "what to teach",
        "STORE_DIR": "where its stores are",
        "TEACH_SPLITS": "list of splits (default: ['train'])",
        "LAYOUT": "@SparseLayout() (default), @BitLayout() or @FullLayout()",
        "TEACH_BATCH_SIZE, TEACH_DTYPE": "rows of a device at a time (64); float32, bfloat16 or int8",
        "TEACHER_NAME": "with --import: who taught, in place of TEACHER_DIR; the files decide the layout",
        "TEACHER_STORE_DIR, TEACHER_SIGNAL_DIR": "with --align: the teacher's own store and signal",
    },
    switches={
        "--align": "carry the bits of a teacher of another vocabulary over (docs/teachers.md)",
        "--overwrite": "replace a signal of other settings; redo damaged shards",
        **MULTIPROCESS,
    },
    options={"--import": "a .jsonl or .parquet file of another teacher's answers (docs/teachers.md); repeatable"},
    example="""
    cat-jax teach --gin_file=runs/teach.gin --gin.TEACHER_DIR='"runs/teacher"' --gin.SIGNAL_DIR='"runs/signal"' \\
      --gin.MIXTURE_OR_TASK_NAME='"pronunciation"' --gin.STORE_DIR='"runs/store"' --gin.LAYOUT='@BitLayout()'
    """,
)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    flags, given = parse_gin_flags(MANUAL, argv)
    from cat_jax.cli import configuration, devices
    from cat_jax.cli.model_files import resolved
    from cat_jax.data.layout import split_names

    files, alone = given.get("--import"), [flag for flag in ("--import", "--align") if flag in given]
    if len(alone) > 1:
        raise UserError("--import and --align are two commands", "import the teacher's signal first, then align it")
    if alone and "--multiprocess" in given:
        raise UserError(f"{alone[0]} is one process's work", "leave --multiprocess out")
    root = {"--import": "import_signal", "--align": "align"}[alone[0]] if alone else "teach"
    several = devices.start("--multiprocess" in given)
    devices.cache_compilations()
    command = configuration.configure(configuration.of_flags(flags), root)
    arguments = command.arguments
    splits = split_names(arguments["splits"])
    wanted = [Wanted(arguments["store_dir"], arguments["mixture_or_task"], split) for split in splits]
    if root != "align":  # which needs texts, and says how stores are prepared with them
        ensure_prepared(wanted, flags, several)
    check_writable(arguments["output_dir"], "SIGNAL_DIR")
    own = [f"--import={file}" for file in files or ()] + ["--align"] * (root == "align")
    changes = resolved(command, flags) | ({"overwrite": True} if "--overwrite" in given else {})
    manifests = command.call(**changes, **({"files": files} if files else {}))
    if devices.is_first():
        from cat_jax.teacher.manifest import signal_directory

        for (task, split), manifest in manifests.items():
            directory = signal_directory(arguments["output_dir"], task, split)
            save_configuration(directory, command, flags=own)
            done, layout = {"teach": "taught", "align": "aligned"}.get(root, "imported"), manifest.recipe.layout
            logger.info("%s %s: %s, %d shards, %s", task, split, done, len(manifest.shards), layout)
    return 0
