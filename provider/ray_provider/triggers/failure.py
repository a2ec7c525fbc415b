"""A failure on its way from a trigger to its task: what the event says of it, and the error that this is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_provider import _compat, exceptions
from ray_provider.exceptions import ConfigurationError, RayProviderError


def told(error: RayProviderError) -> dict[str, Any]:
    """Give what an event says of an error, as plain data. The event lies in Airflow's database.

    :param error: what the trigger met.
    """
    return {
        "kind": type(error).__name__,
        # It may quote a job's log, or a pod's.
        "message": _compat.redact(error.message),
        "hint": error.hint,
        "retryable": error.retryable,
    }


def read(said: Any, otherwise: type[RayProviderError] = RayProviderError) -> RayProviderError:
    """Give the error that an event tells of. What an earlier or a later release says of it is read, too.

    :param said: what :func:`told` gave; or anything with a ``message``.
    :param otherwise: the kind of an error whose own is not known here.
    :return: an error that Airflow retries only where the trigger's was one of these.
    """
    said = said if isinstance(said, Mapping) else {"message": said}
    kind = getattr(exceptions, str(said.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, RayProviderError)):
        kind = otherwise
    if kind.retryable and not said.get("retryable", True):
        kind = ConfigurationError
    return kind(str(said.get("message") or "The trigger does not say why."), hint=said.get("hint"))
