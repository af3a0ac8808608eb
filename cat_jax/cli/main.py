"""`cat-jax COMMAND ...`: finds the command, runs it, and turns what goes wrong into one line and an exit code.

Nothing heavy is imported here: `--help` answers at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from cat_jax import __version__
from cat_jax.cli.child import follow_parent
from cat_jax.cli.failures import EXIT_FAILURE, explain
from cat_jax.cli.names import suggestion
from cat_jax.errors import UserError

COMMANDS = {
    "prepare": "SeqIO task or mixture -> example store",
    "teach": "frozen model + store -> stored teacher signal",
    "train": "store (+ teacher) -> checkpoints",
    "evaluate": "models + store -> one table per model, task and split",
    "cascade": "small model's tables + large model's tables -> curves, thresholds, report.html",
    "plan": "gin files + a topology -> memory, FLOPs and time on chips that are not here",
    "import": "checkpoint of transformers, llama.cpp (GGUF) or T5X -> a model's directory",
    "export": "a model's directory -> a folder of transformers, or a checkpoint of T5X",
    "tasks": "list SeqIO tasks and show rows of them",
    "run": "all of the above for a described experiment, resumed where it stopped",
}

HELP = """\
cat-jax: cascade-aware training of small language models, in JAX

usage: cat-jax COMMAND [--gin_file=FILE]... [--gin.NAME=VALUE]... [--debug]
       cat-jax COMMAND --help

commands:
{commands}

Start here:
  cat-jax run --gin_file=runs/experiment.gin --help
  cat-jax train --help

Exit codes: 0 done; 2 the input must be mended (one line says how); 3 a loss or gradient is not finite;
4 a plan does not fit; 75 stopped by SIGTERM after saving, start again to go on; 130 interrupted; 1 anything else.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code; an error becomes one line on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv, "--debug=unexpected" in argv
    argv = [argument for argument in argv if argument not in ("--debug", "--debug=unexpected")]
    if not argv or argv[0] in ("-h", "--help", "help"):
        rows = "\n".join(f"  {name:<10}{summary}" for name, summary in COMMANDS.items())
        print(HELP.format(commands=rows), end="")
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"cat-jax {__version__}")
        return 0
    program = f"cat-jax {argv[0]}" if argv[0] in COMMANDS else "cat-jax"
    try:
        _prepare_process(debug[0])
        return _command(argv[0])(argv[1:])
    except SystemExit as e:  # help was printed, or a child has said what is wrong and this is its code
        if e.code is None or isinstance(e.code, int):
            return e.code or 0
        print(f"{program}: error: {e.code}", file=sys.stderr, flush=True)
        return EXIT_FAILURE
    except BaseException as e:
        return _report(e, program, *debug)


def _command(name: str):
    if name not in COMMANDS:
        raise UserError(
            f"there is no command {name}", suggestion(name, COMMANDS, f"the commands are {', '.join(COMMANDS)}")
        )
    return importlib.import_module(f"cat_jax.cli.{name}_command").main


def _prepare_process(debug: bool) -> None:
    """What every command wants before a library is imported."""
    # TensorFlow and XLA write notices to stderr that bury the one line that matters.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # a console script does not see the user's own task modules otherwise
    follow_parent()
    handler = logging.StreamHandler(sys.stderr)
    if not debug:
        handler.addFilter(_is_told_once)
    logging.basicConfig(format="%(message)s", handlers=[handler], level=logging.WARNING)
    logging.getLogger("cat_jax").setLevel(logging.INFO)


_RAISED_AGAIN = ("orbax/checkpoint/_src/futures/future.py", "orbax/checkpoint/_src/checkpointers/async_checkpointer.py")
"""Where Orbax logs errors of its threads, before it raises them to whoever waits for these."""

_NEVER_RETRIEVED = " exception was never retrieved"
"""What asyncio says of a task or future that it collects: Orbax raises a save's first error and leaves these."""


def _is_told_once(record: logging.LogRecord) -> bool:
    """Whether a record is not of an error that becomes the command's one line."""
    if not record.exc_info:
        return True
    if record.name == "asyncio" and _NEVER_RETRIEVED in record.getMessage():
        return not any("orbax/checkpoint" in frame.filename for frame in traceback.extract_tb(record.exc_info[2]))
    return not record.pathname.endswith(_RAISED_AGAIN)


def _report(error: BaseException, program: str, always: bool, unexpected: bool) -> int:
    """Writes the one line for an error, after the traceback if asked for; returns the exit code."""
    failure = explain(error, always or unexpected)
    if always or (unexpected and failure.exit_code == EXIT_FAILURE):
        traceback.print_exception(error)
    if failure.line:
        sys.stderr.flush()
        print(f"{program}: {failure.line}", file=sys.stderr, flush=True)
    return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
