"""How the watch over a job ended, as plain data, and as an error that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ray_provider.exceptions import (
    JobFailedError,
    JobLostError,
    JobStoppedError,
    JobTimeoutError,
    JobUnreachableError,
    RayProviderError,
)
from ray_provider.jobs.explain import describe_exit_code, last_lines, what_to_do

OutcomeKind = Literal["final", "lost", "deadline", "unreachable", "suspended"]


@dataclass(frozen=True, slots=True)
class Interruption:
    """Why a watch over a job ends although Ray says nothing of it: what became of its cluster.

    :param kind: ``lost``: the job went with its cluster. ``suspended``: its cluster was taken away, and comes back.
    :param message: what happened, in sentences.
    """

    kind: Literal["lost", "suspended"]
    message: str


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """How the watch over a job ended.

    :param kind: ``final``: the job ended, ``status`` says how. ``lost``: Ray does not know it any more. ``deadline``:
        its time was over and it was stopped. ``unreachable``: nobody could be asked for too long; it may still run.
        ``suspended``: its cluster was taken away by a queue (preempted), and is to come back: it is submitted again.
    :param status: the last one that Ray told.
    :param message: Ray's message; for kinds other than ``final``, what happened.
    :param error_type: why the job failed, such as ``JOB_ENTRYPOINT_COMMAND_ERROR``.
    :param driver_exit_code: of the entrypoint, if Ray knows it.
    :param start_time: milliseconds since 1970.
    :param end_time: milliseconds since 1970.
    :param log_offset: bytes of the log that were passed on.
    :param lines_left_out: lines that were not passed on, because there were more than allowed.
    :param log_incomplete: why the end of the log is missing, if it is.
    :param url: where a person sees the job.
    :param limit: which limit a deadline comes from, in words.
    :param cause: why the job failed, if more is known than its message says.
    :param advice: what to do about the cause.
    """

    submission_id: str
    kind: OutcomeKind
    status: str | None = None
    message: str | None = None
    error_type: str | None = None
    driver_exit_code: int | None = None
    start_time: int | None = None
    end_time: int | None = None
    log_offset: int = 0
    lines_left_out: int = 0
    log_incomplete: str | None = None
    url: str | None = None
    limit: str | None = None
    cause: str | None = None
    advice: str | None = None

    @property
    def is_success(self) -> bool:
        """Whether the job did what it was to do."""
        return self.kind == "final" and self.status == "SUCCEEDED"

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain data, for an event."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobOutcome:
        """Read what :meth:`to_dict` gave. Fields of a later version are ignored.

        :param data: plain data.
        :raises ValueError: this is no outcome.
        """
        known = {each.name for each in fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        if values.get("kind") not in get_args(OutcomeKind):
            raise ValueError(f"This is no outcome of a job: {dict(data)!r}")
        return cls(**values)

    def raise_for_status(self) -> None:
        """Raise if the job did not do what it was to do.

        :raises RayProviderError: a JobError that says why.
        """
        if error := self.error():
            raise error

    def error(self) -> RayProviderError | None:
        """Make the error that tells why the task fails, or None."""
        if self.is_success:
            return None
        data = {
            name: value
            for name, value in self.to_dict().items()
            if value is not None and name not in {"message", "log_offset", "cause", "advice"}
        }
        where = f"\nWhere: {self.url}" if self.url else ""
        if self.kind == "lost":
            return JobLostError(f"{self.message}{where}", hint=self._lost_hint(), **data)
        if self.kind == "suspended":
            return JobLostError(
                f"{self.message}{where}", hint="Clear or retry the task: it waits in the queue anew.", **data
            )
        if self.kind == "unreachable":
            return JobUnreachableError(
                f"{self.message}{where}",
                hint="The job may still run. A retry of the task takes it over, once Ray can be reached again.",
                **data,
            )
        if self.kind == "deadline":
            own = f"Job {self.submission_id}"
            told = self.message or ""
            if not told.startswith(own):
                told = f"{own} did not end before its deadline and was stopped. Ray says: {last_lines(told)}"
            return JobTimeoutError(
                f"{told}{f' The limit: {self.limit}.' if self.limit else ''}{where}",
                hint="Raise job_timeout_seconds (or the task's execution_timeout), or find out what holds the job up.",
                **data,
            )
        if self.status == "STOPPED":
            return JobStoppedError(
                f"Job {self.submission_id} was stopped before it had finished. "
                f"Ray says: {last_lines(self.message) or '(nothing)'}{where}",
                hint="Somebody stopped it, in Ray's dashboard or by its API. Clear the task to run it again.",
                **data,
            )
        parts = [f"Job {self.submission_id} failed"]
        if self.error_type:
            parts.append(f" ({self.error_type})")
        if self.driver_exit_code is not None:
            parts.append(f" with exit code {describe_exit_code(self.driver_exit_code)}")
        said = last_lines(self.message)
        cause = f" {self.cause}" if self.cause else ""
        text = "".join(parts) + "." + cause + (f" Ray says:\n{said}" if said else "") + where
        hint = self.advice or what_to_do(self.error_type, self.driver_exit_code, self.message)
        return JobFailedError(text, hint=hint, **data)

    @staticmethod
    def _lost_hint() -> str:
        return (
            "Clear or retry the task: the job runs anew, under a new id. If the head restarts often, see why it does "
            "(out of memory? a spot node?); with GCS fault tolerance jobs survive the restart of a head."
        )


def peer_outcome(event: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the outcome that an event of astro-provider-ray's trigger tells of; ``None`` if it tells of none.

    :param event: its ``status``, ``message`` and ``job_id``.
    """
    status = str(getattr(event.get("status"), "value", event.get("status")))
    if status not in {"SUCCEEDED", "FAILED", "STOPPED"}:
        return None
    return JobOutcome(
        submission_id=str(event["job_id"]), kind="final", status=status, message=str(event.get("message") or "")
    ).to_dict()
