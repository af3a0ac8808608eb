"""`cat-jax export`."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence

from cat_jax.checkpoint.formats import DTYPES, FORMATS
from cat_jax.cli.command import Parser
from cat_jax.cli.places import refuse_address
from cat_jax.errors import UserError
from cat_jax.files import write_json

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Writes a model's checkpoint for another program: a folder that transformers opens with from_pretrained (safetensors,
config.json, generation_config.json, and a tokenizer where one is named or the model was imported with one), or a
checkpoint of T5X. Weights keep their bits unless --dtype says otherwise; adapters of LoRA are merged into them.
docs/checkpoints.md tells more.
"""

EPILOG = """\
examples:
  cat-jax export runs/small hf/small --tokenizer=t5/spiece.model
  cat-jax export runs/small/checkpoints/2000 hf/small --dtype=bfloat16
  cat-jax export runs/small t5x/small --format=t5x
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    args = parser().parse_args(argv)
    step = int(args.step) if args.step and args.step.isdecimal() else args.step
    if isinstance(step, str) and step != "best":
        raise UserError(f"--step is {step!r}", "give a number, or best")
    if args.shard_gb <= 0:
        raise UserError(f"--shard_gb is {args.shard_gb}", "give a number above 0")
    refuse_address("model_dir", args.model_dir)
    refuse_address("the folder", args.folder)
    refuse_address("--tokenizer", args.tokenizer or "")
    from cat_jax.checkpoint.exported import export_checkpoint

    summary = export_checkpoint(
        args.model_dir,
        args.folder,
        format=args.format,
        step=step,
        dtype=args.dtype,
        tokenizer=args.tokenizer,
        shard_bytes=int(args.shard_gb * 1e9),
    )
    if args.json == "-":
        print(json.dumps(summary, indent=2, sort_keys=True))
        return 0
    if args.json:
        write_json(args.json, summary)
    words = "exported step %d of %s: %d tensors of %s, %.4g MB, in %s"
    size = summary["bytes"] / 1e6
    logger.info(words, summary["step"], args.model_dir, summary["tensors"], summary["dtype"], size, args.folder)
    return 0


def parser() -> Parser:
    """Of the command's arguments."""
    made = Parser(
        prog="cat-jax export",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("model_dir", help="of a training run, or one of its checkpoints/<step>")
    made.add_argument("folder", help="where to; must not be there yet")
    made.add_argument(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help="whose (default: %(default)s); t5x_scanned has its layers stacked, as scalable_t5",
    )
    made.add_argument("--step", help="which checkpoint: a number, or best (default: the newest)")
    made.add_argument("--dtype", choices=DTYPES, help="of the weights (default: as they are)")
    made.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="a SentencePiece model, a tokenizer.json, a folder with one, or bytes for ByT5's",
    )
    made.add_argument(
        "--shard_gb", type=float, default=5.0, metavar="GB", help="largest file of weights (default: %(default)s)"
    )
    made.add_argument("--json", metavar="FILE", help="write a summary as JSON; - prints it")
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made
