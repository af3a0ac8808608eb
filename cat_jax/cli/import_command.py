"""`cat-jax import`."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from typing import Any

from cat_jax.cli.command import GinFlags, Parser
from cat_jax.cli.places import refuse_address
from cat_jax.errors import UserError
from cat_jax.files import write_json

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Turns another program's checkpoint into a model's directory as `train` leaves it: model.json and a sealed checkpoint.
Reads folders of transformers (config.json and safetensors, in one file or several), GGUF files (of Llama, Qwen2 and
Qwen3, quantised or not), checkpoints of T5X (a msgpack file, a directory checkpoint_<step>, or the directory of its
run) and of Orbax. Of the last two the model is given by gin files, as they do not say it. PyTorch's
pickles (.bin, .pt) are refused. docs/checkpoints.md tells more, and how to use such a checkpoint without importing it.
"""

EPILOG = """\
examples:
  cat-jax import hf/flan-t5-base runs/flan_t5_base
  cat-jax import SmolLM2-135M-Instruct.Q4_1.gguf runs/smollm2
  cat-jax import t5x/t5_1_1_base/checkpoint_1000000 runs/t5_base --gin_file=models/t5_base.gin
  cat-jax import hf/flan-t5-xl runs/flan_t5_xl --dtype=bfloat16 --scan_layers --vocab_size=32100 --vocab_multiple=128
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    bindings = tuple(argument.removeprefix("--gin.") for argument in argv if argument.startswith("--gin."))
    args = parser().parse_args([argument for argument in argv if not argument.startswith("--gin.")])
    if bindings and not args.gin_file:
        raise UserError("--gin.NAME=VALUE changes a model that is given by gin files", "name one with --gin_file")
    refuse_address("the source", args.source)
    refuse_address("model_dir", args.model_dir)
    from cat_jax.checkpoint.imported import import_checkpoint

    summary = import_checkpoint(
        args.source,
        args.model_dir,
        model=_model(args.gin_file, bindings),
        step=args.step,
        dtype=args.dtype,
        vocab_size=args.vocab_size,
        vocab_multiple=args.vocab_multiple,
        scan_layers=args.scan_layers or None,
    )
    if args.json == "-":
        print(json.dumps(summary, indent=2, sort_keys=True))
        return 0
    if args.json:
        write_json(args.json, summary)
    logger.info(
        "imported %s: a %s of %.4g M parameters with %d token ids, at step %d, in %s",
        summary["source"],
        summary["family"],
        summary["parameters"] / 1e6,
        summary["vocab_size"],
        summary["step"],
        summary["model_dir"],
    )
    return 0


def parser() -> Parser:
    """Of the command's arguments."""
    made = Parser(
        prog="cat-jax import",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("source", help="the checkpoint: a folder, a directory or a file")
    made.add_argument("model_dir", help="where the model goes; must not be there yet")
    made.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="what model it is of, where it does not say it: models/t5_base.gin; repeatable",
    )
    made.add_argument("--gin.NAME=VALUE", dest="_", metavar="", help="changes what these files bind; repeatable")
    made.add_argument("--step", type=int, help="of a run of T5X (default: the newest)")
    made.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the parameters (default: %(default)s)"
    )
    made.add_argument(
        "--vocab_size",
        type=int,
        metavar="N",
        help="token ids that may have a probability, where the tables have rows of padding (default: all rows)",
    )
    made.add_argument("--vocab_multiple", type=int, metavar="N", help="pad the tables to a multiple of N, for sharding")
    made.add_argument("--scan_layers", action="store_true", help="stack the layers: deep models compile faster")
    made.add_argument("--json", metavar="FILE", help="write a summary as JSON; - prints it")
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made


def _model(files: Sequence[str], bindings: tuple[str, ...]) -> Any:
    """The configuration that gin files give; None without any."""
    if not files:
        return None
    from cat_jax.cli.model_files import model_of

    return model_of(files, GinFlags(bindings=bindings))
