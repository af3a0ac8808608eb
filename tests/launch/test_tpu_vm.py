"""TPU VM slices with a stand-in for gcloud, whose hosts are directories of this machine and whose ssh is bash."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from cat_jax_launch import tpu_vm
from hosts import AWKWARD, write_program

# gcloud ends with 0 whatever its hosts end with. `events` says what becomes of each start: "run", "preempt", "cut"
# (the connection breaks, the hosts go on), "break" (so it does once no stop fails any more), "late" (connecting takes a
# second), or "lose" (a host ends without a word). The file `deaf` has a letter for each stop that does not get through.
GCLOUD = """\
import os, pathlib, subprocess, sys, time
here = pathlib.Path({here!r})
state, events = here / "state", here / "events"
group, verb, *flags = sys.argv[3:]
with (here / "calls").open("a") as f:
    f.write(" ".join([group, verb, *(flag for flag in flags if not flag.startswith("--command"))]) + "\\n")
if verb == "create":
    state.write_text("ACTIVE" if group == "queued-resources" else "READY")
elif verb == "delete":
    state.unlink()
elif verb == "describe":
    if not state.exists():
        sys.exit("ERROR: (gcloud) NOT_FOUND: Resource 'pod' was not found")
    found = state.read_text()
    print("READY" if found == "ACTIVE" and group == "tpu-vm" else found)
elif verb == "ssh":
    command = next(flag.partition("=")[2] for flag in flags if flag.startswith("--command"))
    starts = "cat-jax train" in command
    event, *left = events.read_text().split() if starts and events.exists() else ["run"]
    events.write_text(" ".join(left)) if starts and events.exists() else None
    if event == "preempt":
        state.write_text("SUSPENDED")
        sys.exit(255)
    if event == "late":
        time.sleep(1)
    deaf = here / "deaf"
    if "kill" in command and not starts and deaf.exists() and deaf.read_text():
        deaf.write_text(deaf.read_text()[1:])
        sys.exit(255)
    jobs = []
    for worker in range({hosts}):
        home = here / f"worker{{worker}}"
        home.mkdir(exist_ok=True)
        setting = os.environ | {{"HOME": str(home), "CAT_JAX_TEST": str(home)}}
        out = subprocess.DEVNULL if event in ("cut", "break") or event == "lose" and worker else None
        jobs.append(subprocess.Popen(["bash", "-c", command], env=setting, cwd=home, stdout=out, stderr=out))
    if event in ("cut", "break"):
        for _ in range(200):
            if list(here.glob("worker*/notes")) and not (event == "break" and deaf.read_text()):
                break
            time.sleep(0.05)
        sys.exit(255)
    for job in jobs:
        job.wait()
"""
ARGV = ["--name=pod", "--zone=z", "--type=v5litepod-8"]
TWO = ["--name=pod", "--zone=z", "--type=v4-16"]  # two hosts


@pytest.fixture
def cloud(host, monkeypatch):
    monkeypatch.setenv("PATH", host.setting["PATH"])
    monkeypatch.setattr(tpu_vm, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(tpu_vm, "_POLL_SECONDS", 0.05)

    def make(hosts, state="READY"):
        write_program(host.bin, "gcloud", GCLOUD.format(here=str(host.directory), hosts=hosts))
        if state:
            (host.directory / "state").write_text(state)
        return host

    return make


def calls(host):
    return (host.directory / "calls").read_text().splitlines()


def notes(host, worker):
    host.directory, before = host.directory / f"worker{worker}", host.directory
    try:
        return host.notes()
    finally:
        host.directory = before


def codes(host, worker, *values):
    (host.directory / f"worker{worker}").mkdir(exist_ok=True)
    (host.directory / f"worker{worker}" / "codes").write_text(" ".join(map(str, values)))


def test_arguments_and_variables_arrive_unchanged_on_every_host(cloud):
    host = cloud(2)
    assert tpu_vm.main([*TWO, "--env", "CAT_JAX_MINE=a 'b' $c", "--", *AWKWARD]) == 0
    for worker in (0, 1):
        ((arguments, variables),) = notes(host, worker)
        assert arguments == ["train", "--multiprocess", *AWKWARD[1:]]
        assert variables["CAT_JAX_MINE"] == "a 'b' $c"
        assert not (host.directory / f"worker{worker}" / "pwned").exists()


def test_one_host_needs_no_others(cloud):
    host = cloud(1)
    assert tpu_vm.main([*ARGV, "--", *AWKWARD]) == 0
    assert tuple(notes(host, 0)[0][0]) == AWKWARD


def test_a_preempted_job_is_started_again_and_the_worst_code_counts(cloud):
    host = cloud(2)
    codes(host, 0, 75, 1, 0)
    codes(host, 1, 75, 75, 2)  # a host that fails for want of a preempted one does not say why
    assert tpu_vm.main([*TWO, "--max_restarts=0", "--", "train"]) == 2
    assert len(notes(host, 0)) == len(notes(host, 1)) == 3


def test_other_failures_are_counted(cloud):
    host = cloud(1)
    codes(host, 0, 1, 75, 1, 1, 0)
    assert tpu_vm.main([*ARGV, "--max_restarts=2", "--", "train"]) == 1
    assert len(notes(host, 0)) == 4


def test_a_spot_slice_that_is_taken_away_is_made_anew(cloud):
    host = cloud(1, state=None)
    (host.directory / "events").write_text("preempt run")
    (host.directory / "wheel").write_text("")
    argv = [*ARGV, "--project=p", "--create", "--spot", "--max_restarts=0", "--copy=wheel", "--", "train"]
    assert tpu_vm.main(argv) == 0
    create = "queued-resources create pod --node-id=pod --accelerator-type=v5litepod-8"
    create += " --runtime-version=v2-alpha-tpuv5-lite --spot --zone=z --project=p"
    copy = "tpu-vm scp --recurse wheel pod:~/ --worker=all --zone=z --project=p"
    start = "tpu-vm ssh pod --worker=all --batch-size=all --zone=z --project=p"
    delete = "queued-resources delete pod --quiet --force --zone=z --project=p"
    assert [call for call in calls(host) if "describe" not in call] == [
        create,
        copy,
        start,
        delete,
        create,
        copy,
        start,
    ]
    assert len(notes(host, 0)) == 1


def test_a_slice_that_is_there_is_used_as_it_is(cloud):
    host = cloud(1)
    assert tpu_vm.main([*ARGV, "--create", "--", "train"]) == 0
    assert not [call for call in calls(host) if "create" in call]


def test_a_host_that_is_lost_is_a_failure(cloud):
    host = cloud(2)
    (host.directory / "events").write_text("lose run")
    assert tpu_vm.main([*TWO, "--max_restarts=0", "--", "train"]) == 255
    assert tpu_vm.main([*TWO, "--", "train"]) == 0


SLOW = """\
#!/bin/bash
echo start >> "$CAT_JAX_TEST/notes"
trap 'echo saved >> "$CAT_JAX_TEST/notes"; exit 75' TERM
for i in $(seq 300); do sleep 0.1; done
"""


def test_what_a_broken_connection_left_running_is_stopped_first(cloud):
    host = cloud(1)
    (host.directory / "events").write_text("cut run")
    slow = write_program(host.bin, "slow", SLOW)
    write_program(host.bin, "cat-jax", f"#!/bin/bash\n[ -e $CAT_JAX_TEST/notes ] && exit 0\nexec {slow}\n")
    assert tpu_vm.main([*ARGV, "--", "train"]) == 0
    assert (host.directory / "worker0" / "notes").read_text().split() == ["start", "saved"]


DRIVER = """
import sys
from cat_jax_launch import tpu_vm
tpu_vm._PAUSE_SECONDS, tpu_vm._TELL_SECONDS = 0, 0.2
sys.exit(tpu_vm.main(sys.argv[1:]))
"""


def stop(argv, ready):
    """Runs the launcher until `ready`, then ends it with SIGTERM; returns (exit code, stdout, stderr)."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", DRIVER, *argv], stdout=pipe, stderr=pipe, text=True)
    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def starts(host):
    path = host.directory / "calls"
    return sum("ssh" in call for call in calls(host)) if path.exists() else 0


def history(host, worker):
    path = host.directory / f"worker{worker}" / "notes"
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("deaf", ["", "xx"], ids=["at once", "the third time"])
def test_sigterm_saves_on_every_host(cloud, deaf):
    host = cloud(2)
    write_program(host.bin, "cat-jax", SLOW)
    (host.directory / "deaf").write_text(deaf)
    argv = [*TWO, "--after", "echo after $CAT_JAX_EXIT_CODE", "--", "train"]
    code, out, err = stop(argv, lambda: history(host, 0) and history(host, 1))
    assert code == 75, err
    assert history(host, 0) == history(host, 1) == ["start", "saved"]
    assert out.count("after 75") == 2
    assert "telling the hosts to save and stop" in err
    assert "may still run" not in err


def test_a_stop_that_comes_as_the_job_ends_is_no_preemption(cloud):
    host = cloud(1)
    write_program(host.bin, "cat-jax", SLOW.replace("exit 75", "exit 0"))
    assert stop([*ARGV, "--", "train"], lambda: history(host, 0))[0] == 0


def test_a_stop_overtakes_a_start(cloud):
    """The hosts are still being connected to: what arrives there afterwards does not begin."""
    host = cloud(2)
    (host.directory / "events").write_text("late")
    write_program(host.bin, "cat-jax", SLOW)
    assert stop([*TWO, "--", "train"], lambda: starts(host) == 1)[0] == 143
    assert history(host, 0) == history(host, 1) == []


def test_a_stop_reaches_a_start_that_waits_for_an_older_one(cloud):
    host = cloud(1)
    (host.directory / "events").write_text("cut run")
    write_program(
        host.bin, "cat-jax", SLOW.replace("echo saved", "echo told >> $CAT_JAX_TEST/notes; sleep 2; echo saved")
    )
    code, _, err = stop([*ARGV, "--", "train"], lambda: "told" in history(host, 0))
    assert code == 143, err
    deadline = time.monotonic() + 10
    while "saved" not in history(host, 0):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert history(host, 0) == ["start", "told", "saved"]


def test_a_connection_that_breaks_while_the_hosts_are_told_does_not_end_the_telling(cloud):
    host = cloud(1)
    (host.directory / "events").write_text("break")
    (host.directory / "deaf").write_text("xx")
    write_program(host.bin, "cat-jax", SLOW)
    code, _, err = stop([*ARGV, "--", "train"], lambda: history(host, 0))
    assert code == 255, err
    assert history(host, 0) == ["start", "saved"]


def test_a_before_that_fails_leaves_nothing_and_its_code_counts(cloud):
    host = cloud(2)
    assert tpu_vm.main([*TWO, "--max_restarts=0", "--before=exit 7", "--", "train"]) == 7
    assert not list(host.directory.glob("worker*/.cat-jax*/*"))


def test_what_has_the_number_of_an_old_start_is_left_alone(cloud):
    host = cloud(1)
    with subprocess.Popen(["sleep", "600"]) as innocent:
        place = host.directory / "worker0" / ".cat-jax.pod.starts"
        place.mkdir(parents=True)
        (place / str(innocent.pid)).touch()
        assert tpu_vm.main([*ARGV, "--", "train"]) == 0
        assert innocent.poll() is None
        innocent.kill()
    assert not list(place.iterdir())


def test_the_dry_run_prints_the_command_lines(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    argv = ["--name=pod", "--zone=z", "--type=v5litepod-256", "--create", "--install=cat-jax[tpu]", "--dry_run", "--"]
    assert tpu_vm.main([*argv, *AWKWARD]) == 0
    create, install, start = map(shlex.split, _statements(capsys.readouterr().out))
    assert create[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "create", "pod"]
    assert {"--accelerator-type=v5litepod-256", "--version=v2-alpha-tpuv5-lite", "--zone=z"} <= set(create)
    (script,) = (flag for flag in install if flag.startswith("--command="))
    assert shlex.split(script)[2].endswith('uv pip install --python "$HOME/.cat-jax/bin/python" cat-jax[tpu]')
    assert "--worker=all" in start


def _statements(text):
    """Command lines, some of which go over several lines of text."""
    return [f"gcloud compute {part}" for part in text.split("gcloud compute ")[1:]]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--zone=z", "--type=v4-8", "--", "train"], "tpu_vm: the following arguments are required: --name: see"),
        (
            ["--name=a", "--zone=z", "--type=v5e-8", "--", "train"],
            "tpu_vm: there is no TPU type v5e-8: one of v4-..., v5",
        ),
        (["--name=a", "--zone=z", "--type=v6e-7", "--", "train"], "tpu_vm: there is no TPU type v6e-7: one of v6e-1, "),
        ([*ARGV, "--", "train"], "tpu_vm: there is no gcloud here: install the Google Cloud CLI"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capsys, argv, line):
    monkeypatch.setenv("PATH", "/nowhere")
    assert tpu_vm.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_a_slice_that_is_not_there_is_told(cloud, capsys):
    cloud(1, state=None)
    assert tpu_vm.main([*ARGV, "--", "train"]) == 2
    assert capsys.readouterr().err == "tpu_vm: the slice pod is NOT_FOUND: make it with --create\n"


def test_a_gcloud_that_fails_is_no_slice_that_is_gone(host, monkeypatch, capsys):
    monkeypatch.setattr(tpu_vm, "_PAUSE_SECONDS", 0)
    write_program(host.bin, "gcloud", f"#!/bin/bash\n{host.log('calls')}\necho 'ERROR: no credentials' >&2; exit 1\n")
    monkeypatch.setenv("PATH", host.setting["PATH"] + os.pathsep)
    assert tpu_vm.main([*ARGV, "--create", "--", "train"]) == 2
    assert "gcloud cannot describe the slice (ERROR: no credentials)" in capsys.readouterr().err
    assert not [call for call in host.lines("calls") if "create" in call]
