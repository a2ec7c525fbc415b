"""The headers that carry our credentials to a dashboard, and new ones when the last were refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray_provider.jobs.endpoint import RayEndpoint

#: Ray reads its token from both. The first is for ways on which something else wants ``Authorization`` for itself.
TOKEN_HEADERS = ("X-Ray-Authorization", "Authorization")
REFUSED = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Sent:
    """What a request said of us.

    :param headers: of the request.
    :param token: Ray's token among them.
    """

    headers: Mapping[str, str] = field(repr=False)
    token: str | None = field(repr=False)


def can_renew(endpoint: RayEndpoint) -> bool:
    """Tell whether there is somebody to ask for other credentials.

    :param endpoint: whose credentials they are.
    """
    return endpoint.auth is not None or endpoint.token_source is not None


async def make_headers(endpoint: RayEndpoint, basic: str | None, refused: Sent | None = None) -> Sent:
    """Make the headers of a request. Ray's token goes into both of its headers, unless one is taken.

    :param endpoint: where the request goes.
    :param basic: value of ``Authorization`` that the URL's user and password make.
    :param refused: what was refused just now: ask for new credentials.
    """
    headers = dict(endpoint.headers)
    if endpoint.auth is not None:
        headers.update(await endpoint.auth(refused is not None))
    if endpoint.cookies:
        cookies = "; ".join(f"{name}={value}" for name, value in endpoint.cookies.items())
        given = next((name for name in headers if name.lower() == "cookie"), None)
        headers["Cookie"] = f"{headers.pop(given)}; {cookies}" if given else cookies
    taken = {name.lower() for name in headers}
    if basic and "authorization" not in taken:
        headers["Authorization"] = basic
        taken.add("authorization")
    token = endpoint.token
    if endpoint.token_source is not None:
        token = await endpoint.token_source(refused.token if refused else None) or token
    if token:
        headers.update({name: f"Bearer {token}" for name in TOKEN_HEADERS if name.lower() not in taken})
    return Sent(headers, token)
