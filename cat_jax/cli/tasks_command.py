"""`cat-jax tasks`."""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import logging
import pkgutil
from collections.abc import Iterator, Sequence
from typing import Any

from cat_jax.cli.command import Parser
from cat_jax.errors import UserError

logger = logging.getLogger(__name__)

BUNDLED = "cat_jax_tasks"

DESCRIPTION = """\
Lists the SeqIO tasks and mixtures that modules register, by default those that come with cat-jax: splits with their
sizes, features, metrics; with --examples also rows as the model sees them.
"""

EPILOG = """\
example:
  cat-jax tasks
  cat-jax tasks --module=my_tasks
  cat-jax tasks '*say*' --module=cat_jax_tasks.pronunciation --examples 3
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
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
    parser.add_argument("--split", help="the split to show rows of (default: the first)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    from cat_jax.data import seqio_task

    if not args.module:
        logger.info("the tasks that come with cat-jax; --module=NAME lists those of your own")
    seqio_task.load_modules(args.module or bundled_modules(), option="--module")
    seqio = seqio_task.import_seqio()
    known = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
    shown = [name for name in known if fnmatch.fnmatch(name, args.pattern)]
    if not shown:
        raise UserError(f"no task or mixture is called {args.pattern!r}", f"there are {', '.join(known) or 'none'}")
    for name in shown:
        provider = seqio_task.get_provider(name)
        if hasattr(provider, "tasks"):
            _show_mixture(seqio_task.resolve_mixture(provider))
        else:
            with seqio_task.source_errors(name):
                found = seqio_task.describe(provider)
            _show_task(found)
            for line in _rows(provider, args.split, args.examples) if args.examples > 0 else ():
                print(line)
    return 0


def bundled_modules() -> list[str]:
    """The modules of the package of tasks that is installed with this one, by name: nothing of it is imported here."""
    found = importlib.util.find_spec(BUNDLED)
    places = found.submodule_search_locations if found is not None else None
    return [f"{BUNDLED}.{module.name}" for module in pkgutil.iter_modules(places or [])]


def _show_mixture(mixture: Any) -> None:
    total = sum(task.rate for task in mixture.tasks) or 1.0
    print(f"{mixture.name} (mixture)")
    for task in mixture.tasks:
        print(f"  {task.task}: {100 * task.rate / total:.1f} %")


def _show_task(found: dict[str, Any]) -> None:
    sizes = ", ".join(name if size is None else f"{name} {size:,}" for name, size in found["splits"].items())
    features = ", ".join(f"{name} (vocabulary of {info['vocab_size']:,})" for name, info in found["features"].items())
    print(f"{found['name']}\n  splits: {sizes}\n  features: {features}\n  metrics: {', '.join(found['metrics'])}")


def _rows(task: Any, split: str | None, count: int) -> Iterator[str]:
    """The first rows of a task: text as SeqIO decodes the ids, and how many tokens that is."""
    from cat_jax.data import seqio_task

    split = split or next(iter(task.splits))
    if split not in task.splits:
        raise UserError(f"{task.name!r} has no split {split!r}", f"name one of {', '.join(task.splits)}")
    lengths = dict.fromkeys(task.output_features, 1 << 20)
    with seqio_task.source_errors(task.name, split):
        rows = seqio_task.arrays(seqio_task.dataset(task, split, 0, 1, lengths, seed=0).take(count))
        for row in rows:
            for name in task.output_features:
                vocabulary = seqio_task.vocabulary(task.name, name)
                yield f"  {name:<8}({len(row[name])} tokens) {seqio_task.decode(vocabulary, row[name])}"
            yield ""
