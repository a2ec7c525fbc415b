"""The way into Kubernetes: one context of a kubeconfig, secrets that stay in memory, credentials that are renewed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from ray_provider._shared.private_files import write_private
from ray_provider.clusters.kubernetes.access import (
    Credential,
    KubernetesAccess,
    kubeconfig_file,
    private_folder,
)
from ray_provider.clusters.kubernetes.kubeconfig import read_kubeconfigs, select
from ray_provider.exceptions import ConfigurationError, KubernetesAccessError


def config(name="one", user=None, **cluster):
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}:6443", **cluster}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": f"ns-{name}"}}],
        "users": [{"name": name, "user": user or {"token": f"secret-of-{name}"}}],
    }


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    yield folder
    assert list(folder.iterdir()) == []


def write(path: Path, content) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_several_files_are_merged_and_one_context_is_taken(tmp_path):
    first = write(tmp_path / "a", config("one"))
    second = write(tmp_path / "b", config("two"))
    merged = read_kubeconfigs(os.pathsep.join([first, str(tmp_path / "missing"), second]))
    assert select(merged, None).url == "https://one:6443"
    server = select(merged, "two")
    assert (server.url, server.namespace) == ("https://two:6443", "ns-two")
    # Nothing of the other context goes on to helm.
    assert "secret-of-one" not in json.dumps(server.to_kubeconfig())


def test_relative_paths_begin_at_the_kubeconfig(tmp_path):
    (tmp_path / "sub").mkdir()
    path = write(tmp_path / "sub" / "c", config(user={"tokenFile": "token"}, **{"certificate-authority": "../ca.crt"}))
    server = select(read_kubeconfigs(path), None)
    assert server.cluster["certificate-authority"] == str(tmp_path / "ca.crt")
    assert server.user["tokenFile"] == str(tmp_path / "sub" / "token")


@pytest.mark.parametrize(
    ("content", "context", "message"),
    [
        (config(), "nowhere", "no context 'nowhere'. It has: one"),
        ({**config(), "current-context": "gone"}, None, "no context 'gone'"),
        ({**config(), "users": []}, None, "names the user 'one', which is not in it"),
        ({**config(), "clusters": [{"name": "one", "cluster": {}}]}, None, "no `server` URL"),
        ({"clusters": "x"}, None, "is not a kubeconfig"),
        ([1], None, "is not a kubeconfig"),
        (config(user={"auth-provider": {"name": "gcp"}}), None, "auth-provider"),
    ],
)
def test_a_kubeconfig_that_can_not_work_is_refused(content, context, message):
    with pytest.raises(ConfigurationError, match=message):
        KubernetesAccess(kubeconfig=content, context=context).resolve()


def test_a_broken_or_missing_file_is_told_without_its_content(tmp_path):
    (tmp_path / "c").write_text("token: secret-of-one\n - [")
    with pytest.raises(ConfigurationError) as broken:
        KubernetesAccess(kubeconfig_path=str(tmp_path / "c")).resolve()
    assert "secret-of-one" not in str(broken.value)
    with pytest.raises(ConfigurationError, match="no kubeconfig at"):
        KubernetesAccess(kubeconfig_path=str(tmp_path / "nothing")).resolve()


def test_in_cluster_without_a_service_account_is_refused():
    with pytest.raises(ConfigurationError, match="does not run in a pod"):
        KubernetesAccess(in_cluster=True).resolve()


def test_no_secret_shows(tmp_path):
    access = KubernetesAccess(kubeconfig=config(), ca_data="CERT")
    assert "secret-of-one" not in repr(access)
    assert "secret-of-one" not in repr(access.resolve())


@pytest.mark.parametrize("where", ["memory", "disk"])
async def test_the_file_for_helm_is_private_and_removed_in_all_cases(scratch, where, monkeypatch):
    if where == "disk":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    seen = []
    for fail in (False, True):
        try:
            async with kubeconfig_file(KubernetesAccess(kubeconfig=config())) as path:
                seen.append(path)
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                if where == "disk":
                    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
                else:
                    assert list(scratch.iterdir()) == []
                # More than once, and by another program.
                read = [await asyncio.to_thread(subprocess.check_output, ["cat", path]) for _ in range(2)]
                assert read[0] == read[1] == path.read_bytes()
                assert yaml.safe_load(path.read_text())["users"][0]["user"]["token"] == "secret-of-one"
                if fail:
                    raise RuntimeError
        except RuntimeError:
            pass
    assert not any(path.exists() for path in seen)
    assert list(scratch.iterdir()) == []


async def test_a_providers_token_is_written_for_helm_and_asked_for_anew_when_refused():
    asked = []

    async def provider(refused: bool) -> str:
        asked.append(refused)
        return f"token-{len(asked)}"

    access = KubernetesAccess(server="https://x", token_provider=provider)
    async with kubeconfig_file(access) as path:
        assert yaml.safe_load(path.read_text())["users"][0]["user"] == {"token": "token-1"}
    credential = Credential(access.resolve(), provider)
    assert await credential.headers(refused=True) == {"Authorization": "Bearer token-2"}
    assert asked == [False, True]


async def test_a_token_file_is_read_again(tmp_path):
    (tmp_path / "token").write_text("first\n")
    path = write(tmp_path / "c", config(user={"tokenFile": "token"}))
    credential = Credential(KubernetesAccess(kubeconfig_path=path).resolve())
    assert await credential.headers() == {"Authorization": "Bearer first"}
    (tmp_path / "token").write_text("second\n")
    assert await credential.headers() == {"Authorization": "Bearer first"}
    assert await credential.headers(refused=True) == {"Authorization": "Bearer second"}


def plugin(tmp_path, text) -> str:
    path = tmp_path / "plugin"
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o700)
    return str(path)


def exec_config(command):
    return config(
        user={
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": command,
                "args": ["a b"],
                "env": [{"name": "E", "value": "v"}],
            }
        }
    )


async def test_an_exec_plugin_is_asked_again_only_when_its_token_expires(tmp_path):
    soon = (datetime.now(tz=UTC) + timedelta(seconds=30)).isoformat()
    later = (datetime.now(tz=UTC) + timedelta(hours=1)).isoformat()
    command = plugin(
        tmp_path,
        f"echo x >>{tmp_path}/calls; n=$(wc -l <{tmp_path}/calls); t={later}; [ $n -gt 1 ] || t={soon}\n"
        '[ "$1" = "a b" ] && [ "$E" = v ] && [[ "$KUBERNETES_EXEC_INFO" == *\\"ExecCredential\\"* ]] || exit 3\n'
        'echo "{\\"status\\": {\\"token\\": \\"t$n\\", \\"expirationTimestamp\\": \\"$t\\"}}"',
    )
    credential = Credential(KubernetesAccess(kubeconfig=exec_config(command)).resolve())
    assert [(await credential.headers())["Authorization"] for _ in range(3)] == ["Bearer t1", "Bearer t2", "Bearer t2"]
    assert (await credential.headers(refused=True))["Authorization"] == "Bearer t3"


@pytest.mark.parametrize("text", ["exit 1", "echo nonsense", "echo '{\"status\": {}}'"])
async def test_an_exec_plugin_that_fails_is_named(tmp_path, text):
    command = plugin(tmp_path, f"echo 'session expired' >&2; {text}")
    with pytest.raises(KubernetesAccessError, match="session expired"):
        await Credential(KubernetesAccess(kubeconfig=exec_config(command)).resolve()).headers()
    with pytest.raises(KubernetesAccessError, match="can't be run"):
        await Credential(KubernetesAccess(kubeconfig=exec_config("/no/such/program")).resolve()).headers()


async def test_certificates_come_from_data_or_files(tmp_path):
    pair = {f"client-{part}-data": base64.b64encode(part.encode()).decode() for part in ("certificate", "key")}
    assert await Credential(select(config(user=pair), None)).certificate() == ("certificate", "key")
    for part in ("certificate", "key"):
        (tmp_path / f"{part}.pem").write_text(f"{part} in a file")
    files = {f"client-{part}": str(tmp_path / f"{part}.pem") for part in ("certificate", "key")}
    found = ("certificate in a file", "key in a file")
    assert await Credential(select(config(user=files), None)).certificate() == found
    # As kubectl does: data counts more, and a path begins at the kubeconfig.
    assert await Credential(select(config(user={**files, **pair}), None)).certificate() == ("certificate", "key")
    near = write(tmp_path / "config", config(user={f"client-{part}": f"{part}.pem" for part in ("certificate", "key")}))
    assert await Credential(KubernetesAccess(kubeconfig_path=near).resolve()).certificate() == found
    with pytest.raises(ConfigurationError, match="nowhere.pem"):
        gone = {**files, "client-key": str(tmp_path / "nowhere.pem")}
        await Credential(select(config(user=gone), None)).certificate()
    assert await Credential(select(config(), None)).certificate() is None
    bad = {**pair, "client-key-data": "%%%"}
    with pytest.raises(ConfigurationError, match="client-key"):
        await Credential(select(config(user={**bad, "client-key-data": "/w=="}), None)).certificate()


def test_private_files_are_never_written_over(tmp_path):
    with private_folder() as folder:
        write_private(folder / "x", "1")
        with pytest.raises(FileExistsError):
            write_private(folder / "x", "2")
    assert not folder.exists()


def test_only_the_same_account_of_the_same_kubernetes_shares_connections():
    async def one(_refused: bool) -> str:
        return "one"

    async def two(_refused: bool) -> str:
        return "two"

    config = {"clusters": [], "users": [{"name": "a"}]}
    same = [
        {"kubeconfig": config},
        {"kubeconfig": dict(reversed(config.items()))},
        {"kubeconfig": config, "namespace": "ns", "name": "n"},
    ]
    assert len({KubernetesAccess(**each).key() for each in same}) == 1
    different = [
        {},
        {"kubeconfig": {}},
        {"kubeconfig": config},
        {"kubeconfig": {**config, "users": [{"name": "b"}]}},
        {"kubeconfig_path": "/a"},
        {"kubeconfig_path": "/b"},
        {"kubeconfig_path": "/a", "context": "c"},
        {"server": "https://a"},
        {"server": "https://a", "ca_data": "x"},
        {"server": "https://a", "token_provider": one},
        {"server": "https://a", "token_provider": two},
        {"server": "https://a", "token_provider": one, "identity": "me"},
        {"server": "https://a", "token_provider": one, "identity": "you"},
        {"server": "https://a", "verify_tls": False},
        {"in_cluster": True},
    ]
    assert len({KubernetesAccess(**each).key() for each in different}) == len(different)
    renewed = [{"server": "https://a", "token_provider": each, "identity": "me"} for each in (one, two)]
    assert len({KubernetesAccess(**each).key() for each in renewed}) == 1
