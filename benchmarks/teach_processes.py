"""`cat-jax teach` on 1, 2 and 4 processes, and on 4 of which one is killed half-way: are the bytes the same?

    python benchmarks/teach_processes.py [--work_dir DIR] [--shards 48]

A small store and a random teacher; every run is the command itself under `cat_jax_launch.local`. Prints a JSON line and
ends with 1 where a signal differs.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "teacher"))

from teacher_cases import contents, write_store, write_teacher


def command(root: pathlib.Path, output: pathlib.Path, processes: int) -> list[str]:
    """The command line of one run."""
    values = {"TEACHER_DIR": root / "model", "SIGNAL_DIR": output, "STORE_DIR": root / "store"}
    gin = [f"--gin.{name}='{value}'" for name, value in values.items()]
    flags = ["--gin_file=runs/teach.gin", *gin, "--gin.MIXTURE_OR_TASK_NAME='toy:a'", "--gin.TEACH_BATCH_SIZE=8"]
    launcher = ["-m", "cat_jax_launch.local", "--processes", str(processes), "--devices_per_process", "1", "--"]
    return [sys.executable, *launcher, "teach", *flags]


def signal_files(output: pathlib.Path) -> dict[str, bytes]:
    """What a signal is: not the saved configuration, which names its own directory."""
    return {name: content for name, content in contents(output).items() if not name.endswith(".gin")}


def children(pid: int) -> list[int]:
    """The processes that `pid` started."""
    return [int(each) for each in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_one(root: pathlib.Path, output: pathlib.Path, shards: int) -> int:
    """Starts 4 processes, kills one when half of the shards are there; returns how many were when the job had ended."""
    job = subprocess.Popen(command(root, output, 4))
    while len(list(output.rglob("shard-*.json"))) < shards // 2:
        if job.poll() is not None:
            raise RuntimeError("the job ended before half of its shards were there: give more --shards")
        time.sleep(0.005)
    os.kill(children(job.pid)[-1], signal.SIGKILL)
    job.wait()
    return len(list(output.rglob("shard-*.json")))


def main() -> int:
    """Runs all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir")
    parser.add_argument("--shards", type=int, default=48)
    args = parser.parse_args()
    root = pathlib.Path(args.work_dir or tempfile.mkdtemp())
    os.environ["JAX_PLATFORMS"] = "cpu"
    write_store(root / "store", num_shards=args.shards, per_shard=60)
    write_teacher(root / "model")
    for processes in (1, 2, 4):
        subprocess.run(command(root, root / f"on_{processes}", processes), check=True)
    finished = kill_one(root, root / "killed", args.shards)
    subprocess.run(command(root, root / "killed", 4), check=True)
    expected = signal_files(root / "on_1")
    different = [name for name in ("on_2", "on_4", "killed") if signal_files(root / name) != expected]
    print(json.dumps({"shards": args.shards, "finished_when_killed": finished, "different": different}))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
