"""How Airflow is told of an error of ours: once, and so that it burns no retries on what another try can't change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray_provider._compat import AirflowFailException
from ray_provider.exceptions import RayProviderError


def for_airflow(error: RayProviderError) -> Exception:
    """Give the exception that Airflow is to see: the error, or one after which it does not try again.

    :param error: says by ``retryable`` which of the two it is.
    """
    return error if error.retryable else AirflowFailException(with_notes(error))


def with_notes(error: BaseException) -> str:
    """Give an error's text with what was added to it later.

    :param error: with the notes of ``add_note``.
    """
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


@contextmanager
def errors_for_airflow(as_seen: Callable[[RayProviderError], Exception] = for_airflow) -> Iterator[None]:
    """Raise an error of ours as Airflow is to see it.

    Another exception does not name ours as its cause: a task's log would hold the same text twice, with the frames of
    both. One that is raised as it is keeps what caused it.

    :param as_seen: gives what Airflow is to see.
    :raises Exception: what Airflow is to see.
    """
    try:
        yield
    except RayProviderError as error:
        seen = as_seen(error)
        if seen is error:
            raise
        raise seen from None
