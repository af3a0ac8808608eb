"""Compares BLEU and chrF of all 21 directions, signatures included, with what the `sacrebleu` command prints.

    SACREBLEU=... CAT_JAX_VOCABULARY=byte python benchmarks/wmt22_against_sacrebleu.py

The answers are garbled references, so that scores lie between 0 and 100. Prints a line a direction; ends with 1 if one
differs.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import seqio
from cat_jax_tasks import catalog, wmt22
from cat_jax_tasks.metrics.segments import references_of_source


def garbled(texts, seed):
    """Some words gone, the end cut off, some answers empty."""
    draw = np.random.default_rng(seed)
    made = []
    for text in texts:
        kept = " ".join(word for word in text.split(" ") if draw.random() < 0.8)
        made.append("" if draw.random() < 0.02 else kept[: max(3, int(0.9 * len(text)))].strip())
    return made


def command(direction, answers):
    """The command's own scores: [{name, score, signature ...}]."""
    with tempfile.TemporaryDirectory() as directory:
        file = pathlib.Path(directory) / "answers"
        file.write_text("\n".join(answers) + "\n")
        arguments = ["-t", "wmt22", "-l", direction, "-i", file, "-m", "bleu", "chrf", "-w", "12"]
        done = subprocess.run([sys.executable, "-m", "sacrebleu", *arguments], capture_output=True, check=True)
    return json.loads(done.stdout)


def main():
    differs = False
    for entry in catalog.wmt22():
        if entry.module != wmt22.__name__ or entry.name.startswith("wmt22_templates"):
            continue
        direction = entry.splits["test"].rpartition("/")[2]
        task = seqio.TaskRegistry.get(entry.name)
        rows = list(task.source.get_dataset("test", shuffle=False).as_numpy_iterator())
        answers = garbled([row["target"].decode() for row in rows], seed=len(rows))
        targets = [references_of_source("", row, is_target=True) for row in rows]
        for metric, said in zip(task.metric_fns, command(direction, answers), strict=True):
            [(name, value)] = metric(targets, answers).items()
            same = abs(value - said["score"]) < 1e-9 and metric.signatures == {name: said["signature"]}
            differs |= not same
            mark = "same" if same else f"DIFFERS: {said['score']} {said['signature']}"
            print(f"{direction} {name} {value:.4f} {metric.signatures[name]}: {mark}", flush=True)
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
