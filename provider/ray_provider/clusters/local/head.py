"""A Ray head on this machine: its command line, its environment, and its end."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from ray_provider._shared.child_environment import inherited
from ray_provider.clusters.local.processes import (
    ProcessIdentity,
    describe,
    family,
    last_lines,
    signal_all,
    wait_gone,
)
from ray_provider.clusters.local.state import LocalPaths, LocalRecord
from ray_provider.exceptions import ClusterError, ConfigurationError

#: All processes of a local Ray, its jobs' included, carry the cluster's folder in this variable.
MARK = "AIRFLOW_RAY_LOCAL_CLUSTER"
HOST = "127.0.0.1"
#: That may be chosen for a head: above those that Ray itself takes for workers (10002 to 19999).
_PORTS = range(20000, 65536)

#: The first Ray with token authentication.
_OLDEST_RAY = (2, 52)
#: Not for Ray's processes, which run users' code, beside Airflow's: what would lead to another Ray.
_NOT_PASSED_ON = ("RAY_JOB_", "RAY_PROVIDER_")
_NOT_PASSED_ON_EITHER = frozenset({"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_NAMESPACE", "RAY_RUNTIME_ENV_HOOK"})
#: Heads that this process started. One that has ended has to be waited for by its parent, or it stays a zombie.
_started_here: dict[int, subprocess.Popen[bytes]] = {}


def installed_ray() -> str:
    """Give the version of the Ray that is installed beside us, without importing it.

    :raises ConfigurationError: none is, or one that has no token authentication.
    """
    try:
        found = version("ray")
    except PackageNotFoundError:
        raise ConfigurationError(
            "backend: local needs Ray in the environment that runs the task; it is not installed there.",
            hint="pip install 'airflow-ray[ray]', or use a Ray cluster elsewhere.",
            field="backend",
        ) from None
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if numbers < _OLDEST_RAY:
        raise ConfigurationError(
            f"backend: local needs Ray 2.52 or newer (for its token authentication); {found} is installed.",
            hint="pip install --upgrade 'airflow-ray[ray]'",
            field="backend",
        )
    return found


def free_ports(count: int) -> list[int]:
    """Give ports that nobody listens on now. They can be taken until Ray does: then the start is tried again.

    They lie outside the range that the kernel gives ports from to whoever asks for any: so no connection and no worker
    of another Ray takes them meanwhile, nor while a head that keeps its ports is started again.

    :param count: how many; all are different.
    :raises OSError: no port is free at all.
    """
    given = _given_by_the_kernel()
    asked_for = [port for port in _PORTS if port not in given]
    candidates = iter(random.sample(asked_for if len(asked_for) > 100 * count else _PORTS, 100 * count))
    with ExitStack() as listeners:
        found: list[int] = []
        while len(found) < count:
            listener = listeners.enter_context(socket.socket())
            port = next(candidates, 0)
            try:
                listener.bind((HOST, port))
            except OSError:
                if not port:
                    raise
            else:
                found.append(listener.getsockname()[1])
        return found


def _given_by_the_kernel() -> range:
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    except OSError:  # not Linux
        return range(0)
    return range(int(first), int(last) + 1)


def spawn(
    paths: LocalPaths, *, options: Mapping[str, Any], dashboard_port: int | None, env: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], str]:
    """Start the head in a session of its own, and give its process and the dashboard's URL.

    It outlives us. The lock must be held, and the record must lie in the folder already.

    :param paths: of the cluster: its token, its log, Ray's folder.
    :param options: more of ``ray start``'s: ``{"num-cpus": 2}``.
    :param dashboard_port: unless given, a free one.
    :param env: additions to its environment, which its jobs inherit.
    """
    names = (
        "port",
        "node-manager-port",
        "object-manager-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
        "metrics-export-port",
        "ray-client-server-port",
    )
    *ports, free, dashboard_metrics = free_ports(len(names) + 2)
    dashboard = dashboard_port or free
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    # The monitor is the autoscaler's: there is one machine, and it is busy enough while Ray starts.
    command += ["--no-monitor"]
    # By default Ray goes on without a dashboard when that can't start (its port is taken, ray[default] is missing).
    command += ["--include-dashboard=true"]
    command += [f"--node-ip-address={HOST}", f"--dashboard-host={HOST}", f"--dashboard-port={dashboard}"]
    command += [f"--temp-dir={paths.ray_folder}"]
    command += [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    command += [f"--{name}={value}" for name, value in options.items() if value is not None]
    environment = {
        **_inherited(),
        **env,
        MARK: str(paths.folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(paths.token),
        # Makes Ray take 127.0.0.1 for what it is: else it looks for the machine's outward address, and all of its
        # servers listen on every interface. (The name is from the systems where that is Ray's default.)
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # A fixed port otherwise: the second Ray on a machine would fail to get it.
        "DASHBOARD_METRIC_PORT": str(dashboard_metrics),
        # When we end it nobody waits for its running tasks.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "PYTHONUNBUFFERED": "1",
    }
    with paths.log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=paths.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started_here[process.pid] = process
    return process, f"http://{HOST}:{dashboard}"


def _inherited() -> dict[str, str]:
    kept = {
        key: value
        for key, value in inherited().items()
        if not key.startswith(_NOT_PASSED_ON) and key not in _NOT_PASSED_ON_EITHER
    }
    # "python job.py" in an entrypoint means the Python that Ray runs on.
    folder = str(Path(sys.executable).parent)
    kept["PATH"] = os.pathsep.join([folder, kept.get("PATH", os.defpath)])
    return kept


def find_head(record: LocalRecord | None) -> psutil.Process | None:
    """Give the head's process if it is the one of the record and runs.

    :param record: what is known of the cluster; ``None``: nothing.
    :return: ``None``: it has ended, or another process has its pid now.
    """
    if record is None or record.pid is None or record.started is None:
        return None
    return ProcessIdentity(record.pid, record.started).find()


def find_all(paths: LocalPaths, record: LocalRecord | None) -> list[psutil.Process]:
    """Give all processes of the cluster, also where the head has died or a record of it was never finished.

    :param paths: its folder stands in the environment of all that the head started.
    :param record: tells the head's session; ``None``: nothing is known of it.
    """
    leaders = []
    if record is not None and record.pid is not None and record.started is not None:
        leaders.append(ProcessIdentity(record.pid, record.started))
    return family(MARK, str(paths.folder), leaders)


def end_all(paths: LocalPaths, record: LocalRecord | None, *, grace: float) -> list[str]:
    """End the cluster's processes, whatever state they are in, and say which they were.

    Only what is proven to be of this cluster: see :func:`find_all`. Blocks; is safe to repeat.

    :param paths: of the cluster.
    :param record: what is known of it; ``None``: nothing.
    :param grace: how many seconds the head has to end the others by itself.
    :raises ClusterError: some are still there.
    """
    found = find_all(paths, record)
    names = [describe(process) for process in found]
    head = find_head(record)
    if head is not None and grace > 0:
        signal_all([head], signal.SIGTERM)
        wait_gone(found, grace)
    remaining = found
    for _ in range(5):  # more than once: what we end may just have started something
        remaining = find_all(paths, record)
        if not remaining:
            break
        signal_all(remaining, signal.SIGKILL)
        wait_gone(remaining, 5)
    else:
        remaining = find_all(paths, record)
    if remaining:
        raise ClusterError(
            f"Processes of the local Ray {paths.name!r} don't end: {', '.join(map(describe, remaining))}.",
            hint="See what they wait for (a disk that does not answer?) and delete the cluster again.",
            name=paths.name,
        )
    for pid in [pid for pid, process in _started_here.items() if process.poll() is not None]:
        del _started_here[pid]
    return names


def may_work_next_time(text: str, *, port_is_fixed: bool) -> bool:
    """Whether Ray's last lines tell of what another start can do without: a port taken meanwhile, a busy machine.

    Ray gives its own processes 30 s, and no setting changes that.

    :param text: of the error; what :func:`why_it_failed` gave is in it.
    :param port_is_fixed: somebody asked for the dashboard's port: then one that is taken stays so.
    """
    text = text.lower()
    port_taken = "address already in use" in text or "already occupied" in text
    return "timed out during startup" in text or (port_taken and not port_is_fixed)


def has_started(log: Path) -> bool:
    """Whether ``ray start`` has said that the head runs (Ray 2.9 to 2.60).

    :param log: what it printed.
    """
    try:
        return "Ray runtime started." in log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False


def why_it_failed(paths: LocalPaths) -> str:
    """Give the last things that Ray wrote: the head, and the parts of it that end a start when they fail.

    :param paths: of the cluster; what is not there is passed over.
    """
    parts = [("ray start", last_lines(paths.log, 20))]
    logs = paths.ray_folder / "session_latest" / "logs"
    for name in ("gcs_server.err", "raylet.err", "dashboard.err", "dashboard.log"):
        # Not the addresses of a crash's stack: what was said before them.
        told = [line for line in last_lines(logs / name, 60).splitlines() if line.strip() and " [0x" not in line]
        parts.append((name, "\n".join(told[-5:])))
    return "\n".join(f"--- {name}:\n{text}" for name, text in parts if text) or "It has written nothing."
