"""A run that is stopped keeps its state and its lock goes, whoever stops it and whoever dies meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ray_provider.infrastructure.errors import TerraformInterruptedError
from tests.infrastructure.runner_modules import Module, make_module, nothing_left_behind, private_folders
from tests.support.terraform import need_terraform
from tests.support.waiting import wait_until

#: A worker's task: applies, and says what happens.
WORKER = """
import json, sys
from ray_provider.infrastructure.run import InfrastructureRun
from ray_provider.infrastructure.module.spec import InfrastructureSpec
spec = InfrastructureSpec(**json.loads(sys.argv[1]))
with InfrastructureRun(spec, write=lambda line: print(line, flush=True)) as run:
    run.plan()
    run.apply()
"""


@pytest.fixture(autouse=True)
def clean(tmp_path: Path) -> Iterator[None]:
    need_terraform()
    with nothing_left_behind():
        yield


@pytest.fixture
def module(tmp_path: Path) -> Module:
    return make_module(tmp_path)


def test_an_interrupted_apply_keeps_its_state_and_can_go_on(module: Module) -> None:
    with module.run(variables={"number": 2, "slow": 300}) as run:
        run.plan()
        begun = interrupt_when(run.interrupt, lambda: "terraform_data.slow[0]: creating …" in module.lines)
        with pytest.raises(TerraformInterruptedError, match="The state was saved, and the lock released") as caught:
            run.apply()
        seconds = time.monotonic() - begun[0]
        with pytest.raises(TerraformInterruptedError, match="not started"):
            run.plan()
    assert caught.value.data["killed"] is False
    assert caught.value.retryable
    assert seconds < 150, "it would have taken 300"
    assert "terraform_data.first" in module.resources()
    assert not module.lock.exists()
    assert "Stopping terraform apply (SIGINT 1)" in module.text.replace("tofu", "terraform")
    with module.run(variables={"number": 2}) as run:
        assert run.plan().of("create") == ()


def test_what_ignores_interrupts_is_killed_at_the_very_end_and_loudly(module: Module, tmp_path: Path) -> None:
    """A program that does not listen, in Terraform's place: what counts is who gives up, when, and what is said."""
    program = tmp_path / "deaf"
    program.write_text(
        f"#!{sys.executable}\nimport os, signal, sys, time\n"
        "if sys.argv[1] != 'apply':\n"
        f"    os.execv({str(need_terraform().path)!r}, [{str(need_terraform().path)!r}, *sys.argv[1:]])\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(60)\n"
    )
    program.chmod(0o755)
    with module.run(binary=str(program), patience=(0.5, 0.5)) as run:
        run.plan()
        interrupt_when(run.interrupt, lambda: "deaf" in module.lines)
        with pytest.raises(TerraformInterruptedError, match="KILLED") as caught:
            run.apply()
    assert caught.value.data["killed"] is True
    assert "SIGINT 1" in module.text
    assert "SIGINT 2" in module.text
    assert "IT IS KILLED" in module.text


def test_an_exception_in_the_middle_interrupts_too(module: Module) -> None:
    """An `execution_timeout` raises in the thread that waits."""

    class Timeout(BaseException):
        pass

    def write(line: str) -> None:
        module.lines.append(line)
        if line == "terraform_data.slow[0]: creating …":
            raise Timeout

    run = module.run(variables={"slow": 60})
    run.write = write
    with pytest.raises(Timeout), run:
        run.plan()
        run.apply()
    assert "terraform_data.first" in module.resources()
    assert not module.lock.exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_task_whose_process_is_killed(module: Module, how: signal.Signals) -> None:
    """Airflow gives a killed task five seconds, the kernel's out-of-memory killer none. The state is saved all the same."""
    spec = module.spec(variables={"number": 2, "slow": 60})
    given = {name: getattr(spec, name) for name in ("module", "backend", "variables", "binary")}
    before = private_folders()
    worker = subprocess.Popen([sys.executable, "-c", WORKER, json.dumps(given)], stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        for line in worker.stdout:
            if line.strip() == "terraform_data.slow[0]: creating …":
                break
        folder = (private_folders() - before).pop()
        assert (folder / "run.tfvars.json").exists()
        worker.send_signal(how)
        worker.wait(timeout=240)
        wait_until(lambda: not folder.exists())
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
    assert "terraform_data.first" in module.resources()
    assert not module.lock.exists()
    with module.run(variables={"number": 2}) as run:
        assert run.plan().of("create") == ()


def test_the_private_folder_of_a_run_that_died_with_its_keeper(module: Module) -> None:
    """A machine's end spares nobody: the next run removes what is left."""
    spec = module.spec(variables={"slow": 60})
    given = {name: getattr(spec, name) for name in ("module", "backend", "variables", "binary")}
    before = private_folders()
    worker = subprocess.Popen([sys.executable, "-c", WORKER, json.dumps(given)], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    try:
        for line in worker.stdout:
            if line.strip() == "terraform_data.slow[0]: creating …":
                break
        wait_until(lambda: "sleep" in names_below(worker.pid))
        family = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in family:
                with suppress(psutil.NoSuchProcess):  # Terraform's own processes come and go
                    process.send_signal(number)
        psutil.wait_procs(family, timeout=240)
    finally:
        worker.wait()
        worker.stdout.close()
    (folder,) = private_folders() - before
    module.lock.unlink()
    with module.run():
        assert not folder.exists()


def names_below(pid: int) -> set[str]:
    """What a process's descendants are called; some have ended by the time."""
    names: set[str] = set()
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            names.add(process.name())
    return names


def interrupt_when(interrupt: object, condition: object) -> list[float]:
    """Interrupt from another thread as soon as something was said; gives when."""
    begun: list[float] = []

    def watch() -> None:
        wait_until(condition)
        begun.append(time.monotonic())
        interrupt()  # type: ignore[operator]

    threading.Thread(target=watch, daemon=True).start()
    return begun
