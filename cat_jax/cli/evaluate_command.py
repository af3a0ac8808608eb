"""`cat-jax evaluate`."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cat_jax.cli.command import MULTIPROCESS, Manual, parse_gin_flags
from cat_jax.cli.outputs import check_writable, save_configuration
from cat_jax.cli.stores import Wanted, ensure_prepared
from cat_jax.errors import UserError

logger = logging.getLogger(__name__)

MANUAL = Manual(
    name="evaluate",
    what="""
    Lets models answer every example of a task or mixture and writes one Parquet table per model, task and split, one
    row per example: prediction, confidence of each token, cost, score. Metrics are the SeqIO task's own. Tables that
    are finished are left as they are; one process evaluates many models. With --import another program has the answers,
    an API for example: they are checked against the store, and scored and written as a model's are.
    """,
    macros={
        "EVAL_MODELS": "each model's name and directory, e.g. {'small': 'runs/small', 'large': 'hf/flan-t5-xl'}",
        "EVAL_MODEL_FILES": "gin file(s) of those that do not say what they are: {'large': 'models/t5_xl.gin'}",
        "TABLES_DIR": "where the tables go",
        "EVAL_SPLITS": "list of splits (default: ['validation'])",
        "EVAL_MODE": "'generate' (default), 'score' the options of each example, or 'auto'",
        "DECODING": "how answers are generated: @Greedy() (default), @BeamSearch() or @Sampling()",
        "MIXTURE_OR_TASK_NAME": "what to answer",
        "MIXTURE_OR_TASK_MODULE": "the module that registers it",
        "STORE_DIR": "where its stores are; missing ones are prepared",
        "TASK_FEATURE_LENGTHS": "needed only to prepare a missing store",
        "IMPORTED_MODEL": "with --import: the model's name, in place of EVAL_MODELS",
        "COST": "with --import: what answers cost, @Cost(), where the rows do not say it",
    },
    switches={"--rescore": "score finished tables again, with the task's metrics as they are now", **MULTIPROCESS},
    options={"--import": "a .jsonl or .parquet file of another model's answers (docs/evaluation.md); repeatable"},
    example="""
    cat-jax evaluate --gin_file=runs/evaluate.gin --gin.EVAL_MODELS="{'small': 'runs/small'}" \\
      --gin.TABLES_DIR='"runs/tables"' --gin.MIXTURE_OR_TASK_NAME='"pronunciation"' \\
      --gin.MIXTURE_OR_TASK_MODULE='"cat_jax_tasks.pronunciation"' --gin.STORE_DIR='"runs/store"'
    """,
)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    flags, given = parse_gin_flags(MANUAL, argv)
    from cat_jax.cli import configuration, devices
    from cat_jax.cli.model_files import resolved
    from cat_jax.data.layout import split_names

    several = devices.start("--multiprocess" in given)
    devices.cache_compilations()
    files = given.get("--import", [])
    for flag in ("--multiprocess", "--rescore"):
        if files and flag in given:
            raise UserError(
                f"{flag} has no meaning with --import", f"leave {flag} out: an import is quick, and scores anew"
            )
    command = configuration.configure(configuration.of_flags(flags), "import_answers" if files else "evaluate")
    arguments, changes = command.arguments, {} if files else resolved(command, flags)
    splits = split_names(arguments["splits"])
    wanted = [Wanted(arguments["store_dir"], arguments["mixture_or_task"], split) for split in splits]
    ensure_prepared(wanted, flags, several)
    check_writable(arguments["output_dir"], "TABLES_DIR")
    changes |= {"files": files} if files else {}
    results = command.call(**changes, **({"rescore": True} if "--rescore" in given else {}))
    if devices.is_first():
        from cat_jax.evaluate.report import metrics_path

        for model, splits in results.items():
            for split, found in splits.items():
                path = metrics_path(arguments["output_dir"], model, arguments["mixture_or_task"], split)
                stem, again = path.name.removesuffix(".metrics.json"), [f"--import={file}" for file in files]
                save_configuration(path.parent, command, stem, again)
                shared = found["average"]["metrics"] or {"mean of all tasks": found["average"]["headline"]}
                averages = ", ".join(f"{name} {value:.4g}" for name, value in shared.items())
                logger.info("%s on %s: %s", model, split, averages)
    return 0
