"""Terraform's machine-readable output (``-json``), made into lines that a person likes to read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: A resource that takes minutes says "still creating" every ten seconds: so often is not news.
PROGRESS_EVERY_SECONDS = 60.0

#: What terraform prints in JSON mode and nobody needs to see.
_SILENT = frozenset(
    {"version", "resource_drift", "refresh_start", "refresh_complete", "ephemeral_op_progress", "init_output"}
)
#: Printed as plain text even in JSON mode.
_PLAIN_NOISE = ("Successfully configured the backend", "use this backend unless the backend configuration changes")
_INIT_WORTH_SAYING = ("Installing ", "Installed ", "Using previously-installed", "Downloading ")

Sink = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One error or warning. Its snippet of the source is left out: it may show a whole file of variables.

    :param severity: ``error`` or ``warning``.
    :param summary: Terraform's, redacted.
    :param detail: Terraform's, redacted.
    :param address: of the resource that it is about.
    :param where: file and line of the module.
    :param traversals: what the expression there refers to.
    :param variables: names of variables that it is about.
    """

    severity: str
    summary: str
    detail: str = ""
    address: str = ""
    where: str = ""
    traversals: str = ""
    variables: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The diagnostic in a few lines."""
        place = ", ".join(part for part in (self.address, self.where) if part)
        return "\n".join(part for part in (self.summary + (f" [{place}]" if place else ""), self.detail) if part)

    def to_dict(self) -> dict[str, str]:
        """Give it as plain data."""
        return {
            "severity": self.severity,
            "summary": self.summary,
            "detail": self.detail,
            "address": self.address,
            "where": self.where,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], redact: Callable[[str], str]) -> Diagnostic:
        """Read a diagnostic of the ``-json`` output.

        :param data: the event's ``diagnostic``.
        :param redact: takes secrets out of a text.
        """
        source = data.get("range") or {}
        snippet = data.get("snippet") or {}
        file = str(source.get("filename", ""))
        line = (source.get("start") or {}).get("line")
        # Where a variables file of ours is the place, its name and line tell the reader nothing.
        where = "" if not file or file.endswith(".tfvars.json") else f"{file} line {line}"
        code = str(snippet.get("code") or "")
        named = code.split('"')[1:2] if code.startswith('variable "') else []
        traversals = " ".join(str(value.get("traversal", "")) for value in snippet.get("values") or ())
        return cls(
            severity=str(data.get("severity", "error")),
            summary=redact(str(data.get("summary", ""))),
            detail=redact(str(data.get("detail", "")).strip()),
            address=redact(str(data.get("address", ""))),
            where=redact(where),
            traversals=redact(traversals),
            variables=tuple(named),
        )


@dataclass(slots=True)
class EventReader:
    """Takes the lines of one command, writes progress, and keeps what the run amounts to.

    :param write: gets each readable line, redacted.
    :param redact: takes secrets out of a text.
    :param clock: gives seconds, for how long a resource takes.
    :param quiet_plan: don't list the planned changes: an apply repeats those of its plan.
    :param diagnostics: errors and warnings so far.
    :param resources_done: how many it has made, changed or destroyed so far.
    """

    write: Sink
    redact: Callable[[str], str]
    clock: Callable[[], float] = time.monotonic
    quiet_plan: bool = False
    diagnostics: list[Diagnostic] = field(default_factory=list)
    resources_done: int = 0
    _progress: dict[str, float] = field(default_factory=dict)

    def feed(self, line: str) -> None:
        """Take one line of output.

        :param line: an event, or plain text.
        """
        line = line.rstrip("\r\n")
        if not line.strip():
            return
        try:
            event = json.loads(line)
        except ValueError:
            if not line.startswith(_PLAIN_NOISE):
                self.say(line)
            return
        if not isinstance(event, dict):
            self.say(line)
            return
        kind = str(event.get("type", "log"))
        handler = getattr(self, f"_on_{kind}", None)
        if handler is not None:
            handler(event)
        elif kind not in _SILENT:
            self.say(str(event.get("@message", "")))
        elif kind == "init_output" and str(event.get("@message", "")).startswith(_INIT_WORTH_SAYING):
            self.say(str(event["@message"]))

    def say(self, text: str) -> None:
        """Write a line, redacted, with nothing in it that could move a cursor or fake another line.

        :param text: of one line or several.
        """
        for part in self.redact(text).splitlines():
            clean = "".join(character if character.isprintable() or character == "\t" else " " for character in part)
            if clean.strip():
                self.write(clean)

    def _on_log(self, event: Mapping[str, Any]) -> None:
        message = str(event.get("@message", ""))
        if event.get("@level") in {"warn", "error"} or message.startswith(_INIT_WORTH_SAYING):
            self.say(message)

    def _on_diagnostic(self, event: Mapping[str, Any]) -> None:
        diagnostic = Diagnostic.from_json(event.get("diagnostic") or {}, self.redact)
        if diagnostic in self.diagnostics:
            return
        self.diagnostics.append(diagnostic)
        self.say(f"{diagnostic.severity.capitalize()}: {diagnostic.text}")

    def _on_planned_change(self, event: Mapping[str, Any]) -> None:
        if self.quiet_plan:
            return
        change = event.get("change") or {}
        address = (change.get("resource") or {}).get("addr", "?")
        action = str(change.get("action", "?"))
        if action != "noop":
            reason = change.get("reason")
            self.say(
                f"  {_SIGNS.get(action, ' ')} {address}: {action}"
                + (f" ({str(reason).replace('_', ' ')})" if reason else "")
            )

    def _on_apply_start(self, event: Mapping[str, Any]) -> None:
        hook = event.get("hook") or {}
        address = (hook.get("resource") or {}).get("addr", "?")
        self._progress[address] = self.clock()
        self.say(f"{address}: {_DOING.get(str(hook.get('action')), 'working')} …")

    def _on_apply_progress(self, event: Mapping[str, Any]) -> None:
        hook = event.get("hook") or {}
        address = (hook.get("resource") or {}).get("addr", "?")
        now = self.clock()
        if now - self._progress.get(address, float("-inf")) < PROGRESS_EVERY_SECONDS:
            return
        self._progress[address] = now
        self.say(
            f"{address}: still {_DOING.get(str(hook.get('action')), 'working')} ({hook.get('elapsed_seconds', '?')} s)"
        )

    def _on_apply_complete(self, event: Mapping[str, Any]) -> None:
        hook = event.get("hook") or {}
        address = (hook.get("resource") or {}).get("addr", "?")
        self.resources_done += 1
        self.say(f"{address}: {_DONE.get(str(hook.get('action')), 'done')} after {hook.get('elapsed_seconds', '?')} s")

    def _on_apply_errored(self, event: Mapping[str, Any]) -> None:
        hook = event.get("hook") or {}
        address = (hook.get("resource") or {}).get("addr", "?")
        self.say(f"{address}: failed after {hook.get('elapsed_seconds', '?')} s")

    def _on_provision_start(self, event: Mapping[str, Any]) -> None:
        self.say(str(event.get("@message", "")))

    def _on_provision_progress(self, event: Mapping[str, Any]) -> None:
        self.say(str(event.get("@message", "")))

    def _on_change_summary(self, event: Mapping[str, Any]) -> None:
        self.say(str(event.get("@message", "")))

    def _on_outputs(self, event: Mapping[str, Any]) -> None:
        outputs = event.get("outputs") or {}
        # Names alone: a value may be long, and terraform's idea of what is sensitive is the module author's.
        if outputs:
            self.say(
                "Outputs: "
                + ", ".join(
                    f"{name} (sensitive)" if value.get("sensitive") else name for name, value in sorted(outputs.items())
                )
            )


_SIGNS = {
    "create": "+",
    "update": "~",
    "delete": "-",
    "replace": "±",
    "read": "<",
    "move": ">",
    "import": ">",
    "remove": ".",
}
_DOING = {"create": "creating", "update": "changing", "delete": "destroying", "replace": "replacing", "read": "reading"}
_DONE = {"create": "created", "update": "changed", "delete": "destroyed", "replace": "replaced", "read": "read"}
