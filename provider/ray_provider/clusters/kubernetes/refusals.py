"""What Kubernetes' API server refuses, in words: who may not do what where, and what would allow it."""

from __future__ import annotations

import json
import re
from typing import Any

from ray_provider.exceptions import KubernetesAccessError, KubernetesError

_ROLE = "helm/roles/provider-role.yaml"
_FORBIDDEN = re.compile(r'cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"(?: in API group "(?P<group>[^"]*)")?')
_NAMESPACE = re.compile(r'in the namespace "(?P<namespace>[^"]+)"')
_USER = re.compile(r'User "(?P<user>[^"]+)"')
_ENDING = re.compile(r"in namespace (?P<namespace>[a-z0-9-]+) because it is being terminated")


def refusal(status: int, content: str, method: str = "", path: str = "") -> KubernetesError:
    """Make the error of an answer.

    :param status: HTTP status.
    :param content: of the answer: a Kubernetes ``Status`` if all is well.
    :param method: of the request, for who reads the error's data.
    :param path: of the request, the same.
    """
    try:
        answer = json.loads(content)
        message = str(answer.get("message") or content)
        reason = str(answer.get("reason") or "")
    except (ValueError, AttributeError):
        message, reason = content.strip()[:500] or "no explanation", ""
    data: dict[str, Any] = {"status": status, "reason": reason, "method": method, "path": path}
    if status == 401:
        return KubernetesAccessError(
            "The Kubernetes API server does not accept our credentials (401): they have expired, or are of another "
            "cluster.",
            hint="Fetch the kubeconfig anew (`aws eks update-kubeconfig`, `gcloud container clusters get-credentials`) "
            "and put it into the connection; or use an exec plugin, which renews them.",
            cause="credentials",
            **data,
        )
    if status == 403:
        return forbidden(message, **data)
    return KubernetesError(message[0].upper() + message[1:] if message else f"HTTP {status}", cause=reason, **data)


def forbidden(message: str, **data: Any) -> KubernetesError:
    """Say who may not do what where, and what would allow it. Quotas and admission are refusals of another kind.

    :param message: Kubernetes' own.
    :param data: for the error: ``status``, ``reason``, ``method``, ``path``.
    """
    if "exceeded quota" in message:
        return KubernetesError(
            f"The namespace's quota is used up: {message}.",
            hint="Ask for less, delete what is not needed, or have the ResourceQuota raised.",
            cause="quota",
            **data,
        )
    ending = _ENDING.search(message)
    if ending:
        return ending_namespace(ending["namespace"], **data)
    what = _FORBIDDEN.search(message)
    if what is None:
        return KubernetesAccessError(f"Kubernetes refuses it: {message}", cause="forbidden", **data)
    place = _NAMESPACE.search(message)
    user = _USER.search(message)
    resource = what["resource"] + (f".{what['group']}" if what["group"] else "")
    where = f"in namespace {place['namespace']!r}" if place else "in the whole cluster"
    who = user["user"] if user else "this account"
    return KubernetesAccessError(
        f"{who} may not {what['verb']} {resource} {where}.",
        hint=f"Bind the Role of {_ROLE} to it (`kubectl -n {place['namespace'] if place else 'NAMESPACE'} apply -f "
        f"{_ROLE}`), or name another namespace.",
        **{"cause": "forbidden", "verb": what["verb"], "resource": resource, **data},
    )


def ending_namespace(namespace: str, **data: Any) -> KubernetesError:
    """Say that a namespace is on its way out: nothing can be made in it.

    :param namespace: its name.
    :param data: for the error.
    """
    return KubernetesError(
        f"The namespace {namespace!r} is being deleted: nothing can be made in it.",
        hint="Try again when it is gone, or name another one. If it does not go, `kubectl get namespace "
        f"{namespace} -o jsonpath='{{.status.conditions}}'` says what holds it.",
        **{"cause": "namespace ending", **data},
    )
