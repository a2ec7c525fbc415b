"""Fixtures of the tests with a real Kueue, on an API server without nodes: see tests/apiserver/README.md."""

from __future__ import annotations

import concurrent.futures
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_provider import _compat
from ray_provider.hooks import RayHook
from tests.apiserver.conftest import control_plane, kubernetes, namespace
from tests.support.airflow_task import FakeTask, context_of
from tests.support.control_plane import ControlPlane
from tests.support.dashboard import TOKEN, Dashboard
from tests.support.helm import ROOT
from tests.support.kubernetes import Kubernetes, until
from tests.support.kueue import Nodes, Team
from tests.support.kueue import kueue as at_work

__all__ = ["control_plane", "kubernetes", "namespace"]

ROLE = ROOT / "helm" / "roles" / "provider-role.yaml"


@pytest.fixture(scope="session", autouse=True)
def kueue(control_plane: ControlPlane, kubernetes: Kubernetes) -> Iterator[None]:
    """Kueue and KubeRay's operator, at work for all tests."""
    with control_plane.operator(), at_work(kubernetes, control_plane.state / "kueue"):
        yield


@pytest.fixture
def team(kubernetes: Kubernetes, namespace: str) -> Team:
    """A queue with one place."""
    return Team(kubernetes, namespace)


@pytest.fixture
def nodes(kubernetes: Kubernetes, namespace: str) -> Iterator[Nodes]:
    """Pods come up."""
    with Nodes(kubernetes, namespace) as found:
        yield found


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    """The dashboard of every cluster: Ray's part is played."""
    found = Dashboard()
    found.start()
    yield found
    found.stop()


@pytest.fixture
def role() -> str:
    """What the provider's account may do."""
    return ROLE.read_text()


@pytest.fixture
def kubeconfig(kubernetes: Kubernetes, namespace: str, role: str) -> Path:
    """The provider's own account, with the rights of its role and no others."""
    return kubernetes.service_account_kubeconfig(namespace, role)


@pytest.fixture(autouse=True)
def connection(
    monkeypatch: pytest.MonkeyPatch, kubeconfig: Path, namespace: str, dashboard: Dashboard
) -> dict[str, Any]:
    """The connection that every hook reads."""
    extra = {
        "kube_config_path": str(kubeconfig),
        "namespace": namespace,
        "access": "url",
        "address": dashboard.api.url,
        "token": TOKEN,
    }

    def get(_conn_id: str) -> SimpleNamespace:
        own = {"host": None, "port": None, "schema": None, "password": None, "login": None}
        return SimpleNamespace(extra=json.dumps(extra), extra_dejson=extra, **own)

    monkeypatch.setattr(RayHook, "get_connection", staticmethod(get))

    async def state(_task: Any) -> str:
        return "deferred"

    async def nothing(_task: Any, _key: str) -> None:
        return None

    monkeypatch.setattr(_compat, "core_state_of", state)
    monkeypatch.setattr(_compat, "get_xcom", nothing)
    return extra


class Log:
    """What tasks have logged so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._lock = threading.Lock()
        self._text = ""

    @property
    def text(self) -> str:
        """All of it, with single spaces."""
        with self._lock:
            told = self._capsys.readouterr()
            self._text += told.out + told.err
            return " ".join(self._text.split())

    def tells(self, text: str, seconds: float = 60) -> None:
        """Wait until it is told."""
        until(lambda: text in self.text, seconds, f"{text!r} in the log")


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Log:
    """The log of the tasks."""
    return Log(capsys)


class Running:
    """A task that runs beside the test, as on a worker."""

    def __init__(self, operator: Any, name: str) -> None:
        self.operator = operator
        self.ti = FakeTask()
        self.ti.task_id = name
        self._future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        threading.Thread(target=self._run, args=(context_of(self.ti),), daemon=True).start()

    def _run(self, context: dict[str, Any]) -> None:
        try:
            self._future.set_result(self.operator.execute(context))
        except BaseException as error:  # noqa: BLE001 - handed on to the test
            self._future.set_exception(error)

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._future.done()

    def result(self, seconds: float = 120) -> Any:
        """Wait for its end, and give its return value, or raise as it does."""
        return self._future.result(seconds)

    def end(self) -> None:
        """Kill it, as Airflow does, and wait."""
        if not self.done:
            self.operator.on_kill()
            concurrent.futures.wait([self._future], 60)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Start a task; what still runs at the end is killed."""
    running: list[Running] = []

    def begin(operator: Any) -> Running:
        running.append(Running(operator, operator.task_id))
        return running[-1]

    yield begin
    for one in running:
        one.end()
