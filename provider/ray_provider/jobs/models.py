"""What Ray's Jobs API takes and gives, as frozen objects. Unknown fields are kept, unknown statuses survive."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ray_provider._shared.plain_text import clean
from ray_provider.exceptions import ConfigurationError

#: No status follows one of these. Only SUCCEEDED is a success.
FINAL_STATUSES = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})

_NUMBERS = ("num_cpus", "num_gpus", "memory")
#: Ray puts the id into file names, actor names and URLs.
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_ID_LENGTH = 200
#: Of a text that Ray tells of a job so much is kept. A failed job's message ends with the last lines of its log.
_TEXT_CHARACTERS = 40_000


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job, as it is submitted.

    :param entrypoint: shell command that Ray runs.
    :param submission_id: the id to submit under; Ray makes one up if it is None.
    :param runtime_env: Ray's runtime environment. Local paths are replaced by
        :func:`ray_provider.jobs.submit.packaging.package_runtime_env` before.
    :param metadata: text to text, kept by Ray with the job.
    :param num_cpus: CPUs reserved for the entrypoint (not for the tasks it starts).
    :param num_gpus: GPUs reserved for the entrypoint.
    :param memory: bytes reserved for the entrypoint.
    :param resources: custom resources reserved for the entrypoint.
    :param label_selector: labels of the node that the entrypoint is to run on.
    """

    entrypoint: str
    submission_id: str | None = None
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None
    resources: Mapping[str, float] | None = None
    label_selector: Mapping[str, str] | None = None

    def validate(self) -> None:
        """Refuse what can't work, before anything is sent.

        :raises ConfigurationError: with the name of the field and the way out.
        """
        if not isinstance(self.entrypoint, str) or not self.entrypoint.strip():
            raise ConfigurationError(
                f"entrypoint has to be a command, but is {self.entrypoint!r}.",
                hint='Give the command that Ray shall run, such as entrypoint="python my_script.py".',
                field="entrypoint",
            )
        self._validate_id()
        self._validate_mapping("metadata", self.metadata, values=str)
        if not isinstance(self.runtime_env, Mapping):
            raise ConfigurationError(
                f"runtime_env has to be a mapping, but is a {type(self.runtime_env).__name__}.",
                hint='For example runtime_env={"working_dir": "./src", "pip": ["emoji"]}.',
                field="runtime_env",
            )
        _validate_env_vars(self.runtime_env)
        for name in _NUMBERS:
            _validate_amount(name, getattr(self, name))
        if self.resources is not None:
            self._validate_mapping("resources", self.resources)
            for name, amount in self.resources.items():
                _validate_amount(f"resources[{name!r}]", amount, required=True)
        if self.label_selector is not None:
            self._validate_mapping("label_selector", self.label_selector, values=str)

    def _validate_id(self) -> None:
        if self.submission_id is None:
            return
        if not isinstance(self.submission_id, str) or not 0 < len(self.submission_id) <= _ID_LENGTH:
            raise ConfigurationError(
                f"submission_id has to be a text of 1 to {_ID_LENGTH} characters, but is {self.submission_id!r}.",
                hint="Shorten it, or leave it out: then one is made of the task's names.",
                field="submission_id",
            )
        if strange := sorted(set(self.submission_id) - _ID_CHARACTERS):
            raise ConfigurationError(
                f"submission_id {self.submission_id!r} holds {' '.join(map(repr, strange))}.",
                hint="Use letters, digits, '-', '_' and '.': Ray makes file names and URLs of it.",
                field="submission_id",
            )

    @staticmethod
    def _validate_mapping(name: str, value: Any, values: type | None = None) -> None:
        if not isinstance(value, Mapping):
            raise ConfigurationError(
                f"{name} has to be a mapping, but is a {type(value).__name__}.",
                hint=f'For example {name}={{"name": "value"}}.'
                if values is str
                else f'For example {name}={{"name": 1}}.',
                field=name,
            )
        for key, item in value.items():
            if not isinstance(key, str) or (values is not None and not isinstance(item, values)):
                raise ConfigurationError(
                    f"{name}[{key!r}] is a {type(item).__name__}: Ray takes text only, for keys and values."
                    if isinstance(key, str)
                    else f"{name} has the key {key!r}: Ray takes text only, for keys and values.",
                    hint=f'Write it as text, such as {name}={{"{key}": "{item}"}}.',
                    field=f"{name}.{key}",
                )

    def to_request(self) -> dict[str, Any]:
        """Give the body of ``POST /api/jobs/``: no null keys, which older Rays refuse.

        :raises ConfigurationError: something in it is not what JSON can say.
        """
        body: dict[str, Any] = {
            "entrypoint": self.entrypoint,
            "submission_id": self.submission_id,
            "runtime_env": dict(self.runtime_env) or None,
            "metadata": dict(self.metadata) or None,
            "entrypoint_num_cpus": self.num_cpus,
            "entrypoint_num_gpus": self.num_gpus,
            "entrypoint_memory": None if self.memory is None else int(self.memory),
            "entrypoint_resources": dict(self.resources) if self.resources else None,
            "entrypoint_label_selector": dict(self.label_selector) if self.label_selector else None,
        }
        request = {key: value for key, value in body.items() if value is not None}
        try:
            json.dumps(request, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"The job can't be sent: {error}.",
                hint="runtime_env holds text, numbers, booleans, lists and maps only.",
                field="runtime_env",
            ) from None
        return request


def _validate_amount(name: str, amount: Any, *, required: bool = False) -> None:
    if amount is None and not required:
        return
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < float("inf"):
        raise ConfigurationError(
            f"{name} has to be a number of at least 0, but is {amount!r}.",
            hint="Leave it out to reserve nothing for the entrypoint: the tasks it starts reserve their own.",
            field=name,
        )


def _validate_env_vars(runtime_env: Mapping[str, Any]) -> None:
    variables = runtime_env.get("env_vars")
    if variables is None:
        return
    if not isinstance(variables, Mapping):
        raise ConfigurationError(
            f'runtime_env["env_vars"] has to be a mapping, but is a {type(variables).__name__}.',
            hint='For example "env_vars": {"NAME": "value"}.',
            field="runtime_env.env_vars",
        )
    for key, value in variables.items():
        if not isinstance(key, str) or not isinstance(value, str):
            # The value may be a secret: only its type is told.
            raise ConfigurationError(
                f'runtime_env["env_vars"][{key!r}] is a {type(value).__name__}: environment variables are text.',
                hint="Write the value in quotes.",
                field=f"runtime_env.env_vars.{key}",
            )


@dataclass(frozen=True, slots=True)
class JobDetails:
    """A job, as Ray tells of it.

    :param submission_id: ``None``: it was not submitted, but began as a driver of its own.
    :param status: ``PENDING``, ``RUNNING``, ``STOPPED``, ``SUCCEEDED``, ``FAILED``, or what a later Ray may add.
    :param job_id: Ray's own number of it, once its driver has begun.
    :param type: ``SUBMISSION`` or ``DRIVER``.
    :param message: the status in words; of a failed job it ends with the last lines of its log.
    :param error_type: why a job failed, such as ``JOB_ENTRYPOINT_COMMAND_ERROR``.
    :param start_time: milliseconds since 1970.
    :param end_time: milliseconds since 1970.
    :param driver_node_id: the node that the entrypoint runs on, once it is known.
    :param driver_exit_code: of the entrypoint, if Ray knows it.
    :param extra: fields that are not known here.
    """

    submission_id: str | None
    status: str
    job_id: str | None = None
    type: str | None = None
    entrypoint: str = ""
    message: str | None = None
    error_type: str | None = None
    start_time: int | None = None
    end_time: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    runtime_env: Mapping[str, Any] = field(default_factory=dict, repr=False)
    driver_node_id: str | None = None
    driver_exit_code: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_final(self) -> bool:
        """Whether no other status can follow."""
        return self.status in FINAL_STATUSES

    @property
    def is_deleted(self) -> bool:
        """Whether the job was deleted, and Ray wrote of its end afterwards (Ray 2.60).

        Ray looks after a job until it finds it ended; when it finds no record, it makes a new one as FAILED.
        """
        return self.is_final and self.entrypoint == _NO_ENTRYPOINT

    @property
    def is_success(self) -> bool:
        """Whether the job did what it was to do. A stopped job did not."""
        return self.status == "SUCCEEDED"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobDetails:
        """Read what the Jobs API answered.

        :param data: the JSON object.
        """

        def text(name: str) -> str | None:
            return _text(data.get(name))

        def number(name: str) -> int | None:
            found = data.get(name)
            return found if type(found) is int else None

        metadata = data.get("metadata")
        runtime_env = data.get("runtime_env")
        return cls(
            submission_id=text("submission_id"),
            status=text("status") or "UNKNOWN",
            job_id=text("job_id"),
            type=text("type"),
            entrypoint=text("entrypoint") or "",
            message=text("message"),
            error_type=text("error_type"),
            start_time=number("start_time"),
            end_time=number("end_time"),
            metadata={key: _text(value) or "" for key, value in metadata.items()} if isinstance(metadata, dict) else {},
            runtime_env=runtime_env if isinstance(runtime_env, dict) else {},
            driver_node_id=text("driver_node_id"),
            driver_exit_code=number("driver_exit_code"),
            extra={name: value for name, value in data.items() if name not in _DETAIL_FIELDS},
        )


def _text(value: Any) -> str | None:
    """Give a text of an answer as it may be shown, and not longer than anybody reads: its first and last part."""
    if not isinstance(value, str):
        return str(value) if isinstance(value, int | float) else None
    if len(value) > _TEXT_CHARACTERS:
        half = _TEXT_CHARACTERS // 2
        value = f"{value[:half]}\n... {len(value) - 2 * half:,} characters left out ...\n{value[-half:]}"
    return clean(value)


#: The entrypoint that Ray writes into a record that it makes anew.
_NO_ENTRYPOINT = "Entrypoint not found."
_DETAIL_FIELDS = frozenset(f.name for f in fields(JobDetails)) - {"extra"}


@dataclass(frozen=True, slots=True)
class ClusterVersion:
    """What answers at an address.

    :param ray_version: such as ``2.52.0``.
    :param api_version: of the Jobs API.
    :param session_name: changes when the head restarts: jobs of the earlier session are lost.
    :param extra: fields that are not known here.
    """

    ray_version: str
    api_version: str
    session_name: str | None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ClusterVersion:
        """Read the answer of ``GET /api/version``.

        :param data: the JSON object.
        """
        return cls(
            ray_version=str(data.get("ray_version", "")),
            api_version=str(data.get("version", "")),
            session_name=data.get("session_name"),
            extra={k: v for k, v in data.items() if k not in {"ray_version", "version", "session_name"}},
        )
