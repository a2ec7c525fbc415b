"""What a sensor does that waits for the end of a RayJob: find it, look at it, hand it to a trigger, read the event."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ray_provider._compat import redact, state_store
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.exceptions import ConfigurationError, RayProviderError
from ray_provider.hooks import own_rayjob
from ray_provider.hooks.allowed import CHECKED
from ray_provider.hooks.peer import run_sync
from ray_provider.hooks.ray import RayHook
from ray_provider.triggers import failure
from ray_provider.triggers.rayjob import RayJobEndTrigger
from ray_provider.triggers.watching import Log, tell

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.clusters.kuberay.rayjob import RayJobState
    from ray_provider.clusters.lifecycle.rayjob_end import RayJobEnd

#: Key in the task state store (Airflow 3.3).
_STORE_KEY = "ray_job_end"


def find(hook: RayHook, ray_job: Any, namespace: str | None) -> ClusterHandle:
    """Find out which RayJob is meant, and whether the handle may lead there.

    :param hook: of the connection, with what the DAG allows.
    :param ray_job: its name; or the handle of its cluster, alone or in what ``RunRayJob`` pushes as XCom ``ray_job``.
    :param namespace: with a name; unless given, the connection's.
    :raises ConfigurationError: it names no RayJob.
    """
    if isinstance(ray_job, Mapping):
        told = ray_job.get("cluster") if "backend" not in ray_job else ray_job
        handle = ClusterHandle.from_dict(told if isinstance(told, Mapping) else {})
        if not handle.rayjob:
            raise ConfigurationError(
                f"The handle in ray_job is of the Ray cluster {handle.name!r}, which belongs to no RayJob.",
                hint="For a job on such a cluster give submission_id=..., and cluster=... beside it.",
                field="ray_job",
            )
        run_sync(lambda: hook.access_of(handle))
        return handle
    if not isinstance(ray_job, str) or not ray_job or ray_job.lstrip().startswith("{"):
        raise ConfigurationError(
            f"ray_job is {str(ray_job)[:80]!r}: no RayJob is named.",
            hint='Give its name, or the handle that RunRayJob pushes: ray_job=train.output["ray_job"].',
            field="ray_job",
        )
    if hook.config.backend == "local":
        raise ConfigurationError(
            f"ray_job is {ray_job!r}, and connection {hook.conn_id!r} says backend: local, where there are no RayJobs.",
            hint="Name a connection that leads to Kubernetes; or wait for a job of a local Ray by submission_id.",
            field="ray_job",
        )
    where = hook.kubernetes_access().namespace_or_default(namespace)
    return ClusterHandle("kubernetes", "", "", where, created=False, rayjob=ray_job)


def judge(conn_id: str, handle: ClusterHandle, max_unreachable_seconds: float, log: Log) -> RayJobEnd:
    """Make what judges the RayJob: kept from look to look, it knows more.

    :param conn_id: of the connection.
    :param handle: from :func:`find`, which has checked it.
    :param max_unreachable_seconds: how long (seconds) a Ray that has answered before may not.
    :param log: the task's.
    """
    return own_rayjob.judge_end(
        RayHook(conn_id, allowed=CHECKED),
        handle,
        max_unreachable_seconds=max_unreachable_seconds,
        say=partial(tell, log),
    )


def look(conn_id: str, handle: ClusterHandle, end: RayJobEnd) -> RayJobState | None:
    """Look once whether it has ended; ``None``: it goes on.

    :param conn_id: of the connection.
    :param handle: from :func:`find`.
    :param end: judges it.
    :raises RayProviderError: it did not succeed, or can't any more; or nobody could be asked.
    """
    hook = RayHook(conn_id, allowed=CHECKED)
    try:
        return run_sync(lambda: own_rayjob.look_at_end(hook, handle, end))
    except RayProviderError as error:
        # It may quote the job's log.
        raise type(error)(redact(error.message), hint=error.hint, **error.data) from None


def recall(context: Context, end: RayJobEnd) -> None:
    """Have a new object of the sensor know what its last look saw, where Airflow can keep that (3.3).

    :param context: of the task.
    :param end: judges the RayJob.
    """
    if (store := state_store(context)) is not None:
        end.recall(store.get(_STORE_KEY))


def keep(context: Context, end: RayJobEnd) -> None:
    """Keep what this look saw for the next one, see :func:`recall`.

    :param context: of the task.
    :param end: judges the RayJob.
    """
    store = state_store(context)
    if store is not None and store.get(_STORE_KEY) != end.memory():
        store.set(_STORE_KEY, end.memory())


def trigger(conn_id: str, handle: ClusterHandle, *, timeout: float, max_unreachable_seconds: float) -> RayJobEndTrigger:
    """Make the trigger that waits in the task's place.

    :param conn_id: of the connection.
    :param handle: from :func:`find`.
    :param timeout: how long (seconds) it waits.
    :param max_unreachable_seconds: how long (seconds) a Ray that has answered before may not.
    """
    now = time.time()
    return RayJobEndTrigger(
        conn_id=conn_id,
        cluster=handle.to_dict(),
        deadline=now + timeout,
        since=now,
        max_unreachable_seconds=max_unreachable_seconds,
        deferred_at=now,
    )


def told_by(event: Mapping[str, Any]) -> RayProviderError | None:
    """Give the error that the trigger's event tells of; ``None``: the job succeeded.

    :param event: the trigger's.
    """
    return None if event["status"] == "ended" else failure.read(event["error"])
