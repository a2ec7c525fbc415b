"""A state that the backend refused: pushed again, kept, and nobody else's overwritten or unlocked.

A small program stands for Terraform: it answers to what it is asked from a folder of files.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ray_provider.infrastructure.terraform import rescue
from ray_provider.infrastructure.terraform.rescue import (
    Rescue,
    created,
    final,
    keep,
    kept_states,
    last_words,
    lock_holder,
    plain,
    remove_folder,
    would_overwrite,
)
from tests.support.vanishing import scandir_that_is_late

#: `answers/NUMBER` for the call of that number, else `answers/COMMAND`: exit code on the first line, then the output.
PROGRAM = """#!/usr/bin/env bash
cd "$(dirname "$0")"
n=$(( $(wc -l <calls) + 1 ))
echo "$*" >>calls
for name in "$n" "$1-${2#-}" "$1"; do
  if [ -f "answers/$name" ]; then tail -n +2 "answers/$name"; exit "$(head -n 1 "answers/$name")"; fi
done
"""
STATE = json.dumps({"lineage": "mine", "serial": 3, "resources": [{"type": "x"}]})
LOCK = """Error: Error acquiring the state lock

Lock Info:
  ID:        {id}
  Path:      s3/key
  Operation: {operation}
  Who:       me@{host}
  Created:   {when}
"""


class Terraform:
    """The program, what it is to say, and what it was asked."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "program"
        (self.folder / "answers").mkdir(parents=True)
        self.path = self.folder / "terraform"
        self.path.write_text(PROGRAM)
        self.path.chmod(0o700)
        (self.folder / "calls").touch()
        self.cwd = tmp_path / "work"
        self.cwd.mkdir()
        self.stdout = tmp_path / "stdout"
        self.stdout.touch()
        self.kept = tmp_path / "kept"
        self.told: list[dict[str, Any]] = []

    def says(self, name: str | int, text: str, code: int = 1) -> None:
        (self.folder / "answers" / str(name)).write_text(f"{code}\n{text}\n")

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def leaves(self, state: str = STATE) -> Path:
        path = self.cwd / "errored.tfstate"
        path.write_text(state)
        return path

    def rescue(self, **further: Any) -> Rescue:
        job = {
            "program": str(self.path),
            "cwd": str(self.cwd),
            "stdout": str(self.stdout),
            "seconds": 0.0,
            "kept": str(self.kept),
            "identity": {"key": "abc", "workspace": "default"},
            "lockable": False,
            **further,
        }
        return Rescue(job, self.told.append)


@pytest.fixture
def terraform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terraform:
    monkeypatch.setattr(rescue, "_PAUSE_SECONDS", (0.01, 0.02))
    return Terraform(tmp_path)


def lock(id_: str = "l-1", *, operation: str = "OperationTypeApply", host: str = "", when: float | None = None) -> str:
    made = datetime.fromtimestamp(time.time() if when is None else when, tz=UTC)
    text = made.strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC")
    return LOCK.format(id=id_, operation=operation, host=host or socket.gethostname(), when=text)


def test_an_apply_that_saved_its_state_needs_nothing(terraform: Terraform) -> None:
    assert terraform.rescue().finish() == {}
    assert (terraform.calls, terraform.told) == ([], [])


def test_a_refused_state_is_pushed_again_and_then_gone(terraform: Terraform) -> None:
    state = terraform.leaves()
    state.chmod(0o644)
    terraform.says(1, "Error: Service Unavailable")
    terraform.says(2, "", 0)
    assert terraform.rescue(seconds=30).finish() == {"saved": True}
    assert terraform.calls == ["state push -lock-timeout=0s errored.tfstate"] * 2
    assert not state.exists()
    assert terraform.told == [
        {"rescue": "began", "seconds": 30.0},
        {"rescue": "waiting", "why": "Error: Service Unavailable"},
        {"rescue": "saved"},
    ]


def test_what_can_not_be_saved_is_kept_for_its_owner_alone(terraform: Terraform) -> None:
    state = terraform.leaves()
    terraform.says("state", "Error: no such bucket")
    found = terraform.rescue().finish()
    path = Path(found["kept"])
    assert path.parent == terraform.kept / "abc"
    assert path.read_text() == STATE
    assert not state.exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert json.loads(path.with_suffix(".json").read_text()) == {"key": "abc", "workspace": "default", "lock_id": None}
    assert (found["why"], found["lock_id"]) == ("Error: no such bucket", None)
    assert terraform.told[-1] == {
        "rescue": "kept",
        "path": str(path),
        "why": "Error: no such bucket",
        "lock_id": None,
    }


@pytest.mark.parametrize("without", ["identity", "kept"])
def test_without_a_name_or_a_place_the_state_stays_where_it_is(terraform: Terraform, without: str) -> None:
    state = terraform.leaves()
    state.chmod(0o644)
    terraform.says("state", "Error: no")
    assert terraform.rescue(**{without: None}).finish()["kept"] == str(state)
    assert stat.S_IMODE(state.stat().st_mode) == 0o600


def test_a_newer_state_is_not_pushed_over_again_and_again(terraform: Terraform) -> None:
    terraform.leaves()
    terraform.says("state", "Error: cannot import state with serial 3 over newer state with serial 4")
    found = terraform.rescue(seconds=60).finish()
    assert len(terraform.calls) == 1
    assert "over newer state" in found["why"]


def test_the_state_of_a_first_apply_overwrites_nobodys(terraform: Terraform) -> None:
    """It has no lineage, by which Terraform itself would know."""
    terraform.leaves(json.dumps({"lineage": "", "resources": []}))
    terraform.says("state-pull", json.dumps({"serial": 9, "resources": [{}, {}]}), 0)
    found = terraform.rescue(seconds=60).finish()
    assert terraform.calls == ["state pull"]
    assert "a newer state, with 2 resources (serial 9)" in found["why"]


def test_the_state_of_a_first_apply_is_pushed_where_nothing_is(terraform: Terraform) -> None:
    terraform.leaves(json.dumps({"lineage": "", "resources": []}))
    terraform.says("state-pull", "", 0)
    assert terraform.rescue().finish() == {"saved": True}
    assert terraform.calls == ["state pull", "state push -lock-timeout=0s errored.tfstate"]


# ---------------------------------------------------------------- locks


def test_our_own_lock_is_saved_under_and_released(terraform: Terraform) -> None:
    watch = terraform.rescue()
    terraform.leaves()
    terraform.says(1, lock("l-1"))
    terraform.says(2, "", 0)
    terraform.says(3, "", 0)
    assert watch.finish() == {"saved": True}
    assert terraform.calls == [
        "state push -lock-timeout=0s errored.tfstate",
        "state push -lock=false errored.tfstate",
        "force-unlock -force l-1",
    ]
    assert {"rescue": "unlocked", "lock_id": "l-1", "why": ""} in terraform.told


OTHERS: dict[str, Callable[[], str]] = {
    "a plan's": lambda: lock(operation="OperationTypePlan"),
    "another host's": lambda: lock(host="elsewhere"),
    "an older one": lambda: lock(when=time.time() - 60),
    "a later one": lambda: lock(when=time.time() + 60),
    "of no known time": lambda: lock().replace("+0000 UTC", "soon"),
    "without an id": lambda: lock().replace("  ID:", "  No:"),
}


@pytest.mark.parametrize("whose", OTHERS)
def test_a_lock_of_somebody_else_is_respected(terraform: Terraform, whose: str) -> None:
    terraform.leaves()
    terraform.says("state", OTHERS[whose]())
    found = terraform.rescue().finish()
    assert "kept" in found
    assert terraform.calls == ["state push -lock-timeout=0s errored.tfstate"]


def test_the_lock_that_was_seen_while_the_apply_worked_is_the_one(terraform: Terraform) -> None:
    watch = terraform.rescue(lockable=True)
    terraform.says("taint", lock("l-7", host="elsewhere", when=0))
    assert watch.every == 0.2
    watch.look(running=True)
    assert terraform.calls == [], "the apply has not begun"
    terraform.stdout.write_text('{"type":"plan"}\n{"type":"apply_start"}\n')
    until = time.monotonic() + 30
    while watch.every is not None:
        watch.look(running=True)
        assert time.monotonic() < until
    assert watch.lock_id == "l-7"
    assert [call.split()[0] for call in terraform.calls] == ["taint"]
    # After it: that very lock, and no other.
    terraform.leaves()
    terraform.says("state", lock("l-8"))
    found = watch.finish()
    assert found["lock_id"] == "l-7"
    assert not [call for call in terraform.calls if "lock=false" in call]


def test_what_is_asked_after_the_apply_proves_nothing(terraform: Terraform) -> None:
    watch = terraform.rescue(lockable=True)
    terraform.says("taint", lock("l-7"))
    terraform.stdout.write_text('{"type":"apply_start"}\n')
    watch.look(running=True)
    watch.look(running=False)
    assert (watch.lock_id, watch.every) == (None, None)


def test_the_question_after_a_short_apply_leaves_no_lock_of_its_own(terraform: Terraform) -> None:
    """The apply was over before the question came to the lock: it is the one that holds it now."""
    held, program = terraform.folder / "held", terraform.path
    program.write_text(f"#!/usr/bin/env bash\ntouch {held}\nsleep 1\nrm {held}\n")
    watch = terraform.rescue(lockable=True)
    terraform.stdout.write_text('{"type":"apply_start"}\n')
    watch.look(running=True)
    until = time.monotonic() + 30
    while not held.exists():
        assert time.monotonic() < until
    assert watch.finish() == {}
    assert not held.exists()
    assert watch.lock_id is None


def test_a_lock_that_could_not_be_released_is_released(terraform: Terraform) -> None:
    watch = terraform.rescue()
    terraform.stdout.write_text('{"@message":"Error releasing the state lock"}\n')
    terraform.says("taint", lock("l-1"))
    terraform.says("force-unlock", "", 0)
    assert watch.finish() == {"unlocked": True}
    assert terraform.calls[-1] == "force-unlock -force l-1"


def test_one_that_another_run_took_since_is_not_released(terraform: Terraform) -> None:
    terraform.stdout.write_text('{"@message":"Error releasing the state lock"}\n')
    terraform.says("taint", lock(host="elsewhere"))
    assert terraform.rescue(seconds=60).finish() == {"unlocked": False}
    assert [call.split()[0] for call in terraform.calls] == ["taint"]


def test_a_release_that_fails_is_tried_again(terraform: Terraform) -> None:
    watch = terraform.rescue(seconds=30)
    terraform.stdout.write_text('{"@message":"Error releasing the state lock"}\n')
    terraform.says("taint", lock("l-1"))
    terraform.says(2, "Error: not now")
    terraform.says(4, "", 0)
    assert watch.finish() == {"unlocked": True}
    assert terraform.told[0] == {"rescue": "locked", "lock_id": "l-1", "why": "Error: not now"}
    assert terraform.told[1]["rescue"] == "unlocked"


# ---------------------------------------------------------------- texts and folders


def test_who_holds_a_lock_is_read_from_colours_and_frames() -> None:
    framed = "\x1b[31m╷\x1b[0m\n" + "\n".join(f"│ {line}" for line in lock("l-1").splitlines()) + "\n╵"
    holder = lock_holder(framed)
    assert holder is not None
    assert (holder["ID"], holder["Operation"]) == ("l-1", "OperationTypeApply")
    assert holder["Who"] == f"me@{socket.gethostname()}"
    http = "Error: HTTP remote state already locked: ID=h-2\nLock Info:\n ID: wanted"
    assert lock_holder(http) == {"ID": "h-2"}
    assert lock_holder("Error: no such bucket\n  ID:  x") is None
    assert plain("\x1b[1m╷\n│ one\n╵\x1b[0m") == "one"


def test_the_time_of_a_lock() -> None:
    assert created("2026-11-28 16:37:43.5 +0000 UTC") == 1795883863.5
    assert created("2026-11-28 16:37:43 +0000 UTC") == 1795883863.0
    assert created("yesterday") is None


def test_the_gist_of_what_was_said() -> None:
    assert last_words("Acquiring\n\nError: one\n  two\nthree\nfour\nfive") == "Error: one two three four"
    assert last_words("one\ntwo") == "one two"
    assert len(last_words("x" * 500)) == 400


@pytest.mark.parametrize(
    ("text", "is_final"),
    [
        ("cannot import existing state", True),
        ("cannot overwrite existing state", True),
        ("cannot import state with lineage over unrelated state", True),
        ("Error: Service Unavailable", False),
    ],
)
def test_what_another_push_can_not_help(text: str, is_final: bool) -> None:
    assert final(text) is is_final


def test_what_a_push_would_overwrite() -> None:
    assert would_overwrite(STATE, json.dumps({"resources": [{}]})) is None, "Terraform compares these itself"
    fresh = json.dumps({"resources": []})
    assert would_overwrite(fresh, " \n") is None
    assert would_overwrite(fresh, json.dumps({"serial": 1, "resources": []})) is None
    assert "with 1 resources (serial 4)" in str(would_overwrite(fresh, json.dumps({"serial": 4, "resources": [{}]})))


def test_where_states_are_kept() -> None:
    assert kept_states({"RAY_PROVIDER_KEPT_STATES": "/own", "HOME": "/h"}) == Path("/own")
    assert kept_states({"XDG_STATE_HOME": "/s", "HOME": "/h"}) == Path("/s/airflow-ray/kept-states")
    assert kept_states({"HOME": "/h"}) == Path("/h/.local/state/airflow-ray/kept-states")


def test_a_place_that_can_not_be_written_has_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescue, "last_resort", lambda: tmp_path / "last")
    state = tmp_path / "errored.tfstate"
    state.write_text(STATE)
    (tmp_path / "file").touch()
    assert keep(state, {"key": "abc"}, tmp_path / "file").is_relative_to(tmp_path / "last" / "abc")
    monkeypatch.setattr(rescue, "last_resort", lambda: tmp_path / "file")
    state.write_text(STATE)
    with pytest.raises(OSError):
        keep(state, {"key": "abc"}, tmp_path / "file")
    assert state.read_text() == STATE


def test_a_folder_goes_with_all_in_it_but_a_state(tmp_path: Path) -> None:
    folder = tmp_path / "private"
    (folder / "module").mkdir(parents=True)
    state = folder / "module" / "errored.tfstate"
    state.write_text(STATE)
    remove_folder(folder, str(tmp_path / "kept"))
    assert state.exists(), "nobody knows whose it is"
    (folder / ".identity.json").write_text(json.dumps({"key": "abc"}))
    remove_folder(folder, str(tmp_path / "kept"))
    assert not folder.exists()
    [kept] = (tmp_path / "kept" / "abc").glob("*.tfstate")
    assert kept.read_text() == STATE
    remove_folder(folder, None)  # nothing there
    assert os.listdir(tmp_path) == ["kept"]


def test_a_state_is_kept_though_a_terraform_that_is_ending_removes_a_folder_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "private"
    for name in ("ending", "module"):
        (folder / "tmp" / name).mkdir(parents=True)
    (folder / "tmp" / "module" / "errored.tfstate").write_text(STATE)
    (folder / ".identity.json").write_text(json.dumps({"key": "abc"}))
    monkeypatch.setattr(os, "scandir", scandir_that_is_late(["ending"]))
    remove_folder(folder, str(tmp_path / "kept"))
    assert not folder.exists()
    assert [path.read_text() for path in (tmp_path / "kept" / "abc").glob("*.tfstate")] == [STATE]
