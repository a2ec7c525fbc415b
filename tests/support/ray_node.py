"""A further node of a test's Ray head, on the same machine: ``ray start --address``, in a process group of its own."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

import psutil

from ray_provider.clusters.local.head import free_ports
from ray_provider.clusters.local.processes import is_alive
from ray_provider.testing.parent import dying_with_parent
from tests.support.ray_head import RayHead, start_patiently

_START_SECONDS = 120
#: As in a container: what lies at the root of the hierarchy is the group that the processes are in.
_IN_GROUP = 'echo $$ > "$0/cgroup.procs" && mount --bind "$0" "$1" && shift && exec "$@"'
#: Seconds for ``ray start`` to end by itself when it is told to, its drain not counted.
_STOP_SECONDS = 20


class RayNode:
    """``ray start --address=… --block``, as a context manager.

    :param head: a head that runs.
    :param name: of the custom resource that only this node has, 10 of it: jobs and tasks are placed here by it.
    :param env: more environment variables for this node's Ray.
    :param group: a memory group, in which the node runs: Ray takes its limit for that of the machine.
    """

    def __init__(
        self, head: RayHead, name: str, *, env: dict[str, str] | None = None, group: Path | None = None
    ) -> None:
        self.head = head
        self.group = group
        self.name = name
        self.extra_env = env or {}
        self._log = head.folder / f"node-{name}.log"
        self._started: list[psutil.Process] = []

    def __enter__(self) -> Self:
        start_patiently("Ray node", self._start)
        return self

    def _start(self) -> None:
        agent_http, agent_grpc, metrics, node_manager, object_manager, runtime_env = free_ports(6)
        options = {
            "address": self.head.gcs_address,
            "node-ip-address": "127.0.0.1",
            "dashboard-agent-listen-port": agent_http,
            "dashboard-agent-grpc-port": agent_grpc,
            "metrics-export-port": metrics,
            "node-manager-port": node_manager,
            "object-manager-port": object_manager,
            "runtime-env-agent-port": runtime_env,
            "min-worker-port": 0,
            "max-worker-port": 0,
            "num-cpus": 4,
            "num-gpus": 0,
            "object-store-memory": 100_000_000,
            "resources": json.dumps({self.name: 10}),
        }
        command = [str(self.head.python), "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        command += [f"--{name}={value}" for name, value in options.items()]
        if self.group:
            # cgroup v1 has a hierarchy for memory, v2 one for all.
            root = self.group.parent
            command = ["unshare", "--mount", "sh", "-c", _IN_GROUP, str(self.group), str(root), *command]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                dying_with_parent(command),
                # A head that takes 127.0.0.1 for what it is lets no node in otherwise.
                env=self.head.environment() | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"} | self.extra_env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.head.folder,
                start_new_session=True,
            )
        try:
            self._wait_until_there()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _wait_until_there(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not any(self.name in node["resources_total"] for node in self.head.nodes() if node["state"] == "ALIVE"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"node {self.name} did not come:\n{self._log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)

    def _processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            self._started = list({*self._started, root, *root.children(recursive=True)})
        return [each for each in self._started if is_alive(each)]

    def stop(self) -> None:
        """End it as a platform does that takes a machine back: SIGTERM to ``ray start``, which drains the node."""
        self._processes()
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a machine that fails: everything at once, so that none of it sees another one end."""
        mine = self._processes()
        for end in (psutil.Process.suspend, psutil.Process.kill):
            for each in mine:
                with contextlib.suppress(psutil.NoSuchProcess):
                    end(each)
        self._process.wait()
        _, left = psutil.wait_procs(self._started, timeout=_STOP_SECONDS)
        assert not left, f"left of node {self.name}: {left}"
