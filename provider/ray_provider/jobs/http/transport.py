"""HTTP with a Ray dashboard: time-outs, retries, credentials renewed when refused, no redirect followed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_provider._shared.retry import Attempts, RetryPolicy, may_pass
from ray_provider.exceptions import ConfigurationError
from ray_provider.jobs.http.errors import (
    api_error,
    connection_error,
    has_hung_up,
    is_tls_error,
    not_ray_error,
    redirect_error,
    speaks_tls,
    tls_expected_error,
    too_long_error,
)
from ray_provider.jobs.http.headers import REFUSED, Sent, can_renew, make_headers
from ray_provider.jobs.http.incoming import (
    ERROR_BYTES,
    MESSAGE_BYTES,
    USUAL_BYTES,
    AnswerTooLongError,
    Incoming,
    parsed,
)
from ray_provider.jobs.http.session import URL_HINT, Shared, base_url, join, leave

if TYPE_CHECKING:
    import aiohttp

    from ray_provider.jobs.endpoint import RayEndpoint


@dataclass(frozen=True, slots=True)
class Answer:
    """The status and body of an answer."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """The body as text; broken characters are replaced."""
        return self.body.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class _Request:
    """What is sent, the same with each try."""

    method: str
    path: str
    params: Mapping[str, str] | None
    json_body: Any
    body: Callable[[], Any] | None
    seconds: float
    limit: int


class Transport:
    """Sends requests to one endpoint.

    :param endpoint: where, and with which credentials.
    :param timeout: seconds for one request, answer included.
    :param retry: what is tried again, unless a call says otherwise.
    """

    def __init__(self, endpoint: RayEndpoint, *, timeout: float, retry: RetryPolicy) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self.retry = retry
        self._base, self._basic = base_url(endpoint)
        self._shared: Shared | None = None
        self._opened = 0

    async def open(self) -> None:
        """Join the endpoint's session, or make it. As often as it is opened it has to be closed.

        :raises ConfigurationError: the TLS settings can't be used.
        """
        self._opened += 1
        if self._shared is None:
            try:
                await self._keep(await join(self.endpoint, secure=self._base.startswith("https")))
            except BaseException:
                self._opened -= 1
                raise

    async def _keep(self, shared: Shared) -> None:
        if self._shared is None:
            self._shared = shared
        else:  # two opened it at once
            await leave(self.endpoint, shared)

    async def close(self) -> None:
        """Leave the session; the last one closes it."""
        self._opened -= 1
        if self._opened > 0 or self._shared is None:
            return
        shared, self._shared = self._shared, None
        await leave(self.endpoint, shared)

    def _joined(self) -> Shared:
        if self._shared is None:
            raise RuntimeError("The client is not open: use it as 'async with RayJobsClient(endpoint) as client'.")
        return self._shared

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json_body: Any = None,
        body: Callable[[], Any] | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        accept: Callable[[int, str], bool] = lambda status, _text: status == 200,
        final: Callable[[int, str], bool] = lambda _status, _text: False,
        limit: int = USUAL_BYTES,
    ) -> Answer:
        """Send a request and give the answer.

        :param method: such as ``GET``.
        :param path: below the endpoint's URL.
        :param params: the query.
        :param json_body: the body as plain data; ``None``: there is none, or ``body`` makes it.
        :param body: makes the body, anew for each try.
        :param timeout: seconds for one try.
        :param retry: unless given, the transport's own.
        :param accept: which answers (status, text of an error) are given back.
        :param final: which errors (status, text) are not tried again although they look passing.
        :param limit: bytes that the answer may have, decompressed.
        :raises RayConnectionError: no answer inside the deadline.
        :raises RayAuthenticationError: 401 or 403, also after the credentials were renewed.
        :raises RayApiError: another answer than the accepted ones.
        :raises AnswerTooLongError: the answer has more bytes.
        """
        wanted = _Request(method, path, params, json_body, body, timeout or self.timeout, limit)
        return await self._until_answered(wanted, Attempts(retry or self.retry), accept, final)

    async def _until_answered(
        self,
        wanted: _Request,
        attempts: Attempts,
        accept: Callable[[int, str], bool],
        final: Callable[[int, str], bool],
    ) -> Answer:
        import aiohttp

        refused: Sent | None = None
        renewed = False
        while True:
            failure: Exception
            wait_for = 0.0
            try:
                sent = await make_headers(self.endpoint, self._basic, refused)
                refused = None
                answer, retry_after, location = await self._once(wanted, sent.headers)
            except aiohttp.InvalidURL as error:
                raise ConfigurationError(
                    f"The address is not a URL: {error}.", hint=URL_HINT, field="address"
                ) from error
            except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
                failure = await self._unanswered(error, attempts.number)
            else:
                text = answer.text if answer.status != 200 else ""
                if accept(answer.status, text):
                    return answer
                if 300 <= answer.status < 400 and location:
                    raise redirect_error(
                        self.endpoint, wanted.method, self._base + wanted.path, answer.status, location
                    )
                failure = api_error(self.endpoint, wanted.method, wanted.path, answer.status, text)
                failure.data["attempts"] = attempts.number
                if answer.status in REFUSED and can_renew(self.endpoint) and not renewed:
                    refused, renewed = sent, True
                    continue
                if not may_pass(answer.status) or final(answer.status, text):
                    raise failure
                wait_for = retry_after
            if not await attempts.wait(wait_for):
                raise failure

    async def _unanswered(self, error: Exception, tries: int) -> Exception:
        """Give the error of a try without an answer; raise it where no other try can help."""
        failure = connection_error(self.endpoint, error, f" ({tries} tries)" if tries > 1 else "")
        if is_tls_error(error):
            raise failure from error
        # Many a server that speaks TLS just hangs up on plain HTTP: no use in asking it again and again.
        if tries == 1 and has_hung_up(error) and await speaks_tls(self._base):
            raise tls_expected_error(self.endpoint) from error
        failure.__cause__ = error
        return failure

    async def _once(self, wanted: _Request, headers: Mapping[str, str]) -> tuple[Answer, float, str]:
        import aiohttp

        shared = self._joined()
        data = wanted.body() if wanted.body else None
        try:
            async with (
                shared.requests,
                shared.session.request(
                    wanted.method,
                    self._base + wanted.path,
                    params=wanted.params,
                    json=wanted.json_body,
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=wanted.seconds, sock_connect=min(10.0, wanted.seconds)),
                ) as response,
            ):
                incoming = Incoming(response)
                if response.status == 200:
                    content = await incoming.whole(wanted.limit, shared.long_answers)
                else:
                    content = await incoming.beginning()
                answer = Answer(response.status, content)
                return answer, _retry_after(response.headers), response.headers.get("Location", "")
        except AnswerTooLongError as error:
            raise too_long_error(self.endpoint, wanted.method, wanted.path, error) from None
        finally:
            if data is not None and hasattr(data, "close"):
                data.close()

    async def json(self, method: str, path: str, **options: Any) -> Any:
        """Send a request and give the answer's JSON; None for an accepted 404. See :meth:`request`.

        :param method: such as ``GET``.
        :param path: below the endpoint's URL.
        :param options: of :meth:`request`.
        :raises RayApiError: it is refused, or the answer is no JSON.
        """
        answer = await self.request(method, path, **options)
        if answer.status == 404:
            return None
        try:
            return await parsed(answer.body)
        except ValueError:
            beginning = answer.body[:ERROR_BYTES].decode("utf-8", "replace")
            raise not_ray_error(self.endpoint, method, path, answer.status, beginning) from None

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, *, params: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> AsyncIterator[Incoming]:
        """Open an answer that comes in pieces. One try, without a time limit unless one is given.

        :param path: below the endpoint's URL.
        :param params: the query.
        :param timeout: seconds that no byte may come, of an answer that has an end: it counts as a request. None: a
            stream may be silent as long as it likes.
        :raises RayConnectionError: it could not be opened. What breaks later is aiohttp's own error.
        :raises RayApiError: the answer was not 200.
        """
        shared = self._joined()
        await (shared.requests.acquire() if timeout is not None else shared.stream_turn())
        try:
            response = await self._open_stream(path, params, timeout)
            async with response:
                yield Incoming(response)
        finally:
            if timeout is not None:
                shared.requests.release()

    async def _open_stream(
        self, path: str, params: Mapping[str, str] | None, timeout: float | None
    ) -> aiohttp.ClientResponse:
        import aiohttp

        shared = self._joined()
        limits = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=timeout)
        refused: Sent | None = None
        while True:
            sent = await make_headers(self.endpoint, self._basic, refused)
            try:
                response = await shared.session.get(
                    self._base + path, params=params, headers=sent.headers, allow_redirects=False, timeout=limits
                )
            except (aiohttp.ClientError, OSError) as error:
                raise connection_error(self.endpoint, error) from error
            if response.status == 200:
                return response
            async with response:
                if location := response.headers.get("Location", ""):
                    raise redirect_error(self.endpoint, "GET", self._base + path, response.status, location)
                text = await self._refusal(response)
            if response.status in REFUSED and can_renew(self.endpoint) and refused is None:
                refused = sent
                continue
            raise api_error(self.endpoint, "GET", path, response.status, text)

    async def _refusal(self, response: aiohttp.ClientResponse) -> str:
        import aiohttp

        try:
            return (await Incoming(response).beginning()).decode("utf-8", "replace")
        except (aiohttp.ClientError, OSError) as error:
            raise connection_error(self.endpoint, error) from error

    @contextlib.asynccontextmanager
    async def websocket(self, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket.

        :param path: below the endpoint's URL.
        :raises RayConnectionError: it could not be opened.
        :raises RayApiError: the server refused.
        """
        import aiohttp

        shared = self._joined()
        await shared.stream_turn()
        refused: Sent | None = None
        while True:
            sent = await make_headers(self.endpoint, self._basic, refused)
            try:
                websocket = await shared.session.ws_connect(
                    self._base + path, headers=sent.headers, max_msg_size=MESSAGE_BYTES, heartbeat=30.0
                )
            except aiohttp.WSServerHandshakeError as error:
                if error.status in REFUSED and can_renew(self.endpoint) and refused is None:
                    refused = sent
                    continue
                raise api_error(self.endpoint, "GET", path, error.status, error.message) from error
            except (aiohttp.ClientError, OSError) as error:
                raise connection_error(self.endpoint, error) from error
            async with websocket:
                yield websocket
            return


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:  # a date: our own backoff is as good
        return 0.0
