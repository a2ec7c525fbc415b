"""SetupRayAddons and DeleteRayAddons: an administrator's step, after which Ray clusters need fewer rights."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from ray_provider.exceptions import ClusterError, ClusterTimeoutError
from ray_provider.operators import DeleteRayAddons, DeleteRayCluster, SetupRayAddons, SetupRayCluster
from tests.apiserver.test_operator_by_helm import runs
from tests.kubernetes.clusters import HEAD_ONLY, values
from tests.support.airflow_task import FakeTask, context_of
from tests.support.kubernetes import Kubernetes

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("connection")]

ROLE = Path(__file__).resolve().parents[2] / "helm" / "roles" / "provider-role.yaml"
OPEN = values(HEAD_ONLY, authOptions={"mode": "disabled"})


@pytest.fixture
def place(kubernetes: Kubernetes) -> Iterator[str]:
    """Where the operator goes, and the other namespace that the step makes; nothing of them is left."""
    name = f"addons-{secrets.token_hex(4)}"
    yield name
    kubernetes.kubectl("delete", "deployments", "--all", "-n", name)
    kubernetes.kubectl("delete", "namespace", name, f"{name}-ray", "--ignore-not-found", "--wait=false")
    for kind in ("clusterroles", "clusterrolebindings"):
        for item in kubernetes.get(kind)["items"]:
            if item["metadata"].get("annotations", {}).get("meta.helm.sh/release-namespace") == name:
                kubernetes.kubectl("delete", kind, item["metadata"]["name"])


@contextmanager
def operator_comes_up(kubernetes: Kubernetes, place: str) -> Iterator[None]:
    """Say that the operator's pod runs, as soon as there is a Deployment: no controller does it here."""
    over = threading.Event()

    def say() -> None:
        while not over.wait(0.2):
            if kubernetes.exists("deployment", "kuberay-operator", "-n", place):
                runs(kubernetes, place)

    thread = threading.Thread(target=say)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def plugin(namespace: str, text: str = "first", **meta: Any) -> list[dict[str, Any]]:
    """As a module or a person has them: with a namespace and without, of a namespace and of the whole cluster."""
    name = {"name": f"plugin-{namespace}"}
    rules = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]
    return [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": name, "rules": rules},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**name, "namespace": namespace, **meta},
            "data": {"text": text},
        },
    ]


def text_of(kubernetes: Kubernetes, namespace: str) -> str:
    return str(kubernetes.get("configmap", f"plugin-{namespace}", "-n", namespace)["data"]["text"])


def test_after_it_ray_clusters_need_the_rights_of_a_namespace_alone(kubernetes, namespace, connection, place):
    what = {
        "manifests": plugin(namespace),
        "namespaces": [f"{place}-ray"],
        "operator_chart": str(kubernetes.operator_chart),
        "operator_namespace": place,
        "helm_path": str(kubernetes.helm4),
    }
    ti = FakeTask()
    with operator_comes_up(kubernetes, place):
        made = SetupRayAddons(task_id="addons", **what).execute(context_of(ti))
    names = [
        f"ClusterRole plugin-{namespace}",
        f"ConfigMap {namespace}/plugin-{namespace}",
        f"Deployment {place}/kuberay-operator",
    ]
    assert made == {"installed": names}
    level = kubernetes.get("namespace", f"{place}-ray")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert level == "baseline"

    # Again: what is there stays, and what the module says now is brought up to date.
    version = kubernetes.get("clusterrole", f"plugin-{namespace}")["metadata"]["resourceVersion"]
    again = SetupRayAddons(task_id="addons", **{**what, "manifests": plugin(namespace, "second")})
    assert again.execute(context_of(ti)) == {"installed": names}
    assert text_of(kubernetes, namespace) == "second"
    assert kubernetes.get("clusterrole", f"plugin-{namespace}")["metadata"]["resourceVersion"] == version

    # Whoever may do what role.yaml says, and nothing else, sets Ray clusters up and deletes them.
    administrator = connection["kube_config_path"]
    connection["kube_config_path"] = str(kubernetes.service_account_kubeconfig(namespace, ROLE))
    with pytest.raises(TaskDeferred):
        cluster = {"name": "after", "values": OPEN, "helm_path": what["helm_path"], "deferrable": True}
        SetupRayCluster(task_id="task", **cluster).execute(context_of(ti))
    with pytest.raises(AirflowFailException):
        SetupRayAddons(task_id="addons", **what).execute(context_of(ti))
    assert text_of(kubernetes, namespace) == "second"

    remove = DeleteRayAddons(task_id="delete_addons", **what)
    connection["kube_config_path"] = administrator
    with pytest.raises(ClusterError, match=f"RayCluster {namespace}/after. Nothing was removed"):
        remove.execute(context_of(ti))
    assert text_of(kubernetes, namespace) == "second"
    gone = DeleteRayCluster(task_id="delete", name="after", namespace=namespace, helm_path=what["helm_path"])
    assert gone.execute(context_of(ti)) is True

    assert remove.execute(context_of(ti)) == {"removed": [names[1], names[0], names[2]]}
    assert not kubernetes.exists("clusterrole", f"plugin-{namespace}")
    assert not kubernetes.exists("configmap", f"plugin-{namespace}", "-n", namespace)
    assert not kubernetes.exists("deployment", "kuberay-operator", "-n", place)
    assert kubernetes.exists("crd", "rayclusters.ray.io")
    assert kubernetes.exists("namespace", f"{place}-ray")
    assert remove.execute(context_of(ti)) == {"removed": []}


def test_what_somebody_else_installed_is_neither_changed_nor_removed(kubernetes, namespace):
    kubernetes.apply(plugin(namespace, "theirs"), namespace)
    kubernetes.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "kuberay-operator", "labels": {"app.kubernetes.io/name": "kuberay-operator"}},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
                "template": {
                    "metadata": {"labels": {"app.kubernetes.io/name": "kuberay-operator"}},
                    "spec": {"containers": [{"name": "operator", "image": "quay.io/kuberay/operator:v1.6.1"}]},
                },
            },
        },
        namespace,
    )
    runs(kubernetes, namespace)
    what = {"manifests": plugin(namespace), "helm_path": str(kubernetes.helm3)}
    what |= {"operator_chart": str(kubernetes.operator_chart), "operator_namespace": namespace}
    ti = FakeTask()
    assert SetupRayAddons(task_id="addons", **what).execute(context_of(ti)) == {"installed": []}
    assert DeleteRayAddons(task_id="delete_addons", **what).execute(context_of(ti)) == {"removed": []}
    assert text_of(kubernetes, namespace) == "theirs"
    assert kubernetes.exists("deployment", "kuberay-operator", "-n", namespace)
    kubernetes.kubectl("delete", "clusterrole", f"plugin-{namespace}")


def chart_of(folder: Path, text: str = "first") -> str:
    """A chart with a CRD, as vendors have them."""
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.addons.example.org"},
        "spec": {
            "group": "addons.example.org",
            "names": {"kind": "Widget", "plural": "widgets"},
            "scope": "Cluster",
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
            ],
        },
    }
    for name in ("crds", "templates"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: vendor\nversion: 1.0.0\n")
    (folder / "crds" / "widgets.yaml").write_text(json.dumps(crd))
    template = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "vendor"}, "data": {"text": text}}
    (folder / "templates" / "one.yaml").write_text(json.dumps(template))
    return str(folder)


def test_charts_come_before_what_needs_their_kinds_and_go_after_it(kubernetes, namespace, tmp_path):
    widget = {"apiVersion": "addons.example.org/v1", "kind": "Widget", "metadata": {"name": "one"}}
    chart = {"name": "vendor", "chart": chart_of(tmp_path / "vendor"), "namespace": namespace}
    what = {"charts": [chart], "manifests": widget, "helm_path": str(kubernetes.helm4), "operator_namespace": namespace}
    step = SetupRayAddons(task_id="addons", kuberay_operator="require", **what)
    remove = DeleteRayAddons(task_id="delete_addons", **what)
    ti = FakeTask()
    try:
        names = [f"Helm release {namespace}/vendor", "Widget one"]
        assert step.execute(context_of(ti)) == {"installed": names}
        assert step.execute(context_of(ti)) == {"installed": names}

        def revisions() -> int:
            return len(json.loads(kubernetes.helm("history", "vendor", "-n", namespace, "-o", "json")))

        assert revisions() == 1
        chart_of(tmp_path / "vendor", "second")
        step.execute(context_of(ti))
        assert (revisions(), kubernetes.get("configmap", "vendor", "-n", namespace)["data"]["text"]) == (2, "second")
        assert remove.execute(context_of(ti)) == {"removed": ["Widget one", names[0]]}
        assert not kubernetes.exists("configmap", "vendor", "-n", namespace)

        # A person's own release of that name is neither upgraded nor uninstalled.
        kubernetes.helm("install", "vendor", chart["chart"], "-n", namespace, "--set", "theirs=true")
        assert step.execute(context_of(ti)) == {"installed": ["Widget one"]}
        assert remove.execute(context_of(ti)) == {"removed": ["Widget one"]}
        assert revisions() == 1
    finally:
        kubernetes.kubectl("delete", "crd", "widgets.addons.example.org", "--ignore-not-found")


def test_all_of_it_is_checked_before_the_first_is_made(kubernetes, namespace):
    wrong = plugin(namespace)
    wrong[1]["dta"] = {"text": "misspelt"}
    step = SetupRayAddons(task_id="addons", manifests=wrong, kuberay_operator="require")
    with pytest.raises(AirflowFailException, match=rf"ConfigMap {namespace}/plugin-{namespace}.*dta"):
        step.execute(context_of(FakeTask()))
    assert not kubernetes.exists("clusterrole", f"plugin-{namespace}")
    assert not kubernetes.exists("configmap", f"plugin-{namespace}", "-n", namespace)


def test_what_does_not_go_is_named_with_what_holds_it(kubernetes, namespace):
    """As a node pool of Auto Mode, which goes when its machines have ended."""
    what = {
        "manifests": plugin(namespace, finalizers=["karpenter.sh/termination"]),
        "operator_chart": str(kubernetes.operator_chart),
        "operator_namespace": namespace,
    }
    ti = FakeTask()
    SetupRayAddons(task_id="addons", kuberay_operator="require", **what).execute(context_of(ti))
    remove = DeleteRayAddons(task_id="delete_addons", timeout_seconds=2, **what)
    with pytest.raises(ClusterTimeoutError, match=rf"ConfigMap {namespace}/plugin-{namespace} \(finalizers: karpenter"):
        remove.execute(context_of(ti))
    # Whoever sets it up again meanwhile would find it gone a moment later.
    with pytest.raises(ClusterError, match=rf"ConfigMap {namespace}/plugin-{namespace} is being deleted"):
        SetupRayAddons(task_id="addons", kuberay_operator="require", **what).execute(context_of(ti))
    kubernetes.kubectl(
        *("patch", "configmap", f"plugin-{namespace}", "-n", namespace, "--type=merge"),
        *("-p", '{"metadata":{"finalizers":null}}'),
    )
    assert remove.execute(context_of(ti)) == {"removed": []}
