"""A job as a JobSet of Kubernetes (jobset.x-k8s.io/v1alpha2): a replicated job of one Job for each slice."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from cat_jax.errors import UserError

from .command import Command
from .restart import AGAIN, NEVER
from .topology import Slice

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_PORT = 8476
_MOUNT = "implicit-dirs,rename-dir-limit=10000"
"""Of a bucket: folders that no object stands for; and directories with files in them can be renamed, as Orbax does."""

_WORKERS, _CONTAINER = "workers", "cat-jax"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Volume:
    """A bucket, or a PersistentVolumeClaim (Filestore, Lustre), mounted into every host."""

    name: str
    place: str
    bucket: bool

    def source(self, name: str) -> dict[str, Any]:
        """The volume of a pod."""
        if not self.bucket:
            return {"name": name, "persistentVolumeClaim": {"claimName": self.name}}
        attributes = {"bucketName": self.name, "mountOptions": _MOUNT}
        return {"name": name, "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
    """Hosts of one kind.

    Attributes:
      tpu: the slice, for TPUs.
      gpu: GKE's label of the GPU, as in "nvidia-h100-80gb".
      gpus_per_host: GPUs of a host.
      hosts: of a slice, or in all.
      slices: TPU slices.
      spot: whether they may be taken away, for a lower price.
    """

    tpu: Slice | None = None
    gpu: str = ""
    gpus_per_host: int = 8
    hosts: int = 1
    slices: int = 1
    spot: bool = False

    def __post_init__(self):
        if (self.tpu is None) == (not self.gpu):
            raise UserError("give --tpu or --gpu, and not both", "e.g. --tpu v5litepod-256, or --gpu nvidia-h100-80gb")
        if min(self.hosts, self.slices, self.gpus_per_host) < 1:
            raise UserError("--hosts, --slices or --gpus_per_host is below 1", "give 1 or more")
        if self.gpu and self.slices > 1:
            raise UserError("GPUs have no slices", "give --hosts")

    @property
    def workers(self) -> int:
        """Hosts of a slice."""
        return self.hosts if self.tpu is None else self.tpu.hosts

    def selector(self) -> dict[str, str]:
        """The labels of its nodes."""
        spot = {"cloud.google.com/gke-spot": "true"} if self.spot else {}
        if self.tpu is None:
            return {"cloud.google.com/gke-accelerator": self.gpu, **spot}
        labels = {"accelerator": self.tpu.accelerator, "topology": self.tpu.topology}
        return {f"cloud.google.com/gke-tpu-{key}": value for key, value in labels.items()} | spot

    def limits(self) -> dict[str, int]:
        """What a host gives its one container."""
        if self.tpu is None:
            return {"nvidia.com/gpu": self.gpus_per_host}
        return {"google.com/tpu": self.tpu.chips_per_host}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What Kubernetes is asked for.

    Attributes:
      name: of the JobSet.
      image: the container's, which has cat-jax.
      pool: where it runs.
      namespace: empty: kubectl's own.
      service_account: of Kubernetes, which may read and write the buckets.
      queue: a LocalQueue of Kueue; empty: none.
      volumes: what is mounted.
      saving_seconds: how long a host may take to save after SIGTERM.
      max_restarts: how often the job may fail other than by preemption.
    """

    name: str
    image: str
    pool: Pool
    namespace: str = ""
    service_account: str = ""
    queue: str = ""
    volumes: tuple[Volume, ...] = ()
    saving_seconds: int = 300
    max_restarts: int = 10

    def __post_init__(self):
        # The longest name made of it is a pod's host name, NAME-workers-SLICE-HOST, which has 63 letters at most.
        if not _NAME.fullmatch(self.name) or len(self.name) > 40:
            raise UserError(
                f"--name {self.name} is no name in Kubernetes", "a-z, 0-9 and -, at most 40, a letter first"
            )
        if self.saving_seconds < 1 or self.max_restarts < 0:
            raise UserError("--saving_seconds is below 1, or --max_restarts below 0", "give a number that is not")


def manifest(job: Job, command: Command) -> dict[str, Any]:
    """The JobSet."""
    labels = {"kueue.x-k8s.io/queue-name": job.queue} if job.queue else {}
    # Each Job of the set has a node pool of its own: a slice is one, and pods of two jobs in it would wait for ever.
    alone = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"} if job.pool.tpu else {}
    metadata = {"name": job.name, "namespace": job.namespace, "labels": labels, "annotations": alone}
    template = {
        "parallelism": job.pool.workers,
        "completions": job.pool.workers,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": _pod_failures(),
        "template": _pod(job, command),
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {key: value for key, value in metadata.items() if value},
        "spec": {
            "network": {"enableDNSHostnames": True},
            "failurePolicy": _failures(job.max_restarts),
            "replicatedJobs": [{"name": _WORKERS, "replicas": job.pool.slices, "template": {"spec": template}}],
        },
    }


def _pod_failures() -> dict[str, Any]:
    """What fails a Job at once, for a reason that its message tells."""
    codes = {"containerName": _CONTAINER, "operator": "In", "values": sorted((*AGAIN, *NEVER))}
    return {
        "rules": [
            {"action": "FailJob", "onExitCodes": codes},
            {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]
    }


def _failures(max_restarts: int) -> dict[str, Any]:
    """Preempted: again, not counted. Bad input: the end. Anything else: again, so many times.

    The patterns are of the message that Kubernetes gives a Job whose pod failure policy applied: "Container cat-jax for
    pod NAME failed with exit code 75 matching FailJob rule at index 0", "Pod NAME has condition DisruptionTarget ...".
    """
    codes = "|".join(map(str, AGAIN))
    patterns = [f"exit code ({codes}) ", "condition DisruptionTarget "]
    reason = {"onJobFailureReasons": ["PodFailurePolicy"]}
    again = {"name": "preempted", "action": "RestartJobSetAndIgnoreMaxRestarts", **reason}
    return {
        "maxRestarts": max_restarts,
        "rules": [
            {**again, "onJobFailureMessagePatterns": patterns},
            {"name": "mend_first", "action": "FailJobSet", **reason},
        ],
    }


def _pod(job: Job, command: Command) -> dict[str, Any]:
    pool, names = job.pool, [f"volume-{k}" for k in range(len(job.volumes))]
    setup = [] if pool.tpu else _coordinator(job)
    if pool.tpu and pool.tpu.hosts * pool.slices > 1:
        command = command.multiprocess()  # GKE tells TPU hosts of each other, and jax reads it
    container = {
        "name": _CONTAINER,
        "image": job.image,
        "command": ["bash", "-c", literal(command.script(setup))],
        "resources": {"limits": pool.limits()},
        "volumeMounts": [{"name": n, "mountPath": v.place} for n, v in zip(names, job.volumes, strict=True)],
    }
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.saving_seconds,
        "nodeSelector": pool.selector(),
        "serviceAccountName": job.service_account,
        "tolerations": [_tolerate("cloud.google.com/gke-spot")] if pool.spot else [],
        "volumes": [volume.source(name) for name, volume in zip(names, job.volumes, strict=True)],
        "containers": [{key: value for key, value in container.items() if value}],
    }
    if pool.slices > 1:  # slices talk over the hosts' own network
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    result: dict[str, Any] = {"spec": {key: value for key, value in spec.items() if value}}
    if any(volume.bucket for volume in job.volumes):
        result["metadata"] = {"annotations": {"gke-gcsfuse/volumes": "true"}}
    return result


def _coordinator(job: Job) -> list[str]:
    """Shell that says who is who: host 0 has a name in the JobSet's own domain, and each pod knows its number."""
    return [
        f"export CAT_JAX_COORDINATOR={job.name}-{_WORKERS}-0-0.{job.name}:{_PORT}",
        f"export CAT_JAX_NUM_PROCESSES={job.pool.hosts}",
        'export CAT_JAX_PROCESS_ID="$JOB_COMPLETION_INDEX"',
    ]


def literal(text: str) -> str:
    """Text that Kubernetes hands on as it is: it puts variables in the place of $(NAME), and makes $ of $$."""
    return text.replace("$", "$$")


def _tolerate(key: str) -> dict[str, str]:
    return {"key": key, "operator": "Equal", "value": "true", "effect": "NoSchedule"}
