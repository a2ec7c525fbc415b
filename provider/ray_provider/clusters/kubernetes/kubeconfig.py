"""Kubeconfigs: read, merged, cut down to the one context that is used; and the programs that they call for tokens."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ray_provider._shared.child_environment import inherited
from ray_provider._shared.yaml_text import load_document
from ray_provider.exceptions import ConfigurationError, KubernetesAccessError

#: Fields of a kubeconfig that name files; they are relative to the file that they stand in.
_CLUSTER_FILES = ("certificate-authority",)
_USER_FILES = ("client-certificate", "client-key", "tokenFile")
_EXEC_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """One Kubernetes API server and who we are to it: what is left of a kubeconfig.

    :param name: of the context, for messages.
    :param cluster: the ``cluster`` part of a kubeconfig.
    :param user: its ``user`` part: it holds secrets.
    :param namespace: of the context.
    """

    name: str
    cluster: Mapping[str, Any]
    user: Mapping[str, Any] = field(default_factory=dict, repr=False)
    namespace: str | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return str(self.cluster.get("server") or "").rstrip("/")

    def to_kubeconfig(self) -> dict[str, Any]:
        """Give a kubeconfig with this one context, for programs that want one."""
        context = {"cluster": "cluster", "user": "user"}
        if self.namespace:
            context["namespace"] = self.namespace
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "context",
            "clusters": [{"name": "cluster", "cluster": dict(self.cluster)}],
            "users": [{"name": "user", "user": dict(self.user)}],
            "contexts": [{"name": "context", "context": context}],
        }


def read_kubeconfigs(paths: str, *, given: bool = True) -> dict[str, Any]:
    """Read one file, or several separated as in ``KUBECONFIG``; the first to name something wins, as with kubectl.

    :param paths: of the files; those that are not there are passed over if one is. ``~`` is the home folder.
    :param given: the connection names the path; false: nothing names a Kubernetes cluster.
    :raises ConfigurationError: none is there, or one is not a kubeconfig.
    """
    merged: dict[str, Any] = {"clusters": [], "contexts": [], "users": []}
    found = False
    for name in filter(None, paths.split(os.pathsep)):
        path = Path(name).expanduser()
        if not path.is_file():
            continue
        found = True
        try:
            config = load_document(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            # The error of the parser would show lines of the file.
            raise ConfigurationError(
                f"The kubeconfig {path} can't be read: {type(error).__name__}.",
                hint="Check it with `kubectl --kubeconfig FILE config view`.",
            ) from None
        config = check_kubeconfig(config, str(path))
        for kind, files in (("clusters", _CLUSTER_FILES), ("contexts", ()), ("users", _USER_FILES)):
            known = {entry["name"] for entry in merged[kind]}
            for entry in config.get(kind) or []:
                if entry["name"] not in known:
                    merged[kind].append(_with_absolute_paths(entry, kind.removesuffix("s"), files, path.parent))
        if config.get("current-context"):
            merged.setdefault("current-context", config["current-context"])
    if not found and not given:
        raise ConfigurationError(
            f"The connection names no Kubernetes cluster, and there is no kubeconfig at {paths}.",
            hint="For a Ray on this machine set the connection's field `backend` to `local`. For Kubernetes give it "
            "`kube_config_path`, `kube_config` or `in_cluster`, or the name of an EKS or GKE cluster.",
            field="backend",
        )
    if not found:
        raise ConfigurationError(
            f"There is no kubeconfig at {paths}.",
            hint="Check `kube_config_path` of the connection: it has to exist where tasks and triggers run.",
        )
    return merged


def check_kubeconfig(config: Any, source: str) -> dict[str, Any]:
    """Make sure that this is a kubeconfig.

    :param config: what was read; may be anything.
    :param source: where it came from, for the message.
    :raises ConfigurationError: it is not.
    """
    shape = isinstance(config, Mapping) and all(
        isinstance(config.get(kind) or [], list)
        and all(_is_entry(entry, kind.removesuffix("s")) for entry in config.get(kind) or [])
        for kind in ("clusters", "contexts", "users")
    )
    if not shape or not (config.get("clusters") and config.get("contexts")):
        raise ConfigurationError(
            f"{source} is not a kubeconfig: it needs lists of clusters, contexts and users, each entry with a name.",
            hint="`kubectl config view --minify --flatten --raw` prints one that can be used.",
        )
    return dict(config)


def _is_entry(entry: Any, kind: str) -> bool:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str) or not entry["name"]:
        return False
    inner = entry.get(kind) or {}
    if not isinstance(inner, Mapping):
        return False
    plugin = inner.get("exec") or {}
    return (
        isinstance(plugin, Mapping)
        and all(isinstance(plugin.get(name) or [], list) for name in ("args", "env"))
        and all(isinstance(item, Mapping) and {"name", "value"} <= set(item) for item in plugin.get("env") or [])
        and all(
            inner.get(name) is None or isinstance(inner[name], str)
            for name in ("server", "cluster", "user", "namespace", "token")
        )
    )


def select(config: Mapping[str, Any], context: str | None) -> Server:
    """Cut a kubeconfig down to one context.

    :param config: that has been checked.
    :param context: its name; ``None`` for the current one.
    :raises ConfigurationError: it has no such context, or the context names what is not there.
    """
    contexts = {str(entry["name"]): entry.get("context") or {} for entry in config.get("contexts") or []}
    current = config.get("current-context")
    name = context or (current if isinstance(current, str) else None)
    name = name or (next(iter(contexts)) if len(contexts) == 1 else None)
    if not name or name not in contexts:
        wanted = f"no context {name!r}" if name else "no current context"
        raise ConfigurationError(
            f"The kubeconfig has {wanted}. It has: {', '.join(sorted(contexts)) or 'none'}.",
            hint="Name one of them in `cluster_context` of the connection.",
        )
    chosen = contexts[name]
    clusters = {entry["name"]: entry.get("cluster") or {} for entry in config.get("clusters") or []}
    users = {entry["name"]: entry.get("user") or {} for entry in config.get("users") or []}
    cluster, user = chosen.get("cluster"), chosen.get("user")
    if cluster not in clusters or (user and user not in users):
        missing = f"cluster {cluster!r}" if cluster not in clusters else f"user {user!r}"
        raise ConfigurationError(f"The context {name!r} of the kubeconfig names the {missing}, which is not in it.")
    server = Server(name=name, cluster=clusters[cluster], user=users.get(user, {}), namespace=chosen.get("namespace"))
    if not server.url.startswith(("https://", "http://")):
        raise ConfigurationError(f"The cluster {cluster!r} of the kubeconfig has no `server` URL.")
    if "auth-provider" in server.user:
        raise ConfigurationError(
            f"The user {user!r} of the kubeconfig uses an auth-provider, which Kubernetes no longer has.",
            hint="Use an exec plugin: `gcloud container clusters get-credentials`, `aws eks update-kubeconfig`.",
        )
    return server


def decode(data: Any, what: str) -> str:
    """Decode a ``*-data`` field.

    :param data: the field's value.
    :param what: its name, for the message.
    :raises ConfigurationError: it is not base64.
    """
    try:
        return base64.b64decode(str(data), validate=False).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ConfigurationError(f"`{what}` of the kubeconfig is not base64 of a PEM file.") from None


def _exec_environment(server: Server) -> dict[str, str]:
    """Give an exec plugin's environment: ours, its own, and what it is to know of the cluster."""
    plugin = server.user["exec"]
    info: dict[str, Any] = {
        "apiVersion": plugin.get("apiVersion", "client.authentication.k8s.io/v1"),
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }
    if plugin.get("provideClusterInfo"):
        info["spec"]["cluster"] = {
            key: value for key, value in server.cluster.items() if key in {"server", "certificate-authority-data"}
        }
    env = inherited()
    env.update({str(item["name"]): str(item["value"]) for item in plugin.get("env") or []})
    env["KUBERNETES_EXEC_INFO"] = json.dumps(info)
    return env


async def run_exec_plugin(server: Server) -> dict[str, Any]:
    """Run the user's exec plugin and give the ``status`` of what it prints: it holds secrets.

    :param server: its user has an ``exec`` section: command, arguments, environment. The program has 60 s.
    :raises KubernetesAccessError: it isn't there, failed, or printed something else.
    """
    plugin = server.user["exec"]
    command = str(plugin.get("command") or "")
    hint = str(plugin.get("installHint") or "").strip() or "Run the plugin by hand, as the user that runs Airflow."
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            *[str(arg) for arg in plugin.get("args") or []],
            env=_exec_environment(server),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise KubernetesAccessError(
            f"The kubeconfig gets its credentials from the program {command!r}, which can't be run: {error.strerror}.",
            hint=hint,
            cause="exec plugin",
        ) from error
    try:
        async with asyncio.timeout(_EXEC_TIMEOUT):
            out, err = await process.communicate()
    except BaseException as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise KubernetesAccessError(
                f"The credential program {command!r} did not answer within {_EXEC_TIMEOUT:.0f} s.",
                hint=hint,
                cause="exec plugin",
            ) from None
        raise
    try:
        if process.returncode:
            raise ValueError
        status = json.loads(out)["status"]
        if not ("token" in status or "clientCertificateData" in status):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        said = err.decode(errors="replace").strip().splitlines()
        raise KubernetesAccessError(
            f"The credential program {command!r} gave no credentials (exit status {process.returncode})"
            + (f": {said[-1][:300]}" if said else "."),
            hint=hint,
            cause="exec plugin",
        ) from None
    return dict(status)


def _with_absolute_paths(entry: Mapping[str, Any], kind: str, fields: tuple[str, ...], folder: Path) -> dict[str, Any]:
    inner = dict(entry.get(kind) or {})
    for name in fields:
        if inner.get(name):
            inner[name] = str((folder / str(inner[name])).resolve())
    plugin = inner.get("exec")
    if isinstance(plugin, Mapping) and os.sep in str(plugin.get("command") or ""):
        inner["exec"] = {**plugin, "command": str((folder / str(plugin["command"])).resolve())}
    return {"name": entry["name"], kind: inner}
