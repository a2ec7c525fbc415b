"""The trigger that watches a Ray job while its task is deferred."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ray_provider import _compat
from ray_provider._compat import BaseTrigger, TriggerEvent, TriggerTask
from ray_provider._shared import xcom_keys
from ray_provider.exceptions import RayProviderError
from ray_provider.hooks.allowed import CHECKED
from ray_provider.hooks.ray import RayHook
from ray_provider.triggers import coming_back, ending, failure, reaching, watching
from ray_provider.triggers.log_end import LogEnd

if TYPE_CHECKING:
    from ray_provider.jobs.endpoint import RayEndpoint
    from ray_provider.jobs.watch.loglines import LogBatch
    from ray_provider.jobs.watch.watcher import JobOutcome


class RayJobTrigger(BaseTrigger):
    """Watches a Ray job: its status, and its log into the task's log. Fires once, with the job's outcome.

    It never stops a job because a triggerer is restarted, moved or stalled; it does when a user acts on the task.

    :param job_id: the job's submission id.
    :param conn_id: connection of type ``ray``.
    :param xcom_dashboard_url: the dashboard, if not the connection's.
    :param ray_cluster_yaml: the manifest of the cluster, if the task made it. For people.
    :param gpu_device_plugin_yaml: the same of the device plugin.
    :param poll_interval: the longest pause (seconds) between two looks at the status.
    :param fetch_logs: pass the job's log on.
    :param cluster: handle of the cluster, if not the connection's; where its token lies, not the token.
    :param owns_cluster: the cluster goes when the task is killed.
    :param deadline: when (seconds since 1970) the job is stopped.
    :param max_unreachable_seconds: how long a dashboard that does not answer is waited for.
    :param log_max_lines: pass on at most so many lines; ``None``: all.
    :param cancel_on_kill: stop the job when a user acts on the task.
    :param deferred_at: when (seconds since 1970) the task was deferred: it does not come back at once.
    :param session_name: the head's session in which the job was submitted: tells a job that was lost with its head.
    :param appears_until: when (seconds since 1970) a job that KubeRay submits has to be there.
    """

    _DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "xcom_dashboard_url": None,
        "ray_cluster_yaml": None,
        "gpu_device_plugin_yaml": "",
        "poll_interval": 0.5,
        "fetch_logs": True,
        "cluster": None,
        "owns_cluster": False,
        "deadline": None,
        "max_unreachable_seconds": 600.0,
        "log_max_lines": None,
        "cancel_on_kill": True,
        "deferred_at": None,
        "session_name": None,
        "appears_until": None,
    }

    def __init__(
        self,
        job_id: str,
        conn_id: str,
        xcom_dashboard_url: str | None = None,
        ray_cluster_yaml: str | None = None,
        gpu_device_plugin_yaml: str = "",
        poll_interval: float = 0.5,
        fetch_logs: bool = True,
        *,
        cluster: Mapping[str, Any] | None = None,
        owns_cluster: bool = False,
        deadline: float | None = None,
        max_unreachable_seconds: float = 600.0,
        log_max_lines: int | None = None,
        cancel_on_kill: bool = True,
        deferred_at: float | None = None,
        session_name: str | None = None,
        appears_until: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_id = job_id
        self.conn_id = conn_id
        self.xcom_dashboard_url = xcom_dashboard_url
        self.ray_cluster_yaml = ray_cluster_yaml
        self.gpu_device_plugin_yaml = gpu_device_plugin_yaml
        self.poll_interval = poll_interval
        self.fetch_logs = fetch_logs
        self.cluster = dict(cluster) if cluster else None
        self.owns_cluster = owns_cluster
        self.deadline = deadline
        self.max_unreachable_seconds = max_unreachable_seconds
        self.log_max_lines = log_max_lines
        self.cancel_on_kill = cancel_on_kill
        self.deferred_at = deferred_at
        self.session_name = session_name
        self.appears_until = appears_until
        self.hook = RayHook(conn_id, allowed=CHECKED)
        self._endpoint: RayEndpoint | None = None
        self._offset = _Offset(job_id)
        self._log_end = LogEnd()
        self._fired = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what the trigger is built from again: no secret, and no argument that has its default value."""
        changed = {
            name: getattr(self, name) for name, default in self._DEFAULTS.items() if getattr(self, name) != default
        }
        return "ray_provider.triggers.RayJobTrigger", {"job_id": self.job_id, "conn_id": self.conn_id, **changed}

    # -- watching ------------------------------------------------------------------------------------------------------

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch the job to its end.

        :yield: one event: ``status``, ``message``, ``job_id`` and ``outcome``, or ``error`` if it can't be watched.
        """
        began = time.time()
        await watching.load()
        try:
            event = self._event(await self._watch())
        except RayProviderError as error:
            told = failure.told(error)
            event = {"status": "EXCEPTION", "message": told["message"], "job_id": self.job_id, "error": told}
        await coming_back.wait(self.deferred_at, began)
        await self._log_end.taken(TriggerTask.of(self), self.log)
        self._fired = True
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _watch(self) -> JobOutcome:
        from ray_provider.jobs.client import RayJobsClient
        from ray_provider.jobs.watch.watcher import WatchOptions

        self._endpoint = await self._reach()
        await self._offset.restore(TriggerTask.of(self), self.log)
        options = WatchOptions(
            poll_interval=self.poll_interval,
            fetch_logs=self.fetch_logs,
            log_offset=self._offset.value,
            log_lines=self._offset.lines,
            deadline=self.deadline,
            max_unreachable_seconds=self.max_unreachable_seconds,
            log_max_lines=self.log_max_lines,
            session_name=self.session_name,
            appears_until=self.appears_until,
        )
        try:
            async with self.hook.using(self.cluster), RayJobsClient(self._endpoint) as client:
                return await watching.watch(
                    client,
                    self.job_id,
                    options,
                    log=self.log,
                    passed_on=self._passed_on,
                    ask=self.hook.asks(self.cluster),
                    interrupted=self.hook.interruptions(self.cluster),
                )
        finally:
            await self._offset.no_more()

    async def _passed_on(self, batch: LogBatch) -> None:
        self._log_end.passed_on(batch.end_offset - self._offset.value, batch.records)
        await self._offset.passed_on(batch)

    async def _reach(self) -> RayEndpoint:
        return await reaching.dashboard(
            self.hook,
            self.cluster,
            self.xcom_dashboard_url,
            max_unreachable_seconds=self.max_unreachable_seconds,
            what=f"job {self.job_id}",
            log=self.log,
        )

    def _event(self, outcome: JobOutcome) -> dict[str, Any]:
        status = outcome.status if outcome.kind == "final" else outcome.kind.upper()
        message = outcome.message or f"Job {self.job_id}: {status}"
        return {"status": status, "message": message, "job_id": self.job_id, "outcome": outcome.to_dict()}

    # -- the end -------------------------------------------------------------------------------------------------------

    async def on_kill(self) -> None:
        """Stop the job: a user acted on the task. Airflow (3.3) calls this, and waits for about a second only."""
        if not self.cancel_on_kill:
            self.log.info("The task was ended; job %s goes on (cancel_on_kill=False).", self.job_id)
            return
        await ending.to_its_end(self._kill())

    async def cleanup(self) -> None:
        """Keep what a successor needs. Airflow calls this on every exit, so it stops nothing by itself.

        Airflow before 3.3 has no ``on_kill``: there, a task that is no longer deferred was killed.
        """
        if self._fired:
            return
        await self._offset.keep(self.log)
        if self.cancel_on_kill and ending.shows_a_kill(TriggerTask.of(self)):
            await ending.to_its_end(self._kill())

    async def _kill(self) -> None:
        """Stop the job, and delete the task's own cluster, unless another trigger watches the job on."""
        try:
            if not await self._is_ours_to_stop():
                return
            self.log.info("The task was ended: stopping job %s.", self.job_id)
            endpoint = self._endpoint or await self.hook.endpoint(self.cluster, self.xcom_dashboard_url)
            await watching.stop_at(endpoint, self.job_id, log=self.log, within=watching.STOP_SECONDS, appear=0.0)
            if self.owns_cluster and self.cluster:
                await self._delete_cluster(self.cluster)
        except Exception:
            # Nobody waits for this task any more: the log is the one place where it can be told.
            self.log.exception("Job %s could not be stopped. It may still run.", self.job_id)

    async def _delete_cluster(self, cluster: Mapping[str, Any]) -> None:
        from ray_provider.clusters.handle import ClusterHandle
        from ray_provider.hooks import own_cluster

        handle = ClusterHandle.from_dict(cluster)
        self.log.info("Deleting the task's own cluster %s.", handle.name)
        await own_cluster.delete(self.hook, handle)

    async def _is_ours_to_stop(self) -> bool:
        """Tell a user's act from a triggerer that lost its triggers.

        A triggerer that stalled comes back, finds its triggers gone, and Airflow calls ``on_kill`` of them although
        the task is well on another one. So: still deferred, for this very job: another trigger watches it.
        """
        task = TriggerTask.of(self)
        if task is None:
            return True
        state = await self._patiently(_compat.core_state_of, task)
        if state != "deferred":
            return True
        own = await self._patiently(_compat.get_xcom, task, xcom_keys.JOB)
        if isinstance(own, Mapping) and own.get("submission_id") == self.job_id:
            self.log.info("Job %s is left to the trigger that watches it now.", self.job_id)
            return False
        return True

    async def _patiently(self, ask: Any, *arguments: Any) -> Any:
        for pause in (0.2, 1.0, 5.0):
            try:
                return await ask(*arguments)
            except _compat.AirflowUnansweredError as error:
                self.log.warning("Can't ask Airflow about the task yet: %s", error)
                await asyncio.sleep(pause)
        return await ask(*arguments)


class _Offset:
    """How much of a job's log has been passed on, kept where a trigger's successor finds it: in the task's XCom.

    Written at most every few seconds: what comes in between is written a little later, also if no more comes; and at an
    orderly end. After a triggerer was killed, the lines of its last few seconds come again: that is the stated loss.

    :param job_id: of the job whose log it is.
    """

    #: Seconds between two writes, and what each asyncio task of the process adds: Airflow's API is shared.
    _EVERY = 2.0
    _PER_TASK = 0.01

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.value = 0
        #: Lines, for a budget of them.
        self.lines = 0
        self._kept = 0
        self._task: TriggerTask | None = None
        self._next = 0.0
        self._later: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    async def restore(self, task: TriggerTask | None, log: watching.Log) -> None:
        self._task = task
        if task is None:
            return
        try:
            found = await _compat.get_xcom(task, xcom_keys.OFFSET)
        except _compat.AirflowUnansweredError as error:
            # Lines that come twice are better than none.
            log.warning("Can't tell how much of the log is here already: %s", error)
            return
        if isinstance(found, Mapping) and found.get("submission_id") == self.job_id:
            self.value = self._kept = int(found.get("offset", 0))
            self.lines = int(found.get("lines", 0))

    async def passed_on(self, batch: LogBatch) -> None:
        self.value = batch.end_offset
        self.lines += batch.lines
        if self._task is None or self._later is not None:
            return
        wait = self._next - time.monotonic()
        if wait <= 0:
            await self.keep(None)
        else:
            self._later = asyncio.create_task(self._keep_after(wait), name=f"log offset of {self.job_id}")

    async def _keep_after(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._ended.wait(), seconds)
        except TimeoutError:
            await self.keep(None)
        self._later = None

    async def no_more(self) -> None:
        """End what is to be written later: nothing more comes, or :meth:`keep` follows."""
        # Not by a cancellation: where that meets a request, Airflow before 3.3 takes its answer for the next one's.
        self._ended.set()
        if self._later is not None:
            await self._later

    async def keep(self, log: watching.Log | None) -> None:
        if self._task is None or self.value == self._kept:
            return
        value, lines = self.value, self.lines
        self._next = time.monotonic() + self._EVERY + self._PER_TASK * len(asyncio.all_tasks())
        try:
            await _compat.set_xcom(
                self._task,
                xcom_keys.OFFSET,
                {"submission_id": self.job_id, "offset": value, "lines": lines},
            )
        except _compat.AirflowUnansweredError as error:
            # The log itself goes on.
            if log is not None:
                log.warning("Can't keep how much of the log is here: %s", error)
            return
        self._kept = value
