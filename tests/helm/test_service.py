"""The chart ray-service: the cluster of ray-cluster, what it serves, and what KubeRay would refuse of it, or drop."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from ray_provider.clusters.rayservice.manifest import read_ray_service
from ray_provider.clusters.rayservice.resource import CONFIG_KEYS, PORT
from ray_provider.serve.applications import ACTOR_KEYS, DEPLOYMENT_KEYS, KEYS
from tests.helm.definition import errors
from tests.support.helm import CHART, PROFILES, SERVICE_CHART, HelmError, rays_definition
from tests.support.requirements import need

ONE = {"name": "a", "import_path": "model:app"}
SERVED = {"serveConfigV2": {"applications": [ONE]}}
LABEL = "airflow-ray/rayservice"
EVERYTHING = {
    **SERVED,
    "suspend": False,
    "managedBy": "ray.io/kuberay-operator",
    "labels": {"kueue.x-k8s.io/queue-name": "q"},
    "annotations": {"ray.io/initializing-timeout": "10m"},
    "upgradeStrategy": {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": {"gatewayClassName": "istio", "stepSizePercent": 10, "intervalSeconds": "5"},
    },
    "rayClusterDeletionDelaySeconds": 0,
    "serveService": {"metadata": {"annotations": {"a": "b"}}, "spec": {"ports": [{"name": "serve", "port": 8000}]}},
    "excludeHeadPodFromServeSvc": True,
    "serviceUnhealthySecondThreshold": 900,
    "deploymentUnhealthySecondThreshold": 300,
    "headServiceAnnotations": {"a": "b"},
    "head": {"enableInTreeAutoscaling": True, "rayResources": {"CPU": "0"}},
    "gcsFaultTolerance": {"enabled": True, "redisAddress": "r:1"},
    "worker": {"idleTimeoutSeconds": 3},
}


def applications_for(chart):
    """What a chart needs to be rendered at all."""
    return SERVED if chart == SERVICE_CHART else {}


def template(helm, values=None, **further):
    return helm.template({**SERVED, **(values or {})}, chart=SERVICE_CHART, **further)


def service(helm, values=None, **further):
    return template(helm, values, **further).one("RayService")["spec"]


def test_the_cluster_is_that_of_the_chart_ray_cluster(helm):
    values = {"head": {"enableInTreeAutoscaling": True}, "common": {"nodeSelector": {"pool": "ray"}}}
    ours, theirs = template(helm, values), helm.template(values)
    for group in (ours.cluster["headGroupSpec"], *ours.cluster["workerGroupSpecs"]):
        assert group["template"]["metadata"]["labels"].pop(LABEL) == "demo-kuberay"
    assert ours.cluster == theirs.cluster
    assert "demo-kuberay" == ours.one("RayService")["metadata"]["name"]


def test_it_is_closed_by_default(helm):
    objects = template(helm)
    cluster = objects.cluster
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert len(objects.kind("NetworkPolicy")) == 2
    assert len(objects) == 3


def test_policies_budgets_and_monitors_find_pods_whatever_kuberay_calls_their_cluster(helm):
    values = {
        "podDisruptionBudget": {"head": {"enabled": True}, "workers": {"enabled": True}},
        "monitoring": {"enabled": True},
        "ingress": {"enabled": True, "hosts": [{"host": "a"}]},
    }
    objects = template(helm, values)
    selectors = [o["spec"]["podSelector"] for o in objects.kind("NetworkPolicy")]
    selectors += [o["spec"]["selector"] for kind in ("PodDisruptionBudget", "PodMonitor") for o in objects.kind(kind)]
    assert len(selectors) == 5
    for selector in selectors:
        assert selector["matchLabels"][LABEL] == "demo-kuberay"
    for policy in objects.kind("NetworkPolicy"):
        assert policy["spec"]["ingress"][0] == {"from": [{"podSelector": {"matchLabels": {LABEL: "demo-kuberay"}}}]}
    assert "ray.io/cluster" not in yaml.safe_dump(list(objects))
    backend = objects.one("Ingress")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "demo-kuberay-head-svc", "port": {"number": 8265}}
    monitor = template(helm, {"monitoring": {"enabled": True, "kind": "ServiceMonitor"}}).one("ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"] == {
        "ray.io/originated-from-cr-name": "demo-kuberay",
        "ray.io/node-type": "head",
    }


def test_applications_are_written_as_they_were_said(helm):
    given = {
        "target_capacity": 50,
        "applications": [
            {
                **ONE,
                "route_prefix": None,
                "args": {"nothing": None, "large": 100000000, "part": 0.5, "replicas": "2", "text": "a: {{ b }}\n#c"},
                "deployments": [{"name": "D", "num_replicas": 2, "user_config": {"enabled": "true"}}],
            }
        ],
    }
    text = service(helm, {"serveConfigV2": given})["serveConfigV2"]
    # As KubeRay reads it, and as a person does.
    assert json.loads(text) == yaml.safe_load(text) == given
    assert text.count("\n") > 10


def test_what_a_rayservice_says_beside_its_cluster(helm):
    spec = service(helm, EVERYTHING)
    assert spec["upgradeStrategy"]["clusterUpgradeOptions"]["intervalSeconds"] == 5
    assert spec["rayClusterDeletionDelaySeconds"] == 0
    assert spec["excludeHeadPodFromServeSvc"] is True
    assert spec["managedBy"] == "ray.io/kuberay-operator"
    assert not {"upgradeStrategy", "managedBy"} & set(spec["rayClusterConfig"])
    metadata = template(helm, EVERYTHING).one("RayService")["metadata"]
    assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "q"
    assert metadata["annotations"] == {"ray.io/initializing-timeout": "10m"}
    assert set(service(helm)) == {"serveConfigV2", "rayClusterConfig"}


@pytest.mark.parametrize("profile", sorted(PROFILES.glob("*.yaml")), ids=lambda p: p.stem)
def test_profiles_pass(helm4, profile):
    objects = template(helm4, files=[profile])
    assert errors(definition(), objects.one("RayService")) == []


def definition(version="1.6.1"):
    found = rays_definition("rayservices", version)
    need(f"the definition of RayService of KubeRay {version}", present=found is not None, how="make kubernetes-build")
    return found


def test_the_definition_takes_it_strictly(helm4):
    assert errors(definition(), template(helm4).one("RayService")) == []
    assert errors(definition(), template(helm4, EVERYTHING).one("RayService")) == []


def test_a_ready_spec_gets_the_label_and_nothing_else(helm):
    pod = {"containers": [{"name": "ray", "image": "rayproject/ray:2.60.0"}]}
    group = {"groupName": "g", "replicas": 1, "minReplicas": 0, "maxReplicas": 2, "template": {"spec": pod}}
    spec = {"rayVersion": "2.60.0", "headGroupSpec": {"template": {"spec": pod}}, "workerGroupSpecs": [group]}
    made = template(helm, {"spec": spec}).cluster
    for one in (made["headGroupSpec"], *made["workerGroupSpecs"]):
        assert one["template"].pop("metadata") == {"labels": {LABEL: "demo-kuberay"}}
    assert made == {**spec, "authOptions": {"mode": "token"}}
    with pytest.raises(HelmError, match=r"ray-service: spec\.upgradeStrategy: .*Use upgradeStrategy"):
        template(helm, {"spec": {**spec, "upgradeStrategy": {"type": "Recreate"}}})


def test_names_keep_to_kuberays_limit(helm):
    long = template(helm, release="r" * 50).one("RayService")["metadata"]["name"]
    assert long == "r" * 47
    with pytest.raises(HelmError, match="fullnameOverride"):
        template(helm, {"fullnameOverride": "n" * 48})


BAD = {
    "no applications": ({"serveConfigV2": {"applications": []}}, "serveConfigV2.applications: is needed"),
    "no import path": ({"serveConfigV2": {"applications": [{"name": "a"}]}}, "import_path"),
    "a file as import path": (
        {"serveConfigV2": {"applications": [{"import_path": "model.py"}, {"import_path": "./x"}]}},
        'serveConfigV2.applications[1].import_path: is "./x": it has to be module:attribute',
    ),
    "two of a name": (
        {"serveConfigV2": {"applications": [ONE, {**ONE, "route_prefix": "/b"}]}},
        'serveConfigV2.applications[1].name: "a" is the name of two applications',
    ),
    "two of a route": (
        {"serveConfigV2": {"applications": [ONE, {**ONE, "name": "b"}]}},
        'serveConfigV2.applications[1].route_prefix: "/" is that of two applications',
    ),
    "code on a machine": (
        {"serveConfigV2": {"applications": [{**ONE, "runtime_env": {"working_dir": "./src"}}]}},
        "serveConfigV2.applications[0].runtime_env: names code on a machine (./src)",
    ),
    "code on a machine, of a deployment": (
        {
            "serveConfigV2": {
                "applications": [
                    {**ONE, "deployments": [{"name": "D", "ray_actor_options": {"runtime_env": {"py_modules": ["x"]}}}]}
                ]
            }
        },
        "names code on a machine (x)",
    ),
    "an unknown key": ({"worker": {"minReplica": 1}}, "minReplica"),
    "an unknown key of an application": ({"serveConfigV2": {"applications": [{**ONE, "route": "/"}]}}, "route"),
    "an unknown key of a deployment": (
        {"serveConfigV2": {"applications": [{**ONE, "deployments": [{"name": "D", "replicas": 2}]}]}},
        "replicas",
    ),
    "an unknown key of Serve": ({"serveConfigV2": {"applications": [ONE], "http_option": {}}}, "http_option"),
    "text": ({"serveConfigV2": "applications: []"}, "serveConfigV2"),
    "what a RayCluster has": ({"keepReplicas": True}, "keepReplicas"),
    "a strategy of a RayCluster": ({"upgradeStrategy": {"type": "Recreate"}}, "upgradeStrategy"),
    "options without their type": (
        {"upgradeStrategy": {"clusterUpgradeOptions": {"stepSizePercent": 5}}},
        "upgradeStrategy.clusterUpgradeOptions: belongs to",
    ),
    "steps without the autoscaler": (
        {"upgradeStrategy": {"type": "NewClusterWithIncrementalUpgrade"}},
        "upgradeStrategy.type: NewClusterWithIncrementalUpgrade needs the autoscaler",
    ),
    "steps without options": (
        {**EVERYTHING, "upgradeStrategy": {"type": "NewClusterWithIncrementalUpgrade"}},
        "upgradeStrategy.clusterUpgradeOptions.gatewayClassName: is needed",
    ),
    "steps with an ingress": (
        {**EVERYTHING, "serve": {"ingress": {"enabled": True, "allowPlainHttp": True, "hosts": [{"host": "a"}]}}},
        "serve.ingress.enabled: does not go with",
    ),
    "tokens of Kubernetes": (
        {"authOptions": {"enableK8sTokenAuth": True}},
        "authOptions.enableK8sTokenAuth: is refused by KubeRay",
    ),
    "a name for the head's service": (
        {"head": {"headService": {"metadata": {"name": "x"}}}},
        "head.headService.metadata.name: is refused by KubeRay",
    ),
    "ports without serve": (
        {"head": {"ports": [{"name": "dashboard", "containerPort": 8265}]}},
        "head.ports: name no port serve",
    ),
    "a cluster that is wrong": ({"worker": {"minReplicas": 6}}, "ray-service: worker.minReplicas: 6 is more"),
    "deletion delay of 1.4": (
        {"kuberayVersion": "1.4.2", "authOptions": {"mode": "disabled"}, "rayClusterDeletionDelaySeconds": 5},
        "rayClusterDeletionDelaySeconds: KubeRay knows this from 1.5.0 on",
    ),
    "manager of 1.5": (
        {"kuberayVersion": "1.5.1", "managedBy": "ray.io/kuberay-operator"},
        "managedBy: KubeRay knows this from 1.6.0 on",
    ),
}


@pytest.mark.parametrize(("values", "said"), BAD.values(), ids=BAD)
def test_what_can_not_work_is_refused_by_name(helm4, values, said):
    with pytest.raises(HelmError) as refused:
        template(helm4, values)
    assert said in str(refused.value)


def test_unknown_keys_pass_where_it_is_said(helm):
    odd = {"serveConfigV2": {"applications": [{**ONE, "of_a_newer_ray": 1}]}, "strict": False}
    assert "of_a_newer_ray" in service(helm, odd)["serveConfigV2"]


def test_an_old_kuberay_gets_only_what_it_knows(helm4):
    """Its definition is there where its module is: in the test of the matrix of KubeRays."""
    made = template(helm4, {"kuberayVersion": "1.4.2", "authOptions": {"mode": "disabled"}}).one("RayService")
    assert set(made["spec"]) == {"serveConfigV2", "rayClusterConfig"}
    if found := rays_definition("rayservices", "1.4.2"):
        assert errors(found, made) == []


def test_the_schema_knows_serves_keys_as_the_provider_does():
    schema = json.loads((SERVICE_CHART / "values.schema.json").read_text())["definitions"]
    known = {name: set(schema[f"serve-{name}"]["properties"]) for name in ("config", "application", "deployment")}
    assert known == {"config": CONFIG_KEYS, "application": KEYS, "deployment": DEPLOYMENT_KEYS}
    assert set(schema["serve-actorOptions"]["properties"]) == ACTOR_KEYS


def test_the_provider_reads_what_the_chart_makes(helm4):
    """So that a RayService of the chart can go over to a DAG."""
    made = template(helm4).one("RayService")
    manifest = read_ray_service(yaml.safe_dump(made))
    assert manifest.name == "demo-kuberay"
    assert yaml.safe_load(manifest.serve_config) == SERVED["serveConfigV2"]
    assert PORT in helm4.run("show", "readme", SERVICE_CHART)


def test_it_stands_alone(helm, tmp_path):
    """Of a folder with nothing beside it, and as an archive."""
    alone = shutil.copytree(SERVICE_CHART, tmp_path / "alone" / "ray-service")
    assert helm.template(SERVED, chart=alone) == template(helm)
    helm.run("package", alone, "-d", tmp_path)
    assert helm.template(SERVED, chart=tmp_path / "ray-service-1.0.0.tgz") == template(helm)
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(SERVED))
    assert "0 chart(s) failed" in helm.run("lint", alone, "--strict", "-f", values)
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["version"] == "1.0.0"


def test_both_charts_can_stand_in_one(helm, tmp_path):
    """Helm's definitions have one space of names for all charts of a release."""
    both = tmp_path / "both"
    for chart in (CHART, SERVICE_CHART):
        shutil.copytree(chart, both / "charts" / chart.name)
    (both / "Chart.yaml").write_text("{apiVersion: v2, name: both, version: 1.0.0}")
    objects = helm.template({"ray-service": {**SERVED, "fullnameOverride": "s"}}, chart=both)
    assert objects.one("RayCluster")["metadata"]["name"] == "demo-kuberay"
    assert objects.one("RayService")["metadata"]["name"] == "s"
    assert len(objects.kind("NetworkPolicy")) == 4


def test_the_notes_say_what_kuberay_does_not(helm4, tmp_path):
    def notes(values):
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump({**SERVED, **values}))
        return helm4.run("install", "demo", SERVICE_CHART, "--dry-run=client", "-n", "ray", "-f", file)

    text = notes({})
    assert "kubectl -n ray wait --for=condition=Ready rayservice/demo-kuberay" in text
    assert "demo-kuberay-serve-svc.ray.svc:8000" in text
    assert "WARNING" not in text
    assert "WARNING: upgradeStrategy.type is None" in notes({"upgradeStrategy": {"type": "None"}})
    assert "feature gate RayServiceIncrementalUpgrade" in notes(EVERYTHING)
    assert "WARNING: KubeRay does not look at" in notes({"serviceUnhealthySecondThreshold": 9})
