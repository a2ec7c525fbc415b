"""Where an application answers, seen from where its dashboard is reached."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ray_provider.exceptions import ConfigurationError
from ray_provider.jobs.endpoint import RayEndpoint

DEFAULT_PORT = 8000
#: A service behind the proxy of a Kubernetes API server.
_PROXY = re.compile(r"(/api/v1/namespaces/[^/]+/services/[^/:]+):\d+(/proxy)$")


def serve_endpoint(
    endpoint: RayEndpoint, http_options: Mapping[str, Any], given: str | None = None
) -> RayEndpoint | None:
    """Give where Serve's proxies are reached; ``None``: the dashboard's address does not tell.

    Ray's token is not for applications: it is left out. Serve's port asks for none.

    :param endpoint: of the dashboard.
    :param http_options: of Serve, as it shows them.
    :param given: the address, if the user says it.
    :raises ConfigurationError: what the user says is no URL.
    """
    bare = replace(endpoint, token=None, token_source=None)
    here = urlsplit(endpoint.url)
    if given:
        parts = urlsplit(given)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ConfigurationError(
                f"serve_url has to be a URL such as http://ray.example.com:8000, but is {given!r}.", field="serve_url"
            )
        url = given.rstrip("/")
        if parts.hostname == here.hostname:
            return replace(bare, url=url)
        return RayEndpoint(url=url, tls=endpoint.tls)
    port = int(http_options.get("port") or DEFAULT_PORT)
    root = str(http_options.get("root_path") or "").rstrip("/")
    path = here.path.rstrip("/")
    if _PROXY.search(path):
        found = _PROXY.sub(rf"\1:{port}\2", path)
        return replace(bare, url=urlunsplit((here.scheme, here.netloc, found + root, "", "")))
    if path or here.scheme != "http" or not here.hostname:
        return None
    host = f"[{here.hostname}]" if ":" in here.hostname else here.hostname
    scheme = "https" if http_options.get("ssl_certfile") else "http"
    return RayEndpoint(url=f"{scheme}://{host}:{port}{root}", tls=endpoint.tls)


def application_url(serve: RayEndpoint, route_prefix: str | None) -> str | None:
    """Give the address of an application. Holds no credentials.

    :param serve: where Serve's proxies are reached.
    :param route_prefix: of the application.
    """
    if route_prefix is None:
        return None
    return serve.display_url.rstrip("/") + (route_prefix if route_prefix != "/" else "/")
