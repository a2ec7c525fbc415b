"""A real Ray cluster and who gets in: the chart's network policy, enforced; tokens that change while jobs run."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ray_provider._shared.retry import RetryPolicy
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.kuberay import account as accounts
from ray_provider.clusters.kuberay.endpoints import kubernetes_endpoint
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import open_kube
from ray_provider.exceptions import KubernetesAccessError, RayApiError, RayConnectionError
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.endpoint import RayEndpoint
from tests.kubernetes.clusters import HEAD_AND_WORKER, ON_TWO_NODES, Scene, values
from tests.support.helm import ROOT, Helm
from tests.support.kubernetes import Kubernetes
from tests.support.policies import Enforcer
from tests.support.requirements import need
from tests.support.token_reviews import TokenReviews, User

ROLE = ROOT / "helm" / "roles" / "provider-role.yaml"
NAME = "guarded"
#: From where the API server on the test node reaches pods.
API_SERVER = "10.244.0.1/32"
GCS, DASHBOARD, METRICS, SERVE = 6379, 8265, 8080, 8000

# "timeout" is what a policy does; "refused" has arrived at the pod, where nobody listens.
KNOCK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def knock(door):
    try:
        socket.create_connection(door, timeout=2.0).close()
        return 'open'
    except TimeoutError:
        return 'timeout'
    except ConnectionRefusedError:
        return 'refused'
    except OSError as error:
        return repr(error)
doors = {name: (host, port) for name, host, port in json.loads(sys.argv[1])}
with ThreadPoolExecutor(len(doors)) as pool:
    print(json.dumps(dict(zip(doors, pool.map(knock, doors.values())))))
"""


@dataclass
class Stage:
    """A Ray cluster, and pods around it."""

    kubernetes: Kubernetes
    scene: Scene
    handle: ClusterHandle
    enforcer: Enforcer
    visitors: dict[str, tuple[str, str]]  # who → namespace, pod
    strangers_space: str

    def address(self, namespace: str, name: str) -> str:
        return str(self.kubernetes.get("pod", name, "-n", namespace)["status"]["podIP"])

    def ray_pod(self, kind: str) -> str:
        found = self.kubernetes.get("pods", "-n", self.scene.namespace, "-l", f"ray.io/node-type={kind}")["items"]
        (pod,) = [item for item in found if not item["metadata"].get("deletionTimestamp")]
        return str(pod["metadata"]["name"])

    def knock(self, namespace: str, pod: str, targets: dict[str, tuple[str, int]]) -> dict[str, str]:
        """What a pod finds when it knocks at doors."""
        asked = json.dumps([(name, host, port) for name, (host, port) in targets.items()])
        said = self.kubernetes.kubectl("exec", pod, "-n", namespace, "--", "python", "-c", KNOCK, asked)
        return dict(json.loads(said))

    def doors(self) -> dict[str, tuple[str, int]]:
        head = self.address(self.scene.namespace, self.ray_pod("head"))
        worker = self.address(self.scene.namespace, self.ray_pod("worker"))
        return {
            "dashboard": (head, DASHBOARD),
            "head's metrics": (head, METRICS),
            "gcs": (head, GCS),
            "head's Serve": (head, SERVE),
            "worker's Serve": (worker, SERVE),
            "worker's metrics": (worker, METRICS),
            "worker's other port": (worker, 9999),
        }

    def seen_by(self, *who: str) -> dict[str, dict[str, str]]:
        """What visitors find, each at all doors; they knock beside each other."""
        doors = self.doors()
        with ThreadPoolExecutor(3) as pool:
            seen = pool.map(lambda each: self.knock(*self.visitors[each], doors), who)
            return dict(zip(who, seen, strict=True))


def pod(name: str, image: str, labels: dict[str, str]) -> dict:
    """A pod that can knock at doors, and answers on port 8000."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-m", "http.server", str(SERVE)],
                }
            ],
        },
    }


@pytest.fixture(scope="module")
def stage(kubernetes: Kubernetes) -> Iterator[Stage]:
    need("a test node of our own", present=kubernetes.node is not None, how="Unset AIRFLOW_RAY_TEST_KUBECONFIG.")
    spaces = ("guarded", "named", "other", "callers", "operators")
    with kubernetes.namespaces(*spaces) as (space, named, other, callers, operators):
        kubeconfig = kubernetes.service_account_kubeconfig(space, ROLE)
        scene = Scene(kubernetes, space, helm=kubernetes.helm4, kubeconfig=kubeconfig)
        given = values(HEAD_AND_WORKER, **policy_values(named, callers, operators))
        handle = asyncio.run(scene.set_up(scene.spec(given, name=NAME)))
        visitors = {
            "same namespace": (space, {}),
            "named namespace": (named, {}),
            "named for Serve": (callers, {}),
            "another namespace": (other, {}),
            "operator": (operators, {"app.kubernetes.io/name": "kuberay-operator"}),
            "beside the operator": (operators, {}),
            # Whoever may label pods in another namespace does not become one of the cluster's by it.
            "false head": (other, {"ray.io/cluster": NAME, "ray.io/node-type": "head"}),
        }
        names = {who: f"visitor-{number}" for number, who in enumerate(visitors)}
        for who, (namespace, labels) in visitors.items():
            kubernetes.apply(pod(names[who], kubernetes.ray_image, labels), namespace)
        for who, (namespace, _) in visitors.items():
            kubernetes.kubectl("wait", "--for=condition=Ready", f"pod/{names[who]}", "-n", namespace, "--timeout=300s")
        places = {who: (namespace, names[who]) for who, (namespace, _) in visitors.items()}
        enforcer = Enforcer(kubernetes)
        try:
            yield Stage(kubernetes, scene, handle, enforcer, places, other)
        finally:
            enforcer.release()


def policy_values(named: str, callers: str, operators: str) -> dict:
    def peer(namespace: str) -> dict:
        return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}

    return {
        "networkPolicy__allowFrom": [peer(named)],
        "serve__allowFrom": [peer(callers)],
        "networkPolicy__operator__namespaces": [operators],
        "networkPolicy__apiServer__cidrs": [API_SERVER],
    }


PUBLIC = {"dashboard", "head's metrics", "worker's metrics"}
REACHED = {"open", "refused"}


@pytest.mark.timeout(1200)
def test_what_reaches_the_cluster_and_what_does_not(stage):
    who_gets_what = {
        "same namespace": PUBLIC,
        "named namespace": PUBLIC,
        # Serve asks for no token: its port is for these alone, not even for the cluster's own namespace.
        "named for Serve": {"head's Serve", "worker's Serve"},
        "another namespace": set(),
        "operator": {"dashboard", "head's metrics", "head's Serve"},
        "beside the operator": set(),
        "false head": set(),
    }
    # Without the enforcer a stranger reaches everything: it is the policy that makes the difference.
    before = stage.seen_by("another namespace")["another namespace"]
    assert set(before.values()) <= REACHED
    assert before["dashboard"] == before["gcs"] == "open"
    with stage.enforcer.enforcing(stage.scene.namespace):
        for who, seen in stage.seen_by(*who_gets_what).items():
            wanted = who_gets_what[who]
            assert {name for name, what in seen.items() if what in REACHED} == wanted, (who, seen)
            assert {what for name, what in seen.items() if name not in wanted} <= {"timeout"}, (who, seen)
        # The cluster's own pods reach all of each other.
        worker = stage.knock(stage.scene.namespace, stage.ray_pod("worker"), stage.doors())
        assert set(worker.values()) <= REACHED
    after = stage.seen_by("another namespace")["another namespace"]
    assert after == before


@pytest.mark.timeout(1200)
async def test_the_cluster_works_behind_it_and_the_proxy_needs_its_address_named(stage):
    with stage.enforcer.enforcing(stage.scene.namespace):
        assert "ran on 2 nodes" in await stage.scene.job(stage.handle, ON_TWO_NODES)
        rendered = render(stage, {"networkPolicy__apiServer__cidrs": []})
        stage.kubernetes.apply(rendered, stage.scene.namespace)
        stage.enforcer.enforce(stage.scene.namespace)
        endpoint = await kubernetes_endpoint(stage.scene.access, stage.handle, access="proxy")
        assert not await answers(endpoint)
        stage.kubernetes.apply(render(stage, {}), stage.scene.namespace)
        stage.enforcer.enforce(stage.scene.namespace)
        assert await answers(endpoint)


@pytest.mark.timeout(1200)
def test_egress_that_is_restricted(stage):
    stranger = stage.address(*stage.visitors["another namespace"])
    friend = stage.address(*stage.visitors["same namespace"])
    dns = {"dns": ("10.0.0.1", 53)}
    out = {"stranger": (stranger, SERVE), "same namespace": (friend, SERVE), "api server": ("10.0.0.1", 6443), **dns}
    head = (stage.scene.namespace, stage.ray_pod("head"))
    with stage.enforcer.enforcing(stage.scene.namespace):
        # Jobs fetch data: unless restricted, all ways out are open.
        assert set(stage.knock(*head, out).values()) == {"open"}
        stage.kubernetes.apply(render(stage, {"networkPolicy__egress__restricted": True}), stage.scene.namespace)
        stage.enforcer.enforce(stage.scene.namespace)
        assert stage.knock(*head, out) == {
            "stranger": "timeout",
            "same namespace": "timeout",
            "api server": "timeout",
            "dns": "open",
        }
        assert stage.knock(*head, {"worker": stage.doors()["worker's metrics"]})["worker"] in REACHED
        lookup = "import socket; print(socket.getaddrinfo('kubernetes.default.svc.cluster.local', 443)[0][4][0])"
        said = stage.kubernetes.kubectl("exec", head[1], "-n", head[0], "--", "python", "-c", lookup)
        assert said.startswith("10.")
        stage.kubernetes.apply(render(stage, {}), stage.scene.namespace)


def render(stage: Stage, changes: dict) -> list:
    """The policies of the same cluster with other values."""
    spaces = [stage.visitors[who][0] for who in ("named namespace", "named for Serve", "operator")]
    given = values(HEAD_AND_WORKER, **{**policy_values(*spaces), **changes})
    given |= {"fullnameOverride": NAME, "kuberayVersion": stage.kubernetes.kuberay_version}
    helm = Helm(stage.kubernetes.helm4, Path(stage.kubernetes.scratch))
    objects = helm.template(given, release=NAME, namespace=stage.scene.namespace)
    found = [one for one in objects if one["kind"] == "NetworkPolicy"]
    assert len(found) == 2
    for one in found:
        # Helm's own manager wrote them: what is applied here takes them over.
        stage.kubernetes.kubectl("delete", "networkpolicy", one["metadata"]["name"], "-n", stage.scene.namespace)
    return found


async def answers(endpoint: RayEndpoint) -> bool:
    async with RayJobsClient(endpoint, timeout=6.0, retry=RetryPolicy.none()) as client:
        try:
            await client.list_jobs()
        except (RayConnectionError, RayApiError):
            return False
    return True


def ticking(seconds: int) -> str:
    return f"python -c \"import time; [(print('tick', n, flush=True), time.sleep(1)) for n in range({seconds})]\""


@pytest.mark.timeout(1200)
async def test_kubernetes_tokens_that_are_good_for_seconds(stage):
    """As EKS' are for 15 minutes: a job is watched through the proxy for much longer than any of them lives."""
    kubernetes, scene = stage.kubernetes, stage.scene
    given: list[str] = []

    async def provider(refused: bool) -> str:
        # Like a cloud's: a new one before the last one ends, or when it was refused.
        if refused or not given or float(given[-1].rpartition("-")[2]) - time.time() < 2.0:
            given.append(f"short-{time.time() + 6.0}")
        return given[-1]

    user = User(f"system:serviceaccount:{scene.namespace}:provider", ("system:serviceaccounts", "system:authenticated"))

    def ask(token: str) -> User:
        if not token.startswith("short-") or float(token.rpartition("-")[2]) <= time.time():
            raise PermissionError("it is over")
        return user

    with TokenReviews(ask) as reviews, kubernetes.token_webhook(reviews.url):
        access = KubernetesAccess(
            server=kubernetes.server,
            ca_data=kubernetes.ca_certificate,
            token_provider=provider,
            namespace=scene.namespace,
        )
        short = Scene(kubernetes, scene.namespace)
        short.access = access
        log = await short.job(stage.handle, ticking(15))
        assert [line for line in log.splitlines() if line.startswith("tick ")] == [f"tick {n}" for n in range(15)]
        assert len(given) >= 3
        assert not reviews.refused or len(reviews.admitted) > len(reviews.refused)
        # An old one is really over.
        async with open_kube(replace(access, token_provider=fixed(given[0]))) as kube:
            with pytest.raises(KubernetesAccessError, match="401"):
                await kube.get(f"/api/v1/namespaces/{scene.namespace}/pods")


def fixed(token: str):
    async def provider(_refused: bool) -> str:
        return token

    return provider


@pytest.mark.timeout(1200)
async def test_rays_token_is_changed_in_the_secret_while_a_job_runs(stage, monkeypatch):
    """Ray takes it when its head starts anew: until then the old one is good, and afterwards the new one only."""
    monkeypatch.setattr(accounts, "TOKEN_SECONDS", 1.0)
    kubernetes, scene = stage.kubernetes, stage.scene
    endpoint = await kubernetes_endpoint(scene.access, stage.handle)
    old = await endpoint.token_source(None)
    lines: list[str] = []
    job = asyncio.create_task(scene.job(stage.handle, ticking(8), log=lines))
    async with asyncio.timeout(300):
        while not any("tick 0" in line for line in lines):
            await asyncio.sleep(0.2)
    new = secrets.token_hex(16)
    data = {"data": {stage.handle.auth.secret_key: base64.b64encode(new.encode()).decode()}}
    where = ("secret", stage.handle.auth.secret_name, "-n", scene.namespace)
    kubernetes.kubectl("patch", *where, "--type=merge", "-p", json.dumps(data))
    log = await job
    assert [line for line in log.splitlines() if line.startswith("tick ")] == [f"tick {n}" for n in range(8)]
    kubernetes.kubectl("delete", "pod", stage.ray_pod("head"), "-n", scene.namespace, "--wait=true", "--timeout=300s")

    deadline = time.monotonic() + 300
    while not await answers(replace(endpoint, token=new, token_source=None)):
        assert time.monotonic() < deadline, "the new head does not take the new token"
        await asyncio.sleep(1)
    assert not await answers(replace(endpoint, token=old, token_source=None))
    assert await answers(endpoint), "the very endpoint that was made before"
    assert await endpoint.token_source(None) == new


def test_the_enforcer_knows_its_selectors():
    from tests.support.policies import selects

    assert selects({}, {"a": "b"})
    assert not selects({"matchLabels": {"a": "c"}}, {"a": "b"})
    assert selects({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}, {"a": "b"})
