"""Prints inputs and targets of a SeqIO task or mixture, a line each: `python texts.py MODULE NAME SPLIT`."""

import importlib
import sys

import seqio

module, name, split = sys.argv[1:]
importlib.import_module(module)
provider = seqio.get_mixture_or_task(name)
for task in getattr(provider, "tasks", [provider]):
    for row in task.get_dataset(None, split, shuffle=False).as_numpy_iterator():
        for feature in ("inputs", "targets"):
            print(*row[f"{feature}_pretokenized"].decode().split())
