"""The batch script: what SLURM is asked for, and that arguments, codes and commands come through it. With stand-ins."""

import json
import subprocess

import pytest
from cat_jax_launch import slurm
from cat_jax_launch.command import Command
from hosts import AWKWARD, write_program

from cat_jax.errors import UserError

# One task on this machine: options are dropped, the rest is run.
SRUN = """\
#!/bin/bash
{log}
while [[ "$1" == --* ]]; do shift; done
export SLURM_PROCID=2 SLURM_NTASKS=8 SLURM_LOCALID=2 CUDA_VISIBLE_DEVICES=4,5,6,7
exec "$@"
"""
SCONTROL = """\
#!/bin/bash
{log}
case "$*" in
  "show hostnames node[7-8]") printf 'node7\\nnode8\\n' ;;
  "--oneliner show node node7") echo "NodeName=node7 Arch=x86_64 NodeAddr=10.0.0.7 NodeHostName=node7" ;;
esac
"""


@pytest.fixture
def batch(host):
    """Runs a batch script as SLURM would; returns (exit code, stdout)."""
    write_program(host.bin, "srun", SRUN.format(log=host.log("srun")))
    write_program(host.bin, "scontrol", SCONTROL.format(log=host.log("scontrol")))
    setting = host.setting | {"SLURM_JOB_ID": "4099", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2"}

    def run(job, command):
        done = subprocess.run(
            ["bash"], input=slurm.script(job, command), env=setting, cwd=host.directory, text=True, capture_output=True
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_arguments_and_variables_arrive_unchanged(host, batch):
    job = slurm.Job(nodes=2, tasks_per_node=4, gpus_per_node=4)
    assert batch(job, Command(AWKWARD, environment={"CAT_JAX_MINE": "a 'b' $c"}))[0] == 0
    ((arguments, variables),) = host.notes()
    assert tuple(arguments) == AWKWARD
    assert variables.pop("CAT_JAX_PARENT").isdigit()
    assert variables == {
        "CAT_JAX_COORDINATOR": "10.0.0.7:61443",
        "CAT_JAX_NUM_PROCESSES": "8",
        "CAT_JAX_PROCESS_ID": "2",
        "CAT_JAX_MINE": "a 'b' $c",
    }
    assert not (host.directory / "pwned").exists()


def test_each_process_of_a_host_takes_its_own_gpu(host, batch):
    show = Command(("$CUDA_VISIBLE_DEVICES",), program=("bash", "-c", 'echo "gpus $CUDA_VISIBLE_DEVICES"'))
    assert batch(slurm.Job(tasks_per_node=4, gpus_per_node=4), show) == (0, "gpus 6\n")
    assert batch(slurm.Job(gpus_per_node=4), show) == (0, "gpus 4,5,6,7\n")


@pytest.mark.parametrize(("code", "again"), [(0, False), (75, True), (143, True), (2, False), (1, False)])
def test_a_preempted_job_is_put_back(host, batch, code, again):
    host.codes(code)
    assert batch(slurm.Job(), Command(("train",)))[0] == code
    assert (["requeue", "4099"] in host.lines("scontrol")) == again


# Tasks at once, which end with the codes in TASKS; srun's own is the highest. "lost" is one that could note nothing.
TASKS = """\
#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
worst=0 pids=()
for code in $TASKS; do
if [ $code = lost ]; then (exit 137) & else SLURM_PROCID=${#pids[@]} CODE=$code "$@" & fi
pids+=($!)
done
for pid in ${pids[@]}; do wait $pid; code=$?; [ $code -le $worst ] || worst=$code; done
exit $worst
"""


@pytest.mark.parametrize(
    ("tasks", "code"),
    [("75 134", 75), ("134 75 1", 75), ("143 0 250", 143), ("75 2", 2), ("75 lost", 75), ("0 lost", 137), ("0 0", 0)],
)
def test_the_most_telling_code_of_all_tasks_counts(host, batch, tmp_path, tasks, code):
    """A task that aborts because another was preempted does not say why the job ended."""
    write_program(host.bin, "srun", TASKS)
    (tmp_path / "the out").mkdir()
    job = slurm.Job(nodes=len(tasks.split()), output=str(tmp_path / "the out" / "%j.out"))
    command = Command(("exit $CODE",), program=("bash", "-c"), environment={"TASKS": tasks})
    assert batch(job, command)[0] == code
    assert (["requeue", "4099"] in host.lines("scontrol")) == (code in (75, 143))
    assert not list((tmp_path / "the out").iterdir())


def test_a_signal_to_the_process_group_comes_once(host, batch):
    """SLURM signals a whole group where its plugin is pgid, and the task's first process alone where it is cgroup."""
    text = '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nset -m\n"$@" & pid=$!\n'
    text += "until [ -e ready ]; do sleep 0.05; done\nkill -s TERM -- $WHOM$pid\nwait $pid\n"
    write_program(host.bin, "srun", text)
    program = "trap 'echo told; told=1' TERM; touch ready; until [ $told ]; do sleep 0.1; done; sleep 0.3; exit 75"
    for whom in ("", "-"):
        command = Command((program,), program=("bash", "-c"), environment={"WHOM": whom})
        code, out = batch(slurm.Job(), command)
        assert (code, out.count("told")) == (75, 1), out
        (host.directory / "ready").unlink()


def test_commands_before_and_after_run_once_on_each_host(host, batch):
    host.codes(75)
    command = Command(("train",), before=("echo 'b 1'",), after=("echo code $CAT_JAX_EXIT_CODE", "exit 9"))
    code, out = batch(slurm.Job(nodes=2, tasks_per_node=4), command)
    assert code == 75
    assert out.splitlines()[:2] == ["b 1", "code 75"]
    before, main, *after = host.lines("srun")
    assert [line[:2] for line in (before, *after)] == [["--ntasks=2", "--ntasks-per-node=1"]] * 3
    assert main[:2] == ["--kill-on-bad-exit=0", "--wait=300"]
    assert batch(slurm.Job(), Command(("train",), after=("exit 9",)))[0] == 9
    assert batch(slurm.Job(), Command(("train",), before=("exit 8",)))[0] == 8
    assert len(host.notes()) == 2


def test_the_options_of_sbatch():
    job = slurm.Job(nodes=2, gpus_per_node=8, time="4:00:00", saving_seconds=60, more=("--partition=a b",))
    lines = [line for line in slurm.script(job, Command(("train",))).splitlines() if line.startswith("#SBATCH")]
    assert lines == [
        "#SBATCH --job-name=cat-jax",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --time=4:00:00",
        "#SBATCH --signal=TERM@60",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=cat-jax-%j.out",
        "#SBATCH '--partition=a b'",
    ]


def test_the_dry_run_prints_what_would_be_submitted(host, monkeypatch, capsys):
    write_program(
        host.bin, "sbatch", f"#!/bin/bash\n{host.log('sbatch')}\ncat > {host.directory}/script\necho '17;c'\n"
    )
    monkeypatch.setenv("PATH", host.setting["PATH"])
    argv = ["--nodes", "3", "--", *AWKWARD]
    assert slurm.main(["--dry_run", *argv]) == 0
    printed = capsys.readouterr().out
    assert not host.lines("sbatch")
    assert slurm.main(argv) == 0
    assert (host.directory / "script").read_text() == printed
    assert "job 17: " in capsys.readouterr().err


def test_following_a_job_waits_until_it_stays_ended(host, monkeypatch, capsys):
    states = ["RUNNING", "FAILED", "PENDING", "RUNNING", "FAILED", "FAILED"]
    (host.directory / "the out").write_text("line\n")
    (host.directory / "states").write_text("\n".join(states))
    show = f"""
import pathlib
path = pathlib.Path({str(host.directory / "states")!r})
state, *left = path.read_text().split()
path.write_text("\\n".join(left))
print(f"JobId=17\\n   JobState={{state}} ExitCode=3:0\\n   StdOut={host.directory}/the out\\n   Power=")
"""
    write_program(host.bin, "scontrol", show)
    monkeypatch.setenv("PATH", host.setting["PATH"])
    monkeypatch.setattr(slurm, "_POLL_SECONDS", 0.01)
    assert slurm.follow("17") == 3
    assert capsys.readouterr().out == "line\n"
    assert (host.directory / "states").read_text() == ""


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--nodes", "2"], "slurm: no command: end with e.g. `-- train --gin_file=runs/train.gin`"),
        (["--", "--gin_file=a"], "slurm: the command after -- begins with --gin_file=a: name it first"),
        (["--nodes", "0", "--", "train"], "slurm: --nodes, --tasks_per_node or --saving_seconds is below 1: "),
        (["--gpus_per_node", "8", "--tasks_per_node", "2", "--", "train"], "slurm: 2 processes share 8 GPUs: give"),
        (
            ["--node", "2", "--", "train"],
            "slurm: unrecognized arguments: --node 2: see `python -m cat_jax_launch.slurm",
        ),
        (["--env", "A-B=1", "--", "train"], "slurm: --env A-B=1 sets no variable: give NAME=VALUE"),
        (["--", "train"], "slurm: there is no sbatch here: run this on a login node of the cluster"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capsys, argv, line):
    monkeypatch.setenv("PATH", "/nowhere")
    assert slurm.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_a_refusal_of_sbatch_is_told(host, monkeypatch):
    write_program(host.bin, "sbatch", "#!/bin/bash\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    monkeypatch.setenv("PATH", host.setting["PATH"])
    with pytest.raises(UserError, match=r"sbatch refuses \(sbatch: error: invalid partition\)"):
        slurm.submit("")


def test_awkward_arguments_are_awkward():
    assert json.loads(json.dumps(AWKWARD)) == list(AWKWARD)
    assert {"\n", "'", '"', "\\", "$", "`"} <= set("".join(AWKWARD))
