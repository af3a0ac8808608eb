"""One device == 8 fake devices == 2 processes of 4, and what one of them saved another goes on with."""

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from cat_jax_launch.local import environment, free_port
from training_world import arguments, model, records, steps_and_digest, write_world

from cat_jax.teacher.layout import BitLayout
from cat_jax.teacher.writer import teach
from cat_jax.train.loop import train

MESHES = {"data 8": (8, 1, 1), "data 2, fsdp 4": (2, 4, 1), "fsdp 2, tensor 4": (1, 2, 4)}
STEPS, MANY = 6, 50
PROGRAM = pathlib.Path(__file__).parent / "device_program.py"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A directory with a store and a stored signal."""
    directory = tmp_path_factory.mktemp("world")
    write_world(directory / "store")
    train(**arguments(directory / "teacher", directory / "store", model=model(), train_steps=3, eval_dataset=None))
    teach(directory / "teacher", directory / "store", "both", directory / "signal", layout=BitLayout())
    return directory


def start(world, meshes, processes=1, devices=1, steps=STEPS, evaluate=False):
    """Starts a job."""
    port = free_port()
    jobs = []
    for index in range(processes):
        setting = environment(index, processes, port, devices)
        if processes == 1:
            setting = {name: value for name, value in setting.items() if not name.startswith("CAT_JAX_")}
        command = [sys.executable, str(PROGRAM), str(world), json.dumps(meshes), str(steps), str(evaluate)]
        pipe = subprocess.PIPE
        jobs.append(subprocess.Popen(command, env=setting, stdout=pipe, stderr=pipe, text=True, cwd=PROGRAM.parent))
    return jobs


def finish(jobs):
    """{name: (steps, digest, records)} that the jobs printed."""
    results = {}
    for job in jobs:
        out, err = job.communicate(timeout=600)
        assert job.returncode == 0, err[-3000:]
        lines = [line for line in out.splitlines() if line.startswith('["')]  # Gloo prints some of its own
        results |= {name: (*state, log) for name, state, log in map(json.loads, lines)}
    return results


@pytest.fixture(scope="module")
def one_device(world):
    """Steps -> what one device has after so many."""

    @functools.cache
    def trained(steps=STEPS):
        return finish(start(world, {f"one, {steps}": (1, 1, 1)}, steps=steps, evaluate=True))[f"one, {steps}"]

    return trained


def assert_same_curve(log, expected):
    assert [r["step"] for r in log] == [r["step"] for r in expected]
    for one, other in zip(log, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert one[name] == pytest.approx(value, rel=1e-6, abs=1e-6), (one["step"], name)


def test_a_few_steps_on_eight_devices_are_those_on_one(world):
    results = finish(start(world, {"alone": (1, 1, 1)}) + start(world, {"a few": (2, 2, 2)}, devices=8))
    assert_same_curve(results["a few"][2], results["alone"][2])


@pytest.mark.exhaustive
def test_eight_devices_train_as_one(world, one_device):
    results = finish(start(world, MESHES, devices=8, steps=MANY, evaluate=True))
    assert results.keys() == MESHES.keys()
    for _, _, log in results.values():
        assert_same_curve(log, one_device(MANY)[2])


@pytest.mark.exhaustive
def test_adapters_train_on_eight_devices_as_on_one(world):
    """LoRA's ranks lie whole where the kernel's sides are split."""
    alone = finish(start(world, {"lora": (1, 1, 1)}))["lora"]
    split = finish(start(world, {"lora, split": (1, 2, 4)}, devices=8))["lora, split"]
    assert_same_curve(split[2], alone[2])


@pytest.mark.exhaustive
def test_two_processes_of_four_devices_train_as_one(world, one_device):
    meshes = {f"two processes, {name}": shape for name, shape in MESHES.items()}
    results = finish(start(world, meshes, processes=2, devices=4, steps=MANY))
    assert results.keys() == meshes.keys()
    for steps, _, log in results.values():
        assert steps == one_device(MANY)[0]
        assert_same_curve(log, training(one_device(MANY)[2]))


def training(log):
    return [r for r in log if "train/loss" in r]


@pytest.mark.exhaustive
def test_a_checkpoint_of_two_processes_goes_on_with_one(world, one_device):
    """Told to stop: SIGTERM to the second process alone stops both after the same step. They trained as one device."""
    name = "moved"
    jobs = start(world, {name: (2, 2, 2)}, processes=2, devices=4, steps=5000)
    log = world / name / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        assert time.monotonic() < deadline
        assert all(job.poll() is None for job in jobs), [job.communicate()[1][-2000:] for job in jobs]
        time.sleep(0.05)
    jobs[1].send_signal(signal.SIGTERM)
    for job in jobs:
        _, err = job.communicate(timeout=600)
        assert "Preempted: " in err, err[-3000:]
    steps = sorted(int(p.name) for p in (world / name / "checkpoints").iterdir())
    assert steps[-1] >= 3
    for step in steps:
        if step != 3:
            shutil.rmtree(world / name / "checkpoints" / str(step))
    _, _, records = finish(start(world, {name: (1, 1, 1)}))[name]
    assert_same_curve(records, training(one_device()[2]))


KILLER = """
import os, signal, sys
sys.modules["tensorflow"] = sys.modules["seqio"] = None  # training needs neither
sys.path.insert(0, {here!r})
import jax
from training_world import arguments, dataset, model
from cat_jax.checkpoint import manager, seal
from cat_jax.train.loop import train
from cat_jax.train.window import MetricWindow

when = sys.argv[3]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)

add, write_seal = MetricWindow.add, manager.write_seal
if when.startswith("step"):
    MetricWindow.add = lambda self, step, m: die() if step == int(when[4:]) else add(self, step, m)
elif when.startswith("seal"):
    manager.write_seal = lambda d, s: die() if s.step == int(when[4:]) else write_seal(d, s)
elif when.startswith("removal"):
    manager.remove_step = lambda d: die() if d.name == when[7:] else seal.remove_step(d)
train(**arguments(
    sys.argv[1], sys.argv[2], train_steps=12, model=model(dropout_rate=0.1),
    train_dataset=dataset(sys.argv[2], pack=True, batch_size=4),
))
"""


@pytest.mark.exhaustive
def test_killed_anywhere_and_resumed_is_never_killed(world, tmp_path):
    """Kill -9 between steps, during a save and during the removal of an old checkpoint."""
    setting = os.environ | {"JAX_PLATFORMS": "cpu"}
    code = KILLER.format(here=str(PROGRAM.parent))

    def run(name, when):
        command = [sys.executable, "-c", code, str(tmp_path / name), str(world / "store"), when]
        return subprocess.run(command, env=setting, capture_output=True, text=True, check=False)

    whole = run("whole", "never")
    assert whole.returncode == 0, whole.stderr[-3000:]
    for when in ("step2", "step5", "seal6", "removal3", "step11"):
        killed = run("killed", when)
        assert killed.returncode == -signal.SIGKILL, (when, killed.stderr[-3000:])
    assert run("killed", "never").returncode == 0
    (steps, *whole), (_, *killed) = (
        (*steps_and_digest(tmp_path / name), records(tmp_path / name)) for name in ("whole", "killed")
    )
    assert whole == killed
    assert steps == [9, 12]
