"""A real Kueue beside an API server, with nodes or without (:mod:`tests.support.control_plane`): a process, with webhooks.

It looks after RayJobs, RayClusters and RayServices only. The API server asks its webhooks at an address of its own
network that leads here. A queue is a :class:`Team`; pods, where nobody runs them, are played as running by
:class:`Nodes`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ray_provider.clusters.local.head import free_ports
from tests.kubernetes.node import parts
from tests.support.kubernetes import KubectlError, Kubernetes, until
from tests.support.requirements import need

BUILD_HOW = "Run 'python -m tests.kueue' (needs the network and Go; about five minutes from nothing)."
API = "kueue.x-k8s.io/v1beta2"
_GROUPS = {"ray.io", "kueue.x-k8s.io"}
#: Where Kueue looks for the certificate of its metrics is fixed: it sees an /etc with one more folder.
_WITH_ITS_OWN_ETC = 'mount -t overlay overlay -o "lowerdir=$0:/etc" /etc && exec "$@"'


def build() -> None:
    """Build what is missing of it, into the cache."""
    for part in (parts.kueue_definitions(), parts.kueue()):
        part.ensure()


@contextlib.contextmanager
def kueue(kubernetes: Kubernetes, folder: Path) -> Iterator[None]:
    """Have Kueue at work. Its kinds and webhooks stay: the Kubernetes ends after it.

    :param kubernetes: where: one of our own.
    :param folder: for its settings, its keys and its log.
    """
    missing = [part.name for part in (parts.kueue_definitions(), parts.kueue()) if not part.built()]
    need(f"Kueue (missing: {', '.join(missing)})", present=not missing, how=BUILD_HOW)
    need("root, for a process that sees an /etc of its own", present=os.geteuid() == 0, how="Run the tests as root.")
    webhooks, health = free_ports(2)
    host, port = kubernetes.expose(webhooks)
    certificate = _certificate(folder, host)
    definitions = _definitions(f"https://{host}:{port}", certificate)
    kinds = [one for one in definitions if one["kind"] == "CustomResourceDefinition"]
    _apply(kubernetes, kinds)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(_configuration(folder, webhooks, health)))
    command = [
        *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "sh", "-euc", _WITH_ITS_OWN_ETC, folder / "etc"),
        parts.kueue().ensure() / "kueue",
        f"--config={config}",
        "--feature-gates=VisibilityOnDemand=false",
        f"--kubeconfig={kubernetes.kubeconfig}",
    ]
    with _running(command, folder) as process:

        def is_ready() -> bool:
            assert process.poll() is None, f"Kueue ended:\n{(folder / 'log').read_text()[-3000:]}"
            return _answers(f"http://127.0.0.1:{health}/readyz")

        until(is_ready, 90, "Kueue that is ready")
        _apply(kubernetes, [one for one in definitions if one not in kinds])
        # The API server takes a moment to learn that it has to ask.
        until(lambda: _asks(kubernetes), 30, "API server that asks Kueue")
        yield


@contextlib.contextmanager
def _running(command: list[str | Path], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have a program run, which ends with the context or with this thread."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _certificate(folder: Path, host: str) -> Path:
    """Make the certificate of all that it serves, as it wants to find it."""
    metrics = folder / "etc/kueue/metrics/certs"
    metrics.mkdir(parents=True, mode=0o755)
    key, certificate = metrics / "tls.key", metrics / "tls.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=kueue", "-addext", f"subjectAltName=IP:{host}"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate


def _configuration(folder: Path, webhooks: int, health: int) -> dict[str, Any]:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": "127.0.0.1", "port": webhooks, "certDir": str(folder / "etc/kueue/metrics/certs")},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "integrations": {"frameworks": ["ray.io/rayjob", "ray.io/raycluster", "ray.io/rayservice"]},
    }


def _definitions(url: str, certificate: Path) -> list[dict[str, Any]]:
    """Give Kueue's kinds and webhooks, with the webhooks where they are served here."""
    text = (parts.kueue_definitions().ensure() / "definitions.yaml").read_text()
    authority = base64.b64encode(certificate.read_bytes()).decode()

    def at(path: str) -> dict[str, str]:
        return {"url": f"{url}{path}", "caBundle": authority}

    found = []
    for document in yaml.load_all(text, Loader=yaml.CSafeLoader):
        if document["kind"] == "CustomResourceDefinition":
            webhook = document["spec"].get("conversion", {}).get("webhook")
            if webhook:
                webhook["clientConfig"] = at(webhook["clientConfig"]["service"]["path"])
        elif document["kind"].endswith("WebhookConfiguration"):
            ours = [one for one in document["webhooks"] if set(one["rules"][0]["apiGroups"]) <= _GROUPS]
            for one in ours:
                one["clientConfig"] = at(one["clientConfig"]["service"]["path"])
            document["webhooks"] = ours
        else:
            continue
        found.append(document)
    return found


def _apply(kubernetes: Kubernetes, documents: list[dict[str, Any]]) -> None:
    # JSON is YAML, and much quicker to write.
    kubernetes.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))
    for one in documents:
        if one["kind"] == "CustomResourceDefinition":
            kubernetes.kubectl("wait", "--for=condition=Established", f"crd/{one['metadata']['name']}", "--timeout=60s")


def _answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False


def _asks(kubernetes: Kubernetes) -> bool:
    """Whether a RayCluster in a queue would be suspended."""
    pod = {"spec": {"containers": [{"name": "head", "image": "x"}]}}
    cluster = _cluster("probe", pod, {"kueue.x-k8s.io/queue-name": "probe"})
    with contextlib.suppress(KubectlError):
        made = kubernetes.kubectl(
            "create", "--dry-run=server", "-n", "default", "-o", "json", "-f", "-", stdin=json.dumps(cluster)
        )
        return bool(json.loads(made)["spec"].get("suspend"))
    return False


def _cluster(name: str, pod: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "labels": labels},
        "spec": {"rayVersion": "2.60.0", "headGroupSpec": {"rayStartParams": {}, "template": pod}},
    }


class Team:
    """The queue ``team`` of a namespace, with places of one size; and others that want them.

    :param namespace: which has nothing else in it.
    :param places: how many heads of 200m CPU find room.
    """

    def __init__(self, kubernetes: Kubernetes, namespace: str, places: int = 1) -> None:
        self.kubernetes, self.namespace = kubernetes, namespace
        quota = [{"name": "cpu", "nominalQuota": f"{200 * places}m"}, {"name": "memory", "nominalQuota": "64Gi"}]
        flavors = [{"name": namespace, "resources": quota}]
        queue = {
            "namespaceSelector": {},
            "resourceGroups": [{"coveredResources": ["cpu", "memory"], "flavors": flavors}],
            "preemption": {"withinClusterQueue": "LowerPriority"},
        }
        made: list[dict[str, Any]] = [
            {"kind": "ResourceFlavor", "metadata": {"name": namespace}},
            {"kind": "ClusterQueue", "metadata": {"name": namespace}, "spec": queue},
            {"kind": "LocalQueue", "metadata": {"name": "team"}, "spec": {"clusterQueue": namespace}},
            *(
                {"kind": "WorkloadPriorityClass", "metadata": {"name": name}, "value": value}
                for name, value in (("low", 10), ("high", 1000))
            ),
        ]
        kubernetes.apply([{"apiVersion": API, **one} for one in made], namespace)

    def workloads(self, kind: str = "") -> list[dict[str, Any]]:
        """Give the Workloads that are there, of one kind of owner."""
        found: list[dict[str, Any]] = self.kubernetes.get("workloads.kueue.x-k8s.io", "-n", self.namespace)["items"]
        return [one for one in found if one["metadata"]["name"].startswith(kind)]

    def admitted(self, kind: str = "") -> bool:
        """Whether something is admitted."""
        return any(
            condition["type"] == "Admitted" and condition["status"] == "True"
            for one in self.workloads(kind)
            for condition in (one.get("status") or {}).get("conditions") or ()
        )

    def rival(self, priority: str = "high") -> None:
        """Have somebody else's cluster want a place."""
        resources = {"requests": {"cpu": "200m", "memory": "1Gi"}}
        container = {"name": "ray-head", "image": "rayproject/ray:2.60.0", "resources": resources}
        labels = {"kueue.x-k8s.io/queue-name": "team", "kueue.x-k8s.io/priority-class": priority}
        self.kubernetes.apply(_cluster("rival", {"spec": {"containers": [container]}}, labels), self.namespace)

    def rival_leaves(self) -> None:
        """Have it give the place back."""
        self.kubernetes.kubectl("delete", "raycluster", "rival", "-n", self.namespace)

    def deactivate(self, kind: str, *, active: bool = False) -> None:
        """Do what an administrator does who takes a place away, or gives it back."""
        for one in self.workloads(kind):
            name, patch = one["metadata"]["name"], json.dumps({"spec": {"active": active}})
            where = ("workloads.kueue.x-k8s.io", name, "-n", self.namespace, "--type=merge")
            self.kubernetes.kubectl("patch", *where, "-p", patch)


class Nodes:
    """Has the pods of a namespace run, as far as the API server knows; as a context manager."""

    def __init__(self, kubernetes: Kubernetes, namespace: str) -> None:
        self._kubernetes, self._namespace = kubernetes, namespace
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)
        #: While it is set, no pod comes up.
        self.full = threading.Event()

    def __enter__(self) -> Nodes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _play(self) -> None:
        while not self._over.wait(0.3):
            if self.full.is_set():
                continue
            with contextlib.suppress(KubectlError):  # a pod may go at this moment
                for pod in self._kubernetes.get("pods", "-n", self._namespace)["items"]:
                    if (pod.get("status") or {}).get("phase") != "Running":
                        self._run(pod)

    def _run(self, pod: dict[str, Any]) -> None:
        now = "2026-01-01T00:00:00Z"
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": now}
            for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ]
        containers = [
            {
                "name": one["name"],
                "image": one["image"],
                "imageID": "x",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for one in pod["spec"]["containers"]
        ]
        status = {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "conditions": conditions,
            "containerStatuses": containers,
        }
        where = ("pod", pod["metadata"]["name"], "-n", self._namespace, "--subresource=status", "--type=merge")
        self._kubernetes.kubectl("patch", *where, "-p", json.dumps({"status": status}))
