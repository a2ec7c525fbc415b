"""The Kubernetes that tests run on, and what they do with it.

Taken in this order: the one of a kubeconfig named in ``AIRFLOW_RAY_TEST_KUBECONFIG`` (a node that ``make kubernetes-up``
started, or any cluster on which tests may do as they like), ``kind`` where Docker works, else a node of our own
(:mod:`tests.kubernetes.node`), which lives as long as this process. A cluster that was given gets KubeRay's operator if
it has none, unless ``AIRFLOW_RAY_TEST_OPERATOR`` is ``none``.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.node import control, parts
from tests.kubernetes.node.supervisor import NodeError
from tests.support.control_plane import ControlPlane
from tests.support.forwarding import Forwarder
from tests.support.requirements import need

OPERATOR_NAMESPACE = "kuberay-system"
OPERATOR_RELEASE = "kuberay-operator"
RAY_KINDS = ("rayclusters", "rayjobs", "rayservices")
BUILD_HOW = "Run 'make kubernetes-build' (with network, about 15 minutes from nothing)."


class KubectlError(AssertionError):
    """kubectl failed; the text is its own."""


@dataclass
class Kubernetes:
    """A running Kubernetes with KubeRay, and the means to set scenes on it."""

    kubeconfig: Path  # the administrator's, for clients in the network namespace of this process
    scratch: Path
    kuberay_version: str
    # None on kind and on a cluster that was given; an API server without nodes does what it can of a node's
    node: control.NodeHandle | ControlPlane | None = None
    from_outside: bool = False  # the node was not started in this network namespace
    ray_image: str = "rayproject/ray:2.60.0"
    ray_image_again: str = "rayproject/ray:2.60.0-py311"  # the same under another tag: an update of the image
    ray_version: str = "2.60.0"

    # Programs ---------------------------------------------------------------------------------------------------

    @property
    def helm3(self) -> Path:
        return parts.tool("helm3").ensure() / "helm"

    @property
    def helm4(self) -> Path:
        return parts.tool("helm4").ensure() / "helm"

    @property
    def kubectl_path(self) -> Path:
        return parts.tool("helm4").ensure() / "kubectl"

    @property
    def operator_chart(self) -> Path:
        """A chart folder that installs the operator of this KubeRay, definitions in ``crds/``."""
        return parts.operator_chart(self.kuberay_version).ensure() / "kuberay-operator"

    def operator_chart_of(self, version: str) -> Path:
        """The same for another KubeRay version; building it takes minutes the first time."""
        return parts.operator_chart(version).ensure() / "kuberay-operator"

    def env(self, **further: str) -> dict[str, str]:
        """An environment in which kubectl and helm meet this Kubernetes as its administrator."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.scratch), **further}

    def kubectl(
        self, *arguments: str, kubeconfig: Path | None = None, stdin: str | None = None, timeout: float = 600
    ) -> str:
        """Run kubectl and return what it printed.

        :raises KubectlError: with its words, if it fails.
        """
        env = self.env(KUBECONFIG=str(kubeconfig or self.kubeconfig))
        command = [self.kubectl_path, f"--cache-dir={self.scratch}/kubectl-cache", *arguments]
        done = subprocess.run(
            command, env=env, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """``kubectl get … -o json``, read."""
        return dict(json.loads(self.kubectl("get", *arguments, "-o", "json")))

    def exists(self, *arguments: str) -> bool:
        """Tell whether ``kubectl get …`` finds something."""
        return bool(self.kubectl("get", *arguments, "--ignore-not-found", "-o", "name").strip())

    def apply(self, manifest: str | dict[str, Any] | list[Any], namespace: str = "default") -> None:
        """Apply a manifest: text, an object or several."""
        if isinstance(manifest, dict):
            manifest = [manifest]
        text = manifest if isinstance(manifest, str) else yaml.safe_dump_all(manifest)
        self.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", stdin=text)

    def helm(self, *arguments: str, three: bool = True, timeout: float = 360) -> str:
        """Run helm as the administrator and return what it printed."""
        program = self.helm3 if three else self.helm4
        done = subprocess.run(
            [program, *arguments], env=self.env(), capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    # Namespaces and accounts ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def namespace(self, prefix: str = "test") -> Iterator[str]:
        """Make a namespace, and remove it with all that is in it; finalizers that nobody serves are taken off."""
        with self.namespaces(prefix) as (name,):
            yield name

    @contextlib.contextmanager
    def namespaces(self, *prefixes: str) -> Iterator[tuple[str, ...]]:
        """The same for several, which go together: each takes seconds, in which little is done."""
        names = tuple(f"{prefix}-{secrets.token_hex(4)}" for prefix in prefixes)
        try:
            for name in names:
                self.kubectl("create", "namespace", name)
            for name in names:
                found = ("serviceaccount", "default", "-n", name)
                until(lambda found=found: self.exists(*found), 300, "default service account")
            yield names
        finally:
            self.remove_namespace(*names)

    def remove_namespace(self, *names: str) -> None:
        """Empty namespaces and remove them; nobody waits for the end of what has nothing in it."""
        known = self.kubectl("get", "crd", "-o", "name")
        kinds = [kind for kind in RAY_KINDS if f"/{kind}.ray.io" in known]
        inside = ",".join([*kinds, "pods"])
        # First what is in them: the namespace controller looks again only after a pod's whole grace period.
        for name in names:
            owners = ",".join([*kinds, "deployments", "statefulsets", "jobs"])
            self.kubectl("delete", owners, "--all", "-n", name, "--wait=false")
            # Nothing that runs in them is wanted any more: a shell that is process 1 would take all of its 30 s.
            self.kubectl("delete", "pods", "--all", "-n", name, "--wait=false", "--grace-period=1")
        deadline = time.monotonic() + 12
        for name in names:
            self._empty_namespace(name, inside, max(0.0, deadline - time.monotonic()))
        self.kubectl("delete", "namespace", *names, "--ignore-not-found", "--wait=false")

    def _empty_namespace(self, name: str, kinds: str, seconds: float) -> None:
        """Wait for the end of what is in a namespace; what takes longer is ended by force."""

        def left() -> list[str]:
            return self.kubectl("get", kinds, "-n", name, "-o", "name").split()

        try:
            until(lambda: not left(), seconds, f"end of what is in namespace {name}", every=0.3)
        except TimeoutError:
            # Pods that don't listen, and finalizers that nobody serves since the operator is stopped.
            for found in left():
                if found.startswith("pod/"):
                    self.kubectl("delete", found, "-n", name, "--force", "--grace-period=0", "--ignore-not-found")
                else:
                    unfinalized = '{"metadata":{"finalizers":null}}'
                    with contextlib.suppress(KubectlError):  # it may end just now
                        self.kubectl("patch", found, "-n", name, "--type=merge", "-p", unfinalized)

    def service_account_kubeconfig(
        self, namespace: str, manifest: str | Path, *, name: str = "provider", seconds: int = 3600
    ) -> Path:
        """Return a kubeconfig of a service account that has the Roles of a manifest, and nothing else.

        :param manifest: a file or text with Roles; each is bound to the account, in ``namespace``. Bindings and accounts
            in the manifest are left out: the account is ``name``.
        """
        text = manifest.read_text() if isinstance(manifest, Path) else manifest
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}, namespace)
        for document in yaml.safe_load_all(text):
            if not document or document["kind"] not in ("Role", "ClusterRole"):
                continue
            cluster_wide = document["kind"] == "ClusterRole"
            document["metadata"].pop("namespace", None)
            self.apply(document, namespace)
            binding = {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding" if cluster_wide else "RoleBinding",
                "metadata": {"name": f"{document['metadata']['name']}-{namespace}-{name}"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": document["kind"],
                    "name": document["metadata"]["name"],
                },
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
            }
            self.apply(binding, namespace)
        return self.token_kubeconfig(self.token(namespace, name, seconds), namespace)

    def token(self, namespace: str, account: str, seconds: int = 3600) -> str:
        """Return a bearer token of a service account."""
        return self.kubectl("create", "token", account, "-n", namespace, f"--duration={seconds}s").strip()

    def token_kubeconfig(self, token: str, namespace: str = "default") -> Path:
        """Return a kubeconfig (0600) that signs in with a bearer token."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "clusters": [
                {
                    "name": "test",
                    "cluster": {
                        "server": self.server,
                        "certificate-authority-data": base64.b64encode(self.ca_certificate.encode()).decode(),
                    },
                }
            ],
            "users": [{"name": "test", "user": {"token": token}}],
        }
        path = self.scratch / f"kubeconfig-{secrets.token_hex(4)}"
        path.touch(0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def _cluster(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.kubeconfig.read_text())["clusters"][0]["cluster"])

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._cluster()["server"])

    @property
    def ca_certificate(self) -> str:
        """The certificate of the authority that signed the API server's, as PEM."""
        return base64.b64decode(self._cluster()["certificate-authority-data"]).decode()

    # The operator -----------------------------------------------------------------------------------------------

    def scale_operator(self, replicas: int) -> None:
        """Stop the operator (0) or start it (1), and wait until it is so."""
        where = ("deployment", OPERATOR_RELEASE, "-n", OPERATOR_NAMESPACE)
        self.kubectl("scale", *where, f"--replicas={replicas}")
        if replicas:
            self.kubectl("rollout", "status", *where, "--timeout=300s")
        else:
            gone = ("pods", "-n", OPERATOR_NAMESPACE, "-l", "app.kubernetes.io/name=kuberay-operator")
            until(lambda: not self.exists(*gone), 300, "end of the operator's pod")

    @contextlib.contextmanager
    def operator_stopped(self) -> Iterator[None]:
        """Have no operator at work for a while; its release stays."""
        self.scale_operator(0)
        try:
            yield
        finally:
            self.scale_operator(1)

    def install_operator(self, chart: Path | None = None) -> None:
        """Install the operator with its definitions as a Helm release, or mend what a test left of it."""
        chart = chart or self.operator_chart
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(chart / "crds"))
        self.kubectl("wait", "--for=condition=Established", "--timeout=300s", "-f", str(chart / "crds"))
        self.helm(
            *("upgrade", "--install", OPERATOR_RELEASE, str(chart), "--skip-crds", "--wait", "--timeout=5m"),
            *("--namespace", OPERATOR_NAMESPACE, "--create-namespace"),
        )

    @contextlib.contextmanager
    def without_operator(self, *, definitions: bool = False) -> Iterator[None]:
        """Have KubeRay not installed for a while: no release, no CRDs (unless ``definitions`` are to stay)."""
        self.uninstall_operator(definitions=definitions)
        try:
            yield
        finally:
            self.uninstall_operator(definitions=True)
            self.install_operator()

    def uninstall_operator(self, *, definitions: bool = False) -> None:
        """Remove every release of the operator, and the definitions unless they are to stay."""
        for release in json.loads(self.helm("list", "-A", "-a", "-o", "json")):
            if release["chart"].startswith("kuberay-operator-"):
                self.helm("uninstall", release["name"], "-n", release["namespace"], "--wait", "--timeout=5m")
        if not definitions:
            found = self.kubectl("get", "crd", "-o", "name").split()
            ours = [name for name in found if name.endswith(".ray.io")]
            if ours:
                self.kubectl("delete", *ours, "--timeout=300s")

    # The node ---------------------------------------------------------------------------------------------------

    @property
    def node_name(self) -> str:
        return self.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")

    def patch_node_gpu(self, count: int, resource: str = "nvidia.com/gpu") -> None:
        """Let the node say that it has so many GPUs (0: none); pods that ask for them are scheduled, no device is there."""
        key = resource.replace("~", "~0").replace("/", "~1")
        op = "add" if count else "remove"
        patch = [
            {"op": op, "path": f"/status/{where}/{key}", **({"value": str(count)} if count else {})}
            for where in ("capacity", "allocatable")
        ]
        if not count and resource not in self.get("node", self.node_name)["status"]["capacity"]:
            return
        self.kubectl("patch", "node", self.node_name, "--subresource=status", "--type=json", "-p", json.dumps(patch))

    def label_node(self, labels: dict[str, str | None]) -> None:
        """Set labels on the node; ``None`` removes one."""
        words = [f"{key}-" if value is None else f"{key}={value}" for key, value in labels.items()]
        self.kubectl("label", "node", self.node_name, "--overwrite", *words)

    def taint_node(self, *taints: str) -> None:
        """Set taints (``key=value:NoSchedule``) or remove them (``key-``)."""
        self.kubectl("taint", "node", self.node_name, "--overwrite", *taints)

    def _own_node(self) -> control.NodeHandle | ControlPlane:
        need(
            "a test node of our own (not kind, not a given cluster)",
            present=self.node is not None,
            how="Unset AIRFLOW_RAY_TEST_KUBECONFIG.",
        )
        assert self.node is not None
        return self.node

    def restart_api_server(self, *further: str, stay_down: float = 0) -> None:
        """Restart the API server, with further arguments, and wait until it is ready.

        :param stay_down: how many seconds clients find nobody there first.
        """
        node = self._own_node()
        node.ask("stop", part="kube-apiserver")
        if stay_down:
            time.sleep(stay_down)
        node.ask("api-server", args=list(further))

    def stop_part(self, part: str) -> None:
        """End ``kube-scheduler``, ``kubelet`` …; :meth:`start_part` brings it back."""
        self._own_node().ask("stop", part=part)

    def start_part(self, part: str) -> None:
        self._own_node().ask("start", part=part)

    def share_file(self, name: str, text: str) -> Path:
        """Write a file that the node's parts can read under the same path, for an argument of the API server."""
        path = self._own_node().state / "files" / name
        path.write_text(text)
        return path

    @contextlib.contextmanager
    def token_webhook(self, url: str) -> Iterator[None]:
        """Have the API server ask a server of the test whom a bearer token belongs to (a TokenReview by POST).

        :param url: of the test's own server on loopback here; it is made reachable from the node.
        """
        scheme, port, path = re.fullmatch(r"(https?)://127\.0\.0\.1:(\d+)(/.*)?", url).groups()  # type: ignore[union-attr]
        host, node_port = self.expose(int(port))
        cluster = {"server": f"{scheme}://{host}:{node_port}{path or '/'}"}
        if scheme == "https":
            cluster["insecure-skip-tls-verify"] = True  # type: ignore[assignment]
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "webhook",
            "contexts": [{"name": "webhook", "context": {"cluster": "webhook", "user": "api-server"}}],
            "clusters": [{"name": "webhook", "cluster": cluster}],
            "users": [{"name": "api-server", "user": {}}],
        }
        file = self.share_file(f"webhook-{node_port}.yaml", yaml.safe_dump(config))
        self.restart_api_server(
            f"--authentication-token-webhook-config-file={file}",
            "--authentication-token-webhook-version=v1",
            "--authentication-token-webhook-cache-ttl=1s",
        )
        try:
            yield
        finally:
            self.restart_api_server()

    # Ways between the networks -----------------------------------------------------------------------------------

    def visit(self, *command: str | Path) -> list[str]:
        """Return the command that runs ``command`` in the node's network, with the cluster's DNS and a kubeconfig."""
        return self._own_node().visit(*command)

    def expose(self, port: int) -> tuple[str, int]:
        """Make a server on loopback here reachable for the node and its pods; the answer is its address there."""
        node = self._own_node()
        need(
            "a node started from this network", present=not self.from_outside, how="Unset AIRFLOW_RAY_TEST_KUBECONFIG."
        )
        reply = node.ask("expose", port=port)
        return str(reply["host"]), int(reply["port"])

    def forward(self, host: str, port: int) -> int:
        """Make an address of the node's network (a pod's, a service's) reachable here, on loopback; returns the port."""
        return int(self._own_node().ask("forward", host=host, port=port)["port"])


def until(test: Callable[[], Any], seconds: float, what: str, *, every: float = 0.3) -> Any:
    """Wait until ``test`` returns something true, and return it.

    :param every: the seconds between two looks; a kubectl is a tenth of a second of CPU.
    :raises TimeoutError: naming what never came.
    """
    deadline = time.monotonic() + seconds
    while not (found := test()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s still no {what}")
        time.sleep(every)
    return found


# Which one -------------------------------------------------------------------------------------------------------


def _loopback_only() -> bool:
    """Whether this process lives in a network namespace from which nothing but itself can be reached."""
    return {name for _, name in socket.if_nameindex()} <= {"lo"}


def _docker_works() -> bool:
    if not shutil.which("docker") or not shutil.which("kind"):
        return False
    try:
        said = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return False
    return said.returncode == 0


@contextlib.contextmanager
def kubernetes() -> Iterator[Kubernetes]:
    """Give the Kubernetes of this run: see the top of this module for which."""
    with tempfile.TemporaryDirectory(prefix="airflow-ray-kubernetes-") as folder:
        scratch = Path(folder)
        given = os.environ.get("AIRFLOW_RAY_TEST_KUBECONFIG")
        if given:
            with _given(Path(given).expanduser(), scratch) as found:
                yield found
        elif _docker_works() and not _loopback_only():
            with _kind(scratch) as found:
                yield found
        else:
            with own_node(scratch) as found:
                yield found


@contextlib.contextmanager
def own_node(scratch: Path, *, operator: str = "chart", api_server_args: Sequence[str] = ()) -> Iterator[Kubernetes]:
    """Start a node of our own that ends with the context, or with this process."""
    version = parts.kuberay_version()
    missing = parts.missing(version)
    need(
        "root, to run a Kubernetes node",
        present=os.geteuid() == 0,
        how="Or name a cluster in AIRFLOW_RAY_TEST_KUBECONFIG.",
    )
    if missing and _loopback_only():
        need(f"the built test node (missing: {', '.join(missing)})", present=False, how=BUILD_HOW)
    if missing:
        parts.build(version)
    node = control.up(operator=operator, api_server_args=api_server_args, owner=os.getpid(), version=version)
    atexit.register(node.down)  # should the context never be left
    try:
        yield Kubernetes(node.kubeconfig, scratch, version, node)
    finally:
        node.down()
        atexit.unregister(node.down)


@contextlib.contextmanager
def _given(path: Path, scratch: Path) -> Iterator[Kubernetes]:
    """A kubeconfig that was named: if of a node of ours, reachable also from another network namespace."""
    assert path.is_file(), f"AIRFLOW_RAY_TEST_KUBECONFIG names {path}, which is no file"
    handle = control.NodeHandle(path.parent) if (path.parent / "dial.sock").exists() else None
    with contextlib.ExitStack() as stack:
        version = parts.kuberay_version()
        outside = False
        if handle is not None:
            version = handle.spec()["kuberay_version"]
            port = handle.ask("status")["api_port"]
            if handle.network_of_supervisor() != os.readlink("/proc/self/ns/net"):
                outside = True
                here = stack.enter_context(Forwarder(handle.state / "dial.sock", "127.0.0.1", 6443)).port
                text = path.read_text().replace(f"127.0.0.1:{port}", f"127.0.0.1:{here}")
                path = scratch / "admin.kubeconfig"
                path.touch(0o600)
                path.write_text(text)
        found = Kubernetes(path, scratch, version, handle, outside)
        wanted = os.environ.get("AIRFLOW_RAY_TEST_OPERATOR") != "none"
        if wanted and not found.exists("deployment", OPERATOR_RELEASE, "-n", OPERATOR_NAMESPACE):
            found.install_operator()
        yield found


@contextlib.contextmanager
def _kind(scratch: Path) -> Iterator[Kubernetes]:
    """A cluster in Docker, made for this run and removed after it; images come from their public places."""
    name = f"airflow-ray-{secrets.token_hex(3)}"
    config = scratch / "admin.kubeconfig"
    subprocess.run(["kind", "create", "cluster", "--name", name, "--kubeconfig", config, "--wait", "120s"], check=True)
    try:
        found = Kubernetes(config, scratch, parts.kuberay_version(), ray_image_again="rayproject/ray:2.60.0-cpu")
        found.install_operator()
        yield found
    finally:
        subprocess.run(["kind", "delete", "cluster", "--name", name, "--kubeconfig", config], check=True)


__all__ = ["KubectlError", "Kubernetes", "NodeError", "kubernetes", "own_node", "until"]
