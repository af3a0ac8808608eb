"""A checkpoint is whole and verified, or it is not there."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cat_jax.checkpoint.digest import params_digest
from cat_jax.checkpoint.manager import CheckpointManager
from cat_jax.checkpoint.retention import CheckpointConfig, best_step
from cat_jax.checkpoint.seal import SEAL, read_seal, sealed_steps
from cat_jax.errors import UserError

HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def arrays(scale):
    params = {"w": jnp.arange(12.0).reshape(3, 4) * scale, "b": jnp.full((3,), scale, jnp.bfloat16)}
    return params, {"step": jnp.asarray(scale, jnp.int32), "key": jnp.asarray([1, scale], jnp.uint32)}


def abstract(tree, dtype=None):
    return {k: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=HERE) for k, x in tree.items()}


def save_all(model_dir, steps, config=None, metrics=None):
    with CheckpointManager(model_dir, config or CheckpointConfig(keep=len(steps))) as manager:
        for step in steps:
            manager.save(step, *arrays(step), {"next": [step, "x"]}, metrics and metrics[step])
    return manager.directory


def restore(model_dir, step):
    manager = CheckpointManager(model_dir, writable=False)
    params, state = arrays(1)
    try:
        return manager.restore(step, abstract(params), abstract(state))
    finally:
        manager.close()


def test_what_is_saved_comes_back(tmp_path):
    save_all(tmp_path, [1, 7])
    restored = restore(tmp_path, 7)
    params, state = arrays(7)
    assert restored.host == {"next": [7, "x"]}
    for got, expected in ((restored.params, params), (restored.state, state)):
        assert got.keys() == expected.keys()
        for name in expected:
            assert got[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(got[name], expected[name])


def test_parameters_can_be_read_alone_in_another_dtype(tmp_path):
    save_all(tmp_path, [3])
    manager = CheckpointManager(tmp_path, writable=False)
    restored = manager.restore(3, abstract(arrays(1)[0], jnp.bfloat16))
    manager.close()
    assert restored.params["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(restored.params["w"], arrays(3)[0]["w"].astype(jnp.bfloat16))


def test_the_save_is_a_copy_so_that_the_step_may_donate(tmp_path):
    params, state = arrays(2)
    with CheckpointManager(tmp_path) as manager:
        manager.save(2, params, state, None)
        for x in (*params.values(), *state.values()):
            x.delete()
    np.testing.assert_array_equal(restore(tmp_path, 2).params["w"], arrays(2)[0]["w"])


def test_keeps_the_newest_and_the_best(tmp_path):
    config = CheckpointConfig(keep=2, keep_best=True, best_metric="right")
    metrics = {1: {"right": 0.1}, 2: {"right": 0.9}, 3: {"right": float("nan")}, 4: {"right": 0.9}, 5: {"right": 0.3}}
    directory = save_all(tmp_path, [1, 2, 3, 4, 5], config, metrics)
    assert sealed_steps(directory) == [2, 4, 5]
    assert best_step([read_seal(directory / str(s)) for s in (2, 4, 5)]) == 2
    assert sorted(p.name for p in directory.iterdir()) == ["2", "4", "5"]


def test_keeps_the_least_where_less_is_better(tmp_path):
    config = CheckpointConfig(keep=1, keep_best=True, best_metric="loss", best_mode="min")
    directory = save_all(tmp_path, [1, 2, 3], config, {1: {"loss": 2.0}, 2: {"loss": 1.0}, 3: {"loss": 3.0}})
    assert sealed_steps(directory) == [2, 3]


def test_half_written_steps_are_passed_over_and_cleaned(tmp_path):
    directory = save_all(tmp_path, [1, 2])
    (directory / "2" / SEAL).unlink()
    (directory / "3.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    (directory / ".removed-9").mkdir()
    assert sealed_steps(directory) == [1]
    CheckpointManager(tmp_path, writable=False).close()
    assert (directory / "2").exists(), "a reader must not remove anything"
    with CheckpointManager(tmp_path) as manager:
        assert manager.latest() == 1
    assert [p.name for p in directory.iterdir()] == ["1"]


def test_what_others_wrote_is_not_removed(tmp_path):
    theirs = tmp_path / "checkpoints" / "2" / "default"
    theirs.mkdir(parents=True)
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    with CheckpointManager(tmp_path) as manager:
        assert manager.latest() is None
        with pytest.raises(UserError, match="2 is no checkpoint of cat-jax: move it away"):
            manager.save(2, *arrays(2), None)
    assert theirs.is_dir()
    assert (tmp_path / "checkpoints" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("area", ["params", "state", "host"])
def test_one_flipped_byte_is_found_and_named(tmp_path, area):
    directory = save_all(tmp_path, [1, 2])
    victim = max((p for p in (directory / "2" / area).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(UserError) as error:
        restore(tmp_path, 2)
    assert str(victim) in str(error.value)
    assert f"remove {directory / '2'} to fall back to step 1" in str(error.value)


def test_a_missing_file_and_a_broken_seal_are_named(tmp_path):
    directory = save_all(tmp_path, [1])
    (directory / "1" / "params" / "manifest.ocdbt").unlink()
    with pytest.raises(UserError, match=r"manifest\.ocdbt cannot be read"):
        restore(tmp_path, 1)
    (directory / "1" / SEAL).write_text('{"version": 1}')
    with pytest.raises(UserError, match=r"SEAL\.json is not a checkpoint seal"):
        restore(tmp_path, 1)


def test_other_names_and_shapes_are_named(tmp_path):
    save_all(tmp_path, [1])
    manager = CheckpointManager(tmp_path, writable=False)
    params = abstract(arrays(1)[0])
    with pytest.raises(UserError, match=r"w is \(3, 4\) in the checkpoint and \(4, 4\) here"):
        manager.restore(1, params | {"w": jax.ShapeDtypeStruct((4, 4), jnp.float32, sharding=HERE)})
    with pytest.raises(UserError, match="only the checkpoint has b"):
        manager.restore(1, {"w": params["w"]})
    with pytest.raises(UserError, match="only the model has c"):
        manager.restore(1, params | {"c": params["w"]})
    state = abstract(arrays(1)[1])
    with pytest.raises(UserError, match=r"state: key is uint32 in the checkpoint and uint8 here"):
        manager.restore(1, params, state | {"key": jax.ShapeDtypeStruct((2,), jnp.uint8, sharding=HERE)})
    manager.close()


def test_a_directory_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        CheckpointManager(tmp_path / "file" / "run")


FULL_DISK = """
    import resource, signal, sys
    import jax.numpy as jnp
    from cat_jax.checkpoint.manager import CheckpointManager
    from cat_jax.errors import UserError
    manager = CheckpointManager(sys.argv[1])
    manager.save(1, {"w": jnp.ones(10)}, {"s": jnp.ones(2)}, None)
    manager.wait()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # what a full disk looks like: writes fail half-way
    import jax
    try:
        manager.save(2, {"w": jax.random.normal(jax.random.key(0), (1_000_000,))}, {"s": jnp.ones(2)}, None)
        manager.wait()
    except UserError as e:
        print("REFUSED", e)
"""


def test_a_full_disk_is_one_line_and_the_previous_checkpoint_stays(tmp_path):
    code = textwrap.dedent(FULL_DISK)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "REFUSED cannot write" in done.stdout, done.stdout + done.stderr[-3000:]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
    manager = CheckpointManager(tmp_path, writable=False)
    restored = manager.restore(1, abstract({"w": jnp.ones(10)}))
    manager.close()
    np.testing.assert_array_equal(restored.params["w"], np.ones(10))


KILLED = """
    import os, sys, threading, time
    import jax, jax.numpy as jnp
    from cat_jax.checkpoint.manager import CheckpointManager
    manager = CheckpointManager(sys.argv[1])
    manager.save(1, {"w": jnp.ones(10)}, {"s": jnp.ones(2)}, None)
    manager.wait()
    w = jax.random.normal(jax.random.key(0), (3_000_000,))
    print("ready", flush=True)
    manager.save(2, {"w": w}, {"s": jnp.ones(2)}, None)
    manager.wait()
    print("done", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1, 0.3])
def test_killed_during_a_save_the_previous_or_the_new_one_is_whole(tmp_path, delay):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(delay + 1e-4)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with CheckpointManager(tmp_path) as manager:
        step = manager.latest()
        assert step in (1, 2)
        shape = (10,) if step == 1 else (3_000_000,)
        manager.restore(step, {"w": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=HERE)})
        manager.save(2, *arrays(2), None)
    assert sealed_steps(manager.directory) == [2]


def test_a_changed_number_of_processes_needs_equal_notes(tmp_path):
    directory = save_all(tmp_path, [1])
    seal = json.loads((directory / "1" / SEAL).read_text())
    for k, content in ((1, '{"next": [1, "x"]}'), (2, '{"next": [2, "x"]}')):
        path = pathlib.Path(directory / "1" / "host" / f"{k}.json")
        path.write_text(content)
        seal["files"][f"host/{k}.json"] = __import__("hashlib").sha256(content.encode()).hexdigest()
        (directory / "1" / SEAL).write_text(json.dumps(seal))
        if k == 1:
            assert restore(tmp_path, 1).host == {"next": [1, "x"]}
        else:
            with pytest.raises(UserError, match="written by 3 processes whose positions in the data differ"):
                restore(tmp_path, 1)


def test_digest_depends_on_every_bit_and_its_place():
    w = jnp.arange(12.0).reshape(3, 4)
    digests = [params_digest({"w": x}) for x in (w, w.at[2, 3].add(1e-6), w[:, ::-1], w.reshape(4, 3), -w)]
    digests += [params_digest({"v": w}), params_digest({"w": w.astype(jnp.bfloat16)}), params_digest({"w": w, "v": w})]
    assert len(set(digests)) == len(digests)
    assert params_digest({"w": w + 0}) == digests[0]


def test_config_refuses_nonsense():
    with pytest.raises(UserError, match="keep=0"):
        CheckpointConfig(keep=0)
    with pytest.raises(UserError, match="best_mode is 'most'"):
        CheckpointConfig(best_mode="most")
