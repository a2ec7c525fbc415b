"""What was made and paid for is in the state, or in a lasting place that the next run finds: never nowhere."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ray_provider.infrastructure.errors import UnsavedStateError
from ray_provider.infrastructure.terraform.folder import private_folder
from tests.infrastructure.lab.state_server import StateServer
from tests.infrastructure.runner_modules import (
    Module,
    is_ours,
    make_module,
    nothing_left_behind,
    private_folders,
    working_in,
)
from tests.infrastructure.test_runner_interrupt import WORKER
from tests.support.requirements import need
from tests.support.terraform import need_terraform
from tests.support.waiting import wait_until

#: A resource that takes a moment, and tells the backend to fail while it is made.
FAILING = """
variable "then" {
  default = "gone"
}
variable "url" {}
variable "seconds" {
  default = 1
}
resource "terraform_data" "before" {}
variable "again" {
  default = false
}
resource "terraform_data" "cluster" {
  depends_on       = [terraform_data.before]
  triggers_replace = var.again
  provisioner "local-exec" {
    command = "sleep ${var.seconds}; curl -s -X PUT ${var.url}/${var.then}"
  }
}
output "cluster_name" {
  value = "ray"
}
"""


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    need_terraform()
    need("curl")
    monkeypatch.setenv("RAY_PROVIDER_KEPT_STATES", str(tmp_path / "kept"))
    with nothing_left_behind():
        yield


@pytest.fixture
def server() -> Iterator[StateServer]:
    with StateServer() as server:
        yield server


@pytest.fixture
def module(tmp_path: Path) -> Module:
    return make_module(tmp_path, FAILING)


def given(server: StateServer, then: str = "gone", **more: Any) -> dict[str, Any]:
    return {"backend": server.backend, "variables": {"url": server.url, "then": then}, **more}


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "kept").rglob("*.tfstate"))


@pytest.mark.parametrize("then", ["gone", pytest.param("refuse", marks=pytest.mark.slow)])
def test_a_backend_that_fails_at_the_end_of_an_apply_and_comes_back(
    module: Module, server: StateServer, tmp_path: Path, then: str
) -> None:
    with module.run(**given(server, then)) as run:
        run.plan()
        comes_back = in_thread(lambda: (wait_until(lambda: server.gone or server.refuses), server.back_after(6)))
        run.apply()
        comes_back.join()
        assert run.outputs().cluster_name == "ray"
    assert server.resources == ["terraform_data.before", "terraform_data.cluster"]
    assert server.lock is None
    assert kept(tmp_path) == []
    assert "The backend did not take the state" in module.text
    assert "The state is saved." in module.lines


def test_a_state_that_can_not_be_saved_is_kept_and_the_next_run_saves_it(
    module: Module, server: StateServer, tmp_path: Path
) -> None:
    with module.run(**given(server, state_patience=1)) as run:
        run.plan()
        with pytest.raises(UnsavedStateError) as caught:
            run.apply()
    (path,) = kept(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert caught.value.data["path"] == str(path)
    assert f"state push {path}" in str(caught.value)
    assert not caught.value.retryable
    assert server.resources == []

    # The next run does not plan without it.
    server.gone, server.refuses = False, {"POST"}
    with pytest.raises(UnsavedStateError, match=str(path)), module.run(**given(server, "", lock_timeout="1s")):
        pass
    assert kept(tmp_path) == [path]
    # But it does what can be done, with the lock that the apply left.
    server.refuses = set()
    with module.run(**given(server, "", lock_timeout="1s")) as run:
        assert run.plan().of("create") == ()
    assert server.resources == ["terraform_data.before", "terraform_data.cluster"]
    assert server.lock is None
    assert kept(tmp_path) == []


def test_another_state_is_not_held_up(module: Module, server: StateServer, tmp_path: Path) -> None:
    with module.run(**given(server, state_patience=1)) as run:
        run.plan()
        with pytest.raises(UnsavedStateError):
            run.apply()
    server.gone = False
    with module.run(variables={"url": server.url, "then": ""}) as run:
        assert run.plan().counts["create"] == 2
    assert len(kept(tmp_path)) == 1


def test_a_lock_of_somebody_else_is_left_alone(module: Module, server: StateServer, tmp_path: Path) -> None:
    """Our lock is gone by the time; another run, on another machine, has one. Its state is not overwritten either."""
    other = {"ID": "another", "Operation": "OperationTypeApply", "Who": "you@there", "Created": "2020-01-01T00:00:00Z"}
    with module.run(**given(server, "refuse", state_patience=3)) as run:
        run.plan()
        takes = in_thread(lambda: (wait_until(lambda: server.refuses and server.lock is None), take(server, other)))
        with pytest.raises(UnsavedStateError, match="already locked"):
            run.apply()
        takes.join()
    assert server.lock == other
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize("first", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_newer_state_is_not_overwritten(module: Module, server: StateServer, tmp_path: Path, first: bool) -> None:
    """Terraform itself overwrites anything with the state of a first apply, which has no lineage and no serial yet."""
    if not first:
        with module.run(**given(server, "")) as run:
            run.plan()
            run.apply()
    with module.run(**given(server, state_patience=1, variables={"url": server.url, "again": not first})) as run:
        run.plan()
        with pytest.raises(UnsavedStateError):
            run.apply()
    (path,) = kept(tmp_path)
    assert bool(json.loads(path.read_text())["lineage"]) is not first
    newer = {**json.loads(path.read_text()), "serial": 99, "outputs": {}}
    server.gone, server.lock, server.state = False, None, json.dumps(newer).encode()
    with pytest.raises(UnsavedStateError, match="newer"), module.run(**given(server, "")):
        pass
    assert json.loads(server.state)["serial"] == 99
    assert kept(tmp_path) == [path]


def test_a_lock_that_could_not_be_released(module: Module, server: StateServer) -> None:
    """The state was saved, and then the backend went away."""
    with module.run(**given(server, "lock")) as run:
        run.plan()
        seen = len(server.seen)
        comes_back = in_thread(lambda: (wait_until(lambda: "UNLOCK" in server.seen[seen:]), server.back_after(2)))
        run.apply()
        comes_back.join()
    assert server.resources == ["terraform_data.before", "terraform_data.cluster"]
    assert server.lock is None


def test_a_worker_that_is_killed_while_the_backend_is_gone(module: Module, server: StateServer, tmp_path: Path) -> None:
    worker = start_worker(module, **given(server, variables={"url": server.url, "seconds": 2}))
    try:
        wait_until(lambda: server.gone)
        server.back_after(5)
        time.sleep(0.5)
        worker.kill()
        worker.wait(timeout=240)
        wait_until(lambda: server.resources and server.lock is None and not own_processes())
    finally:
        end(worker)
    assert server.resources == ["terraform_data.before", "terraform_data.cluster"]
    assert kept(tmp_path) == []


# ---------------------------------------------------------------- folders


def test_the_folder_of_a_terraform_that_still_works_is_not_removed(module: Module) -> None:
    """Its task and its supervisor were killed; another task comes to this worker meanwhile."""
    server = StateServer()
    with server:
        worker = start_worker(module, **given(server, "", variables={"url": server.url, "then": "", "seconds": 3}))
        try:
            keeper = keeper_of_an_apply(worker.pid)
            for process in (psutil.Process(worker.pid), keeper):
                process.send_signal(signal.SIGSTOP)
            worker.kill()
            keeper.kill()
            worker.wait(timeout=240)
            # Another run on the same machine, of something else.
            with module.run(variables={"url": server.url, "then": ""}) as run:
                run.plan()
            wait_until(lambda: server.lock is None)
        finally:
            end(worker)
        assert server.resources == ["terraform_data.before", "terraform_data.cluster"]
        # As soon as it has ended, the next run removes what is left.
        wait_until(swept)


def test_a_state_in_a_folder_of_a_run_that_died_is_kept(module: Module, server: StateServer, tmp_path: Path) -> None:
    worker = start_worker(module, **given(server))
    try:
        wait_until(lambda: server.gone)
        # Not Path.rglob, which fails if a folder goes while it is walked: Terraform's own come and go.
        wait_until(lambda: any("errored.tfstate" in files for _, _, files in os.walk(os.environ["TMPDIR"])))
        for process in [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # Terraform's own processes come and go
                process.send_signal(signal.SIGSTOP)
        for process in [*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    finally:
        end(worker)
    with module.run(variables={"url": server.url, "then": ""}):
        pass
    (path,) = kept(tmp_path)
    server.gone, server.lock = False, None
    with module.run(**given(server, "")) as run:
        assert run.plan().of("create") == ()
    assert not path.exists()


def test_a_supervisor_that_is_killed_alone(module: Module, server: StateServer) -> None:
    """The task takes its place: it stops Terraform, and waits until the state is saved."""
    errors: list[BaseException] = []

    def apply() -> None:
        with module.run(**given(server, "", variables={"url": server.url, "then": "", "seconds": 600})) as run:
            run.plan()
            try:
                run.apply()
            except Exception as error:
                errors.append(error)

    thread = in_thread(apply)
    wait_until(lambda: "terraform_data.cluster: creating …" in module.lines)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any("keeper.py" in word for word in process.cmdline()):
                process.kill()
    thread.join(timeout=240)
    assert not thread.is_alive()
    assert "terraform_data.before" in server.resources
    assert server.lock is None
    assert len(errors) == 1


# ---------------------------------------------------------------- helpers


def swept() -> bool:
    with private_folder() as own:
        return private_folders() == {own}


def take(server: StateServer, lock: dict[str, Any]) -> None:
    server.lock = lock


def in_thread(call: Any) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def start_worker(module: Module, **changes: Any) -> subprocess.Popen[bytes]:
    spec = module.spec(**changes)
    names = ("module", "backend", "variables", "binary")
    data = json.dumps({name: getattr(spec, name) for name in names})
    return subprocess.Popen([sys.executable, "-c", WORKER, data], stdout=subprocess.DEVNULL)


def end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait(timeout=240)
    wait_until(lambda: not own_processes())


def own_processes() -> list[psutil.Process]:
    """What works for this test: Terraform and its supervisors have their temporary files in its folder."""
    return [process for process in working_in(Path(os.environ["TMPDIR"])) if is_ours(process)]


def keeper_of_an_apply(pid: int) -> psutil.Process:
    """Wait until a worker's supervisor has started an apply."""
    found: list[psutil.Process] = []

    def look() -> bool:
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                if process.cmdline()[1:2] == ["apply"]:
                    found.append(process.parent())
        return bool(found)

    wait_until(look)
    return found[0]
