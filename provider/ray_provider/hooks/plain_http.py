"""A token that goes over plain http can be read by anybody on the network path: told once for each host."""

from __future__ import annotations

import logging
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from ray_provider.hooks.connection import RayConnectionConfig
    from ray_provider.jobs.endpoint import RayEndpoint

log = logging.getLogger(__name__)

#: Names of services, as a cluster's own DNS has them: what goes there stays in the cluster's network.
_SERVICE = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+\.svc(\.[a-z0-9.-]+)?\.?")
_told: set[str] = set()


def warn_of_plain_http(config: RayConnectionConfig, endpoint: RayEndpoint) -> None:
    """Warn, once in a process, of a host that gets credentials over plain http, unless it is this machine or a service.

    :param config: may say that it is meant (``allow_plain_http``).
    :param endpoint: where credentials go.
    """
    parts = urlsplit(endpoint.url)
    host = (parts.hostname or "").lower()
    secrets = (
        endpoint.has_token or endpoint.cookies or any(name.lower() == "authorization" for name in endpoint.headers)
    )
    if parts.scheme != "http" or not secrets or config.allow_plain_http or host in _told or _is_near(host):
        return
    _told.add(host)
    log.warning(
        "Credentials go to %s over plain http: anybody on the network path can read them, and with Ray's token run "
        "code on the cluster. Give an https address, or say in the extra of connection %s that it is meant: "
        "allow_plain_http=true.",
        endpoint.display_url,
        config.conn_id,
    )


def _is_near(host: str) -> bool:
    if host == "localhost" or _SERVICE.fullmatch(host):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
