"""The errors of the provider: one small family, which carries data and says what to do next.

Nothing here imports Airflow: the operators turn an error whose ``retryable`` is false into
``airflow.exceptions.AirflowFailException``, so that a mistake in the configuration does not burn retries.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ray_provider._shared.plain_text import colourless, without_credentials


class RayProviderError(Exception):
    """What went wrong, where, why, and what to do next.

    :param message: one or more sentences: what happened, where and why.
    :param hint: what the reader can do about it; printed after the message.
    :param data: what a program may want to know, as plain values (no secret: it is printed and logged).
    """

    #: Whether another try of the same task can end differently.
    retryable: ClassVar[bool] = True

    def __init__(self, message: str, *, hint: str | None = None, **data: Any) -> None:
        # It often quotes a cluster: a job's last lines, an event, an answer.
        message = without_credentials(colourless(message))
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is None else without_credentials(colourless(hint))
        self.data = data

    def __str__(self) -> str:
        return f"{self.message}\nWhat to do: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.data)


def _rebuild(cls: type[RayProviderError], message: str, hint: str | None, data: dict[str, Any]) -> RayProviderError:
    """Unpickle an error: keyword-only arguments do not survive ``BaseException.__reduce__``."""
    return cls(message, hint=hint, **data)


#: The name that astro-provider-ray gave its one exception.
RayAirflowException = RayProviderError


class ConfigurationError(RayProviderError):
    """Bad input: a connection, argument or values file that can't work. Found before anything is created."""

    retryable = False


class RayConnectionError(RayProviderError):
    """Nothing answered at the address, or TLS failed, for as long as we were told to try."""


class RayApiError(RayProviderError):
    """Ray answered with an error. ``data`` holds ``status``, ``method``, ``url`` and ``body`` (its first part)."""

    @property
    def status(self) -> int | None:
        """The HTTP status, if there was an answer."""
        status: int | None = self.data.get("status")
        return status


class RayAuthenticationError(RayApiError):
    """401 (no token reached Ray) or 403 (the wrong one)."""

    retryable = False


class JobError(RayProviderError):
    """A job did not succeed. ``data`` holds ``submission_id``, ``status`` and what else is known of the job."""


class JobFailedError(JobError):
    """The job ended with FAILED."""


class JobStoppedError(JobError):
    """Somebody stopped the job. Not a success."""


class JobLostError(JobError):
    """The job is gone: its head restarted or died, or it was deleted."""


class JobTimeoutError(JobError):
    """The deadline passed; the job was stopped."""


class JobUnreachableError(JobError, RayConnectionError):
    """Nobody could be asked about the job for too long. It may still run."""


class JobConflictError(JobError):
    """The submission id is taken by another job."""

    retryable = False


class ClusterError(RayProviderError):
    """A Ray cluster could not be made, changed or deleted. ``data`` holds ``namespace``, ``name``, ``cause``."""


class ClusterFailedError(ClusterError):
    """The cluster can't become ready by waiting: the cause is in the message."""


class ClusterTimeoutError(ClusterError):
    """The cluster did not become ready (or did not go) in time."""


class ClusterLeftError(ClusterError):
    """A job succeeded, and the cluster of its own could not be deleted. Another try would run the job again."""

    retryable = False


class HelmError(ClusterError):
    """Helm failed. ``data`` holds ``release``, ``namespace`` and ``stderr`` (redacted)."""


class KubernetesError(ClusterError):
    """The Kubernetes API refused or could not be reached."""

    @property
    def status(self) -> int | None:
        """The HTTP status, if there was an answer."""
        status: int | None = self.data.get("status")
        return status


class KubernetesAccessError(KubernetesError):
    """The Kubernetes API took the credentials for nobody's (401), or does not allow what was asked (403)."""

    retryable = False


class ServeError(RayProviderError):
    """An application of Ray Serve could not be deployed or deleted. ``data`` holds its ``name``."""


class ServeFailedError(ServeError):
    """The application can't run as it is: the cause is in the message."""


class ServeTimeoutError(ServeError):
    """The application did not run (or did not go) in time."""


class InfrastructureError(RayProviderError):
    """Terraform failed. ``data`` holds ``working_dir``, ``command`` and the diagnostics."""
