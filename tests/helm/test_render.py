"""What the chart makes of values."""

from __future__ import annotations

import pytest
import yaml

from tests.support.helm import CHART, PROFILES, HelmError

PROFILE_FILES = sorted(PROFILES.glob("*.yaml"))
LAYERS = [
    ["cpu", "autoscaling"],
    ["cpu", "gpu-gke", "spot", "autoscaling", "fault-tolerant"],
    ["gpu-eks", "autoscaling"],
    ["tpu", "spot"],
]


def head_pod(objects):
    return objects.cluster["headGroupSpec"]["template"]["spec"]


def test_lint(helm):
    assert "0 chart(s) failed" in helm.run("lint", CHART, "--strict")


@pytest.mark.parametrize("profile", PROFILE_FILES, ids=lambda p: p.stem)
def test_profiles_lint_and_render_strictly(helm, profile):
    assert "0 chart(s) failed" in helm.run("lint", CHART, "--strict", "-f", profile)
    objects = helm.template({"strict": True}, files=[profile])
    assert objects.cluster["authOptions"] == {"mode": "token"}
    assert len(objects.kind("NetworkPolicy")) == 2


@pytest.mark.parametrize("names", LAYERS, ids="+".join)
def test_profiles_can_be_layered(helm, names):
    objects = helm.template({"strict": True}, files=[PROFILES / f"{name}.yaml" for name in names])
    groups = [g["groupName"] for g in objects.cluster["workerGroupSpecs"]]
    assert len(groups) == len(set(groups)) == 1 + sum(n.startswith(("gpu", "tpu", "spot")) for n in names)
    assert objects.cluster.get("enableInTreeAutoscaling", False) == ("autoscaling" in names)


def test_profiles_hold_no_accelerator_while_idle(helm4):
    for profile in ("gpu-gke", "gpu-eks", "tpu"):
        group = helm4.template(files=[PROFILES / f"{profile}.yaml"]).group(profile.split("-")[0])
        assert (group["replicas"], group["minReplicas"]) == (0, 0), profile


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("demo", {}, "demo-kuberay"),
        ("my-kuberay-1", {}, "my-kuberay-1"),
        ("demo", {"nameOverride": "team"}, "demo-team"),
        ("demo", {"nameOverride": ""}, "demo-ray-cluster"),
        ("demo", {"fullnameOverride": "exact"}, "exact"),
        ("demo", {"fullnameOverride": "e" * 53}, "e" * 53),
        ("r" * 53, {}, "r" * 53),
        ("r" * 50, {}, "r" * 50 + "-ku"),
        ("r" * 52, {}, "r" * 52),
    ],
)
def test_the_name_is_predictable_and_within_the_operators_limit(helm, release, values, name):
    objects = helm.template(values, release=release)
    assert objects.one("RayCluster")["metadata"]["name"] == name
    assert len(name) <= 53
    for policy in objects.kind("NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"]["ray.io/cluster"] == name


def test_a_release_name_that_begins_with_a_digit_is_refused_with_the_way_out(helm):
    with pytest.raises(HelmError, match=r"1demo-kuberay.*fullnameOverride"):
        helm.template(release="1demo")


# ---------------------------------------------------------------- closed by default


def test_pods_fulfil_the_restricted_pod_security_standard_by_default(helm):
    values = {
        "head": {
            "enableInTreeAutoscaling": True,
            "initContainers": [{"name": "init", "image": "x"}],
            "sidecarContainers": [{"name": "side", "image": "x"}],
        }
    }
    objects = helm.template(values)
    groups = [objects.cluster["headGroupSpec"], *objects.cluster["workerGroupSpecs"]]
    assert len(groups) == 2
    for group in groups:
        pod = group["template"]["spec"]
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }, container["name"]
    assert objects.cluster["autoscalerOptions"]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_hardening_is_switched_off_by_name_and_gives_way_to_what_a_group_says(helm):
    off = helm.template({"podSecurity": {"enabled": False}})
    assert "securityContext" not in head_pod(off)
    assert "securityContext" not in head_pod(off)["containers"][0]
    root = helm.template({"podSecurity": {"runAsNonRoot": False}})
    assert head_pod(root)["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    own = helm.template(
        {
            "head": {"securityContext": {"privileged": True}, "podSecurityContext": {"runAsUser": 0}},
            "worker": {"securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}, "runAsUser": 0}},
        }
    )
    # An API server refuses privileged together with allowPrivilegeEscalation: false, and root with runAsNonRoot.
    assert head_pod(own)["containers"][0]["securityContext"] == {"privileged": True}
    assert head_pod(own)["securityContext"]["runAsNonRoot"] is False
    worker = own.group("workergroup")["template"]["spec"]["containers"][0]["securityContext"]
    assert worker["capabilities"] == {"drop": ["ALL"], "add": ["SYS_PTRACE"]}
    assert (worker["runAsUser"], worker["runAsNonRoot"]) == (0, False)


def test_only_the_autoscalers_container_gets_a_token_of_the_kubernetes_api(helm):
    objects = helm.template({"head": {"enableInTreeAutoscaling": True}})
    pod = head_pod(objects)
    assert pod["automountServiceAccountToken"] is False
    assert "autoscaler-token" in [v["name"] for v in pod["volumes"]]
    assert "autoscaler-token" not in [m["name"] for m in pod["containers"][0]["volumeMounts"]]
    assert objects.cluster["autoscalerOptions"]["volumeMounts"] == [
        {
            "name": "autoscaler-token",
            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            "readOnly": True,
        }
    ]
    classic = helm.template({"head": {"enableInTreeAutoscaling": True, "automountServiceAccountToken": True}})
    assert head_pod(classic)["automountServiceAccountToken"] is True
    assert "volumeMounts" not in classic.cluster["autoscalerOptions"]


def test_token_authentication(helm):
    assert helm.template().cluster["authOptions"] == {"mode": "token"}
    given = helm.template({"authOptions": {"secretName": "mine"}})
    assert given.cluster["authOptions"] == {"mode": "token", "secretName": "mine"}
    k8s = helm.template({"authOptions": {"enableK8sTokenAuth": True}})
    assert k8s.cluster["authOptions"] == {"mode": "token", "enableK8sTokenAuth": True}
    off = helm.template({"authOptions": {"mode": "disabled"}})
    assert "authOptions" not in off.cluster
    assert "env" not in head_pod(off)["containers"][0]


def test_a_ray_that_asks_for_tokens_by_itself_is_told_not_to_where_authentication_is_off(helm):
    objects = helm.template({"authOptions": {"mode": "disabled"}, "image": {"tag": "2.61.0"}})
    assert head_pod(objects)["containers"][0]["env"] == [{"name": "RAY_AUTH_MODE", "value": "disabled"}]


@pytest.mark.parametrize(
    ("values", "version"),
    [
        ({}, "2.60.0"),
        ({"image": {"tag": "2.55.1-py312-gpu"}}, "2.55.1"),
        ({"image": {"tag": "nightly"}, "head": {"rayVersion": "2.60.0"}}, "2.60.0"),
        ({"head": {"image": {"tag": "2.57.0"}}}, "2.57.0"),
    ],
)
def test_rays_version_is_known_where_authentication_needs_it(helm, values, version):
    assert helm.template(values).cluster["rayVersion"] == version


# ---------------------------------------------------------------- network policy


def test_the_network_policy_names_everybody_who_may_reach_the_head(helm):
    objects = helm.template(
        {
            "fullnameOverride": "c",
            "networkPolicy": {
                "allowFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "airflow"}}}],
                "apiServer": {"cidrs": ["10.1.0.0/28"]},
            },
            "monitoring": {"enabled": True, "namespaces": ["prom"]},
            "ingress": {"enabled": True, "hosts": [{"host": "ray.example.com"}]},
        }
    )
    head = objects.one("NetworkPolicy", "c-ray-head")["spec"]
    assert head["podSelector"]["matchLabels"] == {"ray.io/cluster": "c", "ray.io/node-type": "head"}
    assert head["policyTypes"] == ["Ingress"]
    own, named, serve, scrape = head["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": {"ray.io/cluster": "c"}}}]}
    assert [p["port"] for p in named["ports"]] == [8265, 10001, 8080]
    assert [p["port"] for p in serve["ports"]] == [8000]
    namespace, airflow, operator, konnectivity, api_server, controller = named["from"]
    assert namespace == {"podSelector": {}}
    assert airflow["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "airflow"}
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}
    assert "kuberay-system" in operator["namespaceSelector"]["matchExpressions"][0]["values"]
    assert konnectivity["podSelector"]["matchExpressions"][0]["values"] == ["konnectivity-agent"]
    assert api_server == {"ipBlock": {"cidr": "10.1.0.0/28"}}
    assert controller["namespaceSelector"]["matchExpressions"][0]["values"] == ["ingress-nginx"]
    assert [p["port"] for p in scrape["ports"]] == [8080]
    # GCS, the object stores and the agents stay with the cluster's own pods.
    assert 6379 not in [p["port"] for p in named["ports"]]
    worker = objects.one("NetworkPolicy", "c-ray-worker")["spec"]
    assert worker["podSelector"]["matchLabels"]["ray.io/node-type"] == "worker"
    assert len(worker["ingress"]) == 4


def test_the_network_policy_can_be_narrowed_to_the_cluster_itself(helm):
    nobody = {"allowNamespace": False, "operator": {"namespaces": []}, "apiServer": {"konnectivity": False}}
    for policy in helm.template({"networkPolicy": nobody}).kind("NetworkPolicy"):
        assert policy["spec"]["ingress"] == [
            {"from": [{"podSelector": {"matchLabels": {"ray.io/cluster": "demo-kuberay"}}}]}
        ]


def test_restricted_egress_leaves_the_cluster_and_dns(helm):
    policy = {"egress": {"restricted": True, "rules": [{"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]}]}}
    for side in helm.template({"networkPolicy": policy}).kind("NetworkPolicy"):
        assert side["spec"]["policyTypes"] == ["Ingress", "Egress"]
        own, dns, further = side["spec"]["egress"]
        assert own["to"][0]["podSelector"]["matchLabels"] == {"ray.io/cluster": "demo-kuberay"}
        assert {(p["protocol"], p["port"]) for p in dns["ports"]} == {("UDP", 53), ("TCP", 53)}
        assert further == policy["egress"]["rules"][0]


def test_restricted_egress_with_the_autoscaler_needs_the_api_servers_address(helm):
    values = {"head": {"enableInTreeAutoscaling": True}, "networkPolicy": {"egress": {"restricted": True}}}
    with pytest.raises(HelmError, match=r"networkPolicy\.apiServer\.cidrs"):
        helm.template(values)
    values["networkPolicy"]["apiServer"] = {"cidrs": ["10.1.0.0/28"]}
    head = helm.template(values).one("NetworkPolicy", "demo-kuberay-ray-head")["spec"]
    assert head["egress"][-1]["to"] == [{"ipBlock": {"cidr": "10.1.0.0/28"}}]


def test_no_network_policy_where_it_is_switched_off(helm):
    assert not helm.template({"networkPolicy": {"enabled": False}}).kind("NetworkPolicy")


# ---------------------------------------------------------------- what KubeRay's chart cannot say


def test_options_of_the_cluster_pass_through(helm):
    cluster = helm.template(
        {
            "suspend": True,
            "managedBy": "kueue.x-k8s.io/multikueue",
            "upgradeStrategy": {"type": "Recreate"},
            "headServiceAnnotations": {"a": "b"},
            "head": {"rayResources": {"CPU": 0}, "rayLabels": {"pool": "head"}},
            "worker": {"rayLabels": {"pool": "spot"}, "rayResources": {"CPU": "4", "custom": 1.5}, "suspend": True},
        }
    ).cluster
    assert cluster["suspend"] is True
    assert cluster["managedBy"] == "kueue.x-k8s.io/multikueue"
    assert cluster["upgradeStrategy"] == {"type": "Recreate"}
    assert cluster["headServiceAnnotations"] == {"a": "b"}
    assert cluster["headGroupSpec"]["resources"] == {"CPU": "0"}
    assert cluster["headGroupSpec"]["labels"] == {"pool": "head"}
    (worker,) = cluster["workerGroupSpecs"]
    assert worker["labels"] == {"pool": "spot"}
    assert worker["resources"] == {"CPU": "4", "custom": "1.5"}
    assert worker["suspend"] is True
    assert "suspend" not in helm.template().cluster
    assert helm.template({"suspend": False}).cluster["suspend"] is False


def test_options_of_kuberay_1_7_pass_through_where_it_runs(helm):
    cluster = helm.template(
        {
            "kuberayVersion": "1.7.0",
            "tlsOptions": {"enabled": True},
            "historyServerOptions": {"collectorOptions": {"image": "collector:1"}},
            "networkPolicy": {"kuberay": {"mode": "DenyAllIngress"}},
            "gcsFaultTolerance": {"enabled": True, "backend": "rocksdb", "storage": {"size": "2Gi"}},
            "head": {
                "enableInTreeAutoscaling": True,
                "autoscalerOptions": {"args": ["x"]},
                "ingressOptions": {"host": "a"},
            },
            "worker": {"rayPriority": 7},
        }
    ).cluster
    assert cluster["tlsOptions"] == {"enabled": True}
    assert cluster["historyServerOptions"] == {"collectorOptions": {"image": "collector:1"}}
    assert cluster["networkPolicy"] == {"mode": "DenyAllIngress"}
    assert cluster["gcsFaultToleranceOptions"] == {"backend": "rocksdb", "storage": {"size": "2Gi"}}
    assert cluster["autoscalerOptions"]["args"] == ["x"]
    assert cluster["headGroupSpec"]["ingressOptions"] == {"host": "a"}
    assert cluster["workerGroupSpecs"][0]["priority"] == 7


def test_autoscaler_v2_is_said_and_gets_the_restart_policy_it_needs(helm):
    objects = helm.template({"head": {"enableInTreeAutoscaling": True}, "worker": {"idleTimeoutSeconds": 30}})
    assert objects.cluster["autoscalerOptions"]["version"] == "v2"
    assert head_pod(objects)["restartPolicy"] == "Never"
    worker = objects.group("workergroup")
    assert worker["template"]["spec"]["restartPolicy"] == "Never"
    assert worker["idleTimeoutSeconds"] == 30
    # Who says otherwise is left alone.
    old = helm.template({"head": {"enableInTreeAutoscaling": True}, "worker": {"restartPolicy": "Always"}})
    assert "version" not in old.cluster["autoscalerOptions"]
    variable = {"name": "RAY_enable_autoscaler_v2", "value": "1"}
    env = helm.template({"head": {"enableInTreeAutoscaling": True, "containerEnv": [variable]}})
    assert "version" not in env.cluster["autoscalerOptions"]


def test_the_service_can_have_an_address_of_its_own(helm):
    assert "headService" not in helm.template().cluster["headGroupSpec"]
    own = helm.template({"service": {"headless": False}}).cluster["headGroupSpec"]
    assert own["headService"] == {"spec": {"type": "ClusterIP"}}


def test_ingress_budgets_monitors_and_further_objects(helm):
    objects = helm.template(
        {
            "fullnameOverride": "c",
            "commonLabels": {"airflow-dag": "train", "try": 3},
            "commonAnnotations": {"airflow-run": "manual__2026"},
            "ingress": {
                "enabled": True,
                "className": "nginx",
                "annotations": {"nginx.ingress.kubernetes.io/auth-type": "basic"},
                "hosts": [{"host": "ray.example.com", "path": "/c"}],
                "tls": [{"hosts": ["ray.example.com"], "secretName": "cert"}],
            },
            "podDisruptionBudget": {"head": {"enabled": True}, "workers": {"enabled": True, "maxUnavailable": "20%"}},
            "monitoring": {"enabled": True, "interval": "30s", "labels": {"release": "prom"}},
            "extraObjects": [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "x", "labels": {"mine": "1"}},
                    "data": {},
                }
            ],
        }
    )
    ingress = objects.one("Ingress")
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/auth-type"] == "basic"
    (rule,) = ingress["spec"]["rules"]
    assert rule["host"] == "ray.example.com"
    assert rule["http"]["paths"][0]["backend"]["service"] == {"name": "c-head-svc", "port": {"number": 8265}}
    assert objects.one("PodDisruptionBudget", "c-ray-head")["spec"]["minAvailable"] == 1
    workers = objects.one("PodDisruptionBudget", "c-ray-worker")["spec"]
    assert workers["maxUnavailable"] == "20%"
    assert workers["selector"]["matchLabels"] == {"ray.io/cluster": "c", "ray.io/node-type": "worker"}
    monitor = objects.one("PodMonitor")
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "interval": "30s"}]
    assert monitor["metadata"]["labels"]["release"] == "prom"
    assert objects.one("ConfigMap")["metadata"]["labels"]["mine"] == "1"
    assert len(objects) == 8
    for made in objects:
        assert made["metadata"]["labels"]["airflow-dag"] == "train", made["kind"]
        assert made["metadata"]["labels"]["try"] == "3"
        assert made["metadata"]["annotations"]["airflow-run"] == "manual__2026"


def test_owner_labels_do_not_touch_pods(helm):
    """They change with each run: a pod template that changes is a cluster that is made anew."""
    before = helm.template({"commonLabels": {"airflow-run": "1"}}).cluster
    after = helm.template({"commonLabels": {"airflow-run": "2"}}).cluster
    assert before == after
    labelled = helm.template({"podLabels": {"team": "a"}, "podAnnotations": {"x": 1}}).cluster["headGroupSpec"]
    assert labelled["template"]["metadata"]["labels"]["team"] == "a"
    assert labelled["template"]["metadata"]["annotations"] == {"x": "1"}


def test_service_monitor(helm):
    objects = helm.template({"monitoring": {"enabled": True, "kind": "ServiceMonitor"}})
    spec = objects.one("ServiceMonitor")["spec"]
    assert spec["endpoints"] == [{"port": "metrics"}]
    assert spec["selector"]["matchLabels"]["ray.io/node-type"] == "head"


def test_anything_else_of_pod_and_container_can_be_said(helm):
    objects = helm.template(
        {
            "worker": {
                "podSpec": {"schedulerName": "volcano", "terminationGracePeriodSeconds": 20},
                "containerSpec": {"stdin": True},
            },
            "image": {"digest": "sha256:" + "a" * 64},
            "head": {"image": {"tag": "2.60.0-gpu"}},
        }
    )
    pod = objects.group("workergroup")["template"]["spec"]
    assert (pod["schedulerName"], pod["terminationGracePeriodSeconds"]) == ("volcano", 20)
    assert pod["containers"][0]["stdin"] is True
    assert pod["containers"][0]["image"] == "rayproject/ray@sha256:" + "a" * 64
    assert head_pod(objects)["containers"][0]["image"] == "rayproject/ray:2.60.0-gpu"


def test_a_cluster_of_a_head_alone_has_to_be_asked_for(helm):
    objects = helm.template({"worker": {"disabled": True}, "headOnly": True})
    assert objects.cluster["workerGroupSpecs"] == []


# ---------------------------------------------------------------- a ready spec

SPEC = """
rayVersion: 2.60.0
headGroupSpec:
  rayStartParams: {dashboard-host: 0.0.0.0}
  template: {spec: {containers: [{name: head, image: "rayproject/ray:2.60.0"}]}}
workerGroupSpecs:
- groupName: mine
  replicas: 2
  minReplicas: 0
  maxReplicas: 2147483647
  rayStartParams: {}
  template: {spec: {containers: [{name: worker, image: "rayproject/ray:2.60.0"}]}}
"""


def test_a_ready_spec_is_passed_on_whole_and_closed_like_the_others(helm):
    spec = yaml.safe_load(SPEC)
    objects = helm.template({"spec": spec, "fullnameOverride": "c", "commonLabels": {"owner": "me"}})
    assert objects.cluster == {**spec, "authOptions": {"mode": "token"}}
    assert objects.one("RayCluster")["metadata"]["labels"]["owner"] == "me"
    assert len(objects.kind("NetworkPolicy")) == 2


def test_a_ready_spec_has_the_last_word(helm):
    spec = {**yaml.safe_load(SPEC), "authOptions": {"mode": "disabled"}, "suspend": True}
    cluster = helm.template({"spec": spec, "suspend": False}).cluster
    assert cluster["authOptions"] == {"mode": "disabled"}
    assert cluster["suspend"] is True


def test_the_notes_say_where_the_token_is(helm4):
    """Helm 3 asks a cluster even for this; Helm 4 does not."""
    notes = helm4.run("install", "demo", CHART, "--dry-run=client", "-n", "ray")
    assert "key auth_token of the secret demo-kuberay" in notes
    assert "WARNING" not in notes
    off = helm4.run(
        "install",
        "demo",
        CHART,
        "--dry-run=client",
        "-n",
        "ray",
        "--set",
        "authOptions.mode=disabled,networkPolicy.enabled=false",
    )
    assert off.count("WARNING") == 2
