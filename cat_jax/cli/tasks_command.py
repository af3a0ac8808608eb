"""`cat-jax tasks`."""

from __future__ import annotations

import argparse
import ast
import fnmatch
import importlib
import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from cat_jax.cli import task_text
from cat_jax.cli.command import Parser
from cat_jax.errors import UserError
from cat_jax.files import write_json

logger = logging.getLogger(__name__)

CATALOG = "cat_jax_tasks.catalog"
"""Says what the bundled modules register without importing them."""

DESCRIPTION = """\
Lists SeqIO tasks and mixtures, by default those that come with cat-jax: splits with their sizes, metrics, source,
licence, and whether the data is on this machine; with --examples also rows as the model sees them, with --overlap
which rows two splits share.
"""

EPILOG = """\
examples:
  cat-jax tasks
  cat-jax tasks 'super_glue*' --json=tasks.json
  cat-jax tasks flan2021_rte --examples 3 --lengths "{'inputs': 256, 'targets': 16}"
  cat-jax tasks '*' --module=my_tasks
  cat-jax tasks --overlap flan2021_rte:train super_glue_rte:validation

The tasks that come with cat-jax read TFDS_DATA_DIR, SACREBLEU and WMT22_MTDATA_DIR, and take the vocabulary that
CAT_JAX_VOCABULARY names (T5's by default): docs/tasks.md.
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    lengths = _lengths(args.lengths)
    if args.examples < 0:
        raise UserError(f"--examples is {args.examples}", "give a number of rows")
    if args.overlap:
        return _overlap(args)
    if args.module:
        found = _registered(args.module)
    else:
        found = _bundled()
        logger.info("the tasks that come with cat-jax; --module=NAME lists those of your own")
    names = [name for name in found if fnmatch.fnmatch(name, args.pattern)]
    if not names:
        raise UserError(f"no task or mixture is called {args.pattern!r}", task_text.closest(args.pattern, found))
    shown = {name: found[name] for name in names}
    rows = {}
    if args.examples:
        from cat_jax.cli import task_rows
        from cat_jax.data import seqio_task

        modules = args.module or sorted({item["module"] for item in shown.values()})
        seqio_task.load_modules(modules, option="--module")
        tasks = [name for name, item in shown.items() if "tasks" not in item]
        if not tasks:
            raise UserError(f"{', '.join(shown)} are mixtures", "name a task to see rows of")
        for name in _not_at_hand(shown, tasks):
            logger.info("%s: no rows, its data is not on this machine; name it alone to have it fetched", name)
            tasks.remove(name)
        splits = {name: args.split or _split_at_hand(shown[name]) for name in tasks}
        rows = {name: task_rows.rows(name, splits[name], args.examples, lengths) for name in tasks}
    if args.json == "-":
        print(json.dumps(_with_rows(shown, rows), indent=2, ensure_ascii=False))
        return 0
    print(task_text.listing(shown) if len(shown) > task_text.IN_FULL and not rows else task_text.in_full(shown, rows))
    if args.json:
        write_json(args.json, _with_rows(shown, rows))
    return 0


def _not_at_hand(shown: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    """Of several tasks those that a look at their rows would fetch; one that is named alone may be fetched."""
    return [name for name in tasks if len(tasks) > 1 and shown[name].get("at_hand") is False]


def _split_at_hand(item: Mapping[str, Any]) -> str | None:
    """The first split with rows on this machine; None where nobody knows."""
    return next((split for split, count in item.get("rows", {}).items() if count), None)


def _parser() -> Parser:
    parser = Parser(
        prog="cat-jax tasks",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pattern", nargs="?", default="*", help="names to show, with * and ? (default: all)")
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="NAME",
        help="a module that registers tasks; repeatable (default: those that come with cat-jax)",
    )
    parser.add_argument("--examples", type=int, default=0, metavar="N", help="show N rows of each task")
    parser.add_argument("--split", help="the split to show rows of (default: the first that is here)")
    parser.add_argument(
        "--lengths",
        default="{'inputs': 512, 'targets': 128}",
        help="feature lengths, to see what they would cut (default: %(default)s)",
    )
    parser.add_argument(
        "--overlap",
        nargs=2,
        metavar=("A", "B"),
        help="count the rows of A (TASK_OR_MIXTURE:SPLIT) that are also in B, exactly or but for case and punctuation",
    )
    parser.add_argument("--json", metavar="FILE", help="write what is shown as JSON, too; - prints it instead")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _bundled() -> dict[str, dict[str, Any]]:
    """{name: what the catalogue says}, mixtures last; nothing that registers tasks is imported.

    Raises:
      UserError: the package of tasks is not installed.
    """
    if importlib.util.find_spec(CATALOG.partition(".")[0]) is None:
        raise UserError("the tasks that come with cat-jax are not installed", "name your own with --module=NAME")
    catalog = importlib.import_module(CATALOG)
    return {item.name: item.to_dict() for item in (*catalog.entries(), *catalog.mixtures())}


def _registered(modules: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The same of the user's own modules, which are imported.

    Raises:
      UserError: one of them fails, or a source cannot say what it has.
    """
    from cat_jax.data import seqio_task

    before = _bundled() if importlib.util.find_spec(CATALOG.partition(".")[0]) is not None else {}
    seqio_task.load_modules(modules, option="--module")
    seqio = seqio_task.import_seqio()
    found = {}
    for name in sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}):
        if name in before and before[name]["module"] not in modules:
            continue  # registered by what the user's module imports
        provider = seqio_task.get_provider(name)
        with seqio_task.source_errors(name):
            if hasattr(provider, "tasks"):
                mixture = seqio_task.resolve_mixture(provider)
                found[name] = {"name": name, "tasks": [{"task": t.task, "rate": t.rate} for t in mixture.tasks]}
            else:
                found[name] = before.get(name) or seqio_task.describe(provider)
    return found


def _lengths(text: str) -> dict[str, int]:
    try:
        lengths = {str(name): int(length) for name, length in ast.literal_eval(text).items()}
    except (ValueError, SyntaxError, AttributeError, TypeError) as e:
        raise UserError(f"--lengths is {text!r}", "write it as \"{'inputs': 512, 'targets': 128}\"") from e
    if any(length < 1 for length in lengths.values()):
        raise UserError(f"--lengths is {text!r}", "give lengths above 0")
    return lengths


def _overlap(args: argparse.Namespace) -> int:
    from cat_jax.data import seqio_task
    from cat_jax.data.overlap import find_overlap, parse_split

    sides = [parse_split(text) for text in args.overlap]
    known = _bundled() if not args.module else {}
    modules = args.module or sorted({known[side.name]["module"] for side in sides if side.name in known})
    seqio_task.load_modules(modules, option="--module")
    found = find_overlap(*sides)
    if args.json == "-":
        print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
        return 0
    print(task_text.overlap(found))
    if args.json:
        write_json(args.json, found.to_dict())
    return 0


def _with_rows(shown: Mapping[str, Any], rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{**item, **({"examples": rows[name].to_dict()} if name in rows else {})} for name, item in shown.items()]
