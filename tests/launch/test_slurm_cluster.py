"""On a real SLURM of four nodes: a job of four processes is preempted, goes on, and ends as if nothing had happened."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
import slurm_cluster

from cat_jax.checkpoint.retention import checkpoints_dir
from cat_jax.checkpoint.seal import read_seal, sealed_steps
from cat_jax.data.manifest import FeatureInfo, Recipe
from cat_jax.data.record import Example
from cat_jax.data.writer import write_store

MISSING = slurm_cluster.missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: apt-get install slurm-wlm"),
]
STEPS, VOCABULARY = 40, 16
FILES = ("runs/train.gin", "objectives/xent.gin", "bag.gin")


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster.running(4) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A directory with a model's module, as a user would have it, and a store: words, and the same words reversed."""
    root = tmp_path_factory.mktemp("slurm world")  # the blank is part of the test
    shutil.copy(pathlib.Path(__file__).with_name("bag_family.py.txt"), root / "bag_family.py")
    (root / "bag.gin").write_text("import bag_family\nMODEL = @bag_family.BagConfig()\n")
    feature = FeatureInfo("vocabulary", VOCABULARY, 1, True)
    recipe = Recipe("toy", "train", {"inputs": feature, "targets": feature}, {"inputs": 5, "targets": 6}, 2, False)
    words = ([2 + (k * 7 + j * 3) % 14 for j in range(1 + k % 4)] for k in range(40))
    write_store(root / "store", recipe, (Example(str(k), *_arrays(word)) for k, word in enumerate(words)))
    return root


def _arrays(word):
    import numpy as np

    return np.array(word, np.int32), np.array([*word[::-1], 1], np.int32)


def start(cluster, world, name):
    macros = {"MODEL_DIR": str(world / name), "STORE_DIR": str(world / "store"), "MIXTURE_OR_TASK_NAME": "toy"}
    macros |= {"TASK_FEATURE_LENGTHS": {"inputs": 5, "targets": 6}, "TRAIN_STEPS": STEPS, "BATCH_SIZE": 8}
    macros |= {"EVAL_DATASET": None, "train.log_period": 1}
    command = [sys.executable, "-m", "cat_jax_launch.slurm", "--nodes=4", "--saving_seconds=60", "--wait"]
    command += [f"--name={name}", f"--output={world / name}.out", "--env=JAX_PLATFORMS=cpu", "--", "train"]
    command += [f"--gin_file={path}" for path in FILES] + [f"--gin.{key}={value!r}" for key, value in macros.items()]
    setting = cluster.setting | {"JAX_COMPILATION_CACHE_DIR": str(world / "xla")}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=setting, stdout=pipe, stderr=subprocess.STDOUT, text=True, cwd=world)


def result(model_dir):
    """(the last checkpoint's step, the digest of its parameters, the log without what a clock said)."""
    directory = checkpoints_dir(model_dir)
    step = sealed_steps(directory)[-1]
    lines = (pathlib.Path(model_dir) / "metrics.jsonl").read_text().splitlines()
    log = [{key: value for key, value in json.loads(line).items() if key != "timing"} for line in lines]
    return step, read_seal(directory / str(step)).digest, log


def test_a_preempted_job_ends_as_an_undisturbed_one(cluster, world):
    job = start(cluster, world, "preempted")
    log = world / "preempted" / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert job.poll() is None, job.communicate()[0] + cluster.logs()
        time.sleep(0.02)
    (number,) = cluster.ask("squeue", "-h", "-o", "%i").split()
    subprocess.run(["scancel", "--signal=TERM", number], env=cluster.setting, check=True)
    whole = start(cluster, world, "whole")  # takes its turn while the other waits for its own
    out, _ = job.communicate(timeout=600)
    assert job.returncode == 0, out + cluster.logs()
    assert out.count("which is saved") == 4, out
    assert "preempted with exit code 75: back into the queue" in out
    assert "Restarts=1 " in cluster.ask("scontrol", "--oneliner", "show", "job", number)
    out, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, out + cluster.logs()
    assert "restored" not in out
    assert result(world / "preempted") == result(world / "whole")
    assert result(world / "whole")[0] == STEPS


def test_a_commands_own_exit_code_is_the_launchers(cluster, tmp_path):
    command = [sys.executable, "-m", "cat_jax_launch.slurm", "--nodes=2", "--wait", f"--output={tmp_path}/out"]
    command += ["--before=echo before on $SLURMD_NODENAME", "--", "train"]
    done = subprocess.run(command, env=cluster.setting, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stdout + done.stderr + os.linesep + cluster.logs()
    assert sorted(line for line in done.stdout.splitlines() if "before" in line) == [
        "before on node1",
        "before on node2",
    ]
    assert done.stdout.count("cat-jax train: ") == 2  # one line of each process
