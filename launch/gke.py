r"""A job on Google Kubernetes Engine: a JobSet on TPU slices or GPU nodes, or the same through xpk.

    python -m cat_jax_launch.gke --name small --image us-docker.pkg.dev/p/r/cat-jax --tpu v5litepod-256 \
      --bucket my-bucket=/data -- train --gin_file=runs/train.gin --gin.MODEL_DIR='"/data/runs/small"' ...

The cluster starts it again after preemption (exit code 75) as often as it takes, and needs the JobSet controller of
version 0.10 or later. `--xpk` prints the command of xpk in place of the manifest.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from cat_jax.errors import UserError

from .command import Command, Parser, run_launcher
from .jobset import Job, Pool, Volume, literal, manifest
from .restart import AGAIN
from .tool import Tool
from .topology import slice_of

KUBECTL = Tool(
    "kubectl", "install it, and `gcloud container clusters get-credentials CLUSTER`; --dry_run needs neither"
)


def to_yaml(job: Job, command: Command) -> str:
    """The manifest as YAML, scripts of several lines as they are."""
    import yaml  # late: `--help` and mistakes need none

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(manifest(job, command), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def xpk(job: Job, command: Command, cluster: str) -> list[str]:
    """The command line of xpk for the same job.

    xpk has one line of shell for each host, and makes volumes beforehand (`xpk storage`). It counts every restart.

    Raises:
      UserError: the job needs what xpk has not.
    """
    if job.pool.tpu is None or not cluster:
        raise UserError("--xpk is for TPU slices of a cluster", "give --tpu and --cluster")
    if job.volumes or command.after:
        raise UserError("xpk mounts and runs nothing after the command", "use --storage of xpk, and no --after")
    if job.namespace or job.service_account or job.queue:
        raise UserError("xpk chooses namespace, service account and queue", "take out their flags")
    if job.pool.tpu.hosts * job.pool.slices > 1:
        command = command.multiprocess()
    steps = [*command.exports(), *(f"( {text} )" for text in command.before), f"exec {shlex.join(command.argv)}"]
    line = " && ".join(steps)
    if "\n" in line:
        raise UserError("xpk takes commands of one line", "take line breaks out of flags, --env and --before")
    return [
        *("xpk", "workload", "create", f"--cluster={cluster}", f"--workload={job.name}"),
        *(f"--tpu-type={job.pool.tpu.type}", f"--num-slices={job.pool.slices}", f"--docker-image={job.image}"),
        *(["--spot"] if job.pool.spot else []),
        f"--max-restarts={max(job.max_restarts, 1)}",
        f"--restart-on-exit-codes={','.join(map(str, AGAIN))}",
        f"--termination-grace-period-seconds={job.saving_seconds}",
        f"--command={literal(line)}",
    ]


def _parser() -> Parser:
    flags = "--name N --image I (--tpu T | --gpu G --hosts H) [FLAGS]"
    parser = Parser("gke", "Run one cat-jax command as a JobSet on GKE that goes on after preemption.", flags)
    add = parser.add_argument
    add("--name", required=True, help="the job's name")
    add("--image", required=True, help="a container image with cat-jax in it")
    add("--tpu", default="", help="TPU type of a slice, e.g. v5litepod-256")
    add("--slices", type=int, default=1, help="TPU slices (default: 1)")
    add("--chips_per_host", type=int, help="where the node pool's VMs are of another size than the type's")
    add("--gpu", default="", help="GKE's name of a GPU, e.g. nvidia-h100-80gb")
    add("--hosts", type=int, help="GPU hosts (default: 1)")
    add("--gpus_per_host", type=int, help="GPUs of each (default: 8)")
    add("--spot", action="store_true", help="on spot nodes")
    add("--bucket", action="append", default=[], metavar="NAME=PATH", help="a bucket mounted at PATH; repeatable")
    add("--claim", action="append", default=[], metavar="NAME=PATH", help="a PersistentVolumeClaim likewise")
    add("--namespace", default="", help="of Kubernetes (default: kubectl's own)")
    add("--service_account", default="", help="of Kubernetes; one that may use the buckets")
    add("--queue", default="", help="a LocalQueue of Kueue")
    add("--saving_seconds", type=int, default=300, help="time to save after SIGTERM (default: 300)")
    add("--max_restarts", type=int, default=10, help="how often it may fail other than by preemption (default: 10)")
    add("--xpk", action="store_true", help="print the command of xpk for the same job, and run nothing")
    add("--cluster", default="", help="the cluster's name, for --xpk")
    parser.add_hosts_flags("cat-jax")
    return parser


def _volume(text: str, bucket: bool) -> Volume:
    name, equals, place = text.partition("=")
    if not equals or not name or not place.startswith("/"):
        raise UserError(f"--{'bucket' if bucket else 'claim'} {text} mounts nothing", "give NAME=/PATH")
    if "/" in name:
        raise UserError(f"--bucket {text} names no bucket", "give its bare name, without gs:// and folders")
    return Volume(name=name, place=place, bucket=bucket)


def _check_kind(args: argparse.Namespace) -> None:
    """Refuses flags that would have no effect."""
    if args.tpu and not args.gpu and (args.hosts is not None or args.gpus_per_host is not None):
        raise UserError("--hosts and --gpus_per_host are for GPUs", "a TPU type has its hosts: take them out")
    if args.gpu and not args.tpu and args.chips_per_host is not None:
        raise UserError("--chips_per_host is for TPUs", "give --gpus_per_host")
    if args.cluster and not args.xpk:
        raise UserError("--cluster is for --xpk", "kubectl has its own: `gcloud container clusters get-credentials`")


def _job(args: argparse.Namespace) -> Job:
    _check_kind(args)
    tpu = slice_of(args.tpu) if args.tpu else None
    if tpu and args.chips_per_host is not None:
        tpu = tpu.with_hosts_of(args.chips_per_host)
    pool = Pool(
        tpu=tpu,
        gpu=args.gpu,
        gpus_per_host=8 if args.gpus_per_host is None else args.gpus_per_host,
        hosts=1 if args.hosts is None else args.hosts,
        slices=args.slices,
        spot=args.spot,
    )
    volumes = [_volume(text, True) for text in args.bucket] + [_volume(text, False) for text in args.claim]
    return Job(
        name=args.name,
        image=args.image,
        pool=pool,
        namespace=args.namespace,
        service_account=args.service_account,
        queue=args.queue,
        volumes=tuple(volumes),
        saving_seconds=args.saving_seconds,
        max_restarts=args.max_restarts,
    )


def _work(argv: Sequence[str]) -> int:
    args, command = _parser().read(argv)
    job = _job(args)
    if args.xpk:
        print(shlex.join(xpk(job, command, args.cluster)))
        return 0
    text = to_yaml(job, command)
    if args.dry_run:
        print(text, end="")
        return 0
    if code := KUBECTL.run(["apply", "-f", "-"], text):
        return code
    there = f" --namespace={job.namespace}" if job.namespace else ""
    print(
        f"`kubectl get jobset {job.name}{there}` shows it, `kubectl delete jobset {job.name}{there}` ends it,\n"
        f"`kubectl logs{there} --follow --selector=jobset.sigs.k8s.io/jobset-name={job.name}` has its output",
        file=sys.stderr,
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return run_launcher("gke", _work, argv)


if __name__ == "__main__":
    sys.exit(main())
