"""The launcher of several processes on this machine, with small programs in place of `cat-jax`."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from cat_jax_launch import local
from hosts import AWKWARD

from cat_jax.cli import distributed
from cat_jax.errors import UserError


def launch(tmp_path, program, processes=2, devices=None, more=""):
    """Starts the launcher on a program; `cat_jax.cli.main` is replaced by it. `more` is Python that it runs first."""
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    driver = f"""
import sys
from cat_jax_launch import local
{more}
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


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "local: no command: end with e.g. `-- train --gin_file=runs/train.gin`"),
        (["--processes", "2", "--"], "local: no command: end with e.g. `-- train --gin_file=runs/train.gin`"),
        (["--processes", "0", "--", "train"], "local: --processes or --devices_per_process is below 1: give 1 or more"),
    ],
)
def test_mistakes_are_one_line(capsys, argv, line):
    assert local.main(argv) == 2
    assert capsys.readouterr().err == f"{line}\n"


def test_a_preempted_job_is_started_again(tmp_path):
    """A process that something else has told to stop; a signal to the launcher itself ends the job."""
    process = launch(
        tmp_path,
        """
        import os, pathlib, sys, time
        here, index = pathlib.Path(__file__).parent, os.environ["CAT_JAX_PROCESS_ID"]
        if not (here / index).exists():
            (here / index).touch()
            while not (here / "0").exists():
                time.sleep(0.01)
            sys.exit(75) if index == "1" else time.sleep(600)
        print("again", flush=True)
        """,
    )
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert sorted(out.splitlines()) == ["[0] again", "[1] again"]


def test_the_others_may_save_where_one_was_ended_by_sigterm(tmp_path):
    """It had not begun to notice signals: that is a preemption, and no failure that leaves the others little time."""
    process = launch(
        tmp_path,
        """
        import os, pathlib, signal, sys, time
        here, index = pathlib.Path(__file__).parent, os.environ["CAT_JAX_PROCESS_ID"]
        if (here / index).exists():  # it was started again
            sys.exit()
        (here / index).touch()
        def save(*_):
            time.sleep(1)
            print("saved", flush=True)
            sys.exit(75)
        if index == "1":
            while not (here / "ready").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGTERM, save)
        (here / "ready").touch()
        time.sleep(600)
        """,
        more="local._ORPHAN_SECONDS = 0.2",
    )
    out, _ = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "[0] saved\n")


def test_the_dry_run_prints_a_line_of_shell_for_each_process(host, capsys, monkeypatch):
    monkeypatch.setattr(local, "_PROGRAM", ("cat-jax",))
    monkeypatch.setenv("XLA_FLAGS", "--xla_foo=1")
    assert local.main(["--processes=2", "--devices_per_process=4", "--dry_run", "--", *AWKWARD]) == 0
    subprocess.run(["bash"], input=capsys.readouterr().out, text=True, env=host.setting, cwd=host.directory, check=True)
    notes = host.notes()
    assert [tuple(arguments) for arguments, _ in notes] == [AWKWARD, AWKWARD]
    assert [variables["CAT_JAX_PROCESS_ID"] for _, variables in notes] == ["0", "1"]
    assert notes[0][1]["CAT_JAX_COORDINATOR"] == notes[1][1]["CAT_JAX_COORDINATOR"]
    assert not (host.directory / "pwned").exists()


@pytest.mark.parametrize("name", ["local", "slurm", "gke", "tpu_vm"])
def test_help_comes_at_once(name):
    began = time.monotonic()
    command = [sys.executable, "-X", "importtime", "-m", f"cat_jax_launch.{name}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: python -m cat_jax_launch.{name} ")
    assert "--dry_run" in done.stdout
    assert time.monotonic() - began < 20  # a machine may be busy; what takes long is this:
    assert not {"jax", "numpy", "yaml"} & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_variables_are_all_set_or_none(monkeypatch):
    for name in ("CAT_JAX_COORDINATOR", "CAT_JAX_NUM_PROCESSES", "CAT_JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    assert not distributed.asked_for(False)
    assert distributed.asked_for(True)
    monkeypatch.setenv("CAT_JAX_COORDINATOR", "127.0.0.1:1")
    with pytest.raises(UserError, match="CAT_JAX_COORDINATOR is set, but not CAT_JAX_NUM_PROCESSES"):
        distributed.asked_for(False)
