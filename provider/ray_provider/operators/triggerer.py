"""Waiting in the triggerer, as operators do it: the way there, and what is to be done where the trigger is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from ray_provider.exceptions import RayProviderError
from ray_provider.operators._job.memory import left_before

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

#: What Airflow resumes a task with whose trigger failed or timed out.
_FAIL = "__fail__"


def time_left(deadline: float, backstop: float) -> timedelta:
    """Give the time after which Airflow is to give a trigger up that has a deadline of its own.

    :param deadline: seconds since 1970.
    :param backstop: seconds that the trigger has after it, for what it does then: only one that fails to act is given
        up.
    """
    return timedelta(seconds=max(0.0, deadline - time.time()) + backstop)


def defer(
    operator: BaseOperator,
    context: Context,
    trigger: Any,
    *,
    what: str,
    left: tuple[str, Mapping[str, Any]],
    timeout: timedelta,
) -> NoReturn:
    """Leave the worker until the trigger fires. The task goes on with ``execute_complete``.

    :param operator: of the task.
    :param context: of the task.
    :param trigger: that waits.
    :param what: is waited for, for the log.
    :param left: key and value of an XCom: what was made, for the case that the trigger fails (:func:`take_back`).
    :param timeout: after which Airflow gives the trigger up, see :func:`time_left`.
    """
    context["ti"].xcom_push(key=left[0], value=dict(left[1]))
    operator.log.info("Waiting for %s in the triggerer.", what)
    operator.defer(trigger=trigger, method_name="execute_complete", timeout=timeout)


def why_gone(next_method: str, next_kwargs: Mapping[str, Any] | None) -> str | None:
    """Say why the trigger of a resumed task is gone; ``None``: it fired.

    :param next_method: that Airflow goes on with.
    :param next_kwargs: of it: the trigger's event, or an error.
    """
    if next_method != _FAIL:
        return None
    return str((next_kwargs or {}).get("error") or "the trigger failed")


def take_back(
    operator: BaseOperator,
    context: Context,
    reason: str,
    *,
    what: str,
    key: str,
    how: Callable[[Mapping[str, Any]], str],
) -> None:
    """Take back a deploy whose trigger is gone. Airflow raises its own error afterwards, so this one must not.

    :param operator: of the task.
    :param context: of the task.
    :param reason: why it is gone, see :func:`why_gone`.
    :param what: was deployed, for the log.
    :param key: of the XCom under which :func:`defer` left what was made. Where there is none, there is nothing to do.
    :param how: takes back what was left there, and says what it did.
    """
    left = left_before(context, key)
    if left is None:
        return
    operator.log.warning("Nobody watches %s any more (%s): the deploy is taken back.", what, reason)
    try:
        operator.log.info("%s", how(left))
    except RayProviderError:
        operator.log.exception("The deploy of %s could not be taken back.", what)
