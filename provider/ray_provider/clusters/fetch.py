"""Text behind a URL: a manifest that a task names so."""

from __future__ import annotations

from urllib.error import URLError
from urllib.request import Request, urlopen

from ray_provider.exceptions import ConfigurationError, RayConnectionError

_MOST_BYTES = 4 * 1024 * 1024
_SECONDS = 30.0


def display_url(url: str) -> str:
    """Give a URL as it may be shown: without user, password and query, any of which may be a secret."""
    scheme, separator, rest = url.split("?", 1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def fetch_text(url: str) -> str:
    """Get the text behind an ``http`` or ``https`` URL. Blocking.

    :raises ConfigurationError: there is none, or it is no text of a usable size.
    :raises RayConnectionError: nothing answers.
    """
    shown = display_url(url)
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"{shown} is no http or https URL.")
    try:
        request = Request(url, headers={"User-Agent": "airflow-ray"})  # noqa: S310 - checked above
        with urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 - checked above  # nosec B310
            content = answer.read(_MOST_BYTES + 1)
    except URLError as error:
        status = getattr(error, "code", None)
        if status is not None and status < 500:
            raise ConfigurationError(f"{shown} can't be read: HTTP {status}.", hint="Check the URL.") from error
        raise RayConnectionError(
            f"{shown} can't be read: {error.reason}.", hint="Put the file beside the DAG."
        ) from error
    if len(content) > _MOST_BYTES:
        raise ConfigurationError(f"{shown} is larger than {_MOST_BYTES // 2**20} MiB: that is no manifest.")
    try:
        text: str = content.decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{shown} is no text.") from error
    return text
