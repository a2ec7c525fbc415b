"""The Kubernetes API as plain JSON: requests, errors in words, and watches.

No client library: their typed models have none of Ray's resources, and lose a field that they do not know. What is left
of them is a request, and importing one takes longer than all that a task asks.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from ray_provider._shared.retry import RetryPolicy, may_pass
from ray_provider.clusters.kubernetes.access import Connected, KubernetesAccess, connect, open_session
from ray_provider.clusters.kubernetes.refusals import refusal
from ray_provider.exceptions import ConfigurationError, KubernetesAccessError, KubernetesError

if TYPE_CHECKING:
    import aiohttp
    from aiohttp import ClientResponse, ClientSession

log = logging.getLogger(__name__)

Json = dict[str, Any]

#: How long the API server may be away before a wait gives up on it.
UNREACHABLE_SECONDS = 180.0
_REQUEST_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_WATCH_SECONDS = 240
_WATCH_AGAIN = RetryPolicy(first_delay=0.1, max_delay=5.0)
_REDIRECT, _UNAUTHORIZED = 300, 401

RAY = "/apis/ray.io/v1"


def path_of(kind: str, namespace: str, name: str | None = None, *, api: str = "/api/v1") -> str:
    """Give the path of a collection in a namespace, or of one object in it.

    :param kind: the collection, in plural and lower case: ``pods``.
    :param namespace: in which it is.
    :param name: of an object; ``None``: the collection.
    :param api: path of the API group's version. Default: the core's.
    """
    base = f"{api}/namespaces/{namespace}/{kind}"
    return f"{base}/{name}" if name else base


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """What a watch tells.

    :param type: ``SYNC`` when ``items`` is all there is (at first, and when the history was lost), else as Kubernetes.
    :param object: what changed.
    :param items: with ``SYNC``.
    """

    type: Literal["SYNC", "ADDED", "MODIFIED", "DELETED"]
    object: Json
    items: tuple[Json, ...] = ()


@asynccontextmanager
async def open_kube(kube_access: KubernetesAccess) -> AsyncIterator[Kube]:
    """Connect to a Kubernetes cluster, and close the connection afterwards.

    :param kube_access: to the cluster.
    :raises ConfigurationError: what is given can't work.
    """
    async with kube_of(await connect(kube_access)) as kube:
        yield kube


@asynccontextmanager
async def kube_of(connected: Connected) -> AsyncIterator[Kube]:
    """Give a cluster that was connected to before.

    :param connected: from :func:`~ray_provider.clusters.kubernetes.access.connect`.
    """
    async with open_session(connected) as session:
        yield Kube(session, connected)


class Kube:
    """One Kubernetes.

    :param session: for its API server.
    :param connected: where that is, and who we are.
    """

    def __init__(self, session: ClientSession, connected: Connected) -> None:
        self._session = session
        self._connected = connected
        self._plurals: dict[str, dict[str, tuple[str, bool]]] = {}

    @property
    def url(self) -> str:
        """Where it is."""
        return self._connected.server.url

    # -- requests --------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str | None = None,
        timeout: float = _REQUEST_SECONDS,
        text: bool = False,
    ) -> Any:
        """Send a request and give the answer, as JSON unless ``text`` is asked for.

        :param method: HTTP's.
        :param path: below the server's URL.
        :param query: added to the path.
        :param body: is sent as JSON; ``None``: nothing is sent.
        :param content_type: of the body. Default: JSON; a patch has one of its own.
        :param timeout: seconds for all of it, answer included. Default: 30.
        :param text: give the answer unparsed, as for logs.
        :raises KubernetesAccessError: 401 or 403.
        :raises KubernetesError: another refusal (``status`` says which), or nothing answers.
        """
        import aiohttp

        response = await self._send(
            method, path, query, body, content_type, aiohttp.ClientTimeout(timeout, sock_connect=_CONNECT_SECONDS)
        )
        try:
            content = await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        finally:
            response.release()
        if response.status >= _REDIRECT:
            raise refusal(response.status, content, method, path)
        return content if text else (json.loads(content) if content else {})

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str | None,
        timeout: aiohttp.ClientTimeout,
    ) -> ClientResponse:
        import aiohttp

        cluster = self._connected.server.cluster
        refused = False
        while True:
            headers = {"Accept": "application/json", **await self._connected.credential.headers(refused)}
            if body is not None:
                headers["Content-Type"] = content_type or "application/json"
            try:
                response = await self._session.request(
                    method,
                    self.url + path,
                    params=query,
                    data=None if body is None else json.dumps(body),
                    headers=headers,
                    timeout=timeout,
                    # Who we are is for this server: a redirect is an answer like another.
                    allow_redirects=False,
                    proxy=cluster.get("proxy-url"),
                    server_hostname=cluster.get("tls-server-name"),
                )
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise self._unreachable(error) from error
            if response.status != _UNAUTHORIZED or refused or "Authorization" not in headers:
                return response
            response.release()
            refused = True

    def _unreachable(self, error: BaseException) -> KubernetesError:
        host = urlsplit(self.url).netloc
        why = str(error).strip() or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in why or type(error).__name__ == "ClientConnectorCertificateError":
            return KubernetesError(
                f"The certificate of the Kubernetes API server at {host} is not trusted: {why}.",
                hint="The kubeconfig's certificate-authority has to be the cluster's; fetch the kubeconfig anew.",
                cause="certificate",
            )
        return KubernetesError(
            f"The Kubernetes API server at {host} can't be reached: {why}.",
            hint="Does the cluster run, and can this machine reach it (VPN, private endpoint, authorized networks)? "
            "The address comes from the connection's kubeconfig.",
            cause="unreachable",
        )

    async def get(self, path: str, **query: str) -> Json:
        """Read an object or a list.

        :param path: as :func:`path_of` gives it.
        :param query: of the request: ``labelSelector``, ``limit`` …
        :raises KubernetesError: it is not there (``status`` 404), or can't be read.
        """
        found: Json = await self.request("GET", path, query=query)
        return found

    async def find(self, path: str, **query: str) -> Json | None:
        """Read an object; ``None`` where there is none.

        :param path: as :func:`path_of` gives it.
        :param query: of the request.
        :raises KubernetesError: it can't be read.
        """
        try:
            return await self.get(path, **query)
        except KubernetesError as error:
            if error.status == 404:
                return None
            raise

    async def create(self, path: str, body: Json, **query: str) -> Json:
        """Create an object.

        :param path: of the collection.
        :param body: the object.
        :param query: of the request: ``dryRun`` …
        :return: the object as it is then.
        :raises KubernetesError: it is refused; ``status`` 409: there is one already.
        """
        made: Json = await self.request("POST", path, body=body, query=query)
        return made

    async def apply(self, path: str, body: Json, *, force: bool = True, **query: str) -> Json:
        """Apply an object server-side, in the name of this provider.

        :param path: of the object itself.
        :param body: the fields that are to be ours.
        :param force: take fields over that others own. Default: yes; else that is an error (409).
        :param query: of the request: ``dryRun`` …
        :return: the object as it is then.
        :raises KubernetesError: it is refused.
        """
        query = {"fieldManager": "airflow-ray", "force": "true" if force else "false", **query}
        done: Json = await self.request(
            "PATCH", path, body=body, query=query, content_type="application/apply-patch+yaml"
        )
        return done

    async def merge(self, path: str, body: Json) -> Json:
        """Change an object by a merge patch.

        :param path: of the object.
        :param body: the patch; ``None`` in it removes a field.
        :return: the object as it is then.
        :raises KubernetesError: it is not there (404), or the change is refused.
        """
        done: Json = await self.request("PATCH", path, body=body, content_type="application/merge-patch+json")
        return done

    async def delete(self, path: str, *, unchanged: str | None = None) -> bool:
        """Delete an object, after what depends on it. Tells whether there was one.

        :param path: of the object.
        :param unchanged: only if this is still its ``resourceVersion``.
        :raises KubernetesError: it has changed (409).
        """
        body: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
        if unchanged:
            body["preconditions"] = {"resourceVersion": unchanged}
        try:
            await self.request("DELETE", path, body=body)
        except KubernetesError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def collection(self, document: Mapping[str, Any], namespace: str) -> str:
        """Give the path that objects of a document's kind are created at.

        :param document: an object; of it count ``apiVersion``, ``kind`` and its own namespace.
        :param namespace: for an object that names none.
        :raises ConfigurationError: the cluster does not have this kind.
        """
        version, kind = str(document.get("apiVersion") or ""), str(document.get("kind") or "")
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if base not in self._plurals:
            found = await self.find(base) or {}
            self._plurals[base] = {
                item["kind"]: (item["name"], bool(item["namespaced"]))
                for item in found.get("resources", [])
                if "/" not in item["name"]
            }
        if kind not in self._plurals[base]:
            raise ConfigurationError(
                f"The Kubernetes cluster does not know the kind {kind} ({version}) that is to be created.",
                hint="Install what brings it (e.g. the Prometheus operator for a PodMonitor), or switch it off.",
            )
        plural, namespaced = self._plurals[base][kind]
        own = (document.get("metadata") or {}).get("namespace") or namespace
        return f"{base}/namespaces/{own}/{plural}" if namespaced else f"{base}/{plural}"

    # -- watches ---------------------------------------------------------------------------------------------------

    async def watch(
        self, path: str, *, patience: float = UNREACHABLE_SECONDS, **query: str
    ) -> AsyncIterator[WatchEvent]:
        """Tell what is there and what changes, for as long as it is asked.

        Goes on from where it was when the connection ends; reads all anew when the history is gone (410); outlives a
        restart of the API server.

        :param path: of the collection.
        :param patience: give up when the API server is away for so many seconds.
        :param query: of the requests: ``labelSelector``, ``fieldSelector``.
        :raises KubernetesAccessError: we may not.
        :raises KubernetesError: the API server stayed away.
        """
        version: str | None = None
        away_since: float | None = None
        failures = 0
        while True:
            try:
                if version is None:
                    found = await self.get(path, **query)
                    version = found["metadata"]["resourceVersion"]
                    kind = str(found.get("kind", "List")).removesuffix("List")
                    items = tuple({"kind": kind, **item} for item in found.get("items") or ())
                    away_since, failures = None, 0
                    yield WatchEvent("SYNC", {}, items)
                async for event in self._stream(path, version, query):
                    away_since, failures = None, 0
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield WatchEvent(event["type"], event["object"])
            except KubernetesError as error:
                if error.status == 410:
                    version = None
                    continue
                if error.status is not None and not may_pass(error.status) and error.status != 401:
                    raise
                if isinstance(error, KubernetesAccessError) and away_since is None and error.status == 401:
                    raise
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > patience:
                    raise
                log.debug("watch of %s interrupted: %s", path, error.message)
                failures += 1
                await asyncio.sleep(_WATCH_AGAIN.delay(failures))

    async def _stream(self, path: str, version: str, query: Mapping[str, str]) -> AsyncIterator[Json]:
        import aiohttp

        seconds = _WATCH_SECONDS + random.randrange(30)  # noqa: S311 - jitter
        asked = {
            **query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=seconds + 30.0)
        response = await self._send("GET", path, asked, None, None, limits)
        try:
            if response.status >= _REDIRECT:
                raise refusal(response.status, await response.text(), "GET", path)
            buffer = b""
            async for chunk in response.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise refusal(int(status.get("code", 500)), json.dumps(status), "GET", path)
                    yield event
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        finally:
            response.close()


async def pod_events(kube: Kube, namespace: str, uid: str) -> list[Json]:
    """Give the events of a pod: they help to explain it. None if they can't be read: then less is known.

    :param kube: where.
    :param namespace: of the pod.
    :param uid: of the pod: another of the same name is another.
    """
    try:
        found = await kube.get(path_of("events", namespace), fieldSelector=f"involvedObject.uid={uid}", limit="100")
    except KubernetesError:
        return []
    items: list[Json] = found.get("items") or []
    return items
