"""What went wrong between us and a dashboard, in words that name the way out."""

from __future__ import annotations

import asyncio
import errno
import json
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from ray_provider.exceptions import RayApiError, RayAuthenticationError, RayConnectionError

if TYPE_CHECKING:
    from ray_provider.jobs.endpoint import RayEndpoint
    from ray_provider.jobs.http.incoming import AnswerTooLongError

#: How much of an answer is kept in an error.
BODY_LIMIT = 2000

# Numbers of OpenSSL (X509_V_ERR_*).
_EXPIRED = 10
_NOT_YET_VALID = 9
_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21})
_HOST_MISMATCH = frozenset({62, 64})

#: The hint, and what is wrong.
_TLS_EXPECTED = ("Write the address with https://.", "the server speaks TLS, and we plain HTTP.")
_PLAIN_HTTP = "plain HTTP"
_HANDSHAKE_SECONDS = 5.0


class JobAlreadyExistsError(RayApiError):
    """The submission id is taken: by the same job, sent before, or by another one."""


def kubernetes_status(body: str) -> dict[str, Any] | None:
    """Read the body as a Kubernetes ``Status``: then the API server answered in Ray's place.

    :param body: of an answer with an error.
    """
    if '"Status"' not in body:
        return None
    try:
        status = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return status if isinstance(status, dict) and status.get("kind") == "Status" else None


def api_error(endpoint: RayEndpoint, method: str, path: str, status: int, body: str) -> RayApiError:
    """Make the error for an answer that is none of the expected ones.

    :param endpoint: who answered.
    :param method: of the request.
    :param path: below the endpoint's URL.
    :param status: of the answer.
    :param body: as text; cut here.
    """
    url = f"{endpoint.display_url.rstrip('/')}{path}"
    data: dict[str, Any] = {"status": status, "method": method, "url": url, "body": body[:BODY_LIMIT]}
    kubernetes = kubernetes_status(body)
    if status in {401, 403}:
        return _authentication_error(endpoint, status, kubernetes, data)
    said = str(kubernetes.get("message", "")) if kubernetes else _last_words(body)
    who = "The Kubernetes API server" if kubernetes else "Ray's dashboard"
    hint = None
    if status == 404:
        hint = (
            "Ask with kubectl whether the Ray cluster and its head service still exist."
            if kubernetes
            else "Check the address and its path prefix: a Ray dashboard answers at <address>/api/version."
        )
    elif status == 400 and "https" in body.lower():
        hint = "The server speaks HTTPS: write the address with https://."
    elif status == 405:
        hint = "Ray refuses requests that look like a browser's: is there a proxy that adds Origin or Referer?"
    elif status == 413:
        hint = "Something before Ray limits the size of a request: raise its limit, or upload less."
    return RayApiError(f"{who} answered {status} to {method} {url}: {said}", hint=hint, **data)


def _authentication_error(
    endpoint: RayEndpoint, status: int, kubernetes: dict[str, Any] | None, data: dict[str, Any]
) -> RayAuthenticationError:
    where = endpoint.display_url
    if kubernetes:
        said = kubernetes.get("message", "")
        if status == 401:
            return RayAuthenticationError(
                f"The Kubernetes API server does not accept our credentials (401) on the way to Ray at {where}: {said}",
                hint="Renew the credentials of the Kubernetes connection (kubeconfig, service account token).",
                **data,
            )
        return RayAuthenticationError(
            f"The Kubernetes API server denies access (403) to Ray at {where}: {said}",
            hint="Allow the user or service account to get and create services/proxy in the cluster's namespace.",
            **data,
        )
    if status == 401:
        sent = (
            "One was sent: something on the way took it off."
            if endpoint.has_token
            else "The connection has none."
        )  # fmt: skip
        return RayAuthenticationError(
            f"No token reached Ray at {where} (401), and this cluster asks for one. {sent}",
            hint="Put the cluster's token (RAY_AUTH_TOKEN) into the connection's field 'token', or into its password."
            if not endpoint.has_token
            else "Let the proxy before Ray pass the header X-Ray-Authorization.",
            **data,
        )
    return RayAuthenticationError(
        f"Ray at {where} refuses the token (403): it is not this cluster's."
        if endpoint.has_token
        else f"Access to Ray at {where} is forbidden (403): {_last_words(data['body'])}",
        hint="Compare the connection's token with RAY_AUTH_TOKEN of the cluster; a cluster made anew has a new one.",
        **data,
    )


def redirect_error(endpoint: RayEndpoint, method: str, url: str, status: int, location: str) -> RayApiError:
    """Make the error for a redirect: it is not followed, for the credentials would go with it.

    :param endpoint: who answered.
    :param method: of the request.
    :param url: what was asked for.
    :param status: of the answer.
    :param location: where the server points to.
    """
    target = urlsplit(urljoin(url, location))
    host = target.netloc.rpartition("@")[2]
    here = urlsplit(url)
    if target.hostname == here.hostname and target.scheme == "https" and here.scheme == "http":
        hint = f"Write the address with https://: https://{host}"
    else:
        hint = "Is this a sign-in page? Give the address at which Ray itself answers, and what the proxy wants to see."
    shown = url.split("?", 1)[0]
    return RayApiError(
        f"{endpoint.display_url} redirects to {target.scheme}://{host} ({status}). "
        "It is not followed: the credentials are not meant for another address.",
        hint=hint,
        status=status,
        method=method,
        url=shown,
        location=f"{target.scheme}://{host}{target.path}",
    )


def not_ray_error(endpoint: RayEndpoint, method: str, path: str, status: int, body: str) -> RayApiError:
    """Make the error for an answer that is not JSON, such as a sign-in page.

    :param endpoint: who answered.
    :param method: of the request.
    :param path: below the endpoint's URL.
    :param status: of the answer.
    :param body: as text; cut here.
    """
    return RayApiError(
        f"{endpoint.display_url} answered {method} {path} with something that is not JSON: {body[:80]!r}",
        hint="Something else than a Ray dashboard lives at this address: check it, and the path prefix.",
        status=status,
        method=method,
        url=f"{endpoint.display_url.rstrip('/')}{path}",
        body=body[:BODY_LIMIT],
    )


def too_long_error(endpoint: RayEndpoint, method: str, path: str, error: AnswerTooLongError) -> AnswerTooLongError:
    """Say whose answer had more bytes than one of its kind may have.

    :param endpoint: who answered.
    :param method: of the request.
    :param path: below the endpoint's URL.
    :param error: says how many.
    """
    url = f"{endpoint.display_url.rstrip('/')}{path}"
    return type(error)(
        f"The answer of {url} to {method} is too long to be read. {error.message}",
        hint="A job whose message, runtime_env or metadata is this long can be deleted in Ray's dashboard; if it is "
        "not that, something else than Ray answers at this address.",
        **{**error.data, "method": method, "url": url},
    )


def connection_error(endpoint: RayEndpoint, error: BaseException, tried: str = "") -> RayConnectionError:
    """Make the error for a request that got no answer.

    :param endpoint: who was asked.
    :param error: what the library said.
    :param tried: how long we tried, for the message.
    """
    where = endpoint.display_url
    hint, why = _explain(endpoint, error)
    return RayConnectionError(
        f"Can't reach Ray at {where}{tried}: {why}", hint=hint, url=where, cause=type(error).__name__
    )


def tls_expected_error(endpoint: RayEndpoint) -> RayConnectionError:
    """Make the error for a server that was asked in plain HTTP and speaks TLS.

    :param endpoint: who was asked.
    """
    where = endpoint.display_url
    return RayConnectionError(
        f"Can't reach Ray at {where}: {_TLS_EXPECTED[1]}", hint=_TLS_EXPECTED[0], url=where, cause=_PLAIN_HTTP
    )


def has_hung_up(error: Exception) -> bool:
    """Whether the server ended the connection instead of answering; what it had not read yet makes that a reset.

    :param error: of a request.
    """
    import aiohttp

    reset = isinstance(error, OSError) and error.errno == errno.ECONNRESET
    return reset or isinstance(error, aiohttp.ServerDisconnectedError)


async def speaks_tls(url: str) -> bool:
    """Ask the server at an ``http`` URL whether it would shake hands in TLS. Nothing of ours is sent.

    :param url: of the server.
    """
    parts = urlsplit(url)
    if parts.scheme != "http":
        return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_HANDSHAKE_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 80, ssl=context)
    except OSError:  # ssl.SSLError and TimeoutError are OSErrors
        return False
    writer.close()
    return True


def is_about_tls(error: RayConnectionError) -> bool:
    """Tell whether nobody can be reached because the two sides disagree about TLS: waiting does not change that.

    :param error: of a request.
    """
    cause = error.__cause__
    return error.data.get("cause") == _PLAIN_HTTP or (cause is not None and is_tls_error(cause))


def is_tls_error(error: BaseException) -> bool:
    """Tell whether trying again can't help: the server's certificate, or our idea of it, has to change.

    :param error: of a request.
    """
    return _certificate_error(error) is not None or _plain_http(error) or _tls_bytes(error)


def _certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    # aiohttp's own error is one as well, but without the code: the one that it holds comes first.
    for candidate in (getattr(error, "certificate_error", None), error.__cause__, error.__context__, error):
        if isinstance(candidate, ssl.SSLCertVerificationError):
            return candidate
    return None


def _plain_http(error: BaseException) -> bool:
    """Our TLS greeting was answered in plain HTTP."""
    text = f"{error} {error.__cause__}"
    return "WRONG_VERSION_NUMBER" in text or "wrong version number" in text or "http request" in text.lower()


def _tls_bytes(error: BaseException) -> bool:
    """Our plain HTTP was answered by a TLS alert (content type 21, version 3.x)."""
    text = str(error)
    return "\\x15\\x03" in text or "\x15\x03" in text


def _explain(endpoint: RayEndpoint, error: BaseException) -> tuple[str | None, str]:
    host = urlsplit(endpoint.url).hostname
    if certificate := _certificate_error(error):
        code = getattr(certificate, "verify_code", None)
        if code in _HOST_MISMATCH:
            return (
                "Use the name that the certificate is made for, or have the name added to the certificate.",
                f"the server's certificate is not made for the name {host}: {certificate.verify_message}.",
            )
        if code in _UNKNOWN_ISSUER:
            return (
                "Give the authority's certificate in the connection's field 'ca_file'.",
                "the server's certificate comes from an authority that this machine does not know.",
            )
        if code in {_EXPIRED, _NOT_YET_VALID}:
            return (
                "Renew the server's certificate, or set this machine's clock.",
                f"the server's certificate is {'expired' if code == _EXPIRED else 'not valid yet'}.",
            )
        return "Check the server's certificate.", f"the server's certificate was not accepted: {certificate}"
    if _plain_http(error):
        return "Write the address with http://, or turn TLS on at the server.", "the server does not speak TLS."
    if _tls_bytes(error):
        return _TLS_EXPECTED
    if isinstance(error, TimeoutError):
        return (
            "Check that the address is right and that no firewall or network policy is between.",
            f"no answer in time ({error})." if str(error) else "no answer in time.",
        )
    if type(error).__name__ == "ClientConnectorDNSError":
        return "Check the host in the connection's address.", f"the name {host} is not known."
    said = str(error) or type(error).__name__
    if "refused" in said.lower() or isinstance(getattr(error, "os_error", error), ConnectionRefusedError):
        return "Is the Ray head running, and is the port right?", "nobody listens there (connection refused)."
    if type(error).__name__ == "ServerDisconnectedError" and endpoint.url.startswith("http://"):
        return "If the server speaks TLS, write the address with https://.", "the server closed the connection."
    return None, said


def _last_words(body: str) -> str:
    """Give the part of an answer that says what happened: of a traceback, the last line."""
    text = body.strip()
    if "Traceback (most recent call last)" in text:
        # One within another ends with a line that is only its full stop.
        text = next((line.strip() for line in reversed(text.splitlines()) if len(line.strip()) > 1), "")
    if text.startswith("{"):
        try:
            said = json.loads(text)
        except ValueError:
            return text[:500]
        text = str(said.get("msg") or said.get("message") or said.get("error") or text)
    return text[:500] or "(no text)"
