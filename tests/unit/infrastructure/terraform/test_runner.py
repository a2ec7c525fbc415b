"""Single commands of Terraform: what it is told, what is shown of it, and what its end means."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_provider.exceptions import InfrastructureError
from ray_provider.infrastructure.errors import (
    StateLockedError,
    TerraformCredentialsError,
    TerraformInterruptedError,
    UnsavedStateError,
)
from ray_provider.infrastructure.terraform.binary import find_binary
from ray_provider.infrastructure.terraform.folder import private_folder
from ray_provider.infrastructure.terraform.runner import TerraformRunner
from tests.unit.infrastructure.terraform_double import TerraformDouble, error_event


class Scene:
    """A runner on the double, and the lines that it wrote."""

    def __init__(self, double: TerraformDouble, folder: Path, module: Path) -> None:
        self.double, self.folder, self.module = double, folder, module
        self.lines: list[str] = []

    def runner(self, **further: Any) -> TerraformRunner:
        options: dict[str, Any] = {"folder": self.folder, "write": self.lines.append, **further}
        return TerraformRunner(self.module, binary=find_binary(str(self.double.path)), **options)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.delenv("TF_CLI_CONFIG_FILE", raising=False)
    module = tmp_path / "module"
    module.mkdir()
    with private_folder() as folder:
        yield Scene(TerraformDouble(tmp_path / "double"), folder, module)


def words(call_argv: list[str]) -> list[str]:
    return [word for word in call_argv if not word.startswith(("-var-file", "-out"))]


def test_init_asks_nobody_and_speaks_json(scene: Scene) -> None:
    scene.runner(lock_timeout="7s").init()
    assert scene.double.asked("init").argv == [
        "init",
        "-reconfigure",
        "-json",
        "-input=false",
        "-no-color",
        "-lock-timeout=7s",
    ]
    assert scene.double.asked("init").cwd == str(scene.module)
    scene.runner().init(upgrade=True)
    assert "-upgrade" in scene.double.calls[-1].argv


def test_a_plan_is_saved_and_its_variables_lie_in_private_files(scene: Scene) -> None:
    scene.double.says("plan", code=2)
    runner = scene.runner(parallelism=3)
    given = scene.folder / "given.tfvars.json"
    given.write_text('{"a": 1}')
    answer = runner.plan(scene.folder / "saved", var_file=given, variables={"password": "planted-secret"})
    assert answer.exit_code == 2, "it would change something"
    call = scene.double.asked("plan")
    assert words(call.argv) == [
        "plan",
        "-detailed-exitcode",
        "-parallelism=3",
        "-json",
        "-input=false",
        "-no-color",
        "-lock-timeout=60s",
    ]
    assert f"-out={scene.folder}/saved" in call.argv
    (first, (_, plain)), (second, (mode, secret)) = call.files.items()
    assert (first, plain) == (str(given), {"a": 1})
    assert (mode, secret) == (0o600, {"password": "planted-secret"}), "the later file wins"
    assert not Path(second).exists()
    assert given.exists(), "that one is the caller's"
    assert "planted" not in " ".join(call.argv)
    assert runner.redactor("it says planted-secret") == "it says ***"


def test_the_kinds_of_plans(scene: Scene) -> None:
    runner, saved = scene.runner(), scene.folder / "saved"
    runner.plan(saved, destroy=True, lock=False, refresh=False)
    argv = scene.double.asked("plan").argv
    assert {"-destroy", "-lock=false", "-refresh=false"} <= set(argv)
    assert not [word for word in argv if word.startswith(("-lock-timeout", "-parallelism", "-var-file"))]
    runner.plan(saved)
    assert not {"-destroy", "-lock=false", "-refresh=false"} & set(scene.double.calls[-1].argv)


def test_an_apply_takes_the_plan_and_nothing_else(scene: Scene) -> None:
    saved = scene.folder / "saved"
    scene.double.says("apply", {"type": "planned_change", "change": {"action": "create"}}, {"@message": "x"})
    scene.runner(parallelism=3).apply(saved, variables={"ephemeral": 1})
    call = scene.double.asked("apply")
    assert call.argv[-1] == str(saved)
    assert "-parallelism=3" in call.argv
    assert [content for _, content in call.files.values()] == [{"ephemeral": 1}]
    assert scene.lines == [], "what is planned was told by the plan"


def test_a_command_that_only_reads_is_not_shown(scene: Scene) -> None:
    scene.double.says("state-pull", '{"secret": "planted"}')
    answer = scene.runner().run("state pull")
    assert answer.out == '{"secret": "planted"}\n'
    assert "planted" not in scene.text + repr(answer)
    assert scene.double.asked("state-pull").argv == ["state", "pull"]
    scene.runner().run("workspace select", "mine", or_create=True, lock=False, other=None, many=["a", "b"])
    assert scene.double.calls[-1].argv == [
        *("workspace", "select", "-or-create", "-lock=false", "-many=a", "-many=b", "mine"),
    ]


def test_a_time_limit_does_not_end_a_command_that_holds_the_lock(scene: Scene, tmp_path: Path) -> None:
    """A new workspace's first state is written under a lock; killed, Terraform would leave it behind."""
    held = tmp_path / "held"
    scene.double.says("workspace-select", f"hold:{held}:1")

    def limit(*_: object) -> None:
        raise TimeoutError("execution_timeout")

    before = signal.signal(signal.SIGALRM, limit)
    try:
        seen = threading.Thread(target=_alarm_when, args=(held,))
        seen.start()
        with pytest.raises(TimeoutError, match="execution_timeout"):
            scene.runner().run("workspace select", "mine", or_create=True)
        seen.join()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not held.exists()


def _alarm_when(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGALRM)


def test_lines_come_while_it_runs_and_without_secrets(scene: Scene) -> None:
    scene.double.says(
        "apply",
        {"type": "apply_complete", "hook": {"resource": {"addr": "planted-secret"}, "action": "create"}},
        "err:planted-secret on stderr",
        "err:",
    )
    runner = scene.runner()
    runner.redactor.add("planted-secret")
    answer = runner.apply(scene.folder / "saved")
    assert sorted(scene.lines) == ["*** on stderr", "***: created after ? s"]
    assert (answer.out, answer.err) == ("***: created after ? s", "*** on stderr")
    assert not list((scene.folder / "output").iterdir()), "they hold secrets"


def test_the_environment_of_a_command(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_LOG", "TRACE")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "planted")
    monkeypatch.setenv("MINE", "kept")
    runner = scene.runner(env={"AWS_REGION": "r"})
    runner.init()
    runner.run("output")
    for call in scene.double.calls:
        assert (call.env["MINE"], call.env["AWS_REGION"]) == ("kept", "r")
        assert call.env["TMPDIR"] == str(scene.folder / "tmp")
        assert (call.env["TF_IN_AUTOMATION"], call.env["TF_INPUT"], call.env["CHECKPOINT_DISABLE"]) == ("1", "0", "1")
        assert not {"TF_LOG", "AIRFLOW__CORE__FERNET_KEY"} & set(call.env)
    assert [line for line in scene.lines if "TF_LOG" in line] == [
        "The environment variable TF_LOG is not passed on to Terraform: it writes secrets into the log."
    ], "once"


# ---------------------------------------------------------------- how it ends


def test_a_failure_is_raised_by_its_cause(scene: Scene) -> None:
    scene.double.says("apply", error_event("creating x", "AccessDenied: no"), "err:more", code=1)
    with pytest.raises(TerraformCredentialsError) as caught:
        scene.runner().apply(scene.folder / "saved")
    data = caught.value.data
    assert (data["command"], data["exit_code"], data["working_dir"]) == ("apply", 1, str(scene.module))
    assert "terraform apply failed: creating x" in str(caught.value)
    answer = scene.runner().run("apply", check=False)
    assert (answer.exit_code, answer.err) == (1, "creating x\nAccessDenied: no\nmore")


def test_a_failed_reading_is_raised_without_secrets(scene: Scene) -> None:
    scene.double.says("state-pull", "err:Error: planted-secret is wrong", code=1)
    runner = scene.runner()
    runner.redactor.add("planted-secret")
    with pytest.raises(InfrastructureError, match=r"Error: \*\*\* is wrong") as caught:
        runner.run("state pull")
    assert caught.value.data["command"] == "state pull"
    assert runner.run("state pull", check=False).exit_code == 1
    scene.double.says("state-pull", "planted-secret on stdout", code=1)
    with pytest.raises(InfrastructureError, match=r"\*\*\* on stdout"):
        runner.run("state pull")


@pytest.mark.parametrize("command", ["init", "apply"])
def test_2_is_a_success_of_a_plan_only(scene: Scene, command: str) -> None:
    scene.double.says(command, code=2)
    with pytest.raises(InfrastructureError):
        scene.runner().run(command)
    scene.double.says("plan", code=1)
    with pytest.raises(InfrastructureError):
        scene.runner().plan(scene.folder / "saved")


def test_a_lock_is_told_with_its_holder(scene: Scene) -> None:
    scene.double.says(
        "plan", error_event("Error acquiring the state lock", "Lock Info:\n  ID:  l-1\n  Who: me@h"), code=1
    )
    with pytest.raises(StateLockedError) as caught:
        scene.runner().plan(scene.folder / "saved")
    assert (caught.value.data["lock_id"], caught.value.data["who"]) == ("l-1", "me@h")


def test_an_interrupt_is_told_and_nothing_starts_after_it(scene: Scene) -> None:
    done = {"type": "apply_complete", "hook": {"resource": {"addr": "a.b"}, "action": "create"}}
    scene.double.says("apply", done, "wait for SIGINT", code=1)
    runner = scene.runner(patience=(120.0, 60.0))
    shown = threading.Event()

    def write(line: str) -> None:
        scene.lines.append(line)
        if line.startswith("a.b: created"):
            shown.set()

    runner.write = write
    stopper = threading.Thread(target=lambda: (shown.wait(30), runner.interrupt()))
    stopper.start()
    with pytest.raises(TerraformInterruptedError) as caught:
        runner.apply(scene.folder / "saved")
    stopper.join()
    text = str(caught.value)
    assert "terraform apply was stopped. The state was saved, and the lock released." in text
    assert "1 resources were done before that." in text
    assert "Run the task again" in text
    assert caught.value.data["killed"] is False
    assert "Stopping terraform apply (SIGINT 1)" in scene.text
    assert "Waiting up to 2 min." in scene.text
    number = len(scene.double.calls)
    with pytest.raises(TerraformInterruptedError, match="terraform plan was not started: the run is being stopped"):
        runner.plan(scene.folder / "saved")
    assert len(scene.double.calls) == number


def test_a_kill_is_loud(scene: Scene) -> None:
    scene.double.says("plan", *["wait for SIGINT"] * 5)
    runner = scene.runner(patience=(0.2, 0.2))
    until = threading.Event()

    def stop() -> None:
        while not scene.double.calls and not until.wait(0.05):
            pass
        until.wait(0.3)  # it is past its first lines
        runner.interrupt()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(TerraformInterruptedError) as caught:
        runner.plan(scene.folder / "saved")
    until.set()
    stopper.join()
    assert caught.value.data["killed"] is True
    assert "It had to be KILLED" in str(caught.value)
    assert "force-unlock" in str(caught.value)
    assert "resources were done" not in str(caught.value), "a plan makes nothing"
    assert "IT IS KILLED" in scene.text
    assert "(SIGINT 2)" in scene.text


STATE = json.dumps({"lineage": "mine", "serial": 3, "resources": [{}]})


def test_a_state_that_is_saved_after_all_is_a_success(scene: Scene) -> None:
    (scene.module / "errored.tfstate").write_text(STATE)
    scene.double.says("apply", error_event("Failed to save state"), code=1)
    runner = scene.runner(rescue={"lockable": False, "seconds": 120})
    assert runner.apply(scene.folder / "saved").exit_code == 0
    assert scene.double.asked("state-push").argv == ["state", "push", "-lock-timeout=0s", "errored.tfstate"]
    told = "The backend did not take the state, which tells what was made. It is pushed again for up to 2 min."
    assert [line for line in scene.lines if "Error" not in line] == [f"!!! {told}", "The state is saved."]


def test_a_state_that_is_saved_does_not_hide_another_error(scene: Scene) -> None:
    (scene.module / "errored.tfstate").write_text(STATE)
    scene.double.says("apply", error_event("Failed to save state"), error_event("creating x"), code=1)
    with pytest.raises(InfrastructureError, match="creating x"):
        scene.runner(rescue={"lockable": False, "seconds": 0}).apply(scene.folder / "saved")


def test_a_state_that_is_kept_is_the_error(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_PROVIDER_KEPT_STATES", str(tmp_path / "kept"))
    (scene.module / "errored.tfstate").write_text(STATE)
    scene.double.says("apply", error_event("Failed to save state"), code=1)
    scene.double.says("state-push", "Error: planted-secret is away", code=1)
    runner = scene.runner(rescue={"lockable": False, "seconds": 0, "identity": {"key": "abc"}})
    runner.redactor.add("planted-secret")
    with pytest.raises(UnsavedStateError) as caught:
        runner.apply(scene.folder / "saved")
    [kept] = (tmp_path / "kept" / "abc").glob("*.tfstate")
    assert caught.value.data["path"] == str(kept)
    assert "The backend said: Error: *** is away" in str(caught.value)
    assert f"!!! THE STATE IS NOT SAVED. It lies in {kept}: Error: *** is away" in scene.lines


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ({"rescue": "waiting", "why": "no"}, "The state is not saved yet: no"),
        ({"rescue": "unlocked", "lock_id": "l"}, "The lock that terraform left behind (l) is released."),
        (
            {"rescue": "locked", "lock_id": "l", "why": "no"},
            "The lock that terraform left behind (l) can't be released: no",
        ),
    ],
)
def test_what_is_said_of_a_state_in_danger(scene: Scene, step: dict[str, Any], line: str) -> None:
    scene.runner()._say_step("apply", step)
    assert scene.lines == [line]
