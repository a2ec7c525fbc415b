"""A program that stands for Terraform: it says what a test wrote down for it, and notes what it was asked.

Files in ``answers`` are named after the command's words without options (``plan``, ``state-pull``); one that ends in
``.N`` is for the command's N-th call. Its first line is the exit code, the rest is printed (``err:`` lines to standard
error; ``file:NAME:JSON`` writes a text into a file where it runs; ``hold:PATH:SECONDS`` has a file there for so long).
Each call is noted with its arguments, its variables' files, and a part of its environment.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = """#!{python} -IS
import json, os, pathlib, stat, sys, time
here = pathlib.Path(__file__).parent
words = [word for word in sys.argv[1:] if not word.startswith("-")]
two = {"workspace", "state", "providers"}
name = "-".join(words[:2] if words[0] in two else words[:1])
files = {}
for word in sys.argv[1:]:
    if word.startswith("-var-file="):
        path = pathlib.Path(word.partition("=")[2])
        files[str(path)] = [stat.S_IMODE(path.stat().st_mode), json.loads(path.read_text())]
    if word.startswith("-out="):
        pathlib.Path(word.partition("=")[2]).write_text("a plan")
note = {"name": name, "argv": sys.argv[1:], "files": files, "cwd": os.getcwd(), "env": dict(os.environ)}
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(note) + "\\n")
number = sum(json.loads(line)["name"] == name for line in (here / "calls").read_text().splitlines())
for found in (here / "answers" / f"{name}.{number}", here / "answers" / name):
    if found.exists():
        code, *lines = found.read_text().splitlines()
        for line in lines:
            if line == "wait for SIGINT":
                try:
                    time.sleep(60)
                except KeyboardInterrupt:
                    continue
            if line.startswith("hold:"):
                _, path, seconds = line.split(":", 2)
                pathlib.Path(path).touch()
                time.sleep(float(seconds))
                pathlib.Path(path).unlink()
                continue
            if line.startswith("file:"):
                _, path, text = line.split(":", 2)
                pathlib.Path(path).write_text(json.loads(text))
                continue
            print(line.removeprefix("err:"), file=sys.stderr if line.startswith("err:") else sys.stdout, flush=True)
        sys.exit(int(code))
"""


@dataclass(frozen=True)
class Call:
    """One call of the program."""

    name: str
    argv: list[str]
    files: dict[str, Any]
    cwd: str
    env: dict[str, str]


class TerraformDouble:
    """The program in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        (folder / "answers").mkdir(parents=True)
        self.folder = folder
        self.path = folder / "terraform"
        self.path.write_text(PROGRAM.replace("{python}", sys.executable, 1))
        self.path.chmod(0o700)
        self.says("version", json.dumps({"terraform_version": "1.11.4", "platform": "linux_amd64"}))

    def says(self, name: str, *lines: str | dict[str, Any], code: int = 0) -> None:
        """Say lines (or events) to a command, or to its N-th call (``plan.2``)."""
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (self.folder / "answers" / name).write_text("\n".join([str(code), *texts]) + "\n")

    @property
    def calls(self) -> list[Call]:
        """What it was asked, without that for its version."""
        path = self.folder / "calls"
        found = [Call(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in found if call.name != "version"]

    def asked(self, name: str) -> Call:
        """Give the one call of a command."""
        [call] = [call for call in self.calls if call.name == name]
        return call


def error_event(summary: str, detail: str = "") -> dict[str, Any]:
    """Give the event of an error, as ``-json`` has it."""
    return {"type": "diagnostic", "diagnostic": {"severity": "error", "summary": summary, "detail": detail}}
