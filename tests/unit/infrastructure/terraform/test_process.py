"""A command under its keeper: its output, its end, and what becomes of it when the task is in a hurry or gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ray_provider.infrastructure.terraform import process as module
from ray_provider.infrastructure.terraform.process import CommandProcess, Finished
from tests.support.waiting import wait_until

KEEPER = Path(module.__file__).with_name("keeper.py")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


def command(script: str, output: Path, **further: Any) -> CommandProcess:
    options: dict[str, Any] = {"cwd": None, "env": dict(os.environ), "patience": (20.0, 20.0), **further}
    return CommandProcess(["bash", "-c", script], output=output, **options)


def run(process: CommandProcess, on_out: Callable[[str], None] | None = None) -> tuple[Finished, list[str], list[str]]:
    out: list[str] = []
    err: list[str] = []
    with process:
        finished = process.run(on_out or out.append, err.append)
    return finished, out, err


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_output_comes_line_by_line_and_the_exit_code_is_its_own(output: Path, tmp_path: Path) -> None:
    script = "echo one; echo; echo grün; echo oops >&2; pwd; printf 'no end'; exit 3"
    finished, out, err = run(command(script, output, cwd=tmp_path))
    assert out == ["one", "", "grün", str(tmp_path), "no end"]
    assert err == ["oops"]
    assert finished == Finished(exit_code=3, interrupts=0, killed=False)


def test_output_is_seen_while_it_runs(output: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"echo begun; until [ -e {gate} ]; do sleep 0.05; done; echo ended"
    seen: list[str] = []

    def on_line(line: str) -> None:
        seen.append(line)
        gate.touch()  # the command goes on only after this line was passed on

    finished, _, _ = run(command(script, output), on_line)
    assert (seen, finished.exit_code) == (["begun", "ended"], 0)


def test_the_environment_is_the_one_that_was_given_and_files_are_private(output: Path) -> None:
    env = {"PATH": os.environ["PATH"], "ONLY": "this"}
    finished, out, _ = run(command("echo $ONLY-$HOME; umask; cat; touch made", output, env=env, cwd=output))
    assert out == ["this-", "0077"], "nothing is to be read on its standard input"
    assert finished.exit_code == 0
    assert (output / "stdout").stat().st_mode & 0o077 == 0


def test_a_program_that_can_not_be_started_is_named(output: Path) -> None:
    process = CommandProcess(["/no/such/program"], cwd=None, env=dict(os.environ), output=output)
    with pytest.raises(FileNotFoundError, match="/no/such/program can't be started: FileNotFoundError: No such file"):
        run(process)


TRAPPED = "trap 'echo interrupted; exit 7' INT; echo begun; while :; do sleep 0.05; done"


def interrupting(process: CommandProcess, *, twice: bool = False) -> Callable[[str], None]:
    def on_line(line: str) -> None:
        if line == "begun" or (twice and line == "interrupted"):
            process.interrupt()

    return on_line


def test_an_interrupt_lets_it_end_in_peace(output: Path) -> None:
    process = command(TRAPPED, output)
    lines: list[str] = []
    steps: list[dict[str, Any]] = []
    with process:
        finished = process.run(
            lambda line: (lines.append(line), interrupting(process)(line))[0], lines.append, steps.append
        )
    assert lines == ["begun", "interrupted"]
    assert finished == Finished(exit_code=7, interrupts=1, killed=False)
    assert steps == [{"interrupted": 1}]


def test_what_ignores_interrupts_is_killed_with_all_that_it_started(output: Path, tmp_path: Path) -> None:
    script = f"trap '' INT; sleep 60 & echo $! >{tmp_path}/pid; echo begun; wait; while :; do sleep 1; done"
    process = command(script, output, patience=(0.3, 0.3))
    steps: list[dict[str, Any]] = []
    began = time.monotonic()
    with process:
        finished = process.run(interrupting(process), lambda _: None, steps.append)
    assert time.monotonic() - began >= 0.6
    assert finished == Finished(exit_code=-signal.SIGKILL, interrupts=2, killed=True)
    assert steps == [{"interrupted": 1}, {"interrupted": 2}, {"killing": True}]
    wait_until(lambda: gone(int((tmp_path / "pid").read_text())))


def test_a_kill_does_not_wait(output: Path) -> None:
    process = command("trap '' INT; echo begun; while :; do sleep 0.05; done", output)

    def on_line(_: str) -> None:
        process.kill()

    finished, _, _ = run(process, on_line)
    assert finished == Finished(exit_code=-signal.SIGKILL, interrupts=0, killed=True)


def test_what_an_interrupted_command_started_ends_too(output: Path, tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! >{tmp_path}/pid; {TRAPPED}"
    process = command(script, output)
    finished, _, _ = run(process, interrupting(process))
    assert finished.exit_code == 7
    wait_until(lambda: gone(int((tmp_path / "pid").read_text())))


def test_an_exception_interrupts_it_and_waits_for_its_end(output: Path, tmp_path: Path) -> None:
    script = f"trap 'sleep 0.5; touch {tmp_path}/saved; exit 0' INT; echo begun; while :; do sleep 0.05; done"

    def on_line(_: str) -> None:
        raise TimeoutError("execution_timeout")

    with pytest.raises(TimeoutError, match="execution_timeout"), command(script, output) as process:
        process.run(on_line, on_line)
    assert (tmp_path / "saved").exists(), "its state would be lost"
    assert process.pid is not None
    assert gone(process.pid)


#: For minutes, not for ever: where nobody ends it, the test has failed, and it ends by itself.
WORKS = "echo begun; for _ in $(seq 6000); do sleep 0.05; done"


def kill_keeper(program: Path = KEEPER) -> psutil.Process:
    """Kill the process that waits for the command."""
    [keeper] = [one for one in psutil.Process().children() if str(program) in one.cmdline()]
    keeper.kill()
    return keeper


def out_of_time_without_a_keeper(program: Path = KEEPER) -> None:
    """What happens at a line: the keeper is killed, and the task's time is over."""
    pid = kill_keeper(program).pid
    wait_until(lambda: gone(pid))
    raise TimeoutError("execution_timeout")


def test_a_keeper_that_is_killed_is_replaced(output: Path, tmp_path: Path) -> None:
    script = f"trap 'sleep 0.3; touch {tmp_path}/saved; exit 0' INT; {WORKS}"
    process = command(script, output)

    def on_line(_: str) -> None:
        kill_keeper()

    with pytest.raises(ChildProcessError, match="the process that waits for Terraform has died"), process:
        process.run(on_line, on_line)
    assert (tmp_path / "saved").exists()
    assert process.pid is not None
    wait_until(lambda: gone(process.pid))


def test_an_exception_after_the_keepers_death_waits_for_the_command_too(output: Path, tmp_path: Path) -> None:
    script = f"trap 'sleep 0.5; touch {tmp_path}/saved; exit 0' INT; {WORKS}"
    process = command(script, output)

    def on_line(_: str) -> None:
        out_of_time_without_a_keeper()

    with pytest.raises(TimeoutError, match="execution_timeout"), process:
        process.run(on_line, on_line)
    assert (tmp_path / "saved").exists(), "its state would be lost"
    assert process.pid is not None
    wait_until(lambda: gone(process.pid))


#: On a machine that has no time for it, a keeper's first word comes after the command's first line.
LATE = f"""
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("keeper", {str(KEEPER)!r})
keeper = importlib.util.module_from_spec(spec)
spec.loader.exec_module(keeper)
tell = keeper._tell
keeper._tell = lambda message: ("started" in message and time.sleep(0.7), tell(message))
sys.exit(keeper.main())
"""


def test_no_line_comes_before_it_is_known_which_process_has_to_be_ended(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = tmp_path / "late.py"
    late.write_text(LATE)
    monkeypatch.setattr(module, "_KEEPER", late)
    process = command(f"trap 'touch {tmp_path}/saved; exit 0' INT; {WORKS}", output)

    def on_line(_: str) -> None:
        out_of_time_without_a_keeper(late)

    with pytest.raises(TimeoutError, match="execution_timeout"), process:
        process.run(on_line, on_line)
    assert (tmp_path / "saved").exists(), "it goes on, and nobody waits for it"


# ---------------------------------------------------------------- the keeper of a task that is gone


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(script: str, **further: Any) -> subprocess.Popen[bytes]:
        job = {
            "argv": ["bash", "-c", script],
            "cwd": None,
            "stdout": str(tmp_path / "out"),
            "stderr": str(tmp_path / "err"),
            "patience": [20, 20],
            **further,
        }
        process = subprocess.Popen([sys.executable, "-I", "-S", KEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_task_that_dies_lets_the_command_save_its_state_and_its_folder_goes(keeper: Any, tmp_path: Path) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    process = keeper(
        f"trap 'touch {tmp_path}/saved; exit 0' INT; echo begun; while :; do sleep 0.05; done", folder=str(folder)
    )
    wait_until(lambda: "begun" in (tmp_path / "out").read_text() if (tmp_path / "out").exists() else False)
    assert folder.exists()
    said, _ = process.communicate(timeout=30)  # closes its input, as a death of the task does
    assert (tmp_path / "saved").exists()
    assert not folder.exists()
    told = [json.loads(line) for line in said.splitlines()]
    assert [next(iter(each)) for each in told] == ["started", "interrupted", "exited"]
    assert told[-1] == {"exited": 0, "killed": False, "interrupts": 1}


def test_a_folder_is_the_tasks_once_it_says_that_it_has_read_everything(keeper: Any, tmp_path: Path) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    process = keeper("echo $PPID >&2; exit 4", folder=str(folder))
    assert json.loads(process.stdout.readline())["started"]
    assert json.loads(process.stdout.readline()) == {"exited": 4, "killed": False, "interrupts": 0}
    assert process.poll() is None, "it waits until the output is read"
    process.communicate(b"done\n", timeout=30)
    assert folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_for_the_task_do_not_reach_the_command(keeper: Any, tmp_path: Path, number: signal.Signals) -> None:
    process = keeper(f"echo begun; until [ -e {tmp_path}/gate ]; do sleep 0.05; done; exit 5")
    wait_until(lambda: "begun" in (tmp_path / "out").read_text() if (tmp_path / "out").exists() else False)
    process.send_signal(number)
    time.sleep(0.2)
    assert process.poll() is None
    (tmp_path / "gate").touch()
    assert json.loads(process.stdout.readline())["started"]
    assert json.loads(process.stdout.readline())["exited"] == 5
