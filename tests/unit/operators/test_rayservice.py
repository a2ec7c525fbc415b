"""DeployRayService and DeleteRayService: what is refused before Kubernetes is asked; and what travels of a trigger."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from ray_provider.clusters.rayservice.blue_green import promotion
from ray_provider.clusters.rayservice.handle import RayServiceHandle
from ray_provider.operators import DeleteRayService, DeployRayService, PromoteRayService, RollbackRayService
from ray_provider.operators._rayservice.arguments import Named, deploy_of
from ray_provider.operators._rayservice.run import RayServiceRun
from ray_provider.triggers import RayServiceTrigger

pytestmark = [pytest.mark.usefixtures("connection"), pytest.mark.timeout(60)]

APP = {"name": "a", "import_path": "m:app"}
MANIFEST = {
    "apiVersion": "ray.io/v1",
    "kind": "RayService",
    "metadata": {"name": "shop", "namespace": "ml"},
    "spec": {
        "serveConfigV2": "applications: [{name: a, import_path: 'm:app'}]",
        "rayClusterConfig": {"rayVersion": "2.60.0", "headGroupSpec": {"template": {"spec": {"containers": [{}]}}}},
        "rayClusterDeletionDelaySeconds": 5,
    },
}


def operator(**given: Any) -> DeployRayService:
    return DeployRayService(**{"task_id": "task", "conn_id": "c", "applications": [APP], **given})


def refused(act: Any, *given: Any) -> str:
    with pytest.raises(AirflowFailException) as caught:
        act(*given)
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"applications": None}, "No applications are given"),
        ({"applications": "no JSON"}, "No applications are given"),
        ({"applications": [{"name": "a"}]}, "import_path has to be module:attribute"),
        ({"ray_service_yaml": MANIFEST}, "Both ray_service_yaml and applications are given"),
        ({"name": "a" * 48}, "KubeRay allows 47 for a RayService"),
        ({"strategy": "canary"}, "has to be one of auto, in_place, new_cluster, blue_green"),
        ({"drain_seconds": -1}, "drain_seconds has to be a number of at least 0"),
        ({"smoke_test": {"paht": "/"}}, "Is 'path' meant"),
        ({"timeout_seconds": 0}, "timeout_seconds has to be a number above 0"),
        ({"values": {"head": {"image": []}}, "profile": "moon"}, "moon"),
        ({"infrastructure": "text"}, "infrastructure"),
    ],
)
def test_what_can_not_work_is_refused_before_kubernetes_is_asked(context, given, says):
    assert says in refused(operator(**given).execute, context)


def test_on_a_local_ray_the_way_out_is_named(context, connection):
    connection["backend"] = "local"
    assert "SetupRayCluster and DeployServeApplication" in refused(operator().execute, context)
    assert "the version that is there serves until the new one runs" in refused(
        operator(strategy="blue_green").execute, context
    )
    for one in (DeleteRayService, PromoteRayService, RollbackRayService):
        assert "SetupRayCluster and DeployServeApplication" in refused(
            one(task_id="d", conn_id="c", name="shop").execute, context
        )


def test_a_service_is_its_tasks_over_all_runs(context, ti):
    first = deploy_of(operator(), context).spec
    ti.run_id = "another"
    second = deploy_of(operator(), context).spec
    assert first.cluster.name == second.cluster.name
    assert "run_id" not in first.cluster.owner
    assert first.id != second.id, "a deploy is its run's"
    assert (first.run, first.strategy, first.cluster.is_named) == ("run", "auto", False)


def test_a_manifest_says_name_namespace_and_the_rest(context):
    spec = deploy_of(operator(applications=None, ray_service_yaml=MANIFEST), context).spec
    assert (spec.cluster.name, spec.cluster.namespace, spec.cluster.is_named) == ("shop", "ml", True)
    assert spec.options.own == {"rayClusterDeletionDelaySeconds": 5}
    assert spec.options.serve_config == MANIFEST["spec"]["serveConfigV2"]
    named = deploy_of(operator(applications=None, ray_service_yaml=MANIFEST, name="other"), context).spec
    assert named.cluster.name == named.cluster.manifest.name == "other"


def test_templates_may_give_applications_as_json(context):
    spec = deploy_of(operator(applications=json.dumps([APP])), context).spec
    assert "import_path: m:app" in spec.options.serve_config
    assert deploy_of(operator(applications=APP), context).spec.options == spec.options


def test_a_service_of_ones_own_does_not_go_with_two_of_them(context):
    own = {**MANIFEST, "spec": {**MANIFEST["spec"], "serveService": {"metadata": {"name": "mine"}}}}
    assert "has a spec.serveService" in refused(
        operator(applications=None, ray_service_yaml=own, strategy="blue_green").execute, context
    )
    assert deploy_of(operator(applications=None, ray_service_yaml=own), context).spec.options.own["serveService"]


@pytest.mark.parametrize("kind", [DeleteRayService, PromoteRayService, RollbackRayService])
def test_a_handle_of_another_dag_does_nothing(context, kind):
    handle = {"name": "shop", "namespace": "n", "owner": {"dag_id": "other"}}
    assert "is of DAG 'other', and this is 'dag'" in refused(
        kind(task_id="d", conn_id="c", service=handle).execute, context
    )
    assert "No RayService is named" in refused(kind(task_id="d", conn_id="c").execute, context)
    for wrong in ({"name": "x"}, {"name": "x", "namespace": "n", "version_id": ["x"]}):
        assert "not the handle that DeployRayService returns" in refused(
            kind(task_id="d", conn_id="c", service=wrong).execute, context
        )


def test_a_handle_of_one_service_is_as_it_was():
    plain = RayServiceHandle("shop", "n", "shop-a", "http://x", {"a": "/"}, {"dag_id": "dag"})
    assert plain.to_dict().keys() == {"name", "namespace", "cluster", "url", "applications", "owner"}
    two = replace(plain, version="shop-blue", version_id="1", version_url="http://y")
    assert RayServiceHandle.from_dict(json.loads(json.dumps(two.to_dict()))) == two


async def test_a_trigger_travels_and_its_ordinary_end_changes_nothing():
    service = {"namespace": "n", "name": "shop", "generation": 2, "id": "i", "kind": "in_place", "active": "shop-a"}
    wait = {"deadline": 2e9, "scheduling_seconds": 300.0, "operator_seconds": 45.0}
    trigger = RayServiceTrigger("c", service, wait, access="url", keep=True, deferred_at=1.9e9)
    path, arguments = trigger.serialize()
    assert path == "ray_provider.triggers.RayServiceTrigger"
    again = RayServiceTrigger(**json.loads(json.dumps(arguments)))
    assert again.serialize() == trigger.serialize()
    await again.cleanup()


@pytest.mark.parametrize(
    ("back", "keep", "other_is", "other_version", "goes"),
    [
        (False, False, "former", "v1", True),
        (False, True, "former", "v1", False),
        (False, False, "candidate", "v3", False),  # a later deploy is beside it by now
        (True, False, "rejected", "v2", True),
        (True, True, "rejected", "v2", False),
        (True, False, "candidate", "v3", False),
        (True, False, "candidate", "v2", True),  # the very one whose traffic was taken back
    ],
)
def test_who_has_lost_the_traffic_goes_and_nobody_else(monkeypatch, back, keep, other_is, other_version, goes):
    calls = []

    async def moved(kube_access, moving, *, say):
        calls.append("back" if moving.version == "v2" and back else "promoted")
        return SimpleNamespace(other_is=other_is, other_version=other_version)

    async def take_down(kube_access, namespace, name, version, *, drain_seconds, say):
        calls.append((namespace, name, version, drain_seconds))

    monkeypatch.setattr(promotion, "roll_back" if back else "promote", moved)
    monkeypatch.setattr(promotion, "take_down", take_down)

    async def kube_access(_where):
        return SimpleNamespace(namespace_or_default=lambda namespace: namespace or "team")

    async def config():
        return SimpleNamespace(access="auto")

    hook = SimpleNamespace(akubernetes_access=kube_access, aconfig=config)
    run = RayServiceRun(hook, logging.getLogger(__name__))
    run.move(Named("ml", "shop", None, "v2"), back=back, keep=keep, timeout=60.0, drain_seconds=5.0)
    assert calls == ["back" if back else "promoted", *([("ml", "shop", other_version, 5.0)] if goes else [])]
