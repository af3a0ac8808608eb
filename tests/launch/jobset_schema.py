"""The fields of a JobSet that we write, as in the CRD of JobSet v0.10 to v0.12 (jobset.x-k8s.io_jobsets.yaml)."""


def _object(required=(), **properties):
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


def _list(item, **more):
    return {"type": "array", "items": item, **more}


TEXT, COUNT = {"type": "string"}, {"type": "integer", "format": "int32", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
ACTIONS = ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob"]
ACTIONS += ["RestartJobAndIgnoreMaxRestarts"]
# Of its webhook (jobset_webhook.go): reasons that Job has, and names of rules.
REASONS = ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"]
RULE_NAME = {"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"}

RULE = _object(
    ("name", "action"),
    name=RULE_NAME,
    action={"enum": ACTIONS},
    onJobFailureReasons=_list({"enum": REASONS}, uniqueItems=True),
    onJobFailureMessagePatterns=_list(TEXT, uniqueItems=True),
    targetReplicatedJobs=_list(TEXT),
)
REPLICATED_JOB = _object(
    ("name", "template"),
    name=TEXT,
    replicas=COUNT,
    template=_object(metadata={"type": "object"}, spec={"type": "object"}),  # a batch/v1 JobTemplateSpec
)
JOBSET = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=_object(("name",), name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS),
    spec=_object(
        network=_object(enableDNSHostnames={"type": "boolean"}, subdomain=TEXT),
        failurePolicy=_object(maxRestarts=COUNT, rules=_list(RULE)),
        replicatedJobs=_list(REPLICATED_JOB),
    ),
)
