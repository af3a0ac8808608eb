"""Plans: parts that add up, what fits and what does not, and the change that is proposed."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest
from plan_cases import LENGTHS, STUDENT, TEACHER, config, job

from cat_jax.data.loader import DatasetConfig
from cat_jax.decode.beam import BeamSearch
from cat_jax.decode.greedy import Greedy
from cat_jax.errors import UserError
from cat_jax.losses.objective import Objective
from cat_jax.models.flops import parameter_count
from cat_jax.models.lora import Lora
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.planning import chips
from cat_jax.planning.plan import plan
from cat_jax.planning.steps import TrainCase, activation_bytes, train_arguments
from cat_jax.planning.text import as_text
from cat_jax.planning.topology import Topology
from cat_jax.teacher.layout import BitLayout
from cat_jax.teacher.store import StoredTeacher
from cat_jax.train.optimizer import AdamW

pytestmark = pytest.mark.slow

CASE = TrainCase(STUDENT, Objective(w=0.5), AdamW(), TEACHER, None, 16 * len(jax.devices()), LENGTHS)
"""The train step of `job()`."""


@pytest.fixture(scope="module")
def planned():
    return plan(**job())


def small_chip(monkeypatch, memory):
    chip = dataclasses.replace(chips.CHIPS["h100"], memory=memory)
    monkeypatch.setitem(chips.CHIPS, "h100", chip)


def test_parts_add_up_and_are_what_they_are_called(planned):
    train = planned["steps"]["train"]
    assert sum(train["bytes"].values()) == train["total_bytes"]
    assert train["bytes"]["student"] == 4 * parameter_count(STUDENT)
    assert train["bytes"]["teacher"] == 4 * parameter_count(TEACHER)
    assert 2 * train["bytes"]["student"] < train["bytes"]["optimizer"] < 2 * train["bytes"]["student"] + 100
    assert planned["fits"]
    assert all(step["fits"] for step in planned["steps"].values())


def test_the_bytes_are_those_of_the_program_that_train_compiles(planned):
    """Within 5 %: the compiler's own figures of the same step, lowered from arrays and not from a plan."""
    mesh = MeshConfig().build()
    step, shapes, _ = train_arguments(CASE, mesh)
    arrays = jax.tree.map(lambda x: jax.device_put(jax.numpy.zeros(x.shape, x.dtype), x.sharding), shapes)
    sizes = step.lower(*arrays).compile().memory_analysis()
    total = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    total += sizes.temp_size_in_bytes + sizes.generated_code_size_in_bytes
    assert planned["steps"]["train"]["total_bytes"] == pytest.approx(total, rel=0.05)


def test_every_number_is_in_the_text_and_in_json(planned):
    text = as_text(planned)
    for word in ("student", "optimizer", "teacher", "activations", "MFU", "fits", "bytes moved", "Assumptions"):
        assert word in text
    assert json.loads(json.dumps(planned)) == planned
    for step in planned["steps"].values():
        assert 0 < step["estimate"]["best_seconds"] <= step["estimate"]["worst_seconds"]
        assert 0 < step["estimate"]["worst_mfu"] <= step["estimate"]["best_mfu"] < 1
        assert step["flops"] >= 0.9 * step["model_flops"]


def test_what_does_not_fit_gets_a_change_that_does(planned, monkeypatch):
    full = planned["steps"]["train"]
    state = sum(full["bytes"].get(part, 0) for part in ("student", "optimizer", "teacher", "batch"))
    small_chip(monkeypatch, state + (full["total_bytes"] - state) * 6 // 10)
    found = plan(**job(steps=["train"]))
    train = found["steps"]["train"]
    assert not found["fits"]
    assert not train["fits"]
    assert train["proposal"]["fits"]
    assert train["proposal"]["total_bytes"] < train["total_bytes"]
    assert train["proposal"]["flags"]
    assert train["proposal"]["flags"][0] in as_text(found)


def test_teaching_that_does_not_fit_gets_fewer_rows(planned, monkeypatch):
    full = planned["steps"]["teach"]
    small_chip(monkeypatch, (full["bytes"]["teacher"] + full["total_bytes"]) // 2 + 1)
    teach = plan(**job(steps=["teach"]))["steps"]["teach"]
    assert not teach["fits"]
    assert teach["proposal"]["fits"]
    assert teach["proposal"]["estimate"]["best_mfu"] < 1
    (flag,) = (flag for flag in teach["proposal"]["flags"] if "TEACH_BATCH_SIZE" in flag)
    again = plan(**job(steps=["teach"], teach_batch_size=int(flag.split("=")[1])))
    assert again["fits"], "the proposal's flags make no plan that fits"


def test_nothing_fits_a_chip_without_memory(monkeypatch):
    small_chip(monkeypatch, 1000)
    found = plan(**job(steps=["train"]))
    assert not found["fits"]
    assert found["steps"]["train"]["proposal"] is None
    assert "was found to fit" in as_text(found)


def test_a_stored_signal_takes_the_teachers_place(planned):
    bit = {"teacher": StoredTeacher(""), "teacher_model": None, "layout": BitLayout()}
    stored = plan(**job(**bit, objective=Objective(w=1.0), steps=["train"]))
    assert "teacher" not in stored["steps"]["train"]["bytes"]
    assert stored["steps"]["train"]["model_flops"] < planned["steps"]["train"]["model_flops"]


def test_beams_are_the_models_own_flops():
    def mfu(decoding):
        step = plan(**job(steps=["decode"], decoding=decoding))["steps"]["decode"]
        return step["model_flops"] / step["flops"]

    assert mfu(BeamSearch(4)) == pytest.approx(mfu(Greedy()), rel=0.1)


def test_teaching_has_a_dtype_of_its_own(planned):
    """Some is in bfloat16, some in int8, and the scales are in float32."""
    small, whole = plan(**job(steps=["teach"], teach_dtype="int8")), planned["steps"]["teach"]["bytes"]["teacher"]
    assert whole / 4 < small["steps"]["teach"]["bytes"]["teacher"] < whole / 2
    assert small["parameters"] == planned["parameters"]  # scales are not counted


def test_adapters_need_less_than_their_base():
    """Neither gradient nor optimizer state of what is frozen, nor what only that gradient would read."""
    mesh, lora = MeshConfig().build(), Lora(rank=2)
    adapted = dataclasses.replace(CASE, lora=lora)
    full, less = (train_arguments(case, mesh)[2] for case in (CASE, adapted))
    assert full["student"] < less["student"] < 1.2 * full["student"]
    assert less["optimizer"] < full["optimizer"] / 3
    assert activation_bytes(adapted, mesh) < activation_bytes(CASE, mesh)
    assert plan(**job(steps=[], lora=lora))["parameters"]["student"] > parameter_count(STUDENT)


def test_microbatches_and_rematerialisation_save_activations(planned):
    mesh = MeshConfig().build()

    def kept(**changes):
        return activation_bytes(dataclasses.replace(CASE, **changes), mesh)

    assert planned["steps"]["train"]["bytes"]["activations"] == kept()
    assert kept(num_microbatches=4) == pytest.approx(kept() / 4, rel=0.1)
    assert kept(model=config(32, 1, remat="full")) < kept() / 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("v5e", "is 'v5e'"),
        ("v9:4x4", "not known"),
        ("v4:2x2x1", "not known"),
        ("h100:2x2", "no number"),
        ("v5e:0x4", "no number"),
        (8, "is 8"),
    ],
)
def test_a_topology_that_is_none(text, problem):
    with pytest.raises(UserError, match=problem):
        Topology.parse(text)


def test_a_batch_that_chips_cannot_share():
    dataset = DatasetConfig("", "", "train", {"inputs": 8, "targets": 8}, 3)
    with pytest.raises(UserError, match="multiple of"):
        plan(**job(train_dataset=dataset, num_microbatches=2))
    with pytest.raises(UserError, match="list some of"):
        plan(**job(steps=["trian"]))


COMMAND = [
    "plan",
    "--gin_file=runs/plan.gin",
    "--gin_file=models/t5_tiny.gin",
    "--gin_file=objectives/cat_dist.gin",
    "--gin.TEACHER=@LiveTeacher()",
    "--gin.TEACHER_MODEL='models/t5_tiny.gin'",
    "--gin.teacher/T5Config.num_decoder_layers=1",
    "--gin.T5Config.num_encoder_layers=1",
    "--gin.T5Config.num_decoder_layers=2",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}",
    "--gin.BATCH_SIZE=32",
    "--json",
]


def run(*flags):
    setting = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "cat_jax.cli.main", *COMMAND, *flags],
        capture_output=True,
        text=True,
        check=False,
        env=setting,
    )


@pytest.mark.exhaustive
def test_the_command_plans_for_devices_that_are_not_here():
    done = run("--gin.TOPOLOGY='h100:4'", "--gin.PLAN_STEPS=['train']", "--gin.MeshConfig.fsdp=2")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert found["parameters"]["teacher"] < found["parameters"]["student"]  # a layer less: its scope reached it
    assert found["steps"]["train"]["collectives"]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, the TPU's compiler")
def test_the_tpus_compiler_says_what_does_not_fit():
    small = ["--gin.TOPOLOGY='v5e:2x2'", "--gin.PLAN_STEPS=['train']", "--gin.T5Config.num_decoder_layers=1"]
    fits = run(*small)
    assert fits.returncode == 0, fits.stderr
    assert json.loads(fits.stdout)["compiler"] == "TPU"
    large = run(
        *small,
        "--gin.BATCH_SIZE=8192",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 128}",
    )
    assert large.returncode == 4, large.stderr
    train = json.loads(large.stdout)["steps"]["train"]
    assert not train["fits"]
    assert train["proposal"]["fits"]
