"""Programs that we start get none of Airflow's secrets, and Helm runs nothing that the worker's environment slips in."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from ray_provider.clusters.helm.releases import HelmOptions, open_helm
from ray_provider.clusters.kubernetes.access import Credential, KubernetesAccess
from ray_provider.clusters.local import head
from ray_provider.infrastructure.module.source import ModuleSource
from ray_provider.infrastructure.terraform.environment import build_environment

PLANTED = "planted-environment-5e11"
SECRETS = {
    "AIRFLOW__CORE__FERNET_KEY": PLANTED,
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql://airflow:{PLANTED}@db/airflow",
    "AIRFLOW__CELERY__BROKER_URL": f"redis://:{PLANTED}@redis",
    "AIRFLOW_CONN_WAREHOUSE": f"postgres://u:{PLANTED}@h",
    "AIRFLOW_VAR_KEY": PLANTED,
    "AIRFLOW_FERNET_KEY": PLANTED,
    "_AIRFLOW__SECRET": PLANTED,
    "RAY_AUTH_TOKEN": PLANTED,
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_PROFILE", "kept")


def program(folder: Path, name: str, then: str = "") -> str:
    """A program that writes down what environment it got."""
    path = folder / name
    path.write_text(f"#!/bin/bash\nenv >>{folder}/{name}.env\n{then}\n")
    path.chmod(0o755)
    return str(path)


def check(folder: Path, name: str) -> str:
    seen = (folder / f"{name}.env").read_text()
    assert "AWS_PROFILE=kept" in seen, "what is not Airflow's is passed on"
    assert PLANTED not in seen
    return seen


def exec_config(command: str) -> dict:
    return {
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [
            {"name": "u", "user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command}}}
        ],
    }


async def test_a_credential_program(tmp_path):
    answer = json.dumps({"kind": "ExecCredential", "status": {"token": "t"}})
    command = program(tmp_path, "plugin", f"echo '{answer}'")
    headers = await Credential(KubernetesAccess(kubeconfig=exec_config(command)).resolve()).headers()
    assert headers == {"Authorization": "Bearer t"}
    check(tmp_path, "plugin")


async def test_helm_and_what_it_runs(tmp_path, monkeypatch, caplog):
    dropped = {"HELM_PLUGINS": "/tmp/theirs", "HELM_POST_RENDERER": "/tmp/theirs", "HELM_KUBETOKEN": PLANTED}
    kept = {"HELM_CACHE_HOME": str(tmp_path / "cache"), "HELM_REGISTRY_CONFIG": str(tmp_path / "registry.json")}
    for name, value in {**dropped, **kept}.items():
        monkeypatch.setenv(name, value)
    helm = program(tmp_path, "helm", '[ "$1" = version ] && echo v4.1.4 || echo "[]"')
    access = KubernetesAccess(kubeconfig=exec_config("/no/such/program"))
    with caplog.at_level(logging.WARNING, logger="ray_provider"):
        async with open_helm(access, HelmOptions(path=helm)) as opened:
            await opened.uninstall("r", "n")
    seen = check(tmp_path, "helm")
    assert all(f"{name}={value}" in seen for name, value in kept.items())
    assert "/tmp/theirs" not in seen
    for name in ("HELM_PLUGINS", "HELM_POST_RENDERER"):
        assert f"The environment variable {name} is not passed on to Helm: it changes what Helm runs." in caplog.text
    assert "HELM_KUBETOKEN" not in caplog.text, "the connection says that: nothing is missed"
    assert PLANTED not in caplog.text


def test_terraform_and_git(tmp_path, monkeypatch):
    program(tmp_path, "git", "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    env = build_environment({})
    assert PLANTED not in str(env)
    with pytest.raises(Exception, match="can't be fetched"):
        ModuleSource.parse("git::https://h/r.git").copy_to(tmp_path, env=env, redact=str, remember=lambda _: None)
    check(tmp_path, "git")


def test_a_local_ray():
    # On a real one: tests/integration/test_local_cluster.py
    assert PLANTED not in str(head._inherited())
