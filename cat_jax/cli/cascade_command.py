"""`cat-jax cascade`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from cat_jax.cli.command import Manual, parse_gin_flags
from cat_jax.cli.outputs import check_writable, save_configuration
from cat_jax.errors import UserError

MANUAL = Manual(
    name="cascade",
    what="""
    Reads the tables that `evaluate` wrote for a large and several small models, and draws what a cascade of them does:
    quality against deferral rate and FLOPs, thresholds picked on validation and reported on test, and how training
    objectives compare. Writes report.html (one file, no network), results.json (every number in it) and curve.svg.
    Imports neither JAX nor TensorFlow; SeqIO only for tasks whose metric is neither a mean over examples nor BLEU.
    """,
    macros={
        "TABLES_DIR": "the directory that evaluate wrote: TABLES_DIR/<model>/<task>.<split>.parquet",
        "REPORT_DIR": "where report.html, results.json and curve.svg go",
        "LARGE": "the name of the large model",
        "STUDENTS": "each small model's name, objective and seed, e.g. {'small-0': ('cat_xent', 0)}",
        "TEST_SPLIT": "what is reported (default: 'test')",
        "VALIDATION_SPLIT": "what thresholds are picked on (default: 'validation'); None for none",
        "HISTORIES": "each small model's metrics.jsonl, for the report's training curves; optional",
        "CONFIGS": "each model's operative_config.gin, for the report; optional",
        "MIXTURE_OR_TASK_MODULE": "the module of the task, if a metric of it is neither a mean nor BLEU",
        "STORE_DIR": "where its stores are, in that case too",
    },
    example="""
    cat-jax cascade --gin_file=runs/cascade.gin --gin.TABLES_DIR='"runs/tables"' --gin.REPORT_DIR='"runs/report"' \\
      --gin.LARGE='"teacher"' --gin.STUDENTS="{'a': ('xent', 0), 'b': ('cat_xent', 0)}"
    """,
)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    flags, _ = parse_gin_flags(MANUAL, argv)
    from cat_jax.cli import configuration
    from cat_jax.cli.task_metrics import TaskMetrics
    from cat_jax.report.files import write_report

    command = configuration.configure(configuration.of_flags(flags), "cascade")
    given = command.arguments
    check_writable(given["output_dir"], "REPORT_DIR")
    if given.get("tasks") is None:
        given["tasks"] = tasks_of(given["tables_dir"], given["large"], given["test_split"])
    if given.get("configs"):
        given["configs"] = {name: text_or_file(value) for name, value in given["configs"].items()}
    if isinstance(given["functions"], TaskMetrics):
        splits = [split for split in (given["test_split"], given["validation_split"]) if split is not None]
        found = given["functions"].functions(given["tables_dir"], given["large"], given["tasks"], splits)
        given["functions"] = found
    report = write_report(command.call(), given["output_dir"])
    save_configuration(given["output_dir"], command, "report")
    print(report.table)
    print(f"report: {report.report_path}")
    return 0


def tasks_of(tables_dir: str | os.PathLike, model: str, split: str) -> list[str]:
    """The tasks of which there are tables of a model on a split, in the order of their file names.

    Raises:
      UserError: there are none.
    """
    from cat_jax.table import quoted_split, read_table

    root, pattern = pathlib.Path(tables_dir), f"*.{quoted_split(split)}.parquet"
    paths = sorted((root / model).glob(pattern))
    if not paths:
        there = ", ".join(sorted({path.parent.name for path in root.glob(f"*/{pattern}")}))
        raise UserError(
            f"no tables of the model {model!r} on split {split!r} in {tables_dir}"
            + (f" (of other models there are: {there})" if there else ""),
            "run `cat-jax evaluate` for it, or mend TABLES_DIR and LARGE",
        )
    return [read_table(path)[1].task for path in paths]


def text_or_file(value: str) -> str:
    """What is in the gin file of that name; anything else is the text itself."""
    path = pathlib.Path(value)
    if not value.endswith(".gin") or "\n" in value:
        return value
    try:
        return path.read_text()
    except OSError as e:
        raise UserError(f"cannot read the configuration {path} ({e.strerror})", "mend cascade.configs") from e
