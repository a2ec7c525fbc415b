"""A lock file between runs: with real programs in tests/infrastructure/test_provider_cache.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_provider.infrastructure.terraform.binary import TerraformBinary
from ray_provider.infrastructure.terraform.lock_file import LOCK_FILE, LockFile

TERRAFORM = TerraformBinary("/terraform", "terraform", (1, 9, 0), "linux_amd64")
ARM = TerraformBinary("/terraform", "terraform", (1, 9, 0), "linux_arm64")
TOFU = TerraformBinary("/tofu", "tofu", (1, 9, 0), "linux_amd64")
TEXT = 'provider "registry.terraform.io/hashicorp/aws" {\n  version = "6.1.0"\n  hashes  = ["h1:x"]\n}\n'


def begin(root: Path, state: str = "one", binary: TerraformBinary = TERRAFORM, own: str = "") -> LockFile:
    root.mkdir(exist_ok=True)
    (root / LOCK_FILE).unlink(missing_ok=True)
    if own:
        (root / LOCK_FILE).write_text(own)
    return LockFile.of(root, {"key": state}, binary)


def test_it_is_of_one_state_program_platform_and_lock_file_of_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_PROVIDER_KEPT_STATES", str(tmp_path / "kept"))
    said: list[str] = []
    first = begin(tmp_path / "module")
    first.path.write_text(TEXT)
    first.keep(said.append)
    again = begin(tmp_path / "module")
    assert again.is_kept
    assert again.path.read_text() == TEXT
    assert "hashicorp/aws 6.1.0" in again.tell()
    for other in ({"state": "two"}, {"binary": ARM}, {"binary": TOFU}, {"own": TEXT.replace("6.1.0", "6.2.0")}):
        assert not begin(tmp_path / "module", **other).is_kept, other
    # What `init` wrote of something damaged is forgotten.
    again.path.write_text("damaged")
    again.restore()
    assert again.path.read_text() == TEXT
    assert said == []


def test_a_folder_that_can_not_be_written_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").write_text("a file")
    monkeypatch.setenv("RAY_PROVIDER_KEPT_STATES", str(tmp_path / "kept"))
    said: list[str] = []
    lock_file = begin(tmp_path / "module")
    lock_file.path.write_text(TEXT)
    lock_file.keep(said.append)
    assert len(said) == 1
    assert "can't be kept" in said[0]
    assert "RAY_PROVIDER_KEPT_STATES" in said[0]
