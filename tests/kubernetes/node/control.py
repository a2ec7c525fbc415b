"""Nodes from the outside: start one, speak with it, end it, and clear away what a killed one left."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.kubernetes.node import parts
from tests.kubernetes.node.cache import cache_root, remove_tree
from tests.kubernetes.node.cgroups import groups_named, processes_in, remove_cgroups
from tests.kubernetes.node.supervisor import HERE, NodeError, start_time_of

PREFIX = "airflow-ray-node-"
_REPOSITORY = HERE.parents[2]
_OVERLAYFS = "overlay"
_started: dict[str, subprocess.Popen[str]] = {}  # by this process: to be waited for


def nodes_folder() -> Path:
    return cache_root() / "nodes"


@dataclass(frozen=True)
class NodeHandle:
    """A running node."""

    state: Path

    @property
    def name(self) -> str:
        return self.state.name

    @property
    def kubeconfig(self) -> Path:
        """The administrator's, for clients in the network that the node was started from."""
        return self.state / "admin.kubeconfig"

    @property
    def inner_kubeconfig(self) -> Path:
        """The administrator's, for clients in the node's network."""
        return self.state / "pki/admin.kubeconfig"

    def ask(self, do: str, *, timeout: float = 90, **arguments: Any) -> dict[str, Any]:
        """Ask the node's supervisor for something.

        :raises NodeError: if it can't, or if the node is gone.
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout)
            try:
                sock.connect(str(self.state / "control.sock"))
                sock.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
                line = sock.makefile().readline()
            except (FileNotFoundError, ConnectionError) as error:
                raise NodeError(f"node {self.name} is gone: {error}") from error
        reply = json.loads(line or '{"ok": false, "error": "no answer: the node is ending"}')
        if not reply.pop("ok"):
            raise NodeError(reply["error"])
        return dict(reply)

    def down(self) -> None:
        """End the node and wait until nothing of it is left."""
        with contextlib.suppress(NodeError):
            self.ask("down")
        deadline = time.monotonic() + 30
        while self.state.exists():
            if _reap(self.state):
                break
            if time.monotonic() > deadline:
                raise NodeError(f"node {self.name} does not end; its folder is {self.state}")
            time.sleep(0.02)
        if started := _started.pop(self.name, None):
            started.wait()

    def visit(self, *command: str | Path) -> list[str]:
        """Return the command that runs ``command`` on this machine's files but in the node's network, with its DNS."""
        return [str(HERE / "visit.sh"), str(self.state), *map(str, command)]

    def enter(self, *command: str | Path) -> list[str]:
        """Return the command that runs ``command`` inside the node."""
        return [str(HERE / "enter.sh"), str(self.state), *map(str, command)]

    def spec(self) -> dict[str, Any]:
        return dict(json.loads((self.state / "spec.json").read_text()))

    def owned(self) -> bool:
        """Whether the node belongs to a process, with which it ends."""
        return bool(self.spec()["owner_pid"])

    def network_of_supervisor(self) -> str:
        """Name the network namespace from which the node was started, as the kernel does."""
        return os.readlink(f"/proc/{self.supervisor_pid()}/ns/net")

    def init_pid(self) -> int:
        return int((self.state / "init.pid").read_text())

    def supervisor_pid(self) -> int:
        return int((self.state / "supervisor.pid").read_text())


def new_name() -> str:
    """Return a name that no other node has."""
    return f"{PREFIX}{secrets.token_hex(4)}"


def up(
    *,
    operator: str = "chart",
    api_server_args: Sequence[str] = (),
    owner: int | None = None,
    api_port: int = 0,
    version: str | None = None,
    name: str | None = None,
    progress: Callable[[str], None] = print,
) -> NodeHandle:
    """Start a node and wait until it can be used.

    :param operator: ``chart`` for KubeRay's operator as a Helm release in ``kuberay-system``; ``none``.
    :param owner: the process with whose end the node ends; none means that it stays until it is ended.
    :param name: of the node, as :func:`new_name` gives it; unless given, a new one.
    :raises NodeError: with the part that failed and its last words.
    """
    if os.geteuid() != 0:
        raise NodeError("the test node needs root (namespaces, mounts, cgroups)")
    reap_stale()
    version = version or parts.kuberay_version()
    kubernetes = parts.kubernetes().ensure()
    state = nodes_folder() / (name or new_name())
    state.mkdir(parents=True, mode=0o700)
    _refuse_overlay(state)
    binaries = state / "bin"
    binaries.mkdir()
    for program in parts.KUBERNETES_PROGRAMS:
        (binaries / program).symlink_to(kubernetes / "k8snode")
    spec = {
        "name": state.name,
        "owner_pid": owner,
        "owner_start": start_time_of(owner) if owner else None,
        "api_port": api_port,
        "api_server_args": list(api_server_args),
        "operator": operator,
        "parts": str(cache_root() / "parts"),
        "node_root": str(parts.node_root().ensure() / "root"),
        "image_store": str(parts.image_store().ensure() / "containerd"),
        "operator_chart": str(parts.operator_chart(version).ensure() / "kuberay-operator"),
        "operator_image": parts.operator_image(version),
        "operator_image_archive": str(parts.operator_image_archive(version).ensure() / "image.tar"),
        "kuberay_version": version,
        "programs": {
            **{program: str(binaries / program) for program in parts.KUBERNETES_PROGRAMS},
            "coredns": str(parts.coredns().ensure() / "coredns"),
            "kubectl": str(parts.tool("helm4").ensure() / "kubectl"),
            "helm3": str(parts.tool("helm3").ensure() / "helm"),
        },
    }
    (state / "spec.json").write_text(json.dumps(spec, indent=1))
    # The lock is held by the supervisor alone, from before anybody could take the folder for a dead node's.
    with (state / "lock.new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (state / "lock.new").rename(state / "lock")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.kubernetes.node.supervisor", state],
            cwd=_REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
    (state / "supervisor.pid").write_text(str(process.pid))
    _started[state.name] = process
    assert process.stdout is not None
    failed = _follow(process.stdout, progress)
    if failed:
        _started.pop(state.name).wait()
        raise NodeError(failed)
    return NodeHandle(state)


def _follow(output: IO[str], progress: Callable[[str], None]) -> str:
    said = []
    with output:
        for line in output:
            if line.startswith("READY"):
                return ""
            if line.startswith("FAILED"):
                return str(json.loads(line.removeprefix("FAILED")))
            said.append(line)
            progress(line.rstrip())
    return "the node's supervisor ended: " + "".join(said[-20:])


def _refuse_overlay(folder: Path) -> None:
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True).stdout.strip()
    if kind.startswith(_OVERLAYFS):
        remove_tree(folder)
        raise NodeError(
            f"{folder.parent} lies on overlayfs, a node can't: name a folder elsewhere in AIRFLOW_RAY_CACHE"
        )


def running() -> list[NodeHandle]:
    """Return the nodes that are up."""
    folders = sorted(nodes_folder().glob(f"{PREFIX}*")) if nodes_folder().is_dir() else []
    return [NodeHandle(folder) for folder in folders if _is_held(folder)]


def _is_held(folder: Path) -> bool:
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _reap(folder: Path) -> bool:
    """Clear a node's remains away, unless somebody holds it.

    :returns: whether there was a dead node.
    """
    try:
        lock = (folder / "lock").open()
    except FileNotFoundError:
        return False  # just being made, or just gone
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        _clear(folder.name)
        shutil.rmtree(folder, ignore_errors=True)
    return True


def _clear(name: str) -> None:
    for pid in processes_in(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    remove_cgroups(name)


def _age(folder: Path) -> float:
    """Return how many seconds ago a folder was changed: 0 if somebody has removed it since it was listed."""
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def reap_stale() -> list[str]:
    """End and remove nodes whose supervisor is gone.

    :returns: their names.
    """
    reaped = []
    folders = nodes_folder().glob(f"{PREFIX}*") if nodes_folder().is_dir() else []
    for folder in sorted(path for path in folders if not path.name.endswith(".broken")):
        if not (folder / "lock").exists():
            # Between mkdir and the lock; a killed start leaves it so for ever.
            if _age(folder) > 3600:
                remove_tree(folder)
            continue
        if _reap(folder):
            reaped.append(folder.name)
    for broken in sorted(nodes_folder().glob("*.broken")) if nodes_folder().is_dir() else []:
        if _age(broken) > 86400:
            remove_tree(broken)
    # Groups without a folder: somebody removed the cache under a dead node.
    for name in groups_named(PREFIX):
        if not (nodes_folder() / name).exists() and not processes_in(name):
            remove_cgroups(name)
            reaped.append(name)
    return reaped
