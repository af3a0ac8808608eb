"""A stage for the tests of the runner: `fake_stage.py NAME KIND OUTPUT [SECONDS]`, in place of a cat-jax command."""

import os
import pathlib
import signal
import sys
import time

from cat_jax.cli.child import follow_parent

follow_parent()
name, kind, output = sys.argv[1:4]
seconds = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
path = pathlib.Path(output)
path.parent.mkdir(parents=True, exist_ok=True)


def save(number, frame):
    print("saved")
    sys.exit(75)


if kind == "saves":
    signal.signal(signal.SIGTERM, save)
with (path.parent.parent / "journal").open("a") as journal:
    journal.write(f"{name}\n")
print(f"cores {len(os.sched_getaffinity(0))}", flush=True)
print(f"{name} is at work", flush=True)
time.sleep(seconds)
if kind == "fails":
    print("cat-jax train: error: the loss is nan at step 7: lower the learning rate", file=sys.stderr)
    sys.exit(3)
if kind != "forgets":
    path.write_text("done")
