"""A job that KubeRay submits from a container of the head's pod (SidecarMode): what of it only that container tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_provider.exceptions import JobFailedError
from ray_provider.hooks import own_rayjob

if TYPE_CHECKING:
    from ray_provider.operators._job.run import JobRun


def check(run: JobRun) -> None:
    """Refuse to wait for a job whose submitter has ended without submitting it.

    :param run: knows the cluster, whose head answers.
    :raises JobFailedError: the submitter has failed; the message quotes it.
    """
    cluster = run.cluster
    if cluster is None or run.look() is not None:
        return
    failed = run.take(lambda: own_rayjob.failed_submitter(run.hook, cluster))
    if failed is None or run.look() is not None:
        return
    run.ended()
    raise JobFailedError(
        f"Job {run.job_id} was not submitted: the submitter of RayJob {cluster.namespace}/{cluster.rayjob}, a "
        f"container of the head's pod, ended with {failed}",
        hint="Correct what it names in the manifest, and clear the task. Without submissionMode the task submits the "
        "job itself.",
        submission_id=run.job_id,
    )
