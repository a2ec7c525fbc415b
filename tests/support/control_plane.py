"""A real API server on a real etcd, without nodes: seconds to start, and everything that needs no pod can be seen on it.

It is made of the same programs as the test node (:mod:`tests.kubernetes.node`): etcd, kube-apiserver, and of
kube-controller-manager the controllers that end namespaces, make service accounts, collect garbage and count quotas.
KubeRay's definitions are in it. Nobody schedules or runs pods: they stay ``Pending``, and go at once when deleted.
KubeRay's operator runs where a test asks for it (:meth:`ControlPlane.operator`), as a process beside the others.

All of it listens on loopback only, and ends with the thread that started it: a killed test run leaves no process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_provider.clusters.local.head import free_ports
from tests.kubernetes.node import parts
from tests.kubernetes.node.cache import digest_of
from tests.kubernetes.node.supervisor import HERE as NODE
from tests.kubernetes.node.supervisor import NodeError
from tests.support.requirements import need

BUILD_HOW = "Run 'make control-plane-build' (needs the network; about 10 minutes from nothing)."
#: Those that tests without pods have a use for: Deployments and Jobs stay as a test writes them.
CONTROLLERS = (
    "namespace-controller",
    "serviceaccount-controller",
    "garbage-collector-controller",
    "resourcequota-controller",
)
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_KUBERAY = "/apis/ray.io/v1"
_STOP_SECONDS = 2.0


def programs(version: str) -> dict[str, Callable[[], parts.Part]]:
    """Name the built parts of the test node that are used here."""
    return {
        "kubernetes": parts.kubernetes,
        "node-root": parts.node_root,
        "operator": lambda: parts.operator(version),
        "operator-chart": lambda: parts.operator_chart(version),
        "gateway-definitions": parts.gateway_definitions,
        "helm3": lambda: parts.tool("helm3"),
        "helm4": lambda: parts.tool("helm4"),
    }


def data(version: str) -> parts.Part:
    """Give what etcd holds when KubeRay's definitions are served: defining them takes most of a first start."""
    needs = (parts.node_root(), parts.kubernetes(), parts.operator_chart(version))

    def make(folder: Path, _: dict[str, Path]) -> None:
        with tempfile.TemporaryDirectory(prefix="airflow-ray-control-plane-") as state:
            plane = ControlPlane(Path(state), version)
            try:
                plane.up(anew=True)
                for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
                    plane.stop(name)
            finally:
                plane.down()
            shutil.copytree(plane.state / "etcd", folder / "etcd")

    # What else it is made of: the controllers and arguments below.
    return parts.Part(
        f"control-plane-data-{version}", digest_of("recipe 2", *CONTROLLERS, *(part.key for part in needs)), make, needs
    )


def build(version: str) -> None:
    """Build what is missing of it, into the cache."""
    found = [make() for make in programs(version).values()]
    if not all(part.built() for part in found):
        parts.debian_tools()
    for part in [*found, data(version)]:
        part.ensure()


@dataclass
class ControlPlane:
    """A running API server. Begin with :func:`control_plane`.

    :param state: its folder, with keys in it: 0700.
    :param kuberay_version: whose definitions and operator.
    """

    state: Path
    kuberay_version: str
    began: float = field(default_factory=time.monotonic)
    api_port: int = 0
    etcd_port: int = 0
    _parts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _commands: dict[str, list[str]] = field(default_factory=dict)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.state / "pki/admin.kubeconfig"

    # Up and down ------------------------------------------------------------------------------------------------

    def up(self, api_server_args: Sequence[str] = (), *, anew: bool = False) -> None:
        """Start all of it, and wait until RayClusters can be made.

        :param anew: with nothing in etcd, and define KubeRay's kinds; else they are there from the start.
        :raises NodeError: with the part that failed and its last words.
        """
        for name in ("log", "files", "bin"):
            (self.state / name).mkdir(mode=0o700)
        if not anew:
            shutil.copytree(data(self.kuberay_version).ensure() / "etcd", self.state / "etcd")
        for program in parts.KUBERNETES_PROGRAMS:
            (self.state / "bin" / program).symlink_to(parts.kubernetes().ensure() / "k8snode")
        self.etcd_port, peer_port, self.api_port = free_ports(3)
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{peer_port}"
        self.start(
            "etcd",
            *_debian_program(parts.node_root().ensure() / "root", "usr/bin/etcd"),
            f"--data-dir={self.state}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
            "--unsafe-no-fsync",  # what it stores need not outlive it
        )
        subprocess.run([NODE / "pki.sh", self.state / "pki"], check=True, capture_output=True)
        for config in (self.state / "pki").glob("*.kubeconfig"):
            config.write_text(config.read_text().replace("127.0.0.1:6443", f"127.0.0.1:{self.api_port}"))
        self.start("kube-apiserver", *self._api_server(api_server_args))
        self.until("API server ready", self.ready, part="kube-apiserver")
        config = self.state / "pki/kube-controller-manager.kubeconfig"
        self.start(
            "kube-controller-manager",
            self.state / "bin/kube-controller-manager",
            f"--controllers={','.join(CONTROLLERS)}",
            f"--kubeconfig={config}",
            "--leader-elect=false",
            "--secure-port=0",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self.state}/pki/sa.key",
            "--kube-api-qps=200",
            "--kube-api-burst=200",
        )
        if anew:
            self._define_kuberay()
        self.until("kinds of KubeRay", self._lists_kuberay, part="kube-apiserver")
        self.until(
            "service account of the default namespace",
            lambda: self.request("/api/v1/namespaces/default/serviceaccounts/default")[0] == 200,
            part="kube-controller-manager",
        )

    def down(self) -> None:
        """End all of it, and wait until it is gone."""
        for process in self._parts.values():
            process.kill()
        for process in self._parts.values():
            process.wait()

    def _api_server(self, further: Sequence[str]) -> list[str | Path]:
        pki = self.state / "pki"
        return [
            self.state / "bin/kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.api_port}",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",  # it would write its own address, which may not be loopback
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            f"--client-ca-file={pki}/ca.crt",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki}/sa.pub",
            f"--service-account-signing-key-file={pki}/sa.key",
            *further,
        ]

    def _definitions(self) -> list[Path]:
        """Give KubeRay's definitions: files named like ``ray.io_rayclusters.yaml``."""
        return sorted((parts.operator_chart(self.kuberay_version).ensure() / "kuberay-operator/crds").glob("*.yaml"))

    def _define_kuberay(self) -> None:
        for file in self._definitions():
            status, body = self.request(_DEFINITIONS, "POST", file.read_bytes())
            if status != 201:
                raise NodeError(f"{file.name} refused with {status}: {body.decode(errors='replace')[:500]}")

    def _lists_kuberay(self) -> bool:
        """Whether its kinds are listed, and so established: seconds after they are served. What is stopped and kept before
        that never is, also not by its next start."""
        status, body = self.request(_KUBERAY)
        kinds = {file.stem.rpartition("_")[2] for file in self._definitions()}
        return status == 200 and kinds <= {one["name"] for one in json.loads(body)["resources"]}

    # Parts ------------------------------------------------------------------------------------------------------

    def start(self, name: str, *command: str | Path) -> None:
        """Start a part, or start it again with its former command line."""
        if name in self._parts and self._parts[name].poll() is None:
            raise NodeError(f"{name} runs already")
        if command:
            self._commands[name] = [str(word) for word in command]
        with (self.state / "log" / f"{name}.log").open("ab") as log:
            # The signal is sent when the thread ends that started it, whatever becomes of the process's own handlers.
            self._parts[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._commands[name]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "HOME": str(self.state)},
            )

    def stop(self, name: str) -> None:
        """End a part, and wait until it is gone."""
        process = self._parts[name]
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)  # an API server with watchers would go on for a minute
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def pids(self) -> list[int]:
        """Give the processes of it that run."""
        return [process.pid for process in self._parts.values() if process.poll() is None]

    def said(self, part: str, lines: int = 15) -> str:
        """Give the last words of a part."""
        path = self.state / "log" / f"{part}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def until(self, what: str, test: Callable[[], object], *, part: str = "", seconds: float = 90) -> None:
        """Wait until ``test`` holds; the death of the part that it waits for ends the wait at once.

        :raises NodeError: naming what never came.
        """
        deadline = time.monotonic() + seconds
        while not test():
            process = self._parts.get(part)
            if process is not None and process.poll() is not None:
                raise NodeError(f"{part} ended with {process.returncode}:\n{self.said(part)}")
            if time.monotonic() > deadline:
                raise NodeError(f"after {seconds:.0f} s still no {what}\n{self.said(part)}")
            time.sleep(0.05)

    def request(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
        """Ask the API server as the administrator; status 0 where it cannot be reached."""
        context = ssl.create_default_context(cafile=str(self.state / "pki/ca.crt"))
        context.load_cert_chain(self.state / "pki/admin.crt", self.state / "pki/admin.key")
        asked = urllib.request.Request(f"https://127.0.0.1:{self.api_port}{path}", body, method=method)
        asked.add_header("Content-Type", "application/yaml")
        https = urllib.request.HTTPSHandler(context=context)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({}), https).open(asked, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def ready(self) -> bool:
        """Whether the API server says that it is."""
        return self.request("/readyz")[0] == 200

    # The operator -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def operator(self, *further: str) -> Iterator[None]:
        """Have KubeRay's operator at work: it makes pods (which stay pending), services and Secrets, and events.

        :param further: arguments of it.
        """
        name = "kuberay-operator"
        log = self.state / "log" / f"{name}.log"
        log.unlink(missing_ok=True)  # what a former one said is not this one's
        self.start(
            name,
            parts.operator(self.kuberay_version).ensure() / "manager",
            f"--kubeconfig={self.kubeconfig}",
            "--enable-leader-election=false",
            "--metrics-addr=0",
            "--health-probe-bind-address=0",
            *further,
        )
        try:
            self.until("operator at work", lambda: "Starting workers" in log.read_text(), part=name)
            yield
        finally:
            self.stop(name)

    # What tests.support.kubernetes asks of a node ----------------------------------------------------------------

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Do what a node's supervisor does, as far as there is something to do without nodes."""
        if do == "stop":
            self.stop(arguments["part"])
        elif do == "start":
            self.start(arguments["part"])
        elif do == "api-server":
            if self._parts["kube-apiserver"].poll() is None:
                self.stop("kube-apiserver")
            self.start("kube-apiserver", *self._api_server(arguments["args"]))
            self.until("API server ready again", self.ready, part="kube-apiserver")
        elif do == "expose":  # the same network
            return {"host": "127.0.0.1", "port": arguments["port"]}
        else:
            raise NodeError(f"{do!r} needs a node: this is an API server only (tests/apiserver)")
        return {}


@contextlib.contextmanager
def control_plane(state: Path, *, api_server_args: Sequence[str] = ()) -> Iterator[ControlPlane]:
    """Have an API server for a while.

    :param state: an empty folder for its keys, its data and its logs.
    :param api_server_args: further arguments of kube-apiserver.
    """
    version = parts.kuberay_version()
    missing = [name for name, make in programs(version).items() if not make().built()]
    need(f"the API server's programs (missing: {', '.join(missing)})", present=not missing, how=BUILD_HOW)
    need("setpriv", how="Install util-linux.")
    need("openssl", how="Install openssl.")
    plane = ControlPlane(state, version)
    try:
        plane.up(api_server_args)
        yield plane
    finally:
        plane.down()


def _debian_program(root: Path, program: str) -> list[str | Path]:
    """Give the command of a program in a Debian tree, run with that tree's own C library."""
    loader = next(iter(sorted((root / "usr").glob("lib*/ld-linux*.so.*"))), None)
    libraries = ":".join(str(path) for path in sorted((root / "usr/lib").glob("*-linux-gnu*")))
    return [*([loader, "--library-path", libraries] if loader else []), root / program]
