"""What triggers have in common at the end of their tasks: whether that was ended, and work that has to be done then."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from ray_provider import _compat
from ray_provider.triggers import reaching

if TYPE_CHECKING:
    from ray_provider._compat import TriggerTask
    from ray_provider.clusters.handle import Access
    from ray_provider.clusters.kubernetes.access import KubernetesAccess
    from ray_provider.hooks.ray import RayHook
    from ray_provider.triggers.watching import Log

#: Tasks that go on after Airflow gave up waiting for ``on_kill``: the event loop keeps only weak references.
_RUNNING: set[asyncio.Task[Any]] = set()


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do what the end of a task asks for, also when Airflow does not wait for it.

    :param work: what is to be done.
    """
    task = asyncio.create_task(work)
    _RUNNING.add(task)
    task.add_done_callback(_RUNNING.discard)
    await asyncio.shield(task)


def shows_a_kill(task: TriggerTask | None) -> bool:
    """Whether a trigger's ``cleanup`` is the only sign of a kill: before Airflow 3.3, which calls ``on_kill``.

    :param task: whose trigger it is; ``None``: nobody knows, so that nobody can be asked whether it was ended.
    """
    return not _compat.trigger_has_on_kill() and task is not None


async def reach(hook: RayHook, where: Mapping[str, Any] | None, log: Log) -> tuple[KubernetesAccess, Access]:
    """Read the connection, patiently, as whom it is asked from may not be up yet.

    :param hook: of the connection.
    :param where: which Kubernetes, as a handle says it.
    :param log: is told of each try that failed.
    :return: access to it, and how dashboards are reached.
    :raises ConfigurationError: the connection can't work.
    """

    async def ask() -> tuple[KubernetesAccess, Access]:
        kube_access = await hook.akubernetes_access(where)
        return kube_access, (await hook.aconfig()).access

    return await reaching.patiently(
        ask,
        lambda _: reaching.SETTLE_SECONDS,
        lambda error: log.warning("Can't read connection %s yet, trying again: %s", hook.conn_id, error),
    )


async def was_ended(task: TriggerTask | None, log: Log) -> bool:
    """Tell a task that was ended from one that is cleared, or watched on by another triggerer: those need its cluster.

    :param task: whose trigger it is; ``None``: nobody knows.
    :param log: is told why the cluster is left.
    """
    if task is None:
        return True
    state = None
    for pause in (0.2, 1.0, 2.0, 5.0):
        try:
            state = await _compat.core_state_of(task)
        except _compat.AirflowUnansweredError as error:
            log.warning("Can't ask Airflow about the task yet: %s", error)
        else:
            # A cleared task has no state for a moment; a deleted run never has one again.
            if state is not None:
                break
        await asyncio.sleep(pause)
    # Ended for good, by a person or by Airflow. A cleared task comes back, and finds its cluster.
    if state in _compat.ENDED or state is None:
        return True
    log.info("The task is %s: what it made is left to it.", state)
    return False
