"""A stage for the tests of the runner: `fake_stage.py NAME KIND OUTPUT [SECONDS]`, in place of a cat-jax command."""

import os
import pathlib
import signal
import sys
import time

from cat_jax.cli.child import follow_parent


def save(number, frame):
    print("saved")
    sys.exit(75)


def main(name, kind, output, seconds):
    follow_parent()
    path = pathlib.Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "saves":
        signal.signal(signal.SIGTERM, save)
    with (path.parent.parent / "journal").open("a") as journal:
        journal.write(f"{name}\n")
    print(f"cores {len(os.sched_getaffinity(0))}", flush=True)
    print(f"{name} is at work", flush=True)
    time.sleep(float(seconds))
    if kind == "fails":
        print("cat-jax train: error: the loss is nan at step 7: lower the learning rate", file=sys.stderr)
        sys.exit(3)
    if kind != "forgets":
        path.write_text("done")


if __name__ == "__main__":
    main(*sys.argv[1:5])
