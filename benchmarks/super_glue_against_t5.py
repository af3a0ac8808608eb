"""Compares every row of SuperGLUE's tasks with what the `t5` package makes of it, and says what differs.

    pip download --no-deps t5 && python -m zipfile -e t5-*.whl t5_package  # its dependencies clash with ours
    pip install babel nltk pandas scikit-learn
    TFDS_DATA_DIR=... CAT_JAX_VOCABULARY=... python benchmarks/super_glue_against_t5.py t5_package

Prints a line for each task and split on this machine's disk; ends with 1 if something differs that should not. More
rows on T5's side are meant for ReCoRD outside of `train`, which has one for each right answer there.
"""

import collections
import functools
import sys

import tensorflow_datasets as tfds
from cat_jax_tasks import catalog
from cat_jax_tasks import super_glue as super_glue  # registers the tasks

from cat_jax.data import seqio_task
from cat_jax.data.convert import plain

WHOLE = {"inputs": 1 << 20, "targets": 1 << 20}


def ours(task, split):
    rows = seqio_task.arrays(seqio_task.dataset(task, split, 0, 1, WHOLE, seed=0))
    return collections.Counter((plain(row["inputs_pretokenized"]), plain(row["targets_pretokenized"])) for row in rows)


def theirs(name, source, split):
    from t5.data import glue_utils, preprocessors

    if name == "wsc":
        convert = functools.partial(preprocessors.wsc_simple, correct_referent_only=split == "train")
    elif name == "wsc_choice":
        convert = preprocessors.wsc
    else:
        # Not the builder's own configuration: where the data is on disk it lacks the names of the labels.
        config = tfds.builder_cls("super_glue").builder_configs[source.partition("/")[2].partition(":")[0]]
        convert = glue_utils.get_glue_text_preprocessor(config)
    rows = tfds.as_numpy(convert(tfds.load(source, split=split)))
    return collections.Counter((row["inputs"].decode(), row["targets"].decode()) for row in rows)


def main():
    sys.path.append(sys.argv[1])
    differs = False
    for entry in catalog.super_glue():
        name = entry.name.removeprefix("super_glue_")
        task = seqio_task.get_task(entry.name)
        for split in task.splits if entry.is_at_hand() else ():
            left, right = ours(task, split), theirs(name, entry.source, split)
            only_ours, only_theirs = sum((left - right).values()), sum((right - left).values())
            is_meant = name == "record" and split != "train" and set(left) <= set(right)
            differs |= bool(only_ours or (only_theirs and not is_meant))
            print(f"{entry.name} {split}: {left.total()} rows, T5 {right.total()}; only here {only_ours}, "
                  f"only there {only_theirs}", flush=True)  # fmt: skip
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
