"""Secrets that are given to a run are found nowhere: not in argv, output, errors, or files that stay."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
import pytest

from ray_provider.infrastructure.errors import InfrastructureError
from tests.infrastructure.runner_modules import Module, make_module, nothing_left_behind, private_folders
from tests.support.terraform import need_terraform

SECRETS = {
    "variable": "planted-variable-7f3a",
    "sounds": "planted-sounds-91bc",
    "ephemeral": "planted-ephemeral-55de",
    "nested": 'planted "quoted" <nested> & 44aa',
    "lines": "-----BEGIN KEY-----\nplantedlineone8841\nplantedlinetwo8842\n-----END KEY-----",
    "environment": "planted-environment-0c0c",
    "backend": "planted-backend-b0b0",
    "provider": "planted-provider-aa11",
}

MODULE = """
variable "plain" {
  type      = string
  sensitive = true
}
variable "db_password" {
  type = string
}
variable "token" {
  type      = string
  ephemeral = true
}
variable "deep" {
  type = any
}
variable "fail" {
  type    = bool
  default = false
}
resource "terraform_data" "leaky" {
  triggers_replace = var.fail
  provisioner "local-exec" {
    # A careless module: prints what it was given, and fails with it on its lips.
    command     = "sleep 0.5; echo \\"$ALL\\"; echo \\"$ALL\\" >&2; exit ${var.fail ? 1 : 0}"
    environment = { ALL = nonsensitive(jsonencode([var.plain, var.db_password, var.deep])) }
  }
}
output "public" {
  value = "nothing"
}
output "private" {
  value     = var.plain
  sensitive = true
}
"""


@pytest.fixture(autouse=True)
def clean(tmp_path: Path) -> Iterator[None]:
    need_terraform()
    with nothing_left_behind():
        yield


@pytest.fixture
def module(tmp_path: Path) -> Module:
    return make_module(tmp_path, MODULE)


class Watcher(threading.Thread):
    """Looks at the command lines of all descendants, and at the modes of the private files, all the time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[str] = set()
        self.open_files: set[str] = set()
        self.samples = 0
        self._stop_it = threading.Event()

    def run(self) -> None:
        me = psutil.Process(os.getpid())
        while not self._stop_it.wait(0.02):
            self.samples += 1
            for child in me.children(recursive=True):
                try:
                    self.seen.add(" ".join(child.cmdline()))
                except psutil.Error:
                    continue
            for folder in private_folders():
                with suppress(FileNotFoundError):  # its run has ended meanwhile
                    if folder.stat().st_mode & 0o077:
                        self.open_files.add(str(folder))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_it.set()
        self.join()


def planted(module: Module, *, fail: bool = False) -> dict[str, object]:
    return {
        "variables": {"db_password": SECRETS["sounds"], "fail": fail},
        "sensitive_variables": {
            "plain": SECRETS["variable"],
            "token": SECRETS["ephemeral"],
            "deep": {"list": [SECRETS["nested"], {"key": SECRETS["lines"]}]},
        },
        "env": {"AWS_SECRET_ACCESS_KEY": SECRETS["environment"]},
    }


def found_in(text: str) -> list[str]:
    """Name the planted secrets that a text gives away, also in another spelling."""
    names = []
    for name, secret in SECRETS.items():
        forms = {secret, json.dumps(secret)[1:-1], *secret.splitlines()[1:-1]}
        forms.add(base64.b64encode(secret.encode()).decode().rstrip("="))
        if any(form in text for form in forms):
            names.append(name)
    return names


def test_secrets_are_nowhere(module: Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    texts: list[str] = []
    with Watcher() as watcher:
        with module.run(**planted(module)) as run:
            texts += [repr(run), repr(run.spec), repr(run.redactor), repr(run.runner)]
            summary = run.plan()
            texts += [str(summary), json.dumps(summary.to_dict())]
            run.apply()
            outputs = run.outputs()
            texts += [repr(outputs), json.dumps(outputs.public()), json.dumps(run.public_variables())]
            assert outputs.sensitive == {"private": SECRETS["variable"]}
        with pytest.raises(InfrastructureError) as caught, module.run(**planted(module, fail=True)) as run:
            run.plan()
            run.apply()
    error = caught.value
    texts += [str(error), repr(error), json.dumps(error.data), module.text, caplog.text, "\n".join(watcher.seen)]
    assert "exit status 1" in str(error)
    assert "***" in str(error)
    assert watcher.samples > 20
    assert any(" apply " in line for line in watcher.seen)
    assert watcher.open_files == set()
    for text in texts:
        assert found_in(text) == [], text
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "main.tf"]
    # Terraform keeps sensitive values in its state, if a resource or an output has them; but not ephemeral ones.
    assert {path.name for path in left} == {"terraform.tfstate", "terraform.tfstate.backup"}
    for path in left:
        assert set(found_in(path.read_text())) <= {"variable"}


def test_a_bad_variable_beside_a_secret(module: Module) -> None:
    """Terraform's diagnostic shows the line of the variables file, and all of it is one line."""
    given = planted(module)
    given["variables"] = {"db_password": SECRETS["sounds"], "fail": "perhaps"}
    with pytest.raises(InfrastructureError) as caught, module.run(**given) as run:
        run.plan()
    assert found_in(str(caught.value) + module.text + json.dumps(caught.value.data)) == []
    module.lines.clear()
    with module.run(**planted(module)) as run:
        variables = {**given["sensitive_variables"], **given["variables"]}  # type: ignore[dict-item]
        answer = run.runner.run("plan", check=False, variables=variables)
    assert answer.exit_code == 1
    assert "fail" in answer.err
    assert found_in(answer.err + module.text) == []


def test_backend_and_provider_secrets(tmp_path: Path) -> None:
    module = make_module(tmp_path, 'resource "terraform_data" "x" {}\n')
    with (
        Watcher() as watcher,
        pytest.raises(InfrastructureError) as caught,
        module.run(
            backend={
                "type": "s3",
                "bucket": "states",
                "key": "k",
                "region": "eu-west-1",
                "access_key": "AKIAPLANTED",
                "secret_key": SECRETS["backend"],
                "endpoints": {"s3": "http://127.0.0.1:9", "sts": "http://127.0.0.1:9"},
                "skip_credentials_validation": True,
                "skip_requesting_account_id": True,
                "max_retries": 1,
            },
            providers={"terraform": {"password": SECRETS["provider"]}},
        ),
    ):
        pass
    said = str(caught.value) + json.dumps(caught.value.data) + module.text + "\n".join(watcher.seen)
    assert found_in(said) == []
