"""Examples a second of `cat-jax prepare`, its memory, and that the bytes do not depend on how many work.

    TFDS_DATA_DIR=... CAT_JAX_VOCABULARY=... python benchmarks/prepare_throughput.py --task super_glue_wic --split train

Runs `prepare` with one worker, two workers and Beam's DirectRunner (where it is installed), each in a process of its
own, start included, and prints a line of JSON each; ends with 1 if the bytes differ.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

PROGRAM = """
import json, resource, sys, time
from cat_jax.data.prepare import PrepareConfig, prepare
if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    from cat_jax.data import seqio_task
    seqio_task.load_modules(fields["modules"])
    began = time.monotonic()
    made = prepare(PrepareConfig(**fields))
    seconds = time.monotonic() - began
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    counts = {"examples": sum(m.num_examples for m in made), "seconds": seconds}
    print(json.dumps(counts | {"peak_mib_of_any_process": peak}))
"""


def run(store, args, **fields):
    fields |= {"store_dir": str(store), "mixture_or_task": args.task, "modules": args.module}
    fields |= {"feature_lengths": {"inputs": args.inputs, "targets": args.targets}, "overwrite": True}
    fields |= {"splits": args.split.split(","), "examples_per_shard": args.examples_per_shard}
    program = store.parent / "program.py"
    program.write_text(PROGRAM)
    began = time.monotonic()
    done = subprocess.run([sys.executable, program, json.dumps(fields)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    found |= {"seconds_with_start": time.monotonic() - began}
    return found | {"examples_per_second": found["examples"] / found["seconds"]}


def digest(store):
    files = sorted(path for path in store.rglob("*") if path.is_file() and not path.name.startswith("."))
    total = hashlib.sha256()
    for path in files:
        total.update(str(path.relative_to(store)).encode() + path.read_bytes())
    return total.hexdigest()[:16]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", default="super_glue_wic")
    parser.add_argument("--module", default="cat_jax_tasks.joint,cat_jax_tasks.at_hand")
    parser.add_argument("--split", default="train", help="one or several, with commas")
    parser.add_argument("--inputs", type=int, default=512)
    parser.add_argument("--targets", type=int, default=128)
    parser.add_argument("--examples_per_shard", type=int, default=2000)
    parser.add_argument("--ways", default="1,2,beam")
    args = parser.parse_args()
    ways = {"1": {"workers": 1}, "2": {"workers": 2}, "beam": {"runner": "DirectRunner"}}
    digests = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        for way in args.ways.split(","):
            store = pathlib.Path(directory) / f"store-{way}"
            found = run(store, args, **ways[way])
            digests[way] = digest(store)
            print(json.dumps({"way": way, **found, "digest": digests[way]}), flush=True)
    return int(len(set(digests.values())) > 1)


if __name__ == "__main__":
    sys.exit(main())
