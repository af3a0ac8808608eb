"""A job under SLURM: one process a host, or one a GPU.

    python -m cat_jax_launch.slurm --nodes 4 --gpus_per_node 8 --time 24:00:00 -- train --gin_file=runs/train.gin ...

Submits a batch script. SIGTERM comes early enough to save; a job that saved (exit code 75) is put back into the queue
and goes on where it was, as often as it takes. The hosts see one file system, and this Python with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import re
import shlex
import sys
import time
from collections.abc import Sequence

from cat_jax.errors import UserError

from .command import Command, Parser, after_lines, run_launcher, watched
from .restart import AGAIN, TELLING
from .tool import Tool

SBATCH = Tool("sbatch", "run this on a login node of the cluster, or install slurm-client; --dry_run needs neither")
SCONTROL = Tool("scontrol", SBATCH.mend)

_POLL_SECONDS = 2.0
_RUNNING = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "STAGE_OUT")

# Node names are names of SLURM alone on some clusters: its address is what others reach. The port is one that jax
# itself would take, outside the range from which Linux hands out ports.
_COORDINATOR = """\
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol --oneliner show node "$first" | sed -n 's/.* NodeAddr=\\([^ ]*\\).*/\\1/p')
export CAT_JAX_COORDINATOR="${address:-$first}:$((61440 + SLURM_JOB_ID % 4096))\""""

# Every process of a host sees all of its GPUs, and takes them all unless it is told which one is its own.
_ONE_GPU = """\
IFS=, read -ra gpus <<< "$CUDA_VISIBLE_DEVICES"
export CUDA_VISIBLE_DEVICES=${gpus[$SLURM_LOCALID]}"""

# SLURM signals a task's own process, or (proctrack/pgid) its process group. In a session of its own the program gets a
# signal once either way, from the shell that waits for it; with that shell it ends.
_IN_A_SESSION = "CAT_JAX_PARENT=$$ setsid"

# srun's code is the highest of all tasks'. A task that could not note its own has it in srun's.
_AGREE = """\
noted=($(cat "$codes"/* 2> /dev/null))
rm -rf "$codes"
[ "${{#noted[@]}}" -ge "${{SLURM_NTASKS:-{tasks}}}" ] || noted+=("$code")
for telling in {telling}; do
[[ " ${{noted[*]}} " != *" $telling "* ]] || {{ code=$telling; break; }}
done"""

_ON_EACH_HOST = 'srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What SLURM is asked for.

    Attributes:
      name: of the job.
      nodes: hosts.
      tasks_per_node: processes of a host.
      gpus_per_node: GPUs of a host; 0 asks for none.
      time: the limit, as SLURM writes it; empty: the partition's.
      saving_seconds: how long before the limit SIGTERM comes, and how long processes wait for the last one to save.
      output: the file of all output; SLURM's patterns (%j) hold.
      more: further options of sbatch, as in "--partition=gpu".
    """

    name: str = "cat-jax"
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    time: str = ""
    saving_seconds: int = 300
    output: str = "cat-jax-%j.out"
    more: tuple[str, ...] = ()

    def __post_init__(self):
        if self.nodes < 1 or self.tasks_per_node < 1 or self.saving_seconds < 1:
            raise UserError("--nodes, --tasks_per_node or --saving_seconds is below 1", "give 1 or more")
        if self.gpus_per_node and self.tasks_per_node not in (1, self.gpus_per_node):
            raise UserError(
                f"{self.tasks_per_node} processes share {self.gpus_per_node} GPUs",
                "give --tasks_per_node 1, or as many as --gpus_per_node",
            )

    @property
    def codes(self) -> str:
        """A word of shell: the directory where each task notes its exit code, beside the output."""
        place = os.path.dirname(self.output.partition("%")[0]) or "."
        return f'{shlex.quote(place)}/".cat-jax-$SLURM_JOB_ID.codes"'

    def options(self) -> list[str]:
        """The options of sbatch."""
        return [
            f"--job-name={self.name}",
            f"--nodes={self.nodes}",
            f"--ntasks-per-node={self.tasks_per_node}",
            *([f"--gpus-per-node={self.gpus_per_node}"] if self.gpus_per_node else []),
            *([f"--time={self.time}"] if self.time else []),
            f"--signal=TERM@{self.saving_seconds}",
            "--requeue",
            "--open-mode=append",
            f"--output={self.output}",
            *self.more,
        ]


def script(job: Job, command: Command) -> str:
    """The batch script: runs on the first host, and starts the processes on all."""
    task = "\n".join(
        [
            "export CAT_JAX_NUM_PROCESSES=$SLURM_NTASKS CAT_JAX_PROCESS_ID=$SLURM_PROCID",
            *([_ONE_GPU] if job.gpus_per_node and job.tasks_per_node > 1 else []),
            watched(f"{_IN_A_SESSION} {shlex.join(command.argv)}"),
            f'echo "$code" > {job.codes}/"$SLURM_PROCID"',
            "exit $code",
        ]
    )
    codes = " || ".join(f'[ "$code" -eq {code} ]' for code in AGAIN)
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {shlex.quote(option)}" for option in job.options()),
        "trap : TERM  # the processes are told as well, and it is this script that puts the job back",
        *command.exports(),
        _COORDINATOR,
        *(f"{_on_each_host(text)} || exit" for text in command.before),
        f"codes={job.codes}",
        'rm -rf "$codes"; mkdir -p "$codes"',
        # The first process to end must not take the others with it: one of them seals the checkpoint.
        f"srun --kill-on-bad-exit=0 --wait={job.saving_seconds} bash -c {shlex.quote(task)} &",
        "child=$!",
        'wait "$child"',
        'while kill -0 "$child" 2> /dev/null; do wait "$child"; done',
        'wait "$child"',
        "code=$?",
        _AGREE.format(tasks=job.nodes * job.tasks_per_node, telling=" ".join(map(str, TELLING))),
        *after_lines(command.after, _on_each_host),
        f"if {codes}; then",
        'echo "preempted with exit code $code: back into the queue"',
        'scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        "exit $code",
    ]
    return "\n".join(lines) + "\n"


def _on_each_host(text: str) -> str:
    return f"{_ON_EACH_HOST} bash -c {shlex.quote(text)}"


def submit(text: str) -> str:
    """Submits a batch script; returns the job's number.

    Raises:
      UserError: sbatch is missing or refuses.
    """
    done = SBATCH.ask(["--parsable"], text)
    if done.returncode:
        raise UserError(f"sbatch refuses ({done.stderr.strip()})", "mend the flags; --dry_run shows the script")
    return done.stdout.strip().split(";")[0]


def follow(job: str) -> int:
    """Copies a job's output here until it has ended for good; returns its exit code.

    Raises:
      UserError: SLURM knows the job no more.
    """
    shown, last = 0, ""
    while True:
        answer = SCONTROL.ask(["show", "job", job])
        if answer.returncode:
            raise UserError(f"SLURM does not know job {job}", f"see `sacct -j {job}`, or the job's output")
        fields = dict(re.findall(r"(\w+)=(\S+)", answer.stdout))
        output = re.search(r"^ *StdOut=(.*)$", answer.stdout, re.MULTILINE)  # a path may have blanks
        shown += _copy(output[1], shown) if output else 0
        state = fields.get("JobState", "")
        # A job that is put back passes through states that look like an end: only one that stays is one.
        if state not in _RUNNING and state == last:
            print(f"job {job} has ended: {state}", file=sys.stderr, flush=True)
            status, number = map(int, fields.get("ExitCode", "0:0").split(":"))
            return status or (128 + number if number else int(state != "COMPLETED"))
        last = state
        time.sleep(_POLL_SECONDS)


def _copy(path: str, offset: int) -> int:
    """Prints what a file has from a byte on; returns how many bytes those are."""
    try:
        with pathlib.Path(path).open("rb") as f:
            f.seek(offset)
            new = f.read()
    except OSError:  # not begun, or on a host's own disk
        return 0
    sys.stdout.write(new.decode(errors="replace"))
    sys.stdout.flush()
    return len(new)


def _parser() -> Parser:
    parser = Parser(
        "slurm", "Run one cat-jax command as a SLURM job that goes on after preemption.", "[--nodes N] [FLAGS]"
    )
    add = parser.add_argument
    add("--nodes", type=int, default=1, help="hosts (default: 1)")
    add("--gpus_per_node", type=int, default=0, help="GPUs of each host (default: none are asked for)")
    add("--tasks_per_node", type=int, default=1, help="processes of each host: 1, or one a GPU (default: 1)")
    add("--time", default="", help="the time limit, e.g. 24:00:00 (default: the partition's)")
    add("--saving_seconds", type=int, default=300, help="SIGTERM comes so long before the limit (default: 300)")
    add("--name", default="cat-jax", help="the job's name (default: cat-jax)")
    add("--output", default="cat-jax-%j.out", help="the file for all output (default: cat-jax-%%j.out)")
    add("--sbatch", action="append", default=[], metavar="OPTION", help="e.g. --sbatch=--partition=gpu; repeatable")
    add("--wait", action="store_true", help="copy the output here until the job has ended; its exit code is ours")
    parser.add_hosts_flags(shlex.join([sys.executable, "-m", "cat_jax.cli.main"]))
    return parser


def _job(args: argparse.Namespace) -> Job:
    return Job(
        name=args.name,
        nodes=args.nodes,
        tasks_per_node=args.tasks_per_node,
        gpus_per_node=args.gpus_per_node,
        time=args.time,
        saving_seconds=args.saving_seconds,
        output=os.path.abspath(args.output),
        more=tuple(args.sbatch),
    )


def _work(argv: Sequence[str]) -> int:
    args, command = _parser().read(argv)
    text = script(_job(args), command)
    if args.dry_run:
        print(text, end="")
        return 0
    job = submit(text)
    print(f"job {job}: `squeue -j {job}` shows it, `scancel {job}` ends it", file=sys.stderr, flush=True)
    return follow(job) if args.wait else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return run_launcher("slurm", _work, argv)


if __name__ == "__main__":
    sys.exit(main())
