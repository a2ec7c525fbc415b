"""RayServices: made of values or a manifest, refused by name, what a change would do, and what is kept for the way back."""

from __future__ import annotations

import copy

import pytest
import yaml

from ray_provider.clusters.naming import check_length
from ray_provider.clusters.rayservice.change import change_of
from ray_provider.clusters.rayservice.deploy import check_strategy
from ray_provider.clusters.rayservice.handle import RayServiceHandle
from ray_provider.clusters.rayservice.manifest import read_ray_service
from ray_provider.clusters.rayservice.record import FORMER, UPDATE, Former, Update, deploy_id
from ray_provider.clusters.rayservice.resource import (
    LABEL,
    RayServiceOptions,
    application_configs,
    make,
    revision_of,
    serve_config_of,
    with_revision,
)
from ray_provider.exceptions import ConfigurationError, ServeError

HEAD = {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "ray-head", "image": "team/ray:2.60.0"}]}}}
CLUSTER = {"rayVersion": "2.60.0", "headGroupSpec": HEAD}
SERVE = "applications:\n- {name: a, import_path: m:a}\n"
APP = {"name": "a", "import_path": "m:a"}


def service(meta=None, *, cluster=None, **spec):
    """Give a RayService of which only what a test is about is said."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "shop", **(meta or {})},
        "spec": {"serveConfigV2": SERVE, "rayClusterConfig": {**CLUSTER, **(cluster or {})}, **spec},
    }


def refused(act, *given, **further):
    with pytest.raises(ConfigurationError) as caught:
        act(*given, **further)
    return str(caught.value)


def made(cluster=None, *beside, **own):
    rendered = {
        "kind": "RayCluster",
        "metadata": {"name": "shop", "namespace": "n", "labels": {"team": "a"}, "annotations": {"b": "c"}},
        "spec": copy.deepcopy({**CLUSTER, **(cluster or {})}),
    }
    return make([rendered, *beside], "shop", RayServiceOptions(SERVE, own))


# -- made --------------------------------------------------------------------------------------------------------------


def test_the_service_has_the_charts_cluster_without_what_is_about_a_cluster_alone():
    groups = [{"groupName": "w", "template": {"metadata": {"labels": {"x": "y"}}, "spec": {}}}]
    found, _ = made(
        {"upgradeStrategy": {"type": "Recreate"}, "workerGroupSpecs": groups}, rayClusterDeletionDelaySeconds=5
    )
    assert found["kind"] == "RayService"
    assert found["metadata"]["labels"] == {"team": "a", LABEL: "shop", "app.kubernetes.io/managed-by": "airflow-ray"}
    spec = found["spec"]
    assert (spec["serveConfigV2"], spec["rayClusterDeletionDelaySeconds"]) == (SERVE, 5)
    assert "upgradeStrategy" not in spec["rayClusterConfig"]
    head, worker = spec["rayClusterConfig"]["headGroupSpec"], spec["rayClusterConfig"]["workerGroupSpecs"][0]
    assert head["template"]["metadata"]["labels"] == {LABEL: "shop"}
    assert worker["template"]["metadata"]["labels"] == {"x": "y", LABEL: "shop"}


def test_what_goes_beside_it_is_about_pods_of_each_of_its_clusters():
    policy = {
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "labels": {"ray.io/cluster": "shop"}},
        "spec": {"podSelector": {"matchLabels": {"ray.io/cluster": "shop", "ray.io/node-type": "head"}}},
    }
    _, (found,) = made(None, policy)
    assert found["spec"]["podSelector"]["matchLabels"] == {LABEL: "shop", "ray.io/node-type": "head"}
    assert found["metadata"]["labels"][LABEL] == "shop"


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        ({"authOptions": {"enableK8sTokenAuth": True}}, "enableK8sTokenAuth"),
        (
            {"headGroupSpec": {**HEAD, "headService": {"metadata": {"name": "mine"}}}},
            "service is given the name 'mine'",
        ),
        (
            {"headGroupSpec": {"template": {"spec": {"containers": [{"ports": [{"name": "dashboard"}]}]}}}},
            "none of them `serve`",
        ),
    ],
)
def test_what_kuberay_refuses_or_never_calls_ready_is_refused(cluster, says):
    assert says in refused(made, cluster)


def test_ports_of_ones_own_service_count_too():
    head = {"template": {"spec": {"containers": [{"ports": [{"name": "dashboard"}]}]}}}
    made({"headGroupSpec": head}, serveService={"spec": {"ports": [{"port": 80, "name": "x"}]}})
    made({"headGroupSpec": {"template": {"spec": {"containers": [{"ports": [{"name": "serve-grpc"}]}]}}}})


def test_a_name_has_its_length():
    assert check_length("a" * 47, "RayService")
    assert "48 characters" in refused(check_length, "a" * 48, "RayService")


# -- applications ------------------------------------------------------------------------------------------------------


def test_applications_become_serves_configuration():
    text, lines = serve_config_of([{"import_path": "m:a", "deployments": [{"name": "D", "num_replicas": 2}]}])
    assert lines == []
    assert yaml.safe_load(text) == {
        "applications": [
            {
                "name": "default",
                "route_prefix": "/",
                "import_path": "m:a",
                "deployments": [{"name": "D", "num_replicas": 2}],
            }
        ]
    }
    assert application_configs("applications: [{import_path: 'm:a'}]") == [{"name": "default", "import_path": "m:a"}]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "holds no applications"),
        ("m:a", "holds no applications"),
        ([APP, {"import_path": "m:b"}], "one of them has no name"),
        ([APP, APP], "two applications have the name 'a'"),
        ([APP, {"name": "b", "import_path": "m:b"}], "two applications have the route_prefix '/'"),
        ([{"name": "a"}], "import_path has to be module:attribute"),
        ([{**APP, "deploymnts": []}], "Is 'deployments' meant?"),
        ([{**APP, "runtime_env": {"working_dir": "./serving"}}], "names code on this machine (./serving)"),
        ([{**APP, "runtime_env": {"py_modules": ["/x"]}}], "names code on this machine (/x)"),
        (
            [{**APP, "deployments": [{"name": "D", "ray_actor_options": {"runtime_env": {"working_dir": "."}}}]}],
            "names code on this machine (.)",
        ),
    ],
)
def test_applications_that_can_not_work_are_refused(given, says):
    assert says in refused(serve_config_of, given)


# -- manifests ---------------------------------------------------------------------------------------------------------


def test_a_manifest_is_carried_through(tmp_path):
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"a": "b"}}
    given = service(
        {"namespace": "ray", "labels": {"l": "m"}}, rayClusterDeletionDelaySeconds=9, upgradeStrategy={"type": "None"}
    )
    path = tmp_path / "service.yaml"
    path.write_text(yaml.safe_dump_all([given, config]))
    found = read_ray_service(str(path))
    assert (found.name, found.namespace, found.serve_config) == ("shop", "ray", SERVE)
    assert found.own == {"rayClusterDeletionDelaySeconds": 9, "upgradeStrategy": {"type": "None"}}
    assert found.cluster.cluster["spec"] == CLUSTER
    assert found.cluster.cluster["metadata"]["labels"] == {"l": "m"}
    assert list(found.cluster.others) == [config]
    assert str(path) in found.source


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kind": "RayCluster", "apiVersion": "ray.io/v1", "metadata": {"name": "x"}}, "holds: RayCluster"),
        ({**service(), "spec": {"serveConfigV2": SERVE}}, "no spec.rayClusterConfig"),
        (service(serveConfigV2="applications: [\n"), "spec.serveConfigV2 is no YAML (line 2"),
        (service(serveConfigV2=""), "holds no applications"),
        (service(serveConfigV2="aplications: []"), "Is 'applications' meant?"),
        (service(serveConfigV2="applications: []"), "holds no applications"),
        (service(upgradeStrategy={"type": "NewClusterWithIncrementalUpgrade"}), "moved step by step"),
        (service(upgradeStrategy={"type": "Rolling"}), "is 'Rolling', which KubeRay does not know"),
        (service(managedBy="kueue.x-k8s.io/multikueue"), "spec.managedBy: kueue.x-k8s.io/multikueue"),
        (
            {
                "kind": "List",
                "items": [service(), {"kind": "RayJob", "apiVersion": "ray.io/v1", "metadata": {"name": "j"}}],
            },
            "holds a RayJob beside its RayService",
        ),
    ],
)
def test_what_can_not_be_carried_through_is_refused_by_its_name(given, says):
    assert says in refused(read_ray_service, given)


# -- what a change would do --------------------------------------------------------------------------------------------


def spec(**changes):
    groups = [{"groupName": "w", "replicas": 1, "minReplicas": 0, "maxReplicas": 3, "template": {"spec": {}}}]
    return {
        "serveConfigV2": SERVE,
        "rayClusterConfig": copy.deepcopy({**CLUSTER, "workerGroupSpecs": groups}),
        **changes,
    }


def cluster(change):
    found = spec()
    change(found["rayClusterConfig"])
    return found


def more_groups(one):
    one["workerGroupSpecs"].append({"groupName": "gpu", "template": {"spec": {}}})


def other_replicas(one):
    one["workerGroupSpecs"][0] |= {"replicas": 3, "maxReplicas": 9, "scaleStrategy": {"workersToDelete": ["x"]}}


def tolerated(one):
    one["headGroupSpec"]["template"]["spec"]["tolerations"] = [{"key": "gpu"}]


def other_image(one):
    one["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] = "team/ray:2.61.0"


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        (spec(), "nothing"),
        (spec(serveConfigV2="x"), "in_place"),
        (spec(rayClusterDeletionDelaySeconds=3), "settings"),
        (cluster(more_groups), "settings"),
        (cluster(other_replicas), "settings"),
        (cluster(tolerated), "settings"),
        (cluster(lambda one: one.update(enableInTreeAutoscaling=True)), "new_cluster"),
        (cluster(lambda one: one["workerGroupSpecs"].clear()), "new_cluster"),
        (cluster(lambda one: one["workerGroupSpecs"][0].update(groupName="v")), "new_cluster"),
        ({**cluster(other_image), "serveConfigV2": "x"}, "new_cluster"),
    ],
)
def test_a_change_is_what_kuberay_makes_of_it(wanted, kind):
    assert change_of(spec(), wanted).kind == kind


def test_what_differs_is_told_by_its_path_and_what_kuberay_ignores_is_known():
    change = change_of(spec(), cluster(other_image))
    assert change.paths == ("headGroupSpec.template.spec.containers[0].image",)
    assert "makes a second one beside shop-x" in change.text("shop-x")
    assert not change.ignored
    wanted = {**cluster(other_image), "upgradeStrategy": {"type": "None"}}
    assert change_of({**spec(), "upgradeStrategy": {"type": "None"}}, wanted).ignored
    many = change_of(spec(), cluster(lambda one: one.update({f"k{number}": 1 for number in range(7)})))
    assert many.paths[-1] == "and 2 more"


def test_a_mark_has_a_new_cluster_made_and_goes_on_to_later_versions():
    marked = with_revision(spec(), "r1")
    assert revision_of(marked) == "r1"
    assert revision_of(spec()) is None
    assert change_of(spec(), marked).kind == "new_cluster"
    assert change_of(marked, with_revision(spec(serveConfigV2="x"), revision_of(marked))).kind == "in_place"
    assert with_revision(marked, None) == with_revision(spec(), None)


def test_a_strategy_is_one_of_those_that_there_are():
    assert check_strategy("new_cluster") == "new_cluster"
    assert "has to be one of auto, in_place, new_cluster" in refused(check_strategy, "canary")


# -- what is written down ----------------------------------------------------------------------------------------------


def test_what_is_written_down_is_read_back():
    update = Update("id-1", "run", "new_cluster", "shop-a")
    assert Update.of({"annotations": {UPDATE: update.to_text()}}) == update
    assert Update.of({}) is None
    assert Update.of({"annotations": {UPDATE: "no JSON"}}) is None
    former = Former(spec(), ({"kind": "NetworkPolicy"},))
    assert Former.of({"annotations": {FORMER: former.to_text()}}) == former
    assert Former.of({}) is None
    with pytest.raises(ServeError, match="can't be read"):
        Former.of({"annotations": {FORMER: "AAAA"}})


def test_a_version_that_is_too_large_for_an_annotation_is_refused():
    import random

    noise = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=400_000))  # noqa: S311
    assert "too large to be kept" in refused(Former({"serveConfigV2": noise}).to_text)


def test_a_deploy_has_an_id_of_its_run_whatever_the_try():
    owner = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "airflow": "x"}
    assert deploy_id(owner) == deploy_id(dict(owner))
    assert deploy_id(owner) != deploy_id({**owner, "run_id": "s"})


def test_a_handle_travels_and_is_checked():
    handle = RayServiceHandle("shop", "n", "shop-a", "http://x", {"a": "/"}, {"dag_id": "d"})
    assert RayServiceHandle.from_dict(handle.to_dict()) == handle
    for given in (
        None,
        {"name": "shop"},
        {"name": "shop", "namespace": 1},
        {"name": "s", "namespace": "n", "owner": "x"},
    ):
        assert "not the handle that DeployRayService returns" in refused(RayServiceHandle.from_dict, given)
