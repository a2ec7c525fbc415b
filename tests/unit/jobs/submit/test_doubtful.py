"""What is among a package's files that may not be meant to leave the worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_provider.jobs.submit.archive import pack_folder
from ray_provider.jobs.submit.doubtful import warning_of

KEY = b"-----BEGIN RSA PRIVATE KEY-----\nplanted\n"


def warning(folder: Path, *allowed: str) -> str:
    return warning_of(pack_folder(folder, "working_dir", [], with_parent=False), allowed) or ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    (made / "job.py").touch()
    return made


def put(folder: Path, name: str, content: bytes = b"") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        *(".env", ".env.production", "deep/.env", ".netrc", "_netrc", "airflow.cfg", ".pgpass", ".pypirc"),
        *(".git-credentials", "id_rsa", "id_dsa", "id_ecdsa", "keys/id_ed25519", "a.p12", "a.pfx", "a.jks"),
        *("kubeconfig", "prod.kubeconfig", "terraform.tfstate", "run.tfvars.json", ".aws/credentials"),
        *("home/.aws/credentials", ".kube/config", ".docker/config.json", ".config/gcloud/key.json"),
    ],
)
def test_files_that_hold_secrets_by_their_names(folder: Path, name: str) -> None:
    put(folder, name)
    told = warning(folder)
    assert f"{name} (it usually holds secrets)" in told
    assert told.startswith(f"working_dir {folder}: everybody with Ray's token can read what is packed")
    assert f"allow_in_package=['{name}']" in told
    assert warning(folder, name) == ""


@pytest.mark.parametrize(
    "name",
    [
        *(".env.example", ".env.sample", ".env.template", ".env.dist", "env", "credentials", "config.json"),
        *("my_id_rsa.pub.py", "config", "terraform.tf", "run.tfvars"),
    ],
)
def test_files_that_merely_look_like_it(folder: Path, name: str) -> None:
    put(folder, name)
    assert warning(folder) == ""


@pytest.mark.parametrize("suffix", [".pem", ".key", ".crt", ".json", ".txt", ""])
def test_private_keys_are_found_by_what_is_in_them(folder: Path, suffix: str) -> None:
    put(folder, f"mine{suffix}", b"x\n" + KEY)
    assert f"mine{suffix} (a private key)" in warning(folder)
    put(folder, f"mine{suffix}", b"-----BEGIN CERTIFICATE-----\n")
    assert warning(folder) == ""


def test_code_and_data_are_not_read_for_keys(folder: Path) -> None:
    put(folder, "mine.py", KEY)
    put(folder, "fits.pem", KEY.ljust(64 * 1024, b" "))
    put(folder, "large.pem", KEY.ljust(64 * 1024 + 1, b" "))
    told = warning(folder)
    assert "fits.pem (a private key)" in told
    assert "mine.py" not in told
    assert "large.pem" not in told


def test_what_is_meant_is_said_by_name_or_pattern(folder: Path) -> None:
    put(folder, "a/.env")
    put(folder, "b/.env")
    assert "a/.env" not in warning(folder, "a/*")
    assert "b/.env" in warning(folder, "a/*")
    assert warning(folder, ".env") == ""


def test_a_link_out_of_the_folder_is_told_once_with_where_it_leads(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    put(outside, "one.txt")
    put(outside, "two.txt")
    (folder / "linked").symlink_to(outside)
    (folder / "inside").symlink_to(folder / "job.py")
    told = warning(folder)
    assert told.count(f"linked (a link to {outside}, out of the folder)") == 1
    assert "one.txt" not in told
    assert "inside" not in told


def test_a_long_list_is_cut(folder: Path) -> None:
    for number in range(13):
        put(folder, f"{number:02}/.env")
    told = warning(folder)
    assert "09/.env (it usually holds secrets) and 3 more." in told
    assert "allow_in_package=['00/.env', '01/.env', '02/.env']" in told
    for number in range(10, 13):
        (folder / f"{number:02}/.env").unlink()
    assert " more" not in warning(folder)
