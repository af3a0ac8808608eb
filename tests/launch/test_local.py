"""The launcher of several processes on this machine, with small programs in place of `cat-jax`."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from cat_jax_launch import local

from cat_jax.cli import distributed
from cat_jax.errors import UserError


def launch(tmp_path, program, processes=2, devices=None):
    """Starts the launcher on a program; `cat_jax.cli.main` is replaced by it."""
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    driver = f"""
import sys
from cat_jax_launch import local
popen = local.subprocess.Popen
local.subprocess.Popen = lambda command, **more: popen([sys.executable, {str(tmp_path / "program.py")!r}], **more)
sys.exit(local.launch([], {processes}, {devices}))
"""
    return subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True)


def test_processes_compute_together(tmp_path):
    process = launch(
        tmp_path,
        """
        from cat_jax.cli import distributed
        distributed.join()
        import jax, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec
        mesh = jax.make_mesh((jax.device_count(),), ("data",))
        rows = np.full(jax.local_device_count(), 1.0 + jax.process_index(), np.float32)
        x = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), rows)
        print("sum", float(jax.jit(lambda x: x.sum())(x)), "of", jax.device_count())
        """,
        processes=2,
        devices=2,
    )
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert "[0] sum 6.0 of 4\n" in out
    assert "[1] sum 6.0 of 4\n" in out


def test_the_first_failure_stops_the_rest_and_is_the_exit_code(tmp_path):
    began = time.monotonic()
    process = launch(
        tmp_path,
        """
        import os, sys, time
        if os.environ["CAT_JAX_PROCESS_ID"] == "1":
            sys.exit(3)
        time.sleep(600)
        """,
    )
    process.communicate(timeout=120)
    assert process.returncode == 3
    assert time.monotonic() - began < 120


def test_sigterm_reaches_every_process(tmp_path):
    process = launch(
        tmp_path,
        """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(75)))
        print("ready", flush=True)
        time.sleep(600)
        """,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    assert sorted(lines) == ["[0] ready\n", "[1] ready\n"]
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 75
    assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"]


def test_fake_devices_replace_a_count_that_was_set(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_foo=1 --xla_force_host_platform_device_count=2")
    found = local.environment(1, 3, 1234, 4)
    assert found["XLA_FLAGS"] == "--xla_foo=1 --xla_force_host_platform_device_count=4"
    assert (found["CAT_JAX_COORDINATOR"], found["CAT_JAX_PROCESS_ID"]) == ("127.0.0.1:1234", "1")
    assert local.environment(0, 3, 1234, None)["XLA_FLAGS"] == os.environ["XLA_FLAGS"]


@pytest.mark.parametrize("argv", [[], ["--processes", "0", "--", "train"], ["--processes", "2", "--"]])
def test_the_command_line_is_checked(argv):
    with pytest.raises(SystemExit) as caught:
        local.main(argv)
    assert caught.value.code == 2


def test_variables_are_all_set_or_none(monkeypatch):
    for name in ("CAT_JAX_COORDINATOR", "CAT_JAX_NUM_PROCESSES", "CAT_JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    assert not distributed.asked_for(False)
    assert distributed.asked_for(True)
    monkeypatch.setenv("CAT_JAX_COORDINATOR", "127.0.0.1:1")
    with pytest.raises(UserError, match="CAT_JAX_COORDINATOR is set, but not CAT_JAX_NUM_PROCESSES"):
        distributed.asked_for(False)
