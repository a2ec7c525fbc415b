"""What a reader of a task's log sees of Terraform's events."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ray_provider.infrastructure.terraform.events import EventReader


def said(*events: dict[str, Any] | str, **further: Any) -> list[str]:
    lines: list[str] = []
    reader = EventReader(lines.append, str, **further)
    for event in events:
        reader.feed(event if isinstance(event, str) else json.dumps(event))
    return lines


def hook(kind: str, action: str, **further: Any) -> dict[str, Any]:
    return {"type": kind, "hook": {"resource": {"addr": "a.b"}, "action": action, **further}}


@pytest.mark.parametrize(
    ("action", "sign"),
    [
        ("create", "+"),
        ("update", "~"),
        ("delete", "-"),
        ("replace", "±"),
        ("read", "<"),
        ("move", ">"),
        ("import", ">"),
        ("remove", "."),
        ("new one", " "),
    ],
)
def test_a_plan_shows_each_change_by_its_sign(action: str, sign: str) -> None:
    change = {"type": "planned_change", "change": {"resource": {"addr": "a.b"}, "action": action}}
    assert said(change) == [f"  {sign} a.b: {action}"]
    change["change"]["reason"] = "cannot_update"  # type: ignore[index]
    assert said(change) == [f"  {sign} a.b: {action} (cannot update)"]
    assert said(change, quiet_plan=True) == [], "an apply repeats its plan"


def test_what_stays_as_it_is_is_not_told() -> None:
    assert said({"type": "planned_change", "change": {"resource": {"addr": "a.b"}, "action": "noop"}}) == []


@pytest.mark.parametrize(
    ("action", "doing", "done"),
    [
        ("create", "creating", "created"),
        ("update", "changing", "changed"),
        ("delete", "destroying", "destroyed"),
        ("replace", "replacing", "replaced"),
        ("read", "reading", "read"),
        ("new one", "working", "done"),
    ],
)
def test_what_an_apply_does_is_said_in_words(action: str, doing: str, done: str) -> None:
    lines = said(
        hook("apply_start", action),
        hook("apply_complete", action, elapsed_seconds=7),
        hook("apply_errored", action, elapsed_seconds=8),
    )
    assert lines == [f"a.b: {doing} …", f"a.b: {done} after 7 s", "a.b: failed after 8 s"]


def test_progress_is_told_once_a_minute_for_each() -> None:
    now = [100.0]
    lines: list[str] = []
    reader = EventReader(lines.append, str, clock=lambda: now[0])
    for seconds, address in ((0, "a.b"), (59.9, "a.b"), (60, "a.b"), (60, "c.d"), (119, "a.b"), (120, "a.b")):
        now[0] = 100 + seconds
        kind = "apply_start" if not seconds else "apply_progress"
        told = {"resource": {"addr": address}, "action": "delete", "elapsed_seconds": int(seconds)}
        reader.feed(json.dumps({"type": kind, "hook": told}))
    assert lines == [
        "a.b: destroying …",
        "a.b: still destroying (60 s)",
        "c.d: still destroying (60 s)",
        "a.b: still destroying (120 s)",
    ]


def test_what_is_done_is_counted() -> None:
    reader = EventReader(lambda _: None, str)
    for event in (hook("apply_complete", "create"), hook("apply_errored", "create"), hook("apply_complete", "create")):
        reader.feed(json.dumps(event))
    assert reader.resources_done == 2


@pytest.mark.parametrize(
    "event",
    [
        *({"type": kind, "@message": "x"} for kind in ("version", "resource_drift", "refresh_start")),
        *({"type": kind, "@message": "x"} for kind in ("refresh_complete", "ephemeral_op_progress", "init_output")),
        {"type": "log", "@level": "info", "@message": "x"},
        {"@level": "info", "@message": "no type"},
        {"type": "outputs", "outputs": {}},
        "Successfully configured the backend s3!",
        "use this backend unless the backend configuration changes.",
        "   ",
    ],
)
def test_noise_is_left_out(event: dict[str, Any] | str) -> None:
    assert said(event) == []


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"type": "init_output", "@message": "Installing hashicorp/aws v6"}, "Installing hashicorp/aws v6"),
        ({"type": "init_output", "@message": "Using previously-installed x"}, "Using previously-installed x"),
        ({"type": "init_output", "@message": "Downloading git::x"}, "Downloading git::x"),
        ({"type": "log", "@level": "info", "@message": "Installed x"}, "Installed x"),
        ({"type": "log", "@level": "warn", "@message": "beware"}, "beware"),
        ({"type": "log", "@level": "error", "@message": "broken"}, "broken"),
        ({"type": "change_summary", "@message": "Plan: 1 to add"}, "Plan: 1 to add"),
        ({"type": "provision_start", "@message": "local-exec"}, "local-exec"),
        ({"type": "provision_progress", "@message": "hello"}, "hello"),
        ({"type": "something_new", "@message": "of a later Terraform"}, "of a later Terraform"),
        ("[1]", "[1]"),
        ("not JSON", "not JSON"),
        ("tab\tand \x07 bell", "tab\tand   bell"),
    ],
)
def test_what_matters_is_shown(event: dict[str, Any] | str, line: str) -> None:
    assert said(event) == [line]


def diagnostic(**further: Any) -> dict[str, Any]:
    return {"type": "diagnostic", "diagnostic": {"severity": "error", "summary": "Bad", **further}}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "Error: Bad"),
        ({"severity": "warning"}, "Warning: Bad"),
        ({"detail": " why \n"}, "Error: Bad|why"),
        ({"address": "a.b"}, "Error: Bad [a.b]"),
        ({"range": {"filename": "main.tf", "start": {"line": 7}}}, "Error: Bad [main.tf line 7]"),
        ({"address": "a.b", "range": {"filename": "m.tf", "start": {"line": 7}}}, "Error: Bad [a.b, m.tf line 7]"),
        ({"range": {"filename": "x.tfvars.json", "start": {"line": 7}}}, "Error: Bad"),
    ],
)
def test_a_diagnostic_is_shown_once_with_its_place(given: dict[str, Any], line: str) -> None:
    assert said(diagnostic(**given), diagnostic(**given)) == line.split("|")


def test_a_diagnostic_names_the_variables_that_it_is_about() -> None:
    def variables(code: str) -> tuple[str, ...]:
        reader = EventReader(lambda _: None, str)
        reader.feed(json.dumps(diagnostic(snippet={"code": code, "values": [{"traversal": "var.a"}]})))
        assert reader.diagnostics[0].traversals == "var.a"
        return reader.diagnostics[0].variables

    assert variables('variable "pools" {') == ("pools",)
    assert variables('resource "pools" {') == ()


def test_every_part_of_a_diagnostic_is_redacted() -> None:
    redact: Callable[[str], str] = lambda text: text.replace("planted", "***")  # noqa: E731
    reader = EventReader(lambda _: None, redact)
    reader.feed(
        json.dumps(
            diagnostic(
                summary="planted",
                detail="planted",
                address="planted",
                range={"filename": "planted", "start": {"line": 1}},
                snippet={"values": [{"traversal": "planted"}]},
            )
        )
    )
    assert "planted" not in repr(reader.diagnostics)
    assert reader.diagnostics[0].to_dict() == {
        "severity": "error",
        "summary": "***",
        "detail": "***",
        "address": "***",
        "where": "*** line 1",
    }
