"""What an operator reads from and leaves in Airflow about its job: the state store, XComs, the task's identity."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_provider import _compat
from ray_provider._shared import xcom_keys
from ray_provider._version import __version__
from ray_provider.clusters.handle import ClusterHandle, named_cluster
from ray_provider.exceptions import ConfigurationError
from ray_provider.operators._job import attempts

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.jobs.submit.identity import JobOwner
    from ray_provider.jobs.watch.watcher import JobOutcome
    from ray_provider.operators._job.run import JobRun

log = logging.getLogger(__name__)


class TaskMemory:
    """The record of the last logical attempt, where Airflow can keep one (3.3).

    :param context: of the task.
    """

    def __init__(self, context: Context) -> None:
        self._store = _compat.state_store(context)
        told = None if self._store is None else self._store.get(attempts.STORE_KEY)
        #: What an earlier try left; ``None`` if there is none, or Airflow keeps none.
        self.earlier = attempts.AttemptRecord.from_dict(told)
        #: What this try left.
        self.record = self.earlier
        max_tries = getattr(context["ti"], "max_tries", None)
        self.max_tries: int | None = None if max_tries is None else int(max_tries)

    @property
    def lasts(self) -> bool:
        """Whether a later try can read what this one keeps."""
        return self._store is not None

    def keep(self, record: attempts.AttemptRecord) -> None:
        """Replace the record.

        :param record: of the attempt that goes on.
        """
        self.record = record
        if self._store is not None:
            self._store.set(attempts.STORE_KEY, record.to_dict())

    def submitted(self) -> None:
        """Note that the submit came through."""
        if self.record is not None:
            self.keep(replace(self.record, submitted=True))

    def seen(self, outcome: JobOutcome) -> None:
        """Note that the task has seen how the job ended: a later try begins a new one.

        :param outcome: of a job. One of another attempt is not noted.
        """
        if self.record is not None and self.record.submission_id == outcome.submission_id:
            self.keep(attempts.seen(self.record, outcome.status))

    def killed(self) -> None:
        """Note that the job is being stopped. Airflow may refuse: the task instance may not be this try's any more."""
        if self.record is None or self._store is None:
            return
        try:
            self.keep(replace(self.record, stopping=True))
        except Exception as error:  # noqa: BLE001 - the task is being ended, and that goes on
            log.info("Airflow does not take a note about the ended task any more: %s", error)

    def next_attempt(self) -> int:
        """Guess which attempt this try is, before Ray can be asked: for the name of a cluster."""
        if self.earlier is None:
            return 1
        cleared = self.earlier.was_cleared(self.max_tries)
        return self.earlier.attempt + (1 if cleared or self.earlier.final is not None else 0)


def identity(context: Context) -> dict[str, Any]:
    """Give which task instance this is.

    :param context: of the task.
    :return: ``dag_id``, ``run_id``, ``task_id``, and ``map_index``, which is -1 where the task is not mapped.
    """
    ti = context["ti"]
    map_index = getattr(ti, "map_index", -1)
    return {
        "dag_id": ti.dag_id,
        "run_id": ti.run_id,
        "task_id": ti.task_id,
        "map_index": -1 if map_index is None else map_index,
    }


def owner_of(context: Context, attempt: int) -> JobOwner:
    """Give the owner of a logical attempt's job.

    Two Airflows that share a Ray cluster, and a run that was deleted and made again under its old id, are told apart by
    the address of the web interface and the time the run began.

    :param context: of the task.
    :param attempt: its number, from 1.
    """
    from ray_provider.jobs.submit.identity import JobOwner

    started = getattr(context.get("dag_run"), "start_date", None)
    deployment = " ".join(part for part in (_compat.deployment_name(), started and started.isoformat()) if part)
    return JobOwner(
        **identity(context),
        attempt=attempt,
        try_number=getattr(context["ti"], "try_number", None),
        provider_version=__version__,
        deployment=deployment,
    )


def tell(context: Context, run: JobRun) -> None:
    """Leave in XCom which job is this task's: for its trigger, and for the task itself when it is resumed.

    :param context: of the task.
    :param run: knows the job and its cluster.
    """
    value = {
        "submission_id": run.job_id,
        "dashboard_url": run.dashboard_url,
        "cluster": run.cluster.to_dict() if run.cluster else None,
        "cluster_owner": dict(run.cluster_owner) if run.cluster_owner else None,
    }
    context["ti"].xcom_push(key=xcom_keys.JOB, value=value)


def recall(context: Context, run: JobRun) -> None:
    """Read back what :func:`tell` left. A resumed operator is a new object that knows nothing.

    :param context: of the task.
    :param run: gets what is read.
    :raises ConfigurationError: what lies there is no cluster's handle.
    """
    told = left_before(context, xcom_keys.JOB)
    if told is None:
        return
    run.job_id = told.get("submission_id")
    run.dashboard_url = told.get("dashboard_url")
    run.cluster = ClusterHandle.from_dict(told["cluster"]) if told.get("cluster") else None
    if told.get("cluster_owner") and run.cluster is not None:
        take_over(context, run, run.cluster)


def left_before(context: Context, key: str) -> Mapping[str, Any] | None:
    """Read what the task itself left in XCom before it was deferred; ``None``: nothing.

    :param context: of the task.
    :param key: under which it left it.
    """
    own = identity(context)
    told = context["ti"].xcom_pull(task_ids=own["task_id"], key=key, map_indexes=own["map_index"])
    return told if isinstance(told, Mapping) else None


def take_over(context: Context, run: JobRun, cluster: ClusterHandle) -> None:
    """Leave in ``run`` a cluster that the task made. Whose it is says the task, not what was stored.

    :param context: of the task.
    :param run: gets the cluster.
    :param cluster: that the task made, in this try or an earlier one.
    """
    run.cluster_owner = {**identity(context), "airflow": _compat.deployment_name()}
    run.cluster = replace(cluster, owner=run.cluster_owner)


def locate(context: Context, run: JobRun, cluster: Any, xcom_task_key: str | None) -> None:
    """Find which cluster the task names, and leave it in ``run``.

    :param context: of the task.
    :param run: gets the cluster, or the URL of its dashboard.
    :param cluster: the operator's argument: a handle, its dictionary, or nothing.
    :param xcom_task_key: ``task_id.key``.
    :raises ConfigurationError: what is named is not there, or is none.
    """
    if cluster:
        run.cluster = named_cluster(cluster)
        return
    if not xcom_task_key:
        return
    task_id, _, key = xcom_task_key.rpartition(".")
    ti = context["ti"]
    task_id = task_id or ti.task_id
    url = ti.xcom_pull(task_ids=task_id, key=key)
    returned = ti.xcom_pull(task_ids=task_id) if task_id != ti.task_id else None
    if isinstance(returned, Mapping) and "backend" in returned and (url is None or returned.get("address") == url):
        run.cluster = ClusterHandle.from_dict(returned)
    elif isinstance(url, str) and url:
        run.dashboard_url = url
    elif run.hook.config.address:
        log.warning("XCom %s holds no dashboard URL: the connection's address is used.", xcom_task_key)
    else:
        raise ConfigurationError(
            f"xcom_task_key is {xcom_task_key!r}, but task {task_id!r} left no XCom {key!r}.",
            hint="Name the task that sets the cluster up, such as SetupRayCluster.dashboard, and run it before.",
            field="xcom_task_key",
        )
