"""Small modules without a provider, for tests of what runs them; and what those tests have in common."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ray_provider.infrastructure.module.spec import InfrastructureSpec
from ray_provider.infrastructure.run import InfrastructureRun
from tests.support.terraform import need_terraform
from tests.support.waiting import wait_until

#: Resources without a provider; `slow` sleeps that many seconds after `first` was made.
MODULE = """
variable "name" {
  type    = string
  default = "ray"
}
variable "number" {
  description = "How many {resources}." # not a brace that counts: {
  type        = number
  default     = 1
  validation {
    condition     = var.number >= 0
    error_message = "number must not be negative."
  }
}
variable "slow" {
  type    = number
  default = 0
}
variable "pools" {
  type = map(object({
    min = optional(number, 0)
    max = number
  }))
  default = {}
  validation {
    condition     = alltrue([for pool in var.pools : pool.min <= pool.max])
    error_message = "pools: min must not be more than max."
  }
}
variable "password" {
  type      = string
  default   = null
  sensitive = true
}
resource "terraform_data" "first" {
  count = var.number
  input = var.name
}
resource "terraform_data" "slow" {
  count      = var.slow > 0 ? 1 : 0
  depends_on = [terraform_data.first]
  provisioner "local-exec" {
    command = "sleep ${var.slow}"
  }
}
output "cluster_name" {
  value = var.name
}
output "password" {
  value     = var.password
  sensitive = true
}
"""


@dataclass
class Module:
    """A module on the disk, a place for its state, and what its runs said."""

    folder: Path
    state: Path
    lines: list[str] = field(default_factory=list)

    def spec(self, **changes: Any) -> InfrastructureSpec:
        given: dict[str, Any] = {
            "module": str(self.folder),
            "backend": {"type": "local", "path": str(self.state)},
            "binary": str(need_terraform().path),
        }
        return InfrastructureSpec(**{**given, **changes})

    def run(self, **changes: Any) -> InfrastructureRun:
        return InfrastructureRun(self.spec(**changes), write=self.lines.append)

    def apply(self, **changes: Any) -> None:
        with self.run(**changes) as run:
            run.plan()
            run.apply()

    def resources(self) -> list[str]:
        data = json.loads(self.state.read_text())
        return [f"{item['type']}.{item['name']}" for item in data["resources"] if item["instances"]]

    @property
    def lock(self) -> Path:
        return self.state.with_name(f".{self.state.name}.lock.info")

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def make_module(folder: Path, text: str = MODULE) -> Module:
    module = folder / "module"
    module.mkdir(parents=True)
    (module / "main.tf").write_text(text)
    return Module(module, folder / "state" / "terraform.tfstate")


def private_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("airflow-ray-tf-*"))


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail if a private folder or a process of Terraform of ours stays. Other tests may run beside this one."""
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    # Short: plugins make sockets in it, whose paths have at most 107 characters.
    own = Path(tempfile.mkdtemp(prefix="rt-"))
    tempfile.tempdir = os.environ["TMPDIR"] = str(own)
    try:
        yield
        assert private_folders() == set()
        wait_until(lambda: not working_in(own))
    finally:
        tempfile.tempdir = before[0]
        if before[1] is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before[1]
        shutil.rmtree(own, ignore_errors=True)
        for process in working_in(own):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    left = [child for child in psutil.Process(os.getpid()).children(recursive=True) if is_ours(child)]
    assert left == []


def working_in(folder: Path) -> list[psutil.Process]:
    """What has its temporary files there: Terraform, its supervisor, what its provisioners have started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("TMPDIR", "").startswith(str(folder)):
                found.append(process)
    return found


def is_ours(process: psutil.Process) -> bool:
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    return any("keeper.py" in word or Path(word).name in {"terraform", "tofu"} for word in line[:6])
