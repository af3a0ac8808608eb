"""`cat-jax prepare`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from cat_jax.cli.command import Manual, parse_gin_flags
from cat_jax.cli.outputs import check_writable, save_configuration
from cat_jax.errors import UserError

logger = logging.getLogger(__name__)

MANUAL = Manual(
    name="prepare",
    what="""
    Runs a SeqIO task or mixture once and writes its examples, token ids with manifest and checksums, as an example
    store. Training, teaching and evaluation read the store and never import TensorFlow. Finished stores and finished
    shards are left as they are, so a killed `prepare` is simply started again.
    """,
    macros={
        "MIXTURE_OR_TASK_NAME": "the registered SeqIO name",
        "MIXTURE_OR_TASK_MODULE": "the module that registers it, or several with commas",
        "TASK_FEATURE_LENGTHS": "tokens to keep of each feature, e.g. {'inputs': 128, 'targets': 32}",
        "STORE_DIR": "where the stores go",
        "PREPARE_SPLITS": "list of splits (default: all that the tasks declare)",
    },
    options={
        "--runner": "an Apache Beam runner for what outgrows one machine: DirectRunner, DataflowRunner ...",
        "--runner_option": "a flag of the Beam pipeline, such as --runner_option=--project=mine; repeatable",
    },
    switches={"--overwrite": "make stores anew that are there already"},
    example="""
    cat-jax prepare --gin_file=runs/prepare.gin \\
      --gin.MIXTURE_OR_TASK_NAME='"pronunciation"' --gin.MIXTURE_OR_TASK_MODULE='"cat_jax_tasks.pronunciation"' \\
      --gin.TASK_FEATURE_LENGTHS="{'inputs': 16, 'targets': 16}" --gin.STORE_DIR='"runs/store"'
    """,
)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    flags, given = parse_gin_flags(MANUAL, argv)
    from cat_jax.cli import configuration
    from cat_jax.data.layout import store_directory

    command = configuration.configure(configuration.of_flags(flags), "prepare")
    config = command.arguments["config"]
    if "--overwrite" in given:
        config = dataclasses.replace(config, overwrite=True)
    if "--runner" in given:
        options = tuple(given.get("--runner_option", ()))
        config = dataclasses.replace(config, runner=given["--runner"][-1], runner_options=options)
    elif "--runner_option" in given:
        raise UserError("--runner_option is of no runner", "name one with --runner")
    check_writable(config.store_dir, "STORE_DIR")
    for manifest in command.call(config=config):
        save_configuration(store_directory(config.store_dir, manifest.task, manifest.split), command)
        logger.info("%s %s: %d examples", manifest.task, manifest.split, manifest.num_examples)
    return 0
