"""A real Ray head for tests: its own ports, folder and process group, on loopback; nothing of it stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil

from ray_provider.clusters.local.head import free_ports, has_started
from ray_provider.clusters.local.processes import is_alive
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.testing.parent import dying_with_parent

_START_SECONDS = 240
#: How often a head that ends while it starts is started.
_STARTS = 4
#: While it starts, before other work: a raylet gives its agents 15 s to come up, and ends else. Nothing changes that.
#: Afterwards somewhat: ten processes are one session, and a job's start is the work of four of them.
_FIRST, _GOING = -10, -5
_STOP_SECONDS = 5


def start_patiently(what: str, start: Callable[[], None]) -> None:
    """Start a Ray, once more if it ended while it started.

    A raylet gives its agents 15 s, and Ray gives a raylet 30 s, which is not to be changed; two busy cores may need more.
    """
    for attempt in range(_STARTS):
        try:
            start()
        except RuntimeError as error:
            print(f"{what}, start {attempt + 1} of {_STARTS}: {error}", flush=True)
            if attempt + 1 == _STARTS:
                raise
        else:
            return


class RayHead:
    """``ray start --head --block``, as a context manager.

    :param token: turn token authentication on, with this token.
    :param num_cpus: what the head offers.
    :param env: more environment variables for Ray.
    :param dashboard_port: keep a port over a restart.
    :param python: that of an environment with another Ray; entry points get it too.
    :param options: more options of ``ray start``.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        num_cpus: int = 4,
        env: dict[str, str] | None = None,
        dashboard_port: int | None = None,
        python: Path | None = None,
        options: dict[str, object] | None = None,
    ) -> None:
        self.token = token
        self.extra_options = options or {}
        self.python = python or Path(sys.executable)
        self.num_cpus = num_cpus
        self.extra_env = env or {}
        first, self._autoscaler_metrics, self._dashboard_metrics, *self._ports = free_ports(11)
        self.port = dashboard_port or first
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._started: list[psutil.Process] = []
        self.folder = Path("/nonexistent")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def endpoint(self) -> RayEndpoint:
        return RayEndpoint(url=self.url, token=self.token)

    @property
    def gcs_address(self) -> str:
        """What further nodes join."""
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        start_patiently("Ray head", self._start)

    def _start(self) -> None:
        # Ray makes Unix sockets in it, whose paths may have 107 characters.
        self._killed = False
        self.folder = Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp"))
        gcs, agent_http, agent_grpc, metrics, node_manager, object_manager, client, runtime_env = self._ports
        options = {
            "port": gcs,
            "node-ip-address": "127.0.0.1",
            "dashboard-host": "127.0.0.1",
            "dashboard-port": self.port,
            "dashboard-agent-listen-port": agent_http,
            "dashboard-agent-grpc-port": agent_grpc,
            "metrics-export-port": metrics,
            "node-manager-port": node_manager,
            "object-manager-port": object_manager,
            "ray-client-server-port": client,
            "runtime-env-agent-port": runtime_env,
            "min-worker-port": 0,
            "max-worker-port": 0,
            "num-cpus": self.num_cpus,
            "num-gpus": 0,
            "object-store-memory": 100_000_000,
            "temp-dir": self.folder,
            "include-dashboard": "true",
            **self.extra_options,
        }
        environment = self.environment()
        command = [
            str(self.python),
            "-m",
            "ray.scripts.scripts",
            "start",
            "--head",
            "--block",
            "--disable-usage-stats",
        ]
        command += [f"--{name}={value}" for name, value in options.items()]
        self._log = (self.folder / "start.log").open("wb")
        self._process = subprocess.Popen(
            dying_with_parent(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            start_new_session=True,
        )
        try:
            self._set_nice(_FIRST)
            self._wait_until_ready()
            self._set_nice(_GOING)
        except BaseException:
            self._killed = True  # why it ended is told already
            self.stop()
            raise

    def _set_nice(self, nice: int) -> None:
        """Set the nice value of Ray's session, where we may (root, on Linux with autogroups).

        There the CPUs are shared by session first: a process's own nice value counts within its session only.
        """
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.pid}/autogroup").write_text(str(nice), encoding="ascii")

    def environment(self) -> dict[str, str]:
        """Of Ray's processes, those of further nodes too."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and "proxy" not in k.lower()}
        environment |= {
            "RAY_USAGE_STATS_ENABLED": "0",
            # Makes Ray take 127.0.0.1 for what it is: else it binds every interface.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # Fixed ports otherwise: the second Ray on a machine would not get them, and end.
            "AUTOSCALER_METRIC_PORT": str(self._autoscaler_metrics),
            "DASHBOARD_METRIC_PORT": str(self._dashboard_metrics),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # On a machine that is busier than it can bear, slow is not dead.
            "RAY_health_check_timeout_ms": "60000",
            "RAY_health_check_failure_threshold": "10",
            # On a busy machine the dashboard takes its time.
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
            # Else the first job of each head makes workers for all of its CPUs, which nobody asks for.
            "RAY_prestart_worker_first_driver": "0",
            # Figures of the node that nobody looks at, every 2.5 and 5 s otherwise.
            "REPORTER_UPDATE_INTERVAL_MS": "60000",
            "METRICS_RECORD_INTERVAL_S": "60",
            "RAY_AUTH_MODE": "token" if self.token else "disabled",
            # Entry points say "python": that of the tests.
            "PATH": f"{self.python.parent}{os.pathsep}{environment.get('PATH', '')}",
            "HOME": str(self.folder),
        }
        if self.token:
            environment["RAY_AUTH_TOKEN"] = self.token
        return environment | self.extra_env

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"ray start ended with {self._process.returncode}:\n{self.output()}")
            with contextlib.suppress(urllib.error.URLError, OSError, ValueError):
                if self._get("/api/version") and self._agent_is_up() and has_started(self.folder / "start.log"):
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(f"ray start did not answer in {_START_SECONDS} s:\n{self.output()}")
            time.sleep(0.1)

    def _agent_is_up(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", self._ports[1])) == 0

    def _get(self, path: str) -> dict:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.url + path, headers=headers), timeout=3) as answer:
            return json.load(answer)

    def jobs(self) -> list[dict]:
        """All jobs that were submitted, as Ray tells of them."""
        return [job for job in self._get("/api/jobs/") if job.get("submission_id")]

    def job(self, submission_id: str) -> dict:
        return self._get(f"/api/jobs/{submission_id}")

    def nodes(self) -> list[dict]:
        """All nodes of the head's life, dead ones too."""
        return self._get("/api/v0/nodes?detail=1")["data"]["result"]["result"]

    def output(self) -> str:
        """What ``ray start`` printed, and the last lines of those that end with it."""
        parts = [(self.folder / "start.log").read_text(errors="replace")[-3000:]]
        for name in ("raylet.out", "raylet.err", "gcs_server.out", "dashboard_agent.log", "dashboard.log"):
            for path in self.folder.glob(f"session_latest/logs/{name}"):
                lines = path.read_text(errors="replace").splitlines()
                # Not the addresses of a crash's stack: what was said before them.
                told = [line for line in lines if line.strip() and "(+0x" not in line and "Event stats" not in line]
                parts.append(f"--- {name}:\n" + "\n".join(line[:300] for line in told[-25:]))
        return "\n".join(parts)

    def processes(self) -> list[psutil.Process]:
        """All that belongs to this head: remembered, since orphans can't be found by their parent any more."""
        if self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(self._process.pid)
                self._started = list({*self._started, root, *root.children(recursive=True)})
        return [each for each in self._started if is_alive(each)]

    def kill(self) -> None:
        """End it as a crash would: SIGKILL to everything at once."""
        self._killed = True
        for each in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self._process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """End exactly this head: SIGTERM to ``ray start``, then SIGKILL to what is left of it."""
        if self._process is None:
            return
        mine = self.processes()
        ended = self._process.poll()
        told = "" if ended is None or self._killed else f"ended by itself with {ended}:\n{self.output()}"
        if ended is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        _, alive = psutil.wait_procs(mine, timeout=5)
        for each in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        _, left = psutil.wait_procs(alive, timeout=10)
        self._process.wait()
        self._process = None
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not left, f"left of the Ray head: {left}"
        assert not told, f"the Ray head {told}"
