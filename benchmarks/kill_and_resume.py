"""Kills an experiment outright at random instants, starts it again each time, and compares it with an undisturbed one.

    python benchmarks/kill_and_resume.py --work_dir=/tmp/kills --kills=20

The experiment is the demo with few steps and frequent checkpoints. The kills are shared out among prepare, train, train
while a checkpoint is being written, teach and evaluate; within its stage, each comes at a random instant. Every process
of the run gets SIGKILL at once. In the end the stores, the signals, the tables and results.json must be equal byte for
byte, and the parameters of every model bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

EXPERIMENT = """
include 'runs/demo.gin'

Experiment.objectives = ['xent', 'cat_dist']
Experiment.seeds = [0]
teacher/TRAIN_STEPS = 160
student/TRAIN_STEPS = 160
SAVE_PERIOD = 10
EVAL_PERIOD = 80
cascade.resamples = 100
"""

PATTERNS = ("store/**/*", "signals/**/*", "tables/**/*", "results.json")
IGNORED = (".gin", ".lock")
"""Saved configurations name the run's own directory, locks the process that held them."""

AIMS = ("prepare", "train.teacher", "saving", "teach", "train.student", "saving", "evaluate.students")
"""What kills are aimed at, in the order in which a run comes by; "saving" is a checkpoint without its seal."""

LONGEST_WAIT = 15.0
"""Seconds after the start of a stage within which its kill comes: it has begun its work after some five."""


def digests(run_dir: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file that must not depend on kills, and the fingerprint of every model's parameters."""
    from cat_jax.checkpoint.params import checkpoint_fingerprint

    found = {}
    for pattern in PATTERNS:
        for path in sorted(run_dir.glob(pattern)):
            if path.is_file() and path.suffix not in IGNORED:
                content = path.read_bytes().replace(str(run_dir).encode(), b"RUN_DIR")
                found[str(path.relative_to(run_dir))] = hashlib.sha256(content).hexdigest()
    for model in sorted((run_dir / "models").iterdir()):
        found[f"models/{model.name}"] = checkpoint_fingerprint(model)
    return found


def start(work_dir: pathlib.Path, run_dir: pathlib.Path, log) -> subprocess.Popen:
    """`cat-jax run` of the experiment, in a process group of its own."""
    command = [sys.executable, "-m", "cat_jax.cli.main", "run", f"--gin_file={work_dir / 'experiment.gin'}"]
    command.append(f"--gin.RUN_DIR={str(run_dir)!r}")
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def descendants(pid: int) -> set[int]:
    """The process and all that it started, as the kernel tells now."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue  # it has ended meanwhile
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def kill_all(process: subprocess.Popen) -> list[str]:
    """SIGKILL to the run and everything below it; returns the stages' commands, such as "teach"."""
    killed = set()
    for pid in descendants(process.pid):
        try:
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):
            continue  # it has ended meanwhile
        if "cat_jax.cli.main" in words:
            killed.add(words[words.index("cat_jax.cli.main") + 1])
    process.wait()
    return sorted(killed - {"run"})


def stages(run_dir: pathlib.Path, since: float) -> list[str]:
    """The stages whose logs have been written since then, the latest last; "saving" if a checkpoint has no seal yet."""
    logs = [(path.stat().st_mtime, path.stem) for path in run_dir.glob("logs/*.log")]
    found = [name for written, name in sorted(logs) if written > since]
    steps = [path for path in run_dir.glob("models/*/checkpoints/*") if path.is_dir()]
    return found + ["saving"] * any(not (path / "SEAL.json").exists() for path in steps)


def kill_at(aim: str, process: subprocess.Popen, run_dir: pathlib.Path, rng: random.Random) -> str | None:
    """Kills the run at a random instant of a stage; returns what was running, or None if the run ended first."""
    began = time.time()
    while not any(name.startswith(aim) for name in stages(run_dir, began)[-1:]):
        if process.poll() is not None:
            return None
        time.sleep(0.005)
    if aim != "saving":
        try:
            process.wait(timeout=rng.uniform(0.0, LONGEST_WAIT))
            return None
        except subprocess.TimeoutExpired:
            pass
    saving = ["saving"] * ("saving" in stages(run_dir, began))
    return " ".join(kill_all(process) + saving)


def main() -> int:
    """Returns 0 if nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    work_dir = arguments.work_dir.resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    (work_dir / "experiment.gin").write_text(EXPERIMENT)
    undisturbed, killed = work_dir / "undisturbed", work_dir / "killed"
    with open(work_dir / "log", "w") as log:
        began = time.monotonic()
        if start(work_dir, undisturbed, log).wait():
            sys.exit(f"the undisturbed run failed: see {work_dir / 'log'}")
        seconds = time.monotonic() - began
        print(f"undisturbed: {seconds:.0f} s", flush=True)
        rng, kills = random.Random(arguments.seed), 0
        share = [AIMS[i * len(AIMS) // arguments.kills] for i in range(arguments.kills)]
        for aim in share:
            process = start(work_dir, killed, log)
            at = kill_at(aim, process, killed, rng)
            if at is None and process.returncode:
                sys.exit(f"the run failed after {kills} kills: see {work_dir / 'log'}")
            if at is not None:
                kills += 1
                print(f"kill {kills}: aimed at {aim}, hit {at}", flush=True)
        if start(work_dir, killed, log).wait():
            sys.exit(f"the run failed after {kills} kills: see {work_dir / 'log'}")
    expected, found = digests(undisturbed), digests(killed)
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    print(json.dumps({"kills": kills, "compared": len(expected), "different": different}))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
