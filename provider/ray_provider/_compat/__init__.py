"""Every difference between Airflow versions, and nothing else. The rest of the provider imports from here.

What command lines ask of Airflow's database is in :mod:`ray_provider._compat.database`.

Supported: Airflow 2.11 and all of Airflow 3. What is missing in a version is guarded here, by what is there and not by
version numbers wherever that can be asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import (
    BaseHook,
    BaseOperator,
    BaseOperatorLink,
    BaseSensorOperator,
    PokeReturnValue,
    TaskGroup,
)
from airflow.triggers.base import BaseTrigger, TriggerEvent

try:
    from airflow.providers.common.compat.sdk import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        TaskDeferred,
        conf,
    )
except ImportError:  # a common-compat as old as Airflow 2.11 or 3.0: it has not got these names yet
    from airflow.configuration import conf
    from airflow.exceptions import (  # type: ignore[no-redef,attr-defined]
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        TaskDeferred,
    )

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection, Context


_Answer = TypeVar("_Answer")

__all__ = [
    "ENDED",
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "AirflowUnansweredError",
    "BaseHook",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "BaseTrigger",
    "PokeReturnValue",
    "TaskDeferred",
    "TaskGroup",
    "TriggerEvent",
    "TriggerTask",
    "async_connection",
    "conf",
    "connection_widgets",
    "core_state_of",
    "deployment_name",
    "get_xcom",
    "in_thread",
    "mask_secrets",
    "old_path",
    "redact",
    "set_xcom",
    "state_store",
    "trigger_has_on_kill",
    "without_gone",
]

#: States of a task instance that wait for nothing any more. One that is cleared comes back, and has none of these.
ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


# -- asking Airflow on an event loop -----------------------------------------------------------------------------------

#: What was asked and has no answer yet: the event loop keeps only weak references.
_ASKING: set[asyncio.Future[Any]] = set()


async def in_thread(call: Callable[..., _Answer], *arguments: Any, **named: Any) -> _Answer:
    """Run what may ask Airflow for something in a thread, and wait for it; as ``asyncio.to_thread`` does, and more.

    Triggerers of Airflow 3.0 and 3.1 put a thread's request on the event loop that asgiref knows the thread to have
    come from. A thread that asgiref does not know gets a loop of its own, whose answers are read by nobody or by the
    wrong one: that ends the triggerer, with all its triggers. So does a request that is given up before its answer was
    read: where the caller is cancelled, the request goes on to its end.

    :param call: a synchronous function.
    :param arguments: of the function.
    :param named: arguments of the function, by name.
    """
    from asgiref.sync import sync_to_async

    asking = asyncio.ensure_future(sync_to_async(call, thread_sensitive=False)(*arguments, **named))
    _ASKING.add(asking)
    asking.add_done_callback(_asked)
    return await asyncio.shield(asking)


def _asked(asking: asyncio.Future[Any]) -> None:
    _ASKING.discard(asking)
    if not asking.cancelled():
        asking.exception()  # seen: whoever waited may be gone


# -- connections -------------------------------------------------------------------------------------------------------


async def async_connection(hook: BaseHook, conn_id: str) -> Connection:
    """Read a connection on an event loop: a triggerer's, ``dag.test``'s or a worker's.

    The synchronous call in a thread (:func:`in_thread`) is the one way that works in all of them: in a triggerer it is
    handed to the loop that talks to the supervisor; ``dag.test`` has only the synchronous channel (its
    ``aget_connection`` finds no connection of the metadata database); Airflow 2 reads the database itself, which must
    not block the loop.

    :param hook: reads it. Connections of Airflow's secrets backends and environment count as ever.
    :param conn_id: of the connection.
    """
    connection: Connection = await in_thread(hook.get_connection, conn_id)
    return connection


def mask_secrets(values: Iterable[str]) -> None:
    """Have Airflow hide these values in all logs. Blocking: call it where the connection was read.

    :param values: each as it may show in a log.
    """
    try:
        from airflow.providers.common.compat.sdk import mask_secret
    except ImportError:  # an older common-compat
        mask_secret = _masker().mask_secret

    for value in values:
        mask_secret(value)


def redact(text: str) -> str:
    """Hide in a text what Airflow knows to be secret.

    Airflow does so with a task's log. What a worker's process prints besides, such as the log of an executor's own
    process, it does not: texts that a cluster wrote are shown by us only like this.

    :param text: such as a job's log.
    """
    return str(_masker().redact(text))


@cache
def _masker() -> Any:
    """Find Airflow's module for that: it has moved from version to version."""
    names = ["airflow.sdk._shared.secrets_masker", "airflow.sdk.execution_time.secrets_masker"]
    for name in [*(names if find_spec("airflow.sdk") else ()), "airflow.utils.log.secrets_masker"]:
        try:
            module = import_module(name)
        except ImportError:
            continue
        if hasattr(module, "redact"):
            return module
    raise ImportError("This Airflow has no masking of secrets where it is known to have been.")


def deployment_name() -> str:
    """Tell this Airflow from others that may share a Ray cluster: the address of its web interface, as configured."""
    # Airflow 3 warns where the name of Airflow 2 is asked for.
    section = "api" if find_spec("airflow.sdk") else "webserver"
    return str(conf.get(section, "base_url", fallback="") or "")


# -- the connection form of Airflow 2.11 to 3.1 ------------------------------------------------------------------------


def connection_widgets(fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Make the form's widgets out of the provider metadata's ``conn-fields``. Airflow 3.2 reads those itself.

    :param fields: by name; each has ``label`` and ``schema``.
    """
    from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextAreaFieldWidget, BS3TextFieldWidget
    from flask_babel import lazy_gettext
    from wtforms import BooleanField, PasswordField, StringField

    widgets: dict[str, Any] = {}
    for name, described in fields.items():
        schema = described["schema"]
        label = lazy_gettext(described["label"])
        help_text = described.get("description", "")
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if "boolean" in kinds:
            widgets[name] = BooleanField(label, default=schema.get("default", False), description=help_text)
        elif schema.get("format") == "password":
            widgets[name] = PasswordField(label, widget=BS3PasswordFieldWidget(), description=help_text)
        elif schema.get("format") == "multiline":
            # Airflow 2.11 knows four classes of fields, and drops a hook that has another one.
            widgets[name] = StringField(label, widget=BS3TextAreaFieldWidget(), description=help_text)
        else:
            widgets[name] = StringField(label, widget=BS3TextFieldWidget(), description=help_text)
    return widgets


# -- state that outlives a try -----------------------------------------------------------------------------------------


def state_store(context: Context) -> Any | None:
    """Give the store that all tries of a task instance share (Airflow 3.3), or ``None``.

    :param context: of the task.
    """
    return dict(context).get("task_state_store") if "task_state_store" in context else None


# -- what a trigger may ask about its task -----------------------------------------------------------------------------


class AirflowUnansweredError(Exception):
    """Airflow did not answer what it was asked: its API server, its database or the way there is down.

    :param cause: what Airflow's own code raised.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.cause = cause


@contextmanager
def _answering() -> Iterator[None]:
    """Give one kind of error to all that Airflow's own code may raise where it has no answer.

    That is AirflowRuntimeError, OSError, EOFError or pydantic's, SQLAlchemy's on Airflow 2; and a TypeError or an
    AttributeError where an error of the API server was read as if it were the answer.

    :raises AirflowUnansweredError: there is no answer.
    """
    try:
        yield
    except Exception as error:
        raise AirflowUnansweredError(error) from error


class TriggerTask:
    """The task instance a trigger works for, as plain values: Airflow 2 gives an ORM object, 3 a data model.

    :param task_instance: ``trigger.task_instance``.
    """

    def __init__(self, task_instance: Any) -> None:
        self.dag_id: str = task_instance.dag_id
        self.run_id: str = task_instance.run_id
        self.task_id: str = task_instance.task_id
        map_index = getattr(task_instance, "map_index", None)
        self.map_index: int = -1 if map_index is None else int(map_index)

    @classmethod
    def of(cls, trigger: Any) -> TriggerTask | None:
        """Give the task of a trigger, or ``None`` where there is none (``dag.test``).

        :param trigger: as Airflow made it.
        """
        task_instance = getattr(trigger, "task_instance", None)
        return None if task_instance is None else cls(task_instance)

    @property
    def key(self) -> dict[str, Any]:
        """The arguments by which XComs are addressed."""
        return {"dag_id": self.dag_id, "run_id": self.run_id, "task_id": self.task_id, "map_index": self.map_index}


def trigger_has_on_kill() -> bool:
    """Tell whether Airflow calls ``on_kill`` of a trigger when a user acts on its task (3.3)."""
    return hasattr(BaseTrigger, "on_kill")


async def get_xcom(task: TriggerTask, key: str) -> Any:
    """Read an XCom of a trigger's own task.

    :param task: of the trigger.
    :param key: of the XCom.
    :return: ``None``: there is none of that key.
    :raises AirflowUnansweredError: Airflow does not answer.
    """
    from airflow.providers.common.compat.sdk import XCom

    with _answering():
        return await in_thread(XCom.get_one, key=key, **task.key)


async def set_xcom(task: TriggerTask, key: str, value: Any) -> None:
    """Write an XCom of a trigger's own task.

    :param task: of the trigger.
    :param key: of the XCom; one that is there is replaced.
    :param value: what XCom can carry.
    :raises AirflowUnansweredError: Airflow does not answer.
    """
    from airflow.providers.common.compat.sdk import XCom

    with _answering():
        await in_thread(XCom.set, key=key, value=value, **task.key)


async def core_state_of(task: TriggerTask) -> str | None:
    """Read the state of a trigger's own task: ``deferred``, ``failed``, … or ``None`` (cleared, or gone).

    :param task: of the trigger.
    :raises AirflowUnansweredError: Airflow does not answer.
    """
    return await in_thread(_state_of, task)


def _state_of(task: TriggerTask) -> str | None:
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    except ImportError:
        return _state_in_database(task)
    states: Mapping[str, Any]
    with _answering():
        states = RuntimeTaskInstance.get_task_states(
            dag_id=task.dag_id, task_ids=[task.task_id], run_ids=[task.run_id], map_index=task.map_index
        )
    name = task.task_id if task.map_index < 0 else f"{task.task_id}_{task.map_index}"
    state = states.get(task.run_id, {}).get(name)
    return None if state is None else str(getattr(state, "value", state))


def _state_in_database(task: TriggerTask) -> str | None:
    """Airflow 2: a trigger has the metadata database."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with _answering(), create_session() as session:
        found = (
            session.query(TaskInstance.state)
            .filter(
                TaskInstance.dag_id == task.dag_id,
                TaskInstance.run_id == task.run_id,
                TaskInstance.task_id == task.task_id,
                TaskInstance.map_index == task.map_index,
            )
            .scalar()
        )
    return None if found is None else str(found)


def old_path(old: str, new: str) -> None:
    """Tell that a module's path is an old one: once, when it is imported.

    :param old: the module.
    :param new: where its names are.
    """
    import warnings

    from airflow.exceptions import AirflowProviderDeprecationWarning

    warnings.warn(f"Import from {new} instead of {old}.", AirflowProviderDeprecationWarning, stacklevel=3)


def without_gone(operator: str, arguments: dict[str, Any], gone: dict[str, str]) -> None:
    """Take out arguments that astro-provider-ray had once, and say what is there instead.

    :param operator: whose they are.
    :param arguments: the operator's keyword arguments; changed.
    :param gone: by name, what to do instead.
    """
    import warnings

    from airflow.exceptions import AirflowProviderDeprecationWarning

    for name in sorted(gone.keys() & arguments.keys()):
        del arguments[name]
        warnings.warn(f"{operator} no longer has {name}: {gone[name]}", AirflowProviderDeprecationWarning, stacklevel=4)
