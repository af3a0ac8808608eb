"""`cat-jax run`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from cat_jax.cli.command import Manual, parse_gin_flags
from cat_jax.cli.outputs import save_configuration
from cat_jax.errors import UserError

MANUAL = Manual(
    name="run",
    run_file="experiment",
    what="""
    Takes an experiment from its description to its report: prepares the data, trains the teachers, stores what they
    know, trains every student with every objective and seed, evaluates all, and draws the cascades. Each stage is a
    `cat-jax` command of its own with a log in RUN_DIR/logs. Started again it skips what is finished and resumes what is
    not. If the configuration of a finished stage has changed it refuses and shows the difference; see docs/gin.md.
    """,
    macros={
        "RUN_DIR": "where everything goes; RUN_DIR/report.html is the end of it",
        "JOBS": "stages that run at once (default: one a core, one on an accelerator)",
        "MIXTURE_OR_TASK_NAME": "the registered SeqIO name",
        "MIXTURE_OR_TASK_MODULE": "the module that registers it",
        "TASK_FEATURE_LENGTHS": "tokens to keep of each feature",
        "TRAIN_STEPS": "of all models; teacher/TRAIN_STEPS of the teacher alone",
        "BATCH_SIZE": "examples in a step; teacher/BATCH_SIZE of the teacher alone",
    },
    example="""
    cat-jax run --gin_file=runs/demo.gin --gin.RUN_DIR='"runs/demo"'
    cat-jax run --gin_file=runs/demo.gin --gin.RUN_DIR='"runs/demo"' --gin.Experiment.seeds=[0,1,2,3]
    """,
)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    flags, _ = parse_gin_flags(MANUAL, argv)
    if flags.scope:
        raise UserError(
            f"--gin_scope={flags.scope} means nothing to `run`, whose stages each have a scope of their own",
            "write --gin.SCOPE/NAME=VALUE, or SCOPE/NAME = VALUE in the file",
        )
    from cat_jax.cli import configuration
    from cat_jax.cli.run import table_of

    command = configuration.configure(configuration.of_flags(flags), "run")
    again = dataclasses.replace(flags, files=()).arguments()
    save = functools.partial(save_configuration, command.arguments["run_dir"], command, after=again)
    reports = command.call(flags=flags, accepted=save)
    for report in reports:
        print(table_of(report))
    for report in reports:
        print(f"report: {report}")
    return 0
