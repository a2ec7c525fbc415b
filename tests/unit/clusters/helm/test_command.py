"""Helm as a child process: ended when it is cancelled, and no secret in what is said of it."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from ray_provider._shared.redaction import Redactor
from ray_provider.clusters.helm import command as helm_command
from ray_provider.clusters.helm.command import (
    find_helm,
    helm_environment,
    helm_version,
    make_command,
    run_helm,
)
from ray_provider.clusters.helm.errors import explain
from ray_provider.exceptions import (
    ConfigurationError,
    HelmError,
    KubernetesAccessError,
    KubernetesError,
)
from tests.support.waiting import until


def script(folder: Path, text: str, name: str = "helm") -> str:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second, if it ends between the opening and the reading
        return False


def runs() -> bool:
    """Tell whether a Helm is talked with: its first lines may run before asyncio knows its pipes."""
    return any(task.get_coro().__name__ == "communicate" for task in asyncio.all_tasks())


async def test_a_cancelled_helm_is_asked_to_end_and_waited_for(tmp_path):
    helm = script(
        tmp_path,
        f"trap 'sleep 0.2; echo ended >{tmp_path}/said; exit 1' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done",
    )
    task = asyncio.create_task(run_helm([helm, "upgrade"]))
    await until(lambda: (tmp_path / "up").exists() and runs())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (tmp_path / "said").read_text() == "ended\n"


async def test_a_helm_that_does_not_end_is_killed_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(helm_command, "_TERMINATE_SECONDS", 0.3)
    helm = script(
        tmp_path,
        f"trap '' TERM; echo $$ >{tmp_path}/helm; sleep 300 & echo $! >{tmp_path}/child; touch {tmp_path}/up; while :; do sleep 0.05; done",
    )
    task = asyncio.create_task(run_helm([helm, "upgrade"]))
    await until(lambda: (tmp_path / "up").exists() and runs())
    group = int((tmp_path / "helm").read_text())
    child = int((tmp_path / "child").read_text())
    assert os.getpgid(child) == group != os.getpgid(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not alive(group) and not alive(child))


async def test_its_environment_is_the_calls_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HELM_KUBETOKEN", "leaks")
    monkeypatch.setenv("KUBECONFIG", "/elsewhere")
    helm = script(tmp_path, "env")
    _, out, _ = await run_helm([helm], env=helm_environment({"KUBECONFIG": "/mine"}))
    assert b"KUBECONFIG=/mine" in out
    assert b"leaks" not in out
    assert b"elsewhere" not in out


async def test_values_go_by_standard_input_and_labels_by_arguments(tmp_path):
    helm = script(tmp_path, f'echo "$@" >{tmp_path}/argv; cat >{tmp_path}/stdin; echo "{{}}"')
    command = make_command(
        helm, (4, 1, 4), Path("/c"), redact=Redactor(guess=True), labels={"airflow-ray/managed": "true"}
    )
    await command.install_or_upgrade("r", "chart", {"password": "hunter2"}, namespace="n", create_namespace=False)
    argv = (tmp_path / "argv").read_text()
    assert "hunter2" not in argv
    assert "--labels airflow-ray/managed=true" in argv
    assert "--history-max 3" in argv
    assert "hunter2" in (tmp_path / "stdin").read_text()


async def test_what_helm_says_is_told_without_secrets(tmp_path):
    helm = script(tmp_path, "echo 'Error: something with hunter22 and password: abc123 failed' >&2; exit 1")
    command = make_command(helm, (3, 17, 2), None, redact=Redactor(["hunter22"], guess=True))
    with pytest.raises(HelmError) as caught:
        await command.run(["upgrade", "x"])
    assert "hunter22" not in str(caught.value) + str(caught.value.data)
    assert "abc123" not in str(caught.value) + str(caught.value.data)
    assert "something with ***" in str(caught.value)


async def test_a_helm_that_is_missing_or_too_old_is_explained(tmp_path):
    with pytest.raises(ConfigurationError, match="Install Helm"):
        find_helm(str(tmp_path / "nothing"))
    old = script(tmp_path, "echo v3.8.1")
    with pytest.raises(ConfigurationError, match=r"Helm 3\.8\.1 .* is too old: 3\.13\.0 is needed"):
        await helm_version(old)
    with pytest.raises(ConfigurationError, match="is no Helm"):
        await helm_version(script(tmp_path, "echo hello", "other"))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('chart "ray" version "9" not found in https://x repository', ConfigurationError),
        ("failed to fetch https://h/ray-1.tgz : 401 Unauthorized", ConfigurationError),
        ("failed to fetch https://h/ray-1.tgz : 503 Service Unavailable", HelmError),
        ('Get "https://h/index.yaml": dial tcp 10.0.0.1:443: connect: connection refused', HelmError),
        ('Get "https://h/index.yaml": net/http: TLS handshake timeout', HelmError),
        ('Get "https://h/index.yaml": tls: failed to verify certificate', ConfigurationError),
    ],
)
def test_errors_of_a_fetch_speak_of_the_chart_not_of_kubernetes(said, kind):
    error = explain(f"Error: {said}", code=1, argv=["pull", "ray"])
    assert type(error) is kind
    assert "The chart can't be fetched" in str(error)
    assert said in str(error)


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        (
            "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress",
            HelmError,
            "A retry mends",
        ),
        ("Error: Kubernetes cluster unreachable: Get x: connect: connection refused", KubernetesError, "can't reach"),
        (
            'Error: secrets is forbidden: User "u" cannot list resource "secrets" in API group "" in the namespace "n"',
            KubernetesAccessError,
            "u may not list secrets in namespace 'n'",
        ),
        (
            (
                "Error: values don't meet the specifications of the schema(s) in the following chart(s):\nray-cluster:\n"
                "- image.pullPolicy: must be one of: Always, Never\n- head: Additional property x is not allowed"
            ),
            ConfigurationError,
            "`image.pullPolicy`: must be one of: Always, Never; `head`: Additional property x",
        ),
        (
            (
                "Error: values don't meet the specifications of the schema(s) in the following chart(s):\nray-cluster:\n"
                "- at '/image/pullPolicy': value must be one of 'Always', 'Never'"
            ),
            ConfigurationError,
            "`image.pullPolicy`: value must be one of",
        ),
        (
            "Error: execution error at (ray-cluster/templates/raycluster.yaml:1:12): ray-cluster: worker.disabled: no group",
            ConfigurationError,
            "The chart refuses `worker.disabled`: no group",
        ),
        (
            'Error: Unable to continue with install: Service "s" in namespace "n" exists and cannot be imported into',
            ConfigurationError,
            "Service 's' in namespace 'n' is there already",
        ),
        ("Error: cannot patch: spec.managedBy: field is immutable", ConfigurationError, "can't be changed"),
        ("Error: context deadline exceeded", HelmError, "time is over"),
        ("Error: You must be logged in to the server (Unauthorized)", KubernetesAccessError, "credentials"),
        ('Error: create: namespaces "x" not found', ConfigurationError, "does not exist"),
        ("Error: something new", HelmError, "exit status 1"),
    ],
)
def test_helms_errors_by_cause(said, kind, text):
    error = explain(said, code=1, argv=["upgrade", "r"])
    assert type(error) is kind
    assert text in str(error)
