"""The runner of stages, with fake stages: order, skipping, resuming after a kill, failure, change, signals, cores."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from cat_jax.cli import child, runner
from cat_jax.cli.run import hold
from cat_jax.cli.stages import Ledger, Stage, fingerprints
from cat_jax.errors import Preempted, UserError

FAKE = pathlib.Path(__file__).parent / "fake_stage.py"


@pytest.fixture(autouse=True)
def _fake_commands(monkeypatch):
    monkeypatch.setattr(child, "command_line", lambda arguments: [sys.executable, str(FAKE), *arguments])


def stage(run_dir, name, needs=(), kind="works", seconds=0.0, configuration="A = 1\n", derived=False, peers=1):
    output = run_dir / name / "out"
    return Stage(
        name,
        (name, kind, str(output), str(seconds)),
        configuration,
        tuple(needs),
        (output,),
        None if derived else output.parent,
        peers=peers,
    )


def run(run_dir, stages, jobs=2, rerun_changed=False):
    with hold(run_dir, patience=5.0) as lock:
        runner.Runner(stages, Ledger(run_dir), run_dir, jobs, lock).run(rerun_changed)


def journal(run_dir):
    path = run_dir / "journal"
    names = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return names


def chain(run_dir, **changes):
    """Prepare, teacher, two students that need it, evaluate; here `changes` gives fields of single stages."""
    needs = {
        "prepare": (), "teacher": ("prepare",), "one": ("teacher",), "two": ("teacher",), "evaluate": ("one", "two"),
    }  # fmt: skip
    return [
        stage(run_dir, name, needed, derived=name == "evaluate", **changes.get(name, {}))
        for name, needed in needs.items()
    ]


def test_stages_run_after_what_they_need_and_are_skipped_when_finished(tmp_path):
    run(tmp_path, chain(tmp_path))
    names = journal(tmp_path)
    assert names[:2] == ["prepare", "teacher"]
    assert sorted(names[2:4]) == ["one", "two"]
    assert names[4:] == ["evaluate"]
    record = json.loads((tmp_path / "run.json").read_text())["stages"]
    assert {entry["state"] for entry in record.values()} == {"finished"}
    run(tmp_path, chain(tmp_path))
    assert journal(tmp_path) == []


def test_a_new_stage_runs_alone_with_what_depends_on_it(tmp_path):
    run(tmp_path, chain(tmp_path))
    journal(tmp_path)
    stages = chain(tmp_path)
    more = [*stages[:4], stage(tmp_path, "three", ["teacher"])]
    run(tmp_path, [*more, stage(tmp_path, "evaluate", ["one", "two", "three"], derived=True)])
    assert journal(tmp_path) == ["three", "evaluate"]


def test_lost_outputs_are_made_again_only_if_somebody_needs_them(tmp_path):
    run(tmp_path, chain(tmp_path))
    journal(tmp_path)
    (tmp_path / "teacher" / "out").unlink()
    run(tmp_path, chain(tmp_path))
    assert journal(tmp_path) == []
    (tmp_path / "one" / "out").unlink()
    (tmp_path / "evaluate" / "out").unlink()
    run(tmp_path, chain(tmp_path))
    assert journal(tmp_path) == ["teacher", "one", "evaluate"]


def test_a_changed_configuration_is_refused_with_the_difference(tmp_path):
    run(tmp_path, chain(tmp_path))
    journal(tmp_path)
    changed = chain(tmp_path, one={"configuration": "A = 2\n"})
    with pytest.raises(UserError) as caught:
        run(tmp_path, changed)
    assert "stage one was begun with another configuration (then A = 1, now A = 2)" in str(caught.value)
    assert "run.rerun_changed=True" in str(caught.value)
    assert journal(tmp_path) == []
    assert (tmp_path / "one" / "out").exists()


def test_a_stage_that_failed_and_left_nothing_may_be_changed(tmp_path):
    with pytest.raises(UserError):
        run(tmp_path, chain(tmp_path, one={"kind": "fails", "configuration": "A = 9\n"}))
    journal(tmp_path)
    (tmp_path / "one").rmdir()
    run(tmp_path, chain(tmp_path))
    assert journal(tmp_path) == ["one", "evaluate"]


def test_a_stage_runs_again_when_what_it_read_is_newer(tmp_path):
    read = tmp_path / "tables"
    read.mkdir()
    stages = [stage(tmp_path, "prepare"), stage(tmp_path, "cascade", ["prepare"], derived=True)]
    stages[1] = dataclasses.replace(stages[1], inputs=(read,))
    run(tmp_path, stages)
    (read / "old").write_text("older than what the stage made of it")
    os.utime(read / "old", (1, 1))
    journal(tmp_path)
    run(tmp_path, stages)
    assert journal(tmp_path) == []
    os.utime(read / "old", (time.time() + 5, time.time() + 5))
    run(tmp_path, stages)
    assert journal(tmp_path) == ["cascade"]


def test_a_changed_configuration_is_done_again_when_asked(tmp_path):
    run(tmp_path, chain(tmp_path))
    journal(tmp_path)
    (tmp_path / "one" / "old").write_text("left by the first configuration")
    run(tmp_path, chain(tmp_path, one={"configuration": "A = 2\n"}), rerun_changed=True)
    assert journal(tmp_path) == ["one", "evaluate"]
    assert not (tmp_path / "one" / "old").exists()
    run(tmp_path, chain(tmp_path, prepare={"configuration": "A = 3\n"}, one={"configuration": "A = 2\n"}), 2, True)
    assert sorted(journal(tmp_path)) == ["evaluate", "one", "prepare", "teacher", "two"]


def test_a_change_upstream_is_refused_too(tmp_path):
    run(tmp_path, chain(tmp_path))
    stages = chain(tmp_path)
    stages[1] = stage(tmp_path, "teacher", ["prepare"], configuration="A = 2\n", derived=True)
    with pytest.raises(
        UserError,
        match=r"stage two was begun with another configuration .of teacher, which it needs: then A = 1, now A = 2",
    ):
        run(tmp_path, stages)


def test_a_derived_stage_runs_again_after_a_change(tmp_path):
    run(tmp_path, chain(tmp_path))
    journal(tmp_path)
    run(tmp_path, chain(tmp_path, evaluate={"configuration": "A = 2\n"}))
    assert journal(tmp_path) == ["evaluate"]


def test_a_failed_stage_stops_only_what_needs_it(tmp_path, capsys):
    with pytest.raises(UserError) as caught:
        run(tmp_path, chain(tmp_path, one={"kind": "fails"}))
    assert sorted(journal(tmp_path)) == ["one", "prepare", "teacher", "two"]
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith("stage one failed: the loss is nan at step 7")
    assert str(tmp_path / "logs" / "one.log") in str(caught.value)
    assert "one: failed (exit code 3)" in capsys.readouterr().err
    run(tmp_path, chain(tmp_path, one={"kind": "works"}))
    assert journal(tmp_path) == ["one", "evaluate"]


def test_a_stage_that_leaves_no_output_has_failed(tmp_path):
    with pytest.raises(UserError, match="stage prepare failed"):
        run(tmp_path, [stage(tmp_path, "prepare", kind="forgets")])
    assert json.loads((tmp_path / "run.json").read_text())["stages"]["prepare"]["state"] == "failed"


def test_peers_share_the_cores_and_one_alone_has_all(tmp_path):
    cores = len(child.usable_cores())
    run(tmp_path, chain(tmp_path, one={"seconds": 0.5, "peers": 2}, two={"seconds": 0.5, "peers": 2}))
    told = {name: (tmp_path / "logs" / f"{name}.log").read_text() for name in ("teacher", "one", "two")}
    assert f"cores {cores}\n" in told["teacher"]
    assert f"cores {max(1, cores // 2)}\n" in told["one"]
    assert f"cores {max(1, cores // 2)}\n" in told["two"]


def test_the_share_of_a_stage_does_not_depend_on_what_else_runs(tmp_path):
    cores = len(child.usable_cores())
    run(tmp_path, [stage(tmp_path, "alone", peers=4)], jobs=2)
    assert f"cores {max(1, cores // 2)}\n" in (tmp_path / "logs" / "alone.log").read_text()


def test_a_lock_keeps_a_second_run_out(tmp_path):
    with hold(tmp_path), pytest.raises(UserError, match=f"in use by another run or its stages .process {os.getpid()}"):
        run(tmp_path, chain(tmp_path))


DRIVER = """
import pathlib, sys
sys.path.insert(0, {here!r})
from cat_jax.cli import child
import test_runner
child.command_line = lambda arguments: [sys.executable, str(test_runner.FAKE), *arguments]
run_dir = pathlib.Path({run_dir!r})
try:
    test_runner.run(run_dir, test_runner.chain(run_dir, one={{"seconds": 30.0, "kind": {kind!r}}}))
except test_runner.Preempted:
    sys.exit(75)
"""


def drive(run_dir, kind):
    """Starts a run in its own process and waits until its slow stage works."""
    script = DRIVER.format(here=str(FAKE.parent), run_dir=str(run_dir), kind=kind)
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    log = run_dir / "logs" / "one.log"
    for _ in range(300):
        if log.exists() and "at work" in log.read_text():
            return process
        time.sleep(0.1)
    process.kill()
    raise AssertionError("the slow stage did not start")


def test_a_run_killed_with_sigkill_takes_its_stages_along_and_goes_on_where_it_was(tmp_path):
    process = drive(tmp_path, "works")
    process.kill()
    process.wait()
    assert not (tmp_path / "one" / "out").exists()
    run(tmp_path, chain(tmp_path))  # waits for the lock that the dying stage still holds
    names = journal(tmp_path)
    assert names.count("prepare") == names.count("teacher") == 1
    assert names.count("one") == 2
    assert names[-1] == "evaluate"


def test_sigterm_is_passed_on_and_the_run_ends_with_the_code_of_preemption(tmp_path):
    process = drive(tmp_path, "saves")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 75
    assert time.monotonic() - began < 15
    assert "SIGTERM: waiting until" in said
    assert said.index("SIGTERM: waiting until") < said.index("one: stopped")
    assert "saved" in (tmp_path / "logs" / "one.log").read_text()
    run(tmp_path, chain(tmp_path))
    assert journal(tmp_path)[-1] == "evaluate"


def test_a_signal_while_a_stage_starts_reaches_it_and_starts_no_other(tmp_path, monkeypatch):
    begin = child.start

    def start(arguments, *others, **settings):
        process = begin(arguments, *others, **settings)
        if arguments[0] == "one":
            os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr(child, "start", start)
    slow = {"seconds": 20.0}
    began = time.monotonic()
    with pytest.raises(Preempted):
        run(tmp_path, chain(tmp_path, one=slow, two=slow))
    assert time.monotonic() - began < 10
    assert "two" not in journal(tmp_path)
    assert not (tmp_path / "one" / "out").exists()


def test_a_preempted_stage_preempts_the_run(tmp_path, monkeypatch):
    script = tmp_path / "preempted.py"
    script.write_text("import sys\nsys.exit(75)\n")
    monkeypatch.setattr(child, "command_line", lambda arguments: [sys.executable, str(script)])
    with pytest.raises(Preempted):
        run(tmp_path, [stage(tmp_path, "prepare")])


def test_fingerprints_chain(tmp_path):
    before = fingerprints(chain(tmp_path))
    after = fingerprints(chain(tmp_path, teacher={"configuration": "A = 2\n"}))
    assert {name for name in before if before[name] != after[name]} == {"teacher", "one", "two", "evaluate"}


def test_a_broken_run_record_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json"):
        Ledger(tmp_path)
