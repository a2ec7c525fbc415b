"""End a job that waits for resources. Ray's own stop does not, and the job would run as soon as they come.

``POST …/stop`` only leaves a message for the job's supervisor, an actor that waits for the entrypoint's resources.
Until it gets them, its demand stays (an autoscaler goes on buying); then the entrypoint starts before the message is
read (Ray 2.60). What ends it at once is to kill that actor, which only a driver in the cluster can do: a small job does
it. It asks for no resources, so that a head with ``num-cpus: 0`` takes it, and works on by itself once it is accepted.
"""

from __future__ import annotations

import hashlib
import shlex
from typing import TYPE_CHECKING, Protocol

from ray_provider.jobs.http.errors import JobAlreadyExistsError
from ray_provider.jobs.models import JobSpec

if TYPE_CHECKING:
    from ray_provider._shared.retry import RetryPolicy
    from ray_provider.jobs.models import JobDetails

#: Job metadata: which job this one ends. It has no owner of its own: nobody adopts it, and no reaper counts it.
ENDS_KEY = "airflow_ray_ends_job"

#: Ray's names of the supervisor and its namespace (ray.dashboard.modules.job.common, the same from Ray 2.9 to 2.60).
SUPERVISOR = "_ray_internal_job_actor_"
_NAMESPACE = "SUPERVISOR_ACTOR_RAY_NAMESPACE"

#: A helper that failed is followed by another one, under the next number: Ray gives each id only once.
_MOST_HELPERS = 3

_PROGRAM = """\
import sys, ray
ray.init(address="auto", namespace=sys.argv[2], log_to_driver=False)
try:
    supervisor = ray.get_actor(sys.argv[1], namespace=sys.argv[2])
except ValueError:
    print("It has no supervisor any more: nothing to end.")
else:
    ray.kill(supervisor, no_restart=True)
    print("Its supervisor was ended.")
"""


class Jobs(Protocol):
    """What is asked of a client of Ray's Jobs API."""

    async def get(self, submission_id: str, *, retry: RetryPolicy | None = None) -> JobDetails | None:
        """Ask for a job.

        :param submission_id: the job's.
        :param retry: unless given, the client's own.
        """
        ...

    async def submit_request(self, spec: JobSpec, *, retry: RetryPolicy | None = None) -> str:
        """Submit a job and give its id.

        :param spec: what to run.
        :param retry: unless given, the client's own.
        """
        ...


class PendingJobEnder:
    """Ends one job that Ray keeps waiting, by helpers that are submitted when :meth:`step` is called.

    :param client: an open client.
    :param submission_id: of the job.
    """

    def __init__(self, client: Jobs, submission_id: str) -> None:
        self._client = client
        self._submission_id = submission_id
        self._number = 0
        self._helper: JobDetails | None = None

    async def was_sent(self, *, retry: RetryPolicy) -> bool:
        """Tell whether a helper was sent, by whomever: the job's end is our doing.

        :param retry: how long to go on with the request.
        """
        return self._number > 0 or await self._client.get(self._helper_id(1), retry=retry) is not None

    async def step(self, *, retry: RetryPolicy) -> None:
        """Send a helper, unless one is at work already. One that another process sent counts too.

        :param retry: how long to go on with each request.
        """
        if self._number:
            self._helper = await self._client.get(self._helper_id(self._number), retry=retry)
            if self._helper is None or not self._helper.is_final or self._number == _MOST_HELPERS:
                return
            if self._helper.is_success:
                return  # it did what it could: that the job has ended, Ray tells a moment later
        self._number += 1
        try:
            await self._client.submit_request(self._spec(), retry=retry)
        except JobAlreadyExistsError:
            return  # looked at with the next step

    def failure(self) -> str:
        """Say in a sentence why the job still waits."""
        from ray_provider.jobs.explain import last_lines

        if not self._number:
            return ""
        helper = self._helper
        told = f"it is {helper.status}" if helper else "Ray does not say how that one is"
        said = last_lines(helper.message) if helper and helper.is_final else ""
        name = self._helper_id(self._number)
        return f"A job that was to end it ({name}) did not: {told}" + (f". Ray says: {said}" if said else ".")

    def _helper_id(self, number: int) -> str:
        digest = hashlib.sha256(self._submission_id.encode()).hexdigest()[:16]
        return f"airflow-ray-ends-{digest}-{number}"

    def _spec(self) -> JobSpec:
        command = shlex.join(["-c", _PROGRAM, SUPERVISOR + self._submission_id, _NAMESPACE])
        return JobSpec(
            # Some images have but one of the two names.
            entrypoint=f'"$(command -v python || command -v python3)" {command}',
            submission_id=self._helper_id(self._number),
            metadata={ENDS_KEY: self._submission_id},
        )
