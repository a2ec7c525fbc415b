"""The process that holds one node up: starts its parts, serves the way in, and ends everything.

Run as ``python -m tests.kubernetes.node.supervisor STATE`` by :mod:`tests.kubernetes.node.control`, which has written
``STATE/spec.json`` and holds the lock that this process inherits. It ends the node when it is asked to, on a signal,
when the process that it works for is gone, and when a part of the control plane dies. Should it be killed itself, the
kernel ends the node with it (parent-death signals down to the node's process 1); files and cgroups that are left then
are removed at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.kubernetes.node.cgroups import make_cgroups, remove_cgroups
from tests.kubernetes.node.relay import NodeNetwork, forward_from_node, forward_to_node, serve_dial

HERE = Path(__file__).resolve().parent
NODE_IP = "10.0.0.1"
NODE_NAME = "k8snode"
_STOP_SECONDS = 2
_CONTROLLERS = ("kube-controller-manager", "kube-scheduler")


class NodeError(RuntimeError):
    """The node cannot come up or has broken; says which part and what it last said."""


class Supervisor:
    """One node, from its namespaces to the KubeRay operator."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.spec: dict[str, Any] = json.loads((state / "spec.json").read_text())
        self.bin = {name: Path(path) for name, path in self.spec["programs"].items()}
        self.began = time.monotonic()
        self.init: asyncio.subprocess.Process | None = None
        self.parts: dict[str, asyncio.subprocess.Process] = {}
        self.commands: dict[str, list[str]] = {}
        self.expected_to_end: set[str] = set()
        #: Controllers that are started again with the API server.
        self.paused: set[str] = set()
        self.servers: list[asyncio.Server] = []
        self.forwards: dict[tuple[str, int], int] = {}
        self.network: NodeNetwork | None = None
        self.api_port = 0
        self.ending = asyncio.Event()
        self.why = ""
        self.tasks: set[asyncio.Task[Any]] = set()

    def say(self, text: str) -> None:
        tell(f"{time.monotonic() - self.began:6.2f} s  {text}")

    def end(self, why: str) -> None:
        self.why = self.why or why
        self.ending.set()

    def background(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # Parts ------------------------------------------------------------------------------------------------------

    async def start(self, name: str, *command: str | Path) -> None:
        self.commands[name] = [str(word) for word in command]
        log = (self.state / "log" / f"{name}.log").open("ab")
        with log:
            process = await asyncio.create_subprocess_exec(
                HERE / "enter.sh", self.state, *command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.parts[name] = process
        self.expected_to_end.discard(name)
        self.background(self._watch(name, process))

    async def _watch(self, name: str, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        if name not in self.expected_to_end and not self.ending.is_set() and self.parts.get(name) is process:
            self.end(f"{name} ended with {code}:\n{self.log_tail(name)}")

    def log_tail(self, name: str, lines: int = 15) -> str:
        with contextlib.suppress(FileNotFoundError):
            return "\n".join((self.state / "log" / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
        return ""

    async def stop(self, name: str) -> None:
        """End a part and wait until it is gone; ``enter.sh``'s process has it as its only child."""
        process = self.parts.get(name)
        if process is None or process.returncode is not None:
            return
        self.expected_to_end.add(name)
        for signum in (signal.SIGTERM, signal.SIGKILL):
            for child in children_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signum)
            with contextlib.suppress(TimeoutError):
                # An API server with watchers would go on for a minute.
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
                return

    async def until(self, what: str, seconds: float, test: Callable[[], Awaitable[bool]], *, part: str = "") -> None:
        """Wait until ``test`` holds; a death of any part ends the wait at once."""
        deadline = time.monotonic() + seconds
        while not await test():
            if self.ending.is_set():
                raise NodeError(self.why)
            if time.monotonic() > deadline:
                said = f"\n{self.log_tail(part)}" if part else ""
                raise NodeError(f"after {seconds:.0f} s still no {what} (logs: {self.state}/log){said}")
            await asyncio.sleep(0.05)
        self.say(what)

    # Requests to the API server ---------------------------------------------------------------------------------

    def _request(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(self.state / "pki/ca.crt"))
        context.load_cert_chain(self.state / "pki/admin.crt", self.state / "pki/admin.key")
        request = urllib.request.Request(f"https://127.0.0.1:{self.api_port}{path}", body, method=method)
        request.add_header("Content-Type", "application/yaml")
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    async def request(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
        return await asyncio.to_thread(self._request, path, method, body)

    async def get(self, path: str) -> dict[str, Any]:
        status, body = await self.request(path)
        return dict(json.loads(body)) if status == 200 else {}

    async def run(self, *command: str | Path, inside: bool = False) -> str:
        """Run a program to its end: here with the administrator's kubeconfig, or in the node."""
        prefix = [HERE / "enter.sh", self.state] if inside else []
        env = {**os.environ, "KUBECONFIG": str(self.state / "admin.kubeconfig"), "HOME": str(self.state / "home")}
        code, said = await run_to_end(*prefix, *command, env=env)
        if code:
            raise NodeError(f"{' '.join(map(str, command))} ended with {code}: {said[-2000:]}")
        return said

    # Up ---------------------------------------------------------------------------------------------------------

    async def up(self) -> None:
        for name in ("upper", "work", "merged", "etcd", "kubelet", "pod-logs", "container-logs", "cni", "conf", "log"):
            (self.state / name).mkdir(exist_ok=True)
        (self.state / "home").mkdir()
        (self.state / "files").mkdir()
        (self.state / "resolv.conf").write_text(
            f"nameserver {NODE_IP}\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
        )
        shutil.copy(HERE / "config/10-bridge.conflist", self.state / "cni")
        for name in ("containerd.toml", "kubelet.yaml", "kube-proxy.yaml", "Corefile"):
            text = (HERE / "config" / name).read_text().replace("PKI", str(self.state / "pki"))
            (self.state / "conf" / name).write_text(text)
        groups = make_cgroups(self.spec["name"])
        (self.state / "cgroups").write_text("".join(f"{group}\n" for group in groups))
        async with asyncio.TaskGroup() as group:
            group.create_task(self.copy_image_store())
            group.create_task(self.run(HERE / "pki.sh", self.state / "pki"))
        await self.start_init()
        assert self.network is not None
        await self.start("etcd", *self.etcd_command())
        await self.start("containerd", "containerd", "--config", self.state / "conf/containerd.toml")
        server = await forward_to_node(self.network, "127.0.0.1", 6443, self.spec.get("api_port", 0))
        self.servers.append(server)
        self.api_port = server.sockets[0].getsockname()[1]
        admin = (self.state / "pki/admin.kubeconfig").read_text()
        (self.state / "admin.kubeconfig").touch(0o600)
        (self.state / "admin.kubeconfig").write_text(admin.replace("127.0.0.1:6443", f"127.0.0.1:{self.api_port}"))
        await self.start("kube-apiserver", *self.api_server_command(self.spec.get("api_server_args", [])))
        await self.until("API server ready", 90, self.api_ready, part="kube-apiserver")
        async with asyncio.TaskGroup() as group:
            group.create_task(self.start_kubernetes())
            if self.spec["operator"] == "chart":
                group.create_task(self.define_kuberay())
                group.create_task(self.import_operator_image())
        if self.spec["operator"] == "chart":
            await self.install_operator()
        await self.until("default service account", 30, self.service_account)

    async def copy_image_store(self) -> None:
        """Take the images over as hard links: what lies in a layer or a blob is never written, only the databases are."""
        source, target = Path(self.spec["image_store"]), self.state / "containerd"
        code, said = await run_to_end("cp", "-al", source, target)
        if code:
            raise NodeError(f"can't copy {source}: does {self.state} lie on the same file system? {said[-500:]}")
        for database in [*target.rglob("*.db")]:
            copied = database.with_suffix(".own")
            shutil.copy2(database, copied)
            copied.rename(database)
        self.say("images in place")

    async def start_init(self) -> None:
        with (self.state / "log/init.log").open("ab") as log:
            namespaces = ["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
            join_groups = 'for g in $(cat "$0/cgroups"); do echo $$ >"$g/cgroup.procs"; done; exec "$@"'
            self.init = await asyncio.create_subprocess_exec(
                *("bash", "-euc", join_groups, self.state, "setpriv", "--pdeathsig", "KILL", "unshare", *namespaces),
                *("bash", HERE / "init.sh", self.state, self.spec["node_root"], self.spec["parts"]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.background(self._watch_init(self.init))

        async def there() -> bool:
            return (self.state / "ready").exists()

        await self.until("node's file system and network", 20, there, part="init")
        pid = children_of(self.init.pid)[0]
        (self.state / "init.pid").write_text(str(pid))
        self.network = NodeNetwork(pid)
        self.servers.append(await serve_dial(self.state / "dial.sock", self.network))

    async def _watch_init(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        self.end(f"the node's process 1 ended with {code}:\n{self.log_tail('init')}")

    def etcd_command(self) -> list[str]:
        return [
            "/usr/bin/etcd",
            "--data-dir=/var/lib/etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--log-level=warn",
            "--unsafe-no-fsync",  # what a test node stores need not outlive it
        ]

    def api_server_command(self, further: list[str]) -> list[str | Path]:
        pki = self.state / "pki"
        return [
            self.bin["kube-apiserver"],
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={NODE_IP}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--client-ca-file={pki}/ca.crt",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--kubelet-certificate-authority={pki}/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-client-certificate={pki}/apiserver-to-kubelet.crt",
            f"--kubelet-client-key={pki}/apiserver-to-kubelet.key",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki}/sa.pub",
            f"--service-account-signing-key-file={pki}/sa.key",
            f"--requestheader-client-ca-file={pki}/ca.crt",  # the controllers ask for one
            "--requestheader-allowed-names=front-proxy",
            *further,
        ]

    async def restart_api_server(self, further: list[str]) -> None:
        """Restart it, and the controllers with it: those that find nobody there for 15 s look again 45 s later."""
        await self.stop_api_server()
        await self.start("kube-apiserver", *self.api_server_command(further))
        await self.until("API server ready again", 60, self.api_ready, part="kube-apiserver")
        for name in sorted(self.paused):
            await self.start(name, *self.commands[name])
        self.paused.clear()

    async def stop_api_server(self) -> None:
        """End it, and the controllers before it: one that is starting ends by itself when it finds nobody there."""
        running = [name for name in _CONTROLLERS if name in self.parts and self.parts[name].returncode is None]
        await asyncio.gather(*(self.stop(name) for name in running))
        self.paused.update(running)
        await self.stop("kube-apiserver")

    async def api_ready(self) -> bool:
        return (await self.request("/readyz"))[0] == 200

    async def start_kubernetes(self) -> None:
        pki = self.state / "pki"

        def as_itself(part: str) -> list[str]:
            config = f"{pki}/{part}.kubeconfig"
            return [
                f"--kubeconfig={config}",
                f"--authentication-kubeconfig={config}",
                f"--authorization-kubeconfig={config}",
                "--leader-elect=false",
            ]

        await self.start(
            "kube-controller-manager",
            self.bin["kube-controller-manager"],
            *as_itself("kube-controller-manager"),
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={pki}/sa.key",
            f"--root-ca-file={pki}/ca.crt",
            f"--cluster-signing-cert-file={pki}/ca.crt",
            f"--cluster-signing-key-file={pki}/ca.key",
            "--allocate-node-cidrs=true",
            "--cluster-cidr=10.244.0.0/16",
            "--service-cluster-ip-range=10.96.0.0/16",
        )
        await self.start(
            "kubelet",
            self.bin["kubelet"],
            f"--config={self.state}/conf/kubelet.yaml",
            f"--kubeconfig={pki}/kubelet.kubeconfig",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={NODE_IP}",
        )
        await self.start("kube-scheduler", self.bin["kube-scheduler"], *as_itself("kube-scheduler"))
        await self.start(
            "kube-proxy", self.bin["kube-proxy"], f"--config={self.state}/conf/kube-proxy.yaml",
            f"--hostname-override={NODE_NAME}",
        )  # fmt: skip
        await self.run(*(self.bin["kubectl"], "create", "--validate=false", "-f", HERE / "manifests/node-access.yaml"))
        await self.start("coredns", self.bin["coredns"], "-conf", self.state / "conf/Corefile")
        await self.until("node Ready", 90, self.node_ready, part="kubelet")
        await self.until("cluster DNS", 60, self.dns_answers, part="coredns")

    async def node_ready(self) -> bool:
        node = await self.get(f"/api/v1/nodes/{NODE_NAME}")
        conditions = node.get("status", {}).get("conditions") or []
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    async def dns_answers(self) -> bool:
        try:
            await self.run("getent", "hosts", "kubernetes.default.svc.cluster.local", inside=True)
        except NodeError:
            return False
        return True

    async def service_account(self) -> bool:
        return bool(await self.get("/api/v1/namespaces/default/serviceaccounts/default"))

    # KubeRay ----------------------------------------------------------------------------------------------------

    async def define_kuberay(self) -> None:
        files = sorted((Path(self.spec["operator_chart"]) / "crds").glob("*.yaml"))
        where = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

        async def define(file: Path) -> None:
            status, body = await self.request(where, "POST", file.read_bytes())
            if status != 201:
                raise NodeError(f"{file.name} refused with {status}: {body.decode(errors='replace')[:500]}")

        async with asyncio.TaskGroup() as group:
            for file in files:
                group.create_task(define(file))

        async def established() -> bool:
            items = (await self.get(where)).get("items", [])
            return len(items) >= len(files) and all(
                any(
                    c["type"] == "Established" and c["status"] == "True"
                    for c in item.get("status", {}).get("conditions") or []
                )
                for item in items
            )

        await self.until("KubeRay's definitions", 60, established)

    async def import_operator_image(self) -> None:
        async def runtime_answers() -> bool:
            try:
                await self.run("ctr", "version", inside=True)
            except NodeError:
                return False
            return True

        await self.until("container runtime", 30, runtime_answers, part="containerd")
        archive, name = self.spec["operator_image_archive"], self.spec["operator_image"]
        await self.run("ctr", "-n", "k8s.io", "images", "import", "--local", archive, inside=True)
        await self.run(
            *("ctr", "-n", "k8s.io", "images", "label", name, "io.cri-containerd.pinned=pinned"), inside=True
        )

    async def install_operator(self) -> None:
        await self.run(
            *(self.bin["helm3"], "install", "kuberay-operator", self.spec["operator_chart"], "--skip-crds"),
            *("--namespace", "kuberay-system", "--create-namespace"),
        )

        async def available() -> bool:
            name = "/apis/apps/v1/namespaces/kuberay-system/deployments/kuberay-operator"
            return bool((await self.get(name)).get("status", {}).get("availableReplicas"))

        await self.until("KubeRay operator", 90, available)

    # What is asked of it while it runs ---------------------------------------------------------------------------

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = json.loads(await reader.readline())
            try:
                reply = {"ok": True, **(await self.do(**asked) or {})}
            except (NodeError, OSError, KeyError, TypeError) as error:
                reply = {"ok": False, "error": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError):
            pass  # who asked has gone
        finally:
            writer.close()

    async def do(self, do: str, **arguments: Any) -> dict[str, Any] | None:
        assert self.network is not None
        if do == "status":
            alive = {name: process.returncode is None for name, process in self.parts.items()}
            return {"parts": alive, "api_port": self.api_port, "name": self.spec["name"]}
        if do == "down":
            self.end("asked to end")
        elif do == "stop":
            stop = self.stop_api_server() if arguments["part"] == "kube-apiserver" else self.stop(arguments["part"])
            await stop
        elif do == "start":
            part = arguments["part"]
            if part in self.parts and self.parts[part].returncode is None:
                raise NodeError(f"{part} runs already")
            await self.start(part, *self.commands[part])
        elif do == "api-server":
            await self.restart_api_server(arguments["args"])
        elif do == "forward":
            to = (arguments["host"], int(arguments["port"]))
            if to not in self.forwards:
                server = await forward_to_node(self.network, *to)
                self.servers.append(server)
                self.forwards[to] = server.sockets[0].getsockname()[1]
            return {"port": self.forwards[to]}
        elif do == "expose":
            server, port = await forward_from_node(self.network, NODE_IP, int(arguments["port"]))
            self.servers.append(server)
            return {"host": NODE_IP, "port": port}
        else:
            raise NodeError(f"unknown request {do!r}")
        return None

    # Down -------------------------------------------------------------------------------------------------------

    def watch_owner(self) -> None:
        """End the node with the process that asked for it."""
        pid, start_time = self.spec.get("owner_pid"), self.spec.get("owner_start")
        if not pid:
            return
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            self.end("the owner is gone")
            return
        if start_time_of(pid) != start_time or select.select([handle], [], [], 0)[0]:
            self.end("the owner is gone")
            return
        asyncio.get_running_loop().add_reader(handle, self._owner_gone, handle)

    def _owner_gone(self, handle: int) -> None:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)
        self.end("the owner is gone")

    async def down(self) -> None:
        self.ending.set()
        for server in self.servers:
            server.close()
        if self.init is not None:
            for pid in children_of(self.init.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # process 1: the kernel ends all others of its namespace with it
            await self.init.wait()
        await asyncio.gather(*(process.wait() for process in self.parts.values()))
        for task in list(self.tasks):
            task.cancel()
        await asyncio.to_thread(remove_cgroups, self.spec["name"])


async def run_to_end(*command: str | Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a program: its exit code, and what it said. It ends with whoever waits for it: it may write to the folder."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return int(process.returncode or 0), said.decode()


def children_of(pid: int) -> list[int]:
    """Return a process's children."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def start_time_of(pid: int) -> int:
    """Return when a process started, in clock ticks since boot: with the id it names one process for good."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    except FileNotFoundError:
        return 0


async def main(state: Path) -> int:
    supervisor = Supervisor(state)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(signum, supervisor.end, f"got {signum.name}")
    supervisor.watch_owner()
    control = await asyncio.start_unix_server(supervisor.answer, state / "control.sock")
    supervisor.servers.append(control)
    failure = ""
    try:
        raising = asyncio.ensure_future(supervisor.up())
        ending = asyncio.ensure_future(supervisor.ending.wait())
        await asyncio.wait({raising, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not raising.done():
            raising.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await raising
            raise NodeError(supervisor.why)
        await raising
        print(f"READY {supervisor.api_port}", flush=True)
        # From here on nobody reads what is printed: it goes to the log.
        log = os.open(state / "log/supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        await supervisor.ending.wait()
    except (NodeError, OSError, ExceptionGroup) as error:
        causes = error.exceptions if isinstance(error, ExceptionGroup) else [error]
        failure = "; ".join(str(cause) for cause in causes) or repr(error)
    finally:
        supervisor.say(f"ending: {supervisor.why}")
        await supervisor.down()
        keep = state.with_suffix(".broken")
        if failure or (supervisor.why and "ended with" in supervisor.why):
            keep_logs(state, keep)
        await asyncio.to_thread(shutil.rmtree, state)
    if failure:
        tell(f"FAILED {json.dumps(failure)}")  # the last word: nothing is left when it is read
    return 1 if failure else 0


def tell(line: str) -> None:
    """Print to whoever started the node; if they are gone, the node is cleared away all the same."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


def keep_logs(state: Path, target: Path) -> None:
    """Keep the logs of a node that broke: what is left of it for whoever looks for the cause."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    (state / "log").rename(target / "log")


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]))))
