"""A SLURM cluster on this machine: munged, slurmctld and a slurmd for each node, in one directory, ended with it."""

import contextlib
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile
import time

from cat_jax_launch.local import free_port

DAEMONS = ("munged", "slurmctld", "slurmd")
# Debian's daemons lie where a user's PATH may not look.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/linear
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=10
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """The daemons that are not installed."""
    return [name for name in DAEMONS if shutil.which(name, path=PATH) is None]


class Cluster:
    """A running cluster; `setting` is the environment of its clients.

    `slurm.conf` names ports that were free a moment ago, and a directory of a short name, for a socket's has 107 bytes.
    """

    def __init__(self, root, nodes):
        self.root, self._processes = pathlib.Path(root), []
        self.user = pwd.getpwuid(os.getuid()).pw_name
        host = os.uname().nodename
        lines = [
            f"NodeName=node{k} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=1 State=UNKNOWN"
            for k in range(1, nodes + 1)
        ]
        (self.root / "state").mkdir()
        self.configuration = self.root / "slurm.conf"
        text = CONFIGURATION.format(host=host, port=free_port(), user=self.user, root=self.root, nodes="\n".join(lines))
        self.configuration.write_text(text)
        (self.root / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self.setting = {**os.environ, "SLURM_CONF": str(self.configuration), "PATH": PATH}
        self.nodes = [f"node{k}" for k in range(1, nodes + 1)]

    def start(self):
        names = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        options = [f"--{option}={self.root / name}" for option, name in names.items()]
        self._daemon("munged", "--foreground", "--force", "--num-threads=2", *options)
        self._until(lambda: (self.root / "munge.socket").exists(), "munged listens")
        self._daemon("slurmctld", "-D", "-i", "-f", str(self.configuration))
        for node in self.nodes:
            self._daemon("slurmd", "-D", "-N", node, "-f", str(self.configuration))
        idle = " ".join(["idle"] * len(self.nodes))
        self._until(lambda: self.ask("sinfo", "-h", "-N", "-o", "%t").split() == idle.split(), "all nodes are idle")

    def ask(self, *command):
        """What a client of the cluster prints; empty if it fails."""
        done = subprocess.run(command, env=self.setting, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout if done.returncode == 0 else ""

    def stop(self):
        """Ends what still runs: jobs first, for they are no children of ours."""
        self.ask("scancel", "--user", self.user)
        deadline = time.monotonic() + 15
        while self.ask("squeue", "-h") and time.monotonic() < deadline:
            time.sleep(0.2)
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def logs(self):
        """The ends of the daemons' logs, for an assertion's message."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in sorted(self.root.glob("*.log")))

    def _daemon(self, *command):
        with (self.root / f"{command[0]}.out.log").open("ab") as out:
            self._processes.append(
                subprocess.Popen(
                    command, env=self.setting, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
                )
            )

    def _until(self, condition, what):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, f"never: {what}\n{self.logs()}"
            assert all(process.poll() is None for process in self._processes), self.logs()
            time.sleep(0.1)


@contextlib.contextmanager
def running(nodes):
    """A cluster of so many nodes, each with one processor."""
    with tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True) as root:
        cluster = Cluster(root, nodes)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
