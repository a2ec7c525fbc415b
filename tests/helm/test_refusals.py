"""Bad values are refused before anything is installed, with the field and the way out."""

from __future__ import annotations

import pytest
import yaml

from tests.support.helm import HelmError

GROUP = {"containers": [{"name": "ray", "image": "x"}]}
SPEC = {
    "rayVersion": "2.60.0",
    "headGroupSpec": {"rayStartParams": {}, "template": {"spec": GROUP}},
    "workerGroupSpecs": [{"groupName": "g", "minReplicas": 0, "maxReplicas": 1, "template": {"spec": GROUP}}],
}
AUTO = {"enableInTreeAutoscaling": True}


def spec(**changes):
    return {"spec": {**SPEC, **changes}}


def worker(**changes):
    return spec(workerGroupSpecs=[{**SPEC["workerGroupSpecs"][0], **changes}])


# values, what the message has to have in it
BAD = {
    "name too long": ({"fullnameOverride": "n" * 54}, ["fullnameOverride", "53"]),
    "name with capitals": ({"fullnameOverride": "Ray"}, ["fullnameOverride"]),
    "nameOverride with a dot": ({"nameOverride": "a.b"}, ["cannot name a RayCluster", "fullnameOverride"]),
    "group name too long": ({"worker": {"groupName": "g" * 64}}, ["groupName", "63"]),
    "group name with underscore": ({"worker": {"groupName": "my_group"}}, ["worker.groupName", "my_group"]),
    "additional group name": ({"additionalWorkerGroups": {"my_group": {}}}, ["additionalWorkerGroups", "my_group"]),
    "group name taken": ({"worker": {"groupName": "headgroup"}}, ["worker.groupName", "headgroup"]),
    "two groups of a name": (
        {"worker": {"groupName": "a"}, "additionalWorkerGroups": {"a": {"maxReplicas": 1}}},
        ["additionalWorkerGroups.a", "two worker groups"],
    ),
    "min over max": ({"worker": {"minReplicas": 6}}, ["worker.minReplicas", "6", "maxReplicas, 5"]),
    "min over max, additional": (
        {"additionalWorkerGroups": {"gpu": {"minReplicas": 2, "maxReplicas": 1}}},
        ["additionalWorkerGroups.gpu.minReplicas"],
    ),
    "negative": ({"worker": {"replicas": -1}}, ["replicas"]),
    "no number": ({"worker": {"maxReplicas": "many"}}, ["maxReplicas"]),
    "no worker group": ({"worker": {"disabled": True}}, ["worker.disabled", "headOnly"]),
    "no worker group, null": ({"worker": None}, ["worker.disabled", "headOnly"]),
    "v2 and restartPolicy": (
        {"head": {**AUTO, "autoscalerOptions": {"version": "v2"}, "restartPolicy": "Always"}},
        ["head.restartPolicy", "Never"],
    ),
    "v2 and a worker's restartPolicy": (
        {"head": {**AUTO, "autoscalerOptions": {"version": "v2"}}, "worker": {"restartPolicy": "OnFailure"}},
        ["worker.restartPolicy", "Never"],
    ),
    "v2 twice": (
        {
            "head": {
                **AUTO,
                "autoscalerOptions": {"version": "v2"},
                "containerEnv": [{"name": "RAY_enable_autoscaler_v2", "value": "1"}],
            }
        },
        ["head.autoscalerOptions.version", "RAY_enable_autoscaler_v2"],
    ),
    "v2 variable without autoscaler": (
        {"head": {"containerEnv": [{"name": "RAY_enable_autoscaler_v2", "value": "true"}]}},
        ["head.enableInTreeAutoscaling"],
    ),
    "idle time-out without v2": ({"worker": {"idleTimeoutSeconds": 5}}, ["worker.idleTimeoutSeconds", "v2"]),
    "suspended group with autoscaler": ({"head": AUTO, "worker": {"suspend": True}}, ["worker.suspend"]),
    "resources twice": (
        {"worker": {"rayResources": {"CPU": "1"}, "rayStartParams": {"num-cpus": "1"}}},
        ["worker.rayStartParams.num-cpus", "worker.rayResources"],
    ),
    "labels as parameter": (
        {"head": {"rayStartParams": {"labels": "a=b"}}},
        ["head.rayStartParams.labels", "rayLabels"],
    ),
    "bad ray label": ({"worker": {"rayLabels": {"a": "no spaces"}}}, ["rayLabels"]),
    "bad common label": ({"commonLabels": {"a": "x" * 64}}, ["commonLabels"]),
    "redis without address": ({"gcsFaultTolerance": {"enabled": True}}, ["gcsFaultTolerance.redisAddress"]),
    "redis password twice": (
        {
            "gcsFaultTolerance": {"enabled": True, "redisAddress": "r:1"},
            "head": {"containerEnv": [{"name": "REDIS_PASSWORD", "value": "x"}]},
        },
        ["gcsFaultTolerance.redisPassword"],
    ),
    "redis by variable": (
        {"head": {"containerEnv": [{"name": "RAY_REDIS_ADDRESS", "value": "r:1"}]}},
        ["gcsFaultTolerance.enabled"],
    ),
    "rocksdb with redis": (
        {
            "kuberayVersion": "1.7.0",
            "gcsFaultTolerance": {"enabled": True, "backend": "rocksdb", "redisAddress": "r:1"},
        },
        ["gcsFaultTolerance.redisAddress", "rocksdb"],
    ),
    "old ray with token": ({"image": {"tag": "2.51.0"}}, ["head.rayVersion", "2.52.0", "authOptions.mode=disabled"]),
    "unknown ray with token": ({"image": {"tag": "latest"}}, ["head.rayVersion", "authOptions.mode=disabled"]),
    "number as version": ("head: {rayVersion: 2.60}", ["rayVersion"]),
    "k8s tokens with an old ray": (
        {"image": {"tag": "2.54.0"}, "authOptions": {"enableK8sTokenAuth": True}},
        ["authOptions.enableK8sTokenAuth", "2.55.0"],
    ),
    "two kinds of token": (
        {"authOptions": {"enableK8sTokenAuth": True, "secretName": "s"}},
        ["authOptions.secretName"],
    ),
    "open load balancer": (
        {"authOptions": {"mode": "disabled"}, "service": {"type": "LoadBalancer"}},
        ["service.type", "remote code execution", "allowUnauthenticatedExposure"],
    ),
    "open ingress": (
        {"authOptions": {"mode": "disabled"}, "ingress": {"enabled": True, "hosts": [{"host": "a"}]}},
        ["ingress", "remote code execution"],
    ),
    "ingress without host": ({"ingress": {"enabled": True}}, ["ingress.hosts"]),
    "both budgets": (
        {"podDisruptionBudget": {"head": {"enabled": True, "minAvailable": 1, "maxUnavailable": 0}}},
        ["podDisruptionBudget.head"],
    ),
    "bad address": ({"networkPolicy": {"apiServer": {"cidrs": ["10.0.0.1"]}}}, ["cidrs"]),
    "bad manager": ({"managedBy": "me"}, ["managedBy"]),
    "bad strategy": ({"upgradeStrategy": {"type": "Rolling"}}, ["upgradeStrategy"]),
    "spec without head": ({"spec": {"rayVersion": "2.60.0"}}, ["spec.headGroupSpec"]),
    "spec without workers": (spec(workerGroupSpecs=[]), ["spec.workerGroupSpecs", "headOnly"]),
    "spec with min over max": (worker(minReplicas=3), ["spec.workerGroupSpecs[0].minReplicas"]),
    "spec with a text for a number": (
        worker(maxReplicas="${MAX}"),
        ["workerGroupSpecs[0].maxReplicas", "is no number"],
    ),
    "own image, tag of the application": (
        {"image": {"repository": "registry.example.com/team/train", "tag": "1.1.2"}},
        ["head.rayVersion", "the image's tag, 1.1.2, can't be a version of Ray"],
    ),
    "own image, tag of the year": (
        {"image": {"repository": "train", "tag": "2026.3.1"}},
        ["head.rayVersion", "2026.3.1"],
    ),
    "own image, tag 3": ({"image": {"repository": "train", "tag": "3.4.0"}}, ["head.rayVersion", "3.4.0"]),
    "an old ray by its tag": ({"image": {"tag": "2.9.0"}}, ["head.rayVersion", "2.9.0, as the tag of its image says"]),
    "spec of an own image": (
        {"spec": {**{k: v for k, v in SPEC.items() if k != "rayVersion"}}},
        ["spec.rayVersion", "authOptions.mode=disabled"],
    ),
    "log volume lost": (
        {"worker": {"volumes": [{"name": "data", "emptyDir": {}}]}},
        ["worker.volumes", 'no volume "log-volume"', "/tmp/ray", "common.volumes"],
    ),
    "spec that mounts nothing": (
        worker(template={"spec": {"containers": [{"name": "r", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}),
        ["spec.workerGroupSpecs[0].template.spec.volumes", 'no volume "v"'],
    ),
    "extra object that is none": ({"extraObjects": ["just text"]}, ["extraObjects[0]", "no Kubernetes object"]),
    "strict as text": ({"strict": "true", "common": {"containerEnvs": []}}, ["containerEnvs"]),
    "spec without containers": (worker(template={"spec": {}}), ["spec.workerGroupSpecs[0].template.spec.containers"]),
    "spec with an old ray": (spec(rayVersion="2.9.0"), ["spec.rayVersion", "authOptions.mode=disabled"]),
    "spec of a newer operator": (spec(tlsOptions={"enabled": True}), ["spec.tlsOptions", "1.7.0"]),
}


@pytest.mark.parametrize(("values", "said"), BAD.values(), ids=BAD)
def test_bad_values_are_refused_by_name(helm, values, said):
    with pytest.raises(HelmError) as refused:
        helm.template(values)
    # Helm 4 writes a path of the schema with slashes.
    text = str(refused.value).replace("/", ".")
    for part in said:
        assert part.replace("/", ".") in text


#: Value by value: the operator that knows it, and the values that it takes.
GATED = {
    "1.5.0": {
        "head.rayResources": {"head": {"rayResources": {"CPU": "0"}}},
        "head.rayLabels": {"head": {"rayLabels": {"a": "b"}}},
        "worker.rayResources": {"worker": {"rayResources": {"CPU": "0"}}},
        "worker.rayLabels": {"worker": {"rayLabels": {"a": "b"}}},
    },
    "1.6.0": {
        "authOptions.secretName": {"authOptions": {"mode": "token", "secretName": "s"}},
        "authOptions.enableK8sTokenAuth": {"authOptions": {"mode": "token", "enableK8sTokenAuth": True}},
        "upgradeStrategy": {"upgradeStrategy": {"type": "Recreate"}},
    },
    "1.7.0": {
        "tlsOptions": {"tlsOptions": {"enabled": True}},
        "historyServerOptions": {"historyServerOptions": {"collectorOptions": {"image": "i"}}},
        "networkPolicy.kuberay": {"networkPolicy": {"kuberay": {"mode": "DenyAll"}}},
        "gcsFaultTolerance.backend": {"gcsFaultTolerance": {"enabled": True, "backend": "rocksdb"}},
        "gcsFaultTolerance.storage": {
            "gcsFaultTolerance": {"enabled": True, "backend": "", "storage": {"size": "1Gi"}}
        },
        "head.ingressOptions": {"head": {"ingressOptions": {"host": "a"}}},
        "head.autoscalerOptions.command": {"head": {**AUTO, "autoscalerOptions": {"command": ["a"]}}},
        "head.autoscalerOptions.args": {"head": {**AUTO, "autoscalerOptions": {"args": ["a"]}}},
        "worker.rayPriority": {"head": AUTO, "worker": {"rayPriority": 1}},
    },
}
BEFORE = {"1.5.0": "1.4.2", "1.6.0": "1.5.1", "1.7.0": "1.6.1"}
CASES = [(since, field, values) for since, fields in GATED.items() for field, values in fields.items()]


@pytest.mark.parametrize(("since", "field", "values"), CASES, ids=[c[1] for c in CASES])
def test_what_an_operator_would_drop_is_refused(helm4, since, field, values):
    if since == "1.5.0":
        values = {"authOptions": {"mode": "disabled"}, **values}
    if "storage" in values.get("gcsFaultTolerance", {}):
        values = {**values, "gcsFaultTolerance": {**values["gcsFaultTolerance"], "redisAddress": "r:1"}}
    with pytest.raises(HelmError, match=rf"ray-cluster: {field.replace('.', '[.]')}: KubeRay knows this from {since}"):
        helm4.template({"kuberayVersion": BEFORE[since], **values})
    if "storage" not in values.get("gcsFaultTolerance", {}):
        assert helm4.template({"kuberayVersion": f"v{since}", **values}).cluster


def test_an_operator_without_token_authentication_needs_it_switched_off_by_name(helm):
    for version in ("1.4.2", "1.5.0"):
        with pytest.raises(HelmError, match=rf"authOptions\.mode.*1\.5\.1.*{version}.*authOptions\.mode=disabled"):
            helm.template({"kuberayVersion": version})
        objects = helm.template({"kuberayVersion": version, "authOptions": {"mode": "disabled"}})
        assert "authOptions" not in objects.cluster
    assert helm.template({"kuberayVersion": "1.5.1"}).cluster["authOptions"] == {"mode": "token"}
    with pytest.raises(HelmError, match="kuberayVersion"):
        helm.template({"kuberayVersion": "1.3.2", "authOptions": {"mode": "disabled"}})


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"replicas": 3}, "replicas"),
        ({"worker": {"minReplica": 1}}, "minReplica"),
        ({"head": {"autoscalerOptions": {"idleTimeout": 1}}}, "idleTimeout"),
        ({"additionalWorkerGroups": {"gpu": {"gpus": 1}}}, "gpus"),
        ({"networkPolicy": {"egress": {"limited": True}}}, "limited"),
        ({"image": {"name": "x"}}, "name"),
    ],
)
def test_unknown_keys_are_refused_in_strict_mode_only(helm, values, key):
    helm.template(values)
    with pytest.raises(HelmError, match=key):
        helm.template({"strict": True, **values})


def test_the_charts_own_values_are_strictly_valid(helm):
    helm.template({"strict": True})


def test_nothing_that_is_null_breaks_the_chart(helm4):
    """A null takes a default away; every key of the values file can be one."""
    import tests.support.helm as support

    values = yaml.safe_load((support.CHART / "values.yaml").read_text())
    keep = {"kuberayVersion", "strict", "worker", "monitoring", "image"}
    for key in values.keys() - keep:
        assert helm4.template({key: None}).cluster, key
    for part in ("head", "worker", "networkPolicy", "podSecurity", "service", "authOptions", "gcsFaultTolerance"):
        assert helm4.template({part: dict.fromkeys(values[part])}).cluster, part
