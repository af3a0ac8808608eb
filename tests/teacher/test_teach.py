"""What `teach` writes is the teacher's word on the right token, and its bytes do not depend on how it ran."""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from fake_devices import environment
from teacher_cases import (
    CONFIG,
    FEATURE,
    LENGTHS,
    contents,
    reference_logits,
    teacher_params,
    write_store,
    write_teacher,
)

from cat_jax.data.manifest import FeatureInfo
from cat_jax.data.mixture import Mixture, MixtureTask, write_mixture
from cat_jax.errors import UserError
from cat_jax.files import checksum
from cat_jax.teacher.groups import group_examples
from cat_jax.teacher.layout import BitLayout, FullLayout, SparseLayout
from cat_jax.teacher.manifest import read_manifest
from cat_jax.teacher.store import SignalStore
from cat_jax.teacher.writer import teach

pytestmark = pytest.mark.slow

TASK_DIR = pathlib.Path("toy%3Aa", "train")


def test_full_signal_is_what_the_teacher_says_of_each_example_alone(world):
    reader = SignalStore.open(world.signals["full"], world.store)
    right = tokens = 0
    for index, example in enumerate(world.store):
        shard, within = divmod(index, 20)
        expected = reference_logits(world.model, example)
        signal = reader.read(shard, within, len(example.targets))
        np.testing.assert_allclose(signal["records"].view("<f4"), expected, atol=2e-5)
        correct = expected.argmax(-1) == example.targets
        assert (signal["top1_correct"] == correct).all()
        right, tokens = right + correct.sum(), tokens + len(correct)
    assert 0 < right < tokens
    assert reader.manifest.target_tokens == tokens == world.store.lengths[:, 1].sum()
    assert reader.manifest.teacher_accuracy == right / tokens


def test_all_layouts_agree(world):
    readers = {name: SignalStore.open(path, world.store) for name, path in world.signals.items()}
    every = np.arange(60)
    args = (*world.store.locate(every), world.store.lengths[:, 1])
    found = {name: reader.read_batch(*args) for name, reader in readers.items()}
    assert (found["bit"]["top1_correct"] == found["full"]["top1_correct"]).all()
    assert (found["sparse"]["top1_correct"] == found["full"]["top1_correct"]).all()
    assert list(found["bit"]) == ["top1_correct"]
    p = np.asarray(jax.nn.softmax(found["full"]["records"].view("<f4"), axis=-1))
    sparse = readers["sparse"].assemble({name: values[None] for name, values in found["sparse"].items()}).sparse
    top = np.argsort(-p, axis=-1, kind="stable")[:, :4]
    assert (sparse.token_ids[0, :, :4] == top).all()
    np.testing.assert_allclose(sparse.probabilities[0, :, :4], np.take_along_axis(p, top, -1), rtol=1e-3)
    # The draws' mean over all positions is the mean tail: 1170 positions of 6 draws.
    tail = p.copy()
    np.put_along_axis(tail, top, 0, -1)
    drawn = np.zeros_like(p)
    for k in range(4, 10):
        np.add.at(drawn, (np.arange(len(p)), sparse.token_ids[0, :, k]), sparse.probabilities[0, :, k])
    variance = (tail * tail.sum(-1, keepdims=True) / 6).sum(0) / len(p) ** 2
    assert (np.abs(drawn.mean(0) - tail.mean(0)) < 4.5 * np.sqrt(variance)).all()


def test_bytes_on_disk(world):
    tokens = world.store.lengths[:, 1].sum()
    sizes = {}
    for name, directory in world.signals.items():
        manifest = read_manifest(directory / TASK_DIR)
        files = [directory / TASK_DIR / shard.file for shard in manifest.shards]
        sizes[name] = sum(path.stat().st_size for path in files)
        assert manifest.bytes_per_token == sizes[name] / tokens
        assert [shard.sha256 for shard in manifest.shards] == [checksum(path) for path in files]
    assert tokens / 8 <= sizes["bit"] <= 1.02 * tokens / 8
    reader = SignalStore.open(world.signals["sparse"], world.store)
    found = reader.read_batch(*world.store.locate(np.arange(60)), world.store.lengths[:, 1])["records"].view("<u2")
    tails = np.exp((found[:, 0].astype(float) - 65535) / 2048)
    draws = np.minimum(np.ceil(tails * 16), 6)
    assert 1 == draws.min() < draws.mean() < draws.max() == 6
    assert sizes["sparse"] - sizes["bit"] == tokens * 2 * (1 + 4 + 4) + 2 * draws.sum()
    assert sizes["full"] - sizes["bit"] == tokens * 4 * 40


def test_the_manifest_states_layout_bytes_and_error(world):
    fields = {name: json.loads((path / TASK_DIR / "manifest.json").read_text()) for name, path in world.signals.items()}
    assert fields["sparse"]["layout"] == SparseLayout(top_k=4, tail_draws=6, draw_mass=1 / 16).to_dict()
    assert fields["bit"]["bytes_per_token"] < 0.13
    assert fields["bit"]["error_per_token"] is None
    assert fields["full"]["error_per_token"] == 0
    args = (*world.store.locate(np.arange(60)), world.store.lengths[:, 1])
    full, sparse = (SignalStore.open(world.signals[name], world.store) for name in ("full", "sparse"))
    p = np.asarray(jax.nn.softmax(full.read_batch(*args)["records"].view("<f4"), axis=-1), np.float64)
    stored, signal = np.zeros_like(p), sparse.read_batch(*args)
    signal = sparse.assemble({name: values[None] for name, values in signal.items()}).sparse
    for k in range(10):
        np.add.at(stored, (np.arange(len(p)), signal.token_ids[0, :, k]), signal.probabilities[0, :, k])
    expected = np.sqrt(np.square(stored - p).sum(-1).mean())
    np.testing.assert_allclose(fields["sparse"]["error_per_token"], expected, rtol=1e-3)
    assert 0.01 < expected < 0.5


def test_the_manifest_names_store_and_teacher(world):
    recipe = read_manifest(world.signals["sparse"] / TASK_DIR).recipe
    assert recipe.store == world.store.fingerprint
    assert (recipe.vocabulary, recipe.vocab_size) == (FEATURE.vocabulary, 40)
    assert (recipe.teacher.name, recipe.teacher.step, recipe.teacher.dtype) == ("model", 7, "float32")
    assert recipe.feature_lengths == LENGTHS
    assert recipe.layout == SparseLayout(top_k=4, tail_draws=6, draw_mass=1 / 16)


def run(world, output, **options):
    options = {"layout": SparseLayout(top_k=4, tail_draws=6, draw_mass=1 / 16), "batch_size": 8, **options}
    return teach(world.root / "model", world.root / "store", "toy:a", output, **options)


def test_a_finished_signal_is_left_alone(world):
    directory = world.signals["sparse"] / TASK_DIR
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    manifests = run(world, world.signals["sparse"])
    assert manifests == {("toy:a", "train"): read_manifest(directory)}
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_processes_share_shards_and_write_the_same_bytes(world, tmp_path):
    assert run(world, tmp_path, process_index=1, process_count=2) == {}
    assert sorted(p.name for p in (tmp_path / TASK_DIR).iterdir()) == [
        "shard-00001-of-00003.json",
        "shard-00001-of-00003.signal",
    ]
    assert list(run(world, tmp_path, process_index=0, process_count=2)) == [("toy:a", "train")]
    assert contents(tmp_path) == contents(world.signals["sparse"])


PROCESS = """
import json, sys
import jax
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.teacher.layout import FullLayout, SparseLayout
from cat_jax.teacher.writer import teach
world, output, address, processes, rank, runs = sys.argv[1:]
if int(processes) > 1:
    jax.distributed.initialize(address, int(processes), int(rank))
layouts = {"sparse": SparseLayout(top_k=4, tail_draws=6, draw_mass=1 / 16), "full": FullLayout()}
for name, (layout, sizes) in json.loads(runs).items():
    settings = {"layout": layouts[layout], "batch_size": 8, "mesh": MeshConfig(*sizes)}
    done = teach(f"{world}/model", f"{world}/store", "toy:a", f"{output}/{name}", **settings)
    assert list(done) == [("toy:a", "train")]
"""


def teach_in_processes(world, output, runs, processes, devices):
    """Teaches {name: (layout, mesh)} into `output/name`, in processes that have `devices` devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-c", PROCESS, world, output, address, str(processes)]
    hosts = [
        subprocess.Popen([*command, str(rank), json.dumps(runs)], env=environment(devices)) for rank in range(processes)
    ]
    assert [host.wait(timeout=300) for host in hosts] == [0] * processes


@pytest.mark.exhaustive
def test_two_hosts_of_four_devices_write_the_same_bytes(world, tmp_path):
    runs = {"sparse": ("sparse", (2, 2, 1)), "full": ("full", (1, 2, 2))}
    teach_in_processes(world.root, tmp_path, runs, processes=2, devices=4)
    for name in runs:
        assert contents(tmp_path / name) == contents(world.signals[name])


@pytest.mark.parametrize("meshes", [["both"], pytest.param(["data", "tensor"], marks=pytest.mark.exhaustive)])
def test_eight_devices_write_the_same_bytes_on_every_mesh(tmp_path, meshes):
    """The full layout keeps every bit of every logit."""
    write_store(tmp_path / "store")
    write_teacher(tmp_path / "model", config=dataclasses.replace(CONFIG, num_heads=4))
    teach(tmp_path / "model", tmp_path / "store", "toy:a", tmp_path / "one", layout=FullLayout(), batch_size=8)
    runs = {"data": ("full", (8, 1, 1)), "both": ("full", (2, 4, 1)), "tensor": ("full", (1, 2, 4))}
    runs = {name: runs[name] for name in meshes}
    teach_in_processes(tmp_path, tmp_path, runs, processes=1, devices=8)
    for name in runs:
        assert contents(tmp_path / name) == contents(tmp_path / "one"), name


def test_the_seed_moves_the_draws_alone(world, tmp_path):
    run(world, tmp_path, seed=1)
    ours, theirs = (SignalStore.open(path, world.store) for path in (tmp_path, world.signals["sparse"]))
    every = (*world.store.locate(np.arange(60)), world.store.lengths[:, 1])
    ours, theirs = (reader.read_batch(*every)["records"].view("<u2") for reader in (ours, theirs))
    changed = (ours != theirs).any(0)
    assert np.flatnonzero(changed).tolist() == list(range(9, 15))  # tail, top 4, their ids; then 6 draws


def teach_in_child(root, output):
    teach(
        root / "model",
        root / "store",
        "toy:a",
        output,
        layout=SparseLayout(top_k=4, tail_draws=6, draw_mass=1 / 16),
        batch_size=8,
    )


def test_killed_and_resumed_is_never_killed(world, tmp_path):
    write_store(tmp_path / "store", num_shards=60, per_shard=2)
    write_teacher(tmp_path / "model")
    output = tmp_path / "killed"
    child = multiprocessing.get_context("spawn").Process(target=teach_in_child, args=(tmp_path, output))
    child.start()
    while len(list(output.glob("*/*/*.json"))) < 3:
        assert child.is_alive()
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    directory = output / TASK_DIR
    finished = {p.name: p.stat().st_mtime_ns for p in directory.glob("shard-*.json")}
    assert 3 <= len(finished) < 60
    assert not (directory / "manifest.json").exists()
    half = "shard-00059-of-00060.signal"
    (directory / f".{half}.killed").write_bytes(b"half")  # what an atomic write leaves when it is killed
    teach_in_child(tmp_path, output)
    teach_in_child(tmp_path, tmp_path / "whole")
    assert contents(output) == contents(tmp_path / "whole")
    assert {name: (directory / name).stat().st_mtime_ns for name in finished} == finished


def test_a_damaged_shard_is_redone(world, tmp_path):
    run(world, tmp_path)
    path = tmp_path / TASK_DIR / "shard-00001-of-00003.signal"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    run(world, tmp_path)  # the manifest stands, and nobody reads every byte unasked
    assert path.read_bytes() == content
    run(world, tmp_path, overwrite=True)
    assert contents(tmp_path) == contents(world.signals["sparse"])
    path.write_bytes(content[:-1])
    run(world, tmp_path)  # but a size is looked at
    assert contents(tmp_path) == contents(world.signals["sparse"])


def test_other_settings_are_refused_or_overwritten(world, tmp_path):
    run(world, tmp_path, layout=BitLayout(), process_index=0, process_count=2)  # unfinished
    with pytest.raises(UserError, match=r"has layout BitLayout\(\), asked for FullLayout\(\): name another"):
        run(world, tmp_path, layout=FullLayout())
    run(world, tmp_path, layout=BitLayout())
    write_teacher(tmp_path / "other", seed=1)
    args = (tmp_path / "other", world.root / "store", "toy:a", tmp_path)
    with pytest.raises(UserError, match=r"has teacher .*model.*asked for .*other"):
        teach(*args, layout=BitLayout(), batch_size=8)
    with pytest.raises(UserError, match="has batch_size 8, asked for 4"):
        run(world, tmp_path, layout=BitLayout(), batch_size=4)
    run(world, tmp_path, overwrite=True)
    assert {k: v for k, v in contents(tmp_path).items() if k.startswith("toy")} == contents(world.signals["sparse"])


def test_a_teacher_that_cannot_be_read_leaves_the_old_signal(world, tmp_path):
    shutil.copytree(world.signals["sparse"], tmp_path / "signal")
    shutil.copytree(world.root / "model", tmp_path / "model")
    # Those of parameters have no suffix, as the seal has.
    files = [path for path in (tmp_path / "model" / "checkpoints").rglob("*") if path.is_file() and not path.suffix]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[::-1])
    args = (tmp_path / "model", world.root / "store", "toy:a", tmp_path / "signal")
    with pytest.raises(UserError, match=r"damaged|changed|checksum"):
        teach(*args, layout=BitLayout(), batch_size=8, overwrite=True)
    assert contents(tmp_path / "signal") == contents(world.signals["sparse"])


def test_a_mixture_and_its_splits(world, tmp_path):
    for task, split in (("a", "train"), ("b", "train"), ("b", "validation")):
        write_store(tmp_path / "store", task, split, num_shards=1, per_shard=3, seed=ord(task))
    write_mixture(
        tmp_path / "store",
        Mixture("mix", (MixtureTask("a", 1.0, ("train",)), MixtureTask("b", 1.0, ("train", "validation")))),
    )
    args = (world.root / "model", tmp_path / "store", "mix", tmp_path / "signal")
    found = teach(*args, splits=("train", "validation"), layout=BitLayout(), batch_size=4)
    assert list(found) == [("a", "train"), ("b", "train"), ("b", "validation")]
    assert len({manifest.fingerprint for manifest in found.values()}) == 3
    assert all(manifest.num_examples == 3 for manifest in found.values())


def test_groups_cover_a_shard_once_in_similar_lengths():
    lengths = np.random.default_rng(0).integers(1, [513, 65], (1000, 2))
    groups = group_examples(lengths, {"inputs": 512, "targets": 64}, 16)
    assert sorted(np.concatenate([g.examples for g in groups]).tolist()) == list(range(1000))
    assert [len(g.examples) for g in groups[:-1]] == [16] * 62
    for group in groups:
        assert (lengths[group.examples] <= group.shape).all()
    assert {g.shape for g in groups} <= {(s, t) for s in (64, 128, 256, 512) for t in (32, 64)}
    padded = sum(16 * sum(g.shape) for g in groups)
    assert padded < 1.45 * lengths.sum() < 1000 * (512 + 64)


def test_longer_examples_than_a_bucket(world, tmp_path):
    """Targets of 40 fall into buckets of 32 and 40, inputs of 12 into one: every example still has its own signal."""
    lengths = {"inputs": 12, "targets": 40}
    store = write_store(tmp_path / "store", "long", num_shards=2, per_shard=7, lengths=lengths)
    assert store.lengths[:, 1].min() < 32 < store.lengths[:, 1].max()
    teach(world.root / "model", tmp_path / "store", "long", tmp_path / "full", layout=FullLayout(), batch_size=3)
    reader = SignalStore.open(tmp_path / "full", store)
    for index, example in enumerate(store):
        got = reader.read(*divmod(index, 7), len(example.targets))["records"].view("<f4")
        np.testing.assert_allclose(got, reference_logits(world.model, example, lengths), atol=2e-5)


def broken(directory):
    params = teacher_params()
    name = next(name for name in params if name.startswith("encoder"))
    from cat_jax.checkpoint.manager import CheckpointManager
    from cat_jax.checkpoint.params import write_model_file

    write_model_file(directory, CONFIG, {})
    with CheckpointManager(directory) as manager:
        manager.save(1, {**params, name: params[name] * np.nan}, {"step": np.zeros(())}, None)
    return directory


def test_refusals(world, tmp_path, caplog):
    args = (world.root / "store", "toy:a", tmp_path / "out")
    shutil.copytree(world.signals["sparse"], tmp_path / "old")
    with pytest.raises(UserError, match="not finite for example 0 of shard 0"):
        teach(broken(tmp_path / "nan"), *args[:2], tmp_path / "old", layout=BitLayout(), batch_size=8, overwrite=True)
    assert contents(tmp_path / "old") == contents(world.signals["sparse"])
    assert "nan does not say on which vocabulary of targets it was trained" in caplog.text
    other = write_teacher(tmp_path / "other", vocabulary="w" * 64)
    with pytest.raises(UserError, match=r"other was trained on the inputs vocabulary wwww.* is over vvvv"):
        teach(other, *args)
    wide = FeatureInfo("v" * 64, 41, 1, True)
    write_store(tmp_path / "store", "wide", feature=wide)
    with pytest.raises(UserError, match=r"have 41 ids, the teacher .*model knows 40"):
        teach(world.root / "model", tmp_path / "store", "wide", tmp_path / "out")
    with pytest.raises(UserError, match="top 50 of a vocabulary of 40"):
        run(world, tmp_path / "out", layout=SparseLayout(top_k=50))
    with pytest.raises(UserError, match="batch_size is 0"):
        run(world, tmp_path / "out", batch_size=0)
    with pytest.raises(UserError, match="seed is -1"):
        run(world, tmp_path / "out", seed=-1)
    with pytest.raises(UserError, match="no task of 'toy:a' has a split 'test'"):
        run(world, tmp_path / "out", splits="test")
    assert not list((tmp_path / "out").rglob("*.signal"))


def test_sidecars_hold_the_recipe(world):
    sidecar = json.loads((world.signals["bit"] / TASK_DIR / "shard-00000-of-00003.json").read_text())
    assert sidecar["recipe"] == read_manifest(world.signals["bit"] / TASK_DIR).recipe.to_dict()
