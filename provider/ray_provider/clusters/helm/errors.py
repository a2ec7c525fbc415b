"""What Helm says when it fails, by cause, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ray_provider.clusters.helm.fetch import display_url
from ray_provider.clusters.kubernetes.refusals import forbidden
from ray_provider.exceptions import (
    ConfigurationError,
    HelmError,
    KubernetesAccessError,
    KubernetesError,
    RayProviderError,
)

_SCHEMA = re.compile(r"values don't meet the specifications of the schema", re.IGNORECASE)
_SCHEMA_FIELD = re.compile(r"^\s*- (?:at )?['\"]?(?P<field>/?[\w./\[\]-]*)['\"]?:? ?(?P<say>.*)$", re.MULTILINE)
_REFUSED = re.compile(r"ray-cluster: (?P<field>[^:]+): (?P<say>.*)", re.DOTALL)
_FAIL = re.compile(r"execution error at \((?P<where>[^)]*)\):\s*(?P<say>.*)", re.DOTALL)
_OWNED = re.compile(
    r'(?P<kind>\w+) "(?P<name>[^"]+)" in namespace "(?P<namespace>[^"]*)" exists and cannot be imported', re.DOTALL
)
#: The proxy for plain http of a Helm that may not use it. Nothing can listen there.
NOWHERE = "127.0.0.1:0"
_PLAIN_HTTP = re.compile(rf'"(?P<url>http://[^"]+)": proxyconnect tcp: dial tcp {re.escape(NOWHERE)}')
_IMMUTABLE = re.compile(r"field is immutable|may not change once set|updates to \S+ .*are forbidden", re.IGNORECASE)


def explain(said: str, *, code: int, argv: Sequence[str]) -> RayProviderError:
    """Make an error of what Helm said.

    :param said: its errors, without secrets.
    :param code: its exit status.
    :param argv: its arguments, without secrets.
    """
    data: dict[str, Any] = {"stderr": said[-2000:], "exit_status": code, "command": " ".join(argv[:3])}
    lower = said.lower()
    for matches, make in _FETCHING if argv[:1] == ["pull"] else _CAUSES:
        if matches(lower):
            return make(said, data)
    if code < 0:
        return HelmError(f"Helm was ended by signal {-code}.", cause="killed", **data)
    return HelmError(f"Helm failed (exit status {code}): {last_line(said)}", cause="other", **data)


def last_line(said: str) -> str:
    """Give the line that says what failed: Helm puts it last, after warnings.

    :param said: Helm's errors.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith(("WARNING", "level="))]
    errors = [line for line in lines if line.startswith("Error:")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("Error: ")


def _any(*words: str) -> Callable[[str], bool]:
    return lambda text: any(word in text for word in words)


def _schema(said: str, data: dict[str, Any]) -> RayProviderError:
    fields = []
    for found in _SCHEMA_FIELD.finditer(said[_SCHEMA.search(said).end() :] if _SCHEMA.search(said) else said):  # type: ignore[union-attr]
        field = found["field"].strip("/").replace("/", ".") or "(root)"
        fields.append(f"`{field}`: {found['say'].strip()}")
    return ConfigurationError(
        "The chart's schema refuses the values: " + ("; ".join(fields) or last_line(said)) + ".",
        hint="Correct these values. The chart's values.yaml describes each of them.",
        cause="schema",
        **data,
    )


def _rendering(said: str, data: dict[str, Any]) -> RayProviderError:
    own = _REFUSED.search(said)
    if own:
        say = " ".join(own["say"].split()).removesuffix("Use --debug flag to render out invalid YAML").rstrip(" .")
        return ConfigurationError(f"The chart refuses `{own['field']}`: {say}.", cause="values", **data)
    failed = _FAIL.search(said)
    say = " ".join((failed["say"] if failed else last_line(said)).split())
    return ConfigurationError(f"The chart can't be rendered with these values: {say}", cause="values", **data)


def _chart_missing(said: str, data: dict[str, Any]) -> RayProviderError:
    return ConfigurationError(
        f"The chart can't be fetched: {last_line(said)}.",
        hint='Check chart, `chart_repo` and `chart_version`. `chart="ray-cluster"` comes with the provider: '
        "it needs no network.",
        cause="chart",
        **data,
    )


def _chart_unreachable(said: str, data: dict[str, Any]) -> RayProviderError:
    return HelmError(
        f"The chart can't be fetched, as its repository can't be reached: {last_line(said)}.",
        hint='Can this worker reach the repository (proxy, firewall)? `chart="ray-cluster"` comes with the '
        "provider and needs no network.",
        cause="chart",
        **data,
    )


def _plain_http(said: str, data: dict[str, Any]) -> RayProviderError:
    found = _PLAIN_HTTP.search(said)
    whither = display_url(found["url"]) if found else last_line(said)
    return ConfigurationError(
        f"The chart's repository leads to plain http ({whither}): anybody on the network path can put another chart in"
        " its place. It was not fetched.",
        hint="Use a repository whose index names https addresses, or say which archive it has to be:"
        " chart_version='1.2.3@sha256:...'.",
        cause="chart",
        **data,
    )


def _unreachable(said: str, data: dict[str, Any]) -> RayProviderError:
    return KubernetesError(
        f"Helm can't reach the Kubernetes API server: {last_line(said)}.",
        hint="Does the cluster run, and can this worker reach it?",
        cause="unreachable",
        **data,
    )


def _credentials(said: str, data: dict[str, Any]) -> RayProviderError:
    return KubernetesAccessError(
        f"The Kubernetes API server does not accept Helm's credentials: {last_line(said)}.",
        hint="They have expired, or are another cluster's: fetch the kubeconfig anew.",
        cause="credentials",
        **data,
    )


def _forbidden(said: str, data: dict[str, Any]) -> RayProviderError:
    return forbidden(last_line(said), **data)


def _pending(said: str, data: dict[str, Any]) -> RayProviderError:
    return HelmError(
        f"Another Helm works on this release, or one was killed while it did: {last_line(said)}.",
        hint="A retry mends a release that a killed Helm left.",
        cause="pending",
        **data,
    )


def _exists(said: str, data: dict[str, Any]) -> RayProviderError:
    return HelmError(
        f"There is a release of this name by now: {last_line(said)}.",
        hint="Another run made it at the same moment. A retry uses what is there.",
        cause="release exists",
        **data,
    )


def _immutable(said: str, data: dict[str, Any]) -> RayProviderError:
    return ConfigurationError(
        f"A field that can't be changed in a running cluster would change: {last_line(said)}.",
        hint="Delete the cluster and set it up anew, or give the new one another name.",
        cause="immutable",
        **data,
    )


def _owned(said: str, data: dict[str, Any]) -> RayProviderError:
    found = _OWNED.search(said)
    what = f"{found['kind']} {found['name']!r} in namespace {found['namespace']!r}" if found else last_line(said)
    return ConfigurationError(
        f"{what} is there already, and not of this release.",
        hint="Give the cluster another name, or find out whose it is: "
        + (
            f"kubectl -n {found['namespace']} get {found['kind'].lower()} {found['name']} -o yaml."
            if found
            else said[:200]
        ),
        cause="exists",
        **data,
    )


def _conflict(said: str, data: dict[str, Any]) -> RayProviderError:
    return HelmError(
        f"Somebody else changes the same fields: {last_line(said)}.",
        hint="For an autoscaled cluster leave `keepReplicas` on; a retry reads what is there anew.",
        cause="conflict",
        **data,
    )


def _timeout(said: str, data: dict[str, Any]) -> RayProviderError:
    return HelmError(f"Helm's time is over: {last_line(said)}.", cause="timeout", **data)


def _namespace(said: str, data: dict[str, Any]) -> RayProviderError:
    return ConfigurationError(
        f"The namespace does not exist: {last_line(said)}.",
        hint="Create it, or set `create_namespace=True`.",
        cause="namespace",
        **data,
    )


_Cause = tuple[Callable[[str], bool], Callable[[str, dict[str, Any]], RayProviderError]]

#: Of a fetch, which does not ask Kubernetes.
_FETCHING: tuple[_Cause, ...] = (
    (lambda text: bool(_PLAIN_HTTP.search(text)), _plain_http),
    (
        lambda text: bool(
            re.search(
                r"no such host|timeout|deadline exceeded|network is unreachable|proxyconnect|\beof\b|connection re\w+|"
                r"tls handshake|no route to host|server misbehaving|\b(?:429|50[0234])\b",
                text,
            )
        ),
        _chart_unreachable,
    ),
    (lambda _: True, _chart_missing),
)
_CAUSES: tuple[_Cause, ...] = (
    (_any("another operation (install/upgrade/rollback) is in progress"), _pending),
    (_any("release: already exists", "cannot re-use a name that is still in use", "cannot reuse a name"), _exists),
    (_any("values don't meet the specifications of the schema"), _schema),
    (_any("exists and cannot be imported", "invalid ownership metadata"), _owned),
    (_any("execution error at", "failed to render chart", "error calling fail", "parse error at"), _rendering),
    (_any("conflict occurred while applying", "conflicts with ", "apply failed with"), _conflict),
    (lambda text: bool(re.search(r"is forbidden:|forbidden: user|cannot \w+ resource", text)), _forbidden),
    (_any("unauthorized", "must be logged in to the server", "getting credentials: exec"), _credentials),
    (lambda text: bool(re.search(r'namespaces? "[^"]+" not found', text)), _namespace),
    (lambda text: bool(_IMMUTABLE.search(text)), _immutable),
    (
        _any("kubernetes cluster unreachable", "connect: connection refused", "etcdserver", "tls handshake timeout"),
        _unreachable,
    ),
    (
        lambda text: (
            _any("no such host", "i/o timeout", "network is unreachable", "proxyconnect", "eof")(text)
            and _any("chart", "repo", "index.yaml", "looks like", "oci", "manifests")(text)
        ),
        _chart_unreachable,
    ),
    (
        lambda text: bool(
            re.search(
                r"chart \"[^\"]+\".* not found|repo .* not found|failed to download|not a valid chart|"
                r"path \"[^\"]+\" not found|is not a valid chart repository|chart\.yaml file is missing|"
                r"failed to fetch|no chart version found|validation: chart\.|chart metadata is missing|"
                r"non-absolute urls",
                text,
            )
        ),
        _chart_missing,
    ),
    (_any("timed out waiting", "context deadline exceeded"), _timeout),
)
