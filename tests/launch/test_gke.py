"""JobSets: valid in Kubernetes' schemas, restarted for the right reasons; and what their containers run, in bash."""

import re
import shlex
import subprocess

import pytest
import yaml
from cat_jax_launch import gke
from cat_jax_launch.jobset import Job, Pool, manifest
from cat_jax_launch.topology import slice_of
from hosts import AWKWARD, write_program
from jobset_schema import JOBSET

NAMED = ["--name=small", "--image=registry/cat-jax:1"]
TPU = [*NAMED, "--tpu=v5litepod-256"]
GPU = [*NAMED, "--gpu=nvidia-h100-80gb", "--hosts=4"]
EVERYTHING = ["--spot", "--bucket=b=/data", "--claim=c=/models", "--namespace=n", "--service_account=s", "--queue=q"]
JOBS = {
    "a TPU pod": TPU,
    "two slices": [*NAMED, "--tpu=v5p-128", "--slices=2"],
    "one TPU host": [*NAMED, "--tpu=v6e-8"],
    "GPUs": GPU,
    "everything": [*TPU, *EVERYTHING, "--env=A=b c", "--before=echo a", "--after=echo b"],
}


def rendered(capsys, *argv):
    """The manifest that a dry run prints."""
    assert gke.main([*argv[0], "--dry_run", "--", *(argv[1:] or ("train",))]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def job_of(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod_of(jobset):
    return job_of(jobset)["template"]["spec"]


def container(text, setting):
    """What Kubernetes makes of a container's command: $(NAME) is put in, and $$ is $ (expansion.go)."""
    return re.sub(r"\$(\$|\((\w+)\))", lambda m: "$" if m[1] == "$" else setting.get(m[2], m[0]), text)


@pytest.mark.parametrize("argv", JOBS.values(), ids=JOBS)
def test_manifests_are_valid(capsys, argv):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs the `test` extra")
    import jsonschema

    jobset = rendered(capsys, argv, *AWKWARD)
    jsonschema.validate(jobset, JOBSET)
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": job_of(jobset)}
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(job, version, strict=True)
    job["spec"]["template"]["spec"]["containers"][0]["img"] = "misspelt"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, version, strict=True)
    jobset["spec"]["failurePolicy"]["maxRestart"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(jobset, JOBSET)


@pytest.mark.parametrize("where", [TPU, GPU])
def test_arguments_and_variables_arrive_unchanged(host, capsys, where):
    jobset = rendered(capsys, [*where, "--env=CAT_JAX_MINE=a 'b' $c $(A)"], *AWKWARD)
    bash, option, script = pod_of(jobset)["containers"][0]["command"]
    setting = host.setting | {"JOB_COMPLETION_INDEX": "3", "A": "expanded"}
    command = [bash, option, container(script, setting)]
    assert subprocess.run(command, env=setting, cwd=host.directory, check=False).returncode == 0
    ((arguments, variables),) = host.notes()
    mine = variables.pop("CAT_JAX_MINE")
    assert mine == "a 'b' $c $(A)"
    if where is TPU:
        assert arguments == ["train", "--multiprocess", *AWKWARD[1:]]
        assert variables.keys() <= {"CAT_JAX_TEST"}
    else:
        assert tuple(arguments) == AWKWARD
        assert variables == {
            "CAT_JAX_COORDINATOR": "small-workers-0-0.small:8476",
            "CAT_JAX_NUM_PROCESSES": "4",
            "CAT_JAX_PROCESS_ID": "3",
        }


def test_a_tpu_job_asks_for_its_slices(capsys):
    jobset = rendered(capsys, [*NAMED, "--tpu=v5litepod-256", "--slices=2", "--saving_seconds=90"])
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job, pod = job_of(jobset), pod_of(jobset)
    assert replicated["replicas"] == 2
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (64, 64, 0)
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
    }
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["terminationGracePeriodSeconds"] == 90
    assert pod["hostNetwork"]


def test_node_pools_may_have_hosts_of_another_size(capsys):
    job = job_of(rendered(capsys, [*NAMED, "--tpu=v6e-8", "--chips_per_host=4"]))
    assert job["parallelism"] == 2
    assert job["template"]["spec"]["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}


def test_a_gpu_job_asks_for_hosts_and_buckets_are_mounted(capsys):
    jobset = rendered(capsys, [*GPU, *EVERYTHING])
    pod = pod_of(jobset)
    assert job_of(jobset)["parallelism"] == 4
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-h100-80gb",
        "cloud.google.com/gke-spot": "true",
    }
    assert [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]] == ["/data", "/models"]
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "b"
    assert pod["volumes"][1]["persistentVolumeClaim"] == {"claimName": "c"}
    assert job_of(jobset)["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert jobset["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "q"}


# (what the pod did, what becomes of the JobSet); messages are those of the Job controller.
FATES = [
    ({"code": 75}, "RestartJobSetAndIgnoreMaxRestarts"),
    ({"code": 143}, "RestartJobSetAndIgnoreMaxRestarts"),
    ({"code": 137, "condition": "DisruptionTarget"}, "RestartJobSetAndIgnoreMaxRestarts"),
    ({"code": 2}, "FailJobSet"),
    ({"code": 3}, "FailJobSet"),
    ({"code": 1}, "RestartJobSet"),
]


@pytest.mark.parametrize(("pod", "fate"), FATES, ids=str)
def test_why_a_job_is_started_again(pod, fate):
    jobset = manifest(Job(name="a", image="i", pool=Pool(tpu=slice_of("v4-8"))), gke.Command(("train",)))
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for index, rule in enumerate(job_of(jobset)["podFailurePolicy"]["rules"]):
        matching = f"matching {rule['action']} rule at index {index}"
        if pod["code"] in rule.get("onExitCodes", {}).get("values", []):
            name, who = rule["onExitCodes"]["containerName"], "for pod default/a-workers-0-0-x2x5v"
            assert name == pod_of(jobset)["containers"][0]["name"]
            reason, message = (
                "PodFailurePolicy",
                f"Container {name} {who} failed with exit code {pod['code']} {matching}",
            )
            break
        if pod.get("condition") in [condition["type"] for condition in rule.get("onPodConditions", [])]:
            reason = "PodFailurePolicy"
            message = f"Pod default/a-workers-0-0-x2x5v has condition {pod['condition']} {matching}"
            break
    actions = [
        rule["action"]
        for rule in jobset["spec"]["failurePolicy"]["rules"]
        if reason in rule["onJobFailureReasons"]
        and any(re.search(p, message) for p in rule.get("onJobFailureMessagePatterns", [""]))
    ]
    assert [*actions, "RestartJobSet"][0] == fate


def test_the_dry_run_prints_what_is_applied(host, monkeypatch, capsys):
    write_program(host.bin, "kubectl", f"#!/bin/bash\n{host.log('kubectl')}\ncat > {host.directory}/applied\nexit 3\n")
    monkeypatch.setenv("PATH", host.setting["PATH"])
    assert gke.main([*TPU, "--dry_run", "--", *AWKWARD]) == 0
    printed = capsys.readouterr().out
    assert not host.lines("kubectl")
    assert gke.main([*TPU, "--", *AWKWARD]) == 3  # kubectl's own
    assert host.lines("kubectl") == [["apply", "-f", "-"]]
    assert (host.directory / "applied").read_text() == printed


def test_xpk_runs_the_same_command(host, capsys):
    plain = [argument for argument in AWKWARD if "\n" not in argument]
    argv = [*TPU, "--xpk", "--cluster=pods", "--spot", "--env=CAT_JAX_MINE=a b", "--before=cd .", "--", *plain]
    assert gke.main(argv) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:3] == ["xpk", "workload", "create"]
    flags = dict(word.split("=", 1) for word in words[3:] if "=" in word)
    command = flags.pop("--command")
    assert flags == {
        "--cluster": "pods",
        "--workload": "small",
        "--tpu-type": "v5litepod-256",
        "--num-slices": "1",
        "--docker-image": "registry/cat-jax:1",
        "--max-restarts": "10",
        "--restart-on-exit-codes": "75,143",
        "--termination-grace-period-seconds": "300",
    }
    assert "--spot" in words
    script = f"({container(command, {})}) & PID=$!;\nwait $PID"  # as in xpk's container
    assert subprocess.run(["bash", "-c", script], env=host.setting, cwd=host.directory, check=False).returncode == 0
    ((arguments, variables),) = host.notes()
    assert arguments == ["train", "--multiprocess", *plain[1:]]
    assert variables["CAT_JAX_MINE"] == "a b"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([*NAMED, "--", "train"], "gke: give --tpu or --gpu, and not both: e.g. --tpu v5litepod-256"),
        ([*GPU, "--slices=2", "--", "train"], "gke: GPUs have no slices: give --hosts"),
        (["--name=A", "--image=i", "--tpu=v4-8", "--", "train"], "gke: --name A is no name in Kubernetes: "),
        ([*TPU, "--chips_per_host=3", "--", "train"], "gke: v5litepod-256 has no hosts of 3 chips: it has 256 chips"),
        ([*TPU, "--bucket=gs://b=/data", "--", "train"], "gke: --bucket gs://b=/data names no bucket: give its bare"),
        ([*TPU, "--claim=c", "--", "train"], "gke: --claim c mounts nothing: give NAME=/PATH"),
        ([*TPU, "--xpk", "--", "train"], "gke: --xpk is for TPU slices of a cluster: give --tpu and --cluster"),
        ([*TPU, "--xpk", "--cluster=c", "--after=a", "--", "train"], "gke: xpk mounts and runs nothing after"),
        ([*TPU, "--xpk", "--cluster=c", "--", "train", "a\nb"], "gke: xpk takes commands of one line: "),
        ([*TPU, "--hosts=4", "--", "train"], "gke: --hosts and --gpus_per_host are for GPUs: a TPU type has its hosts"),
        ([*TPU, "--gpus_per_host=8", "--", "train"], "gke: --hosts and --gpus_per_host are for GPUs: "),
        ([*GPU, "--chips_per_host=4", "--", "train"], "gke: --chips_per_host is for TPUs: give --gpus_per_host"),
        ([*TPU, "--chips_per_host=0", "--", "train"], "gke: v5litepod-256 has no hosts of 0 chips: "),
        ([*TPU, "--cluster=c", "--", "train"], "gke: --cluster is for --xpk: "),
        ([*TPU, "--xpk", "--cluster=c", "--queue=q", "--", "train"], "gke: xpk chooses namespace, service account"),
        ([*TPU, "--", "train"], "gke: there is no kubectl here: install it, and `gcloud container clusters"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capsys, argv, line):
    monkeypatch.setenv("PATH", "/nowhere")
    assert gke.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1
