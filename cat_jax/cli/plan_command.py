"""`cat-jax plan`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cat_jax.cli.command import Manual, parse_gin_flags

EXIT_DOES_NOT_FIT = 4

MANUAL = Manual(
    name="plan",
    what="""
    Tells what a training job will need on chips that are not here: compiles its steps ahead of time (training,
    teaching, decoding) and prints the bytes on a chip by part, FLOPs, bytes moved, collectives, estimated step time and
    MFU, and whether it fits; where training or teaching does not, it looks for rows at a time, rematerialisation or a
    mesh with which it does. Reads the gin files of the job itself; needs neither data nor checkpoints. Ends with 4
    where a step does not fit. For TPUs it needs the libtpu package (pip install 'cat-jax[tpu]').
    """,
    macros={
        "TOPOLOGY": "chips and how they lie: 'v5e:16x16', 'v5p:4x4x4', 'v6e:8x8', 'h100:8'",
        "TEACHER_MODEL": "gin file(s) of the teacher, where it is not here or does not say what it is",
        "PLAN_STEPS": "which to compile (default: ['train', 'teach', 'decode'])",
        "BATCH_SIZE": "rows of the global batch",
        "TEACH_BATCH_SIZE, TEACH_DTYPE": "of teach, as there; teach/MeshConfig is its mesh on one host",
        "EVAL_BATCH_SIZE, DECODING": "of evaluate, as there",
        "TASK_FEATURE_LENGTHS": "tokens of each feature, e.g. {'inputs': 512, 'targets': 128}",
        "MODEL": "set by models/*.gin; by models/from_checkpoint.gin from INITIAL_CHECKPOINT_PATH",
        "OBJECTIVE": "set by objectives/*.gin",
        "TEACHER": "None, @StoredTeacher() or @LiveTeacher(), as of train",
    },
    switches={"--json": "print JSON in place of the text"},
    example="""
    cat-jax plan --gin_file=runs/plan.gin --gin_file=models/t5_base.gin --gin_file=objectives/cat_dist.gin \\
      --gin.TOPOLOGY='"v5e:16x16"' --gin.TEACHER='@LiveTeacher()' --gin.TEACHER_MODEL='"models/t5_xxl.gin"' \\
      --gin.LiveTeacher.dtype='"bfloat16"' --gin.TEACH_DTYPE='"bfloat16"' --gin.MeshConfig.fsdp=16 \\
      --gin.T5Config.scan_layers=True --gin.BATCH_SIZE=2048 \\
      --gin.TASK_FEATURE_LENGTHS="{'inputs': 512, 'targets': 128}"
    """,
)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    flags, given = parse_gin_flags(MANUAL, argv)
    from cat_jax.cli import configuration
    from cat_jax.cli.model_files import TEACHER, model_of
    from cat_jax.planning.text import as_text

    command = configuration.configure(configuration.of_flags(flags), "plan")
    files = command.arguments["teacher_model"]
    found = command.call(teacher_model=model_of(files, flags, TEACHER) if files else None)
    print(json.dumps(found, indent=2) if "--json" in given else as_text(found))
    return 0 if found["fits"] else EXIT_DOES_NOT_FIT
