"""The components of a stack as processes: how each is started, and how all are found again."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
from dataclasses import asdict
from pathlib import Path

import psutil

from ray_provider.clusters.local.processes import (
    ProcessIdentity,
    descendants,
    describe,
    family,
    signal_all,
    wait_gone,
)

log = logging.getLogger(__name__)

#: Every process of a stack carries the stack's home in this variable: so none can get lost.
MARK = "RAY_PROVIDER_STACK_HOME"

#: What Airflow calls the processes of each.
JOB_TYPES = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}

#: In the home: the components that were started, one a line.
_PROCESSES = "processes.jsonl"


def kind_of(name: str) -> str:
    """Give what a component is, by its name: there may be several triggerers.

    :param name: as the stack calls it: ``triggerer-2`` …
    """
    return "triggerer" if name.startswith("triggerer") else name


def triggerer_name(number: int) -> str:
    """Give the name of a triggerer.

    :param number: from 1.
    """
    return "triggerer" if number == 1 else f"triggerer-{number}"


def command(name: str, host: str, port: int) -> list[str]:
    """Give the arguments of ``airflow`` that start a component.

    :param name: the component's.
    :param host: where the API server listens.
    :param port: its port.
    """
    return {
        "api-server": ["api-server", "--host", host, "--port", str(port), "--workers", "1"],
        "scheduler": ["scheduler", "--skip-serve-logs"],
        "dag-processor": ["dag-processor"],
        "triggerer": ["triggerer", "--skip-serve-logs"],
    }[kind_of(name)]


def record(home: Path, pid: int) -> None:
    """Write down that a component was started, for a stack that comes after one that is killed.

    :param home: the stack's.
    :param pid: of the component's first process.
    """
    with (home / _PROCESSES).open("a", encoding="ascii") as file:
        file.write(json.dumps(asdict(ProcessIdentity.of(pid))) + "\n")


def running(home: Path) -> list[psutil.Process]:
    """Give all processes of the stacks of a home that run, those of their tasks included; not those of a local Ray.

    :param home: folder of the stacks. Processes are known by it and by what the stack wrote down in it.
    """
    try:
        lines = (home / _PROCESSES).read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        lines = []
    recorded = [ProcessIdentity(**json.loads(line)) for line in lines if line.endswith("}")]
    return family(MARK, str(home), recorded)


def sweep(home: Path, why: str) -> list[str]:
    """End what runs in a home, and give its description.

    :param home: the stack's.
    :param why: it should not be there, for the log.
    """
    remaining = running(home)
    names = [describe(process) for process in remaining]
    if remaining:
        log.warning("Ending %d processes %s: %s", len(remaining), why, ", ".join(names))
        signal_all(remaining, signal.SIGKILL)
        wait_gone(remaining, 10)
    (home / _PROCESSES).unlink(missing_ok=True)
    return names


def tree_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Give a process and all that it has started; nothing if it is gone.

    :param process: that we started.
    """
    try:
        return descendants(psutil.Process(process.pid))
    except psutil.NoSuchProcess:
        return []
