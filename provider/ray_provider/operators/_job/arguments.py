"""Checks of an operator's arguments, after templating: a template gives text where a number is meant."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ray_provider._shared.paths import candidates
from ray_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from ray_provider.jobs.models import JobSpec
    from ray_provider.jobs.watch.watcher import WatchOptions

#: Of ``job_timeout_seconds``, in seconds.
DEFAULT_TIMEOUT = 600
_RESERVE_NOTHING = "Leave it out to reserve nothing for the entrypoint: the tasks it starts reserve their own."
_NUMBER_HINTS = {
    "num_cpus": _RESERVE_NOTHING,
    "num_gpus": _RESERVE_NOTHING,
    "memory": _RESERVE_NOTHING,
    "resources": _RESERVE_NOTHING,
    "job_timeout_seconds": "Give seconds, or a timedelta; 0 waits for ever.",
    "max_unreachable_seconds": "Give seconds, or a timedelta; 600 unless it is given.",
    "poll_interval": "Give seconds, such as 0.5.",
    "log_max_lines": "Give a whole number, or leave it out to pass on all lines.",
}


class JobArguments(Protocol):
    """What an operator was given for its job, as it was given or as a template made it."""

    entrypoint: Any
    submission_id: Any
    runtime_env: Any
    metadata: Any
    num_cpus: Any
    num_gpus: Any
    memory: Any
    ray_resources: Any
    label_selector: Any
    ray_cluster_yaml: Any
    cluster: Any
    wait_for_completion: Any
    fetch_logs: Any
    poll_interval: Any
    job_timeout_seconds: Any
    max_unreachable_seconds: Any
    log_max_lines: Any
    execution_timeout: timedelta | None

    @property
    def log(self) -> Any:
        """The task's log."""
        ...


def command(value: Any) -> str:
    """Give the entrypoint as one shell command; a list's items are quoted.

    :param value: the argument ``entrypoint``.
    :raises ConfigurationError: it is neither a text nor a list of texts.
    """
    if isinstance(value, list | tuple) and value:
        return shlex.join(str(item) for item in value)
    if isinstance(value, str) and value.strip():
        return value
    raise ConfigurationError(
        f"entrypoint has to be a command, but is {value!r}.",
        hint='Give text ("python job.py --day {{ ds }}") or a list of words (["python", "job.py"]).',
        field="entrypoint",
    )


def number(name: str, value: Any, *, least: float = 0.0, above: bool = False) -> float | None:
    """Give a number; ``None`` and an empty text are ``None``.

    :param name: of the argument.
    :param value: a number, a text that is one, or a ``timedelta``, which counts in seconds.
    :param least: the smallest that is allowed.
    :param above: it has to be larger than that.
    :raises ConfigurationError: it is none, or too small.
    """
    if value is None or value == "":
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    try:
        if isinstance(value, bool):
            raise ValueError  # noqa: TRY004 - told below
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if not (found > least if above else found >= least) or found == float("inf"):
        raise ConfigurationError(
            f"{name} has to be a number {'above' if above else 'of at least'} {least:g}, but is {value!r}.",
            hint=_NUMBER_HINTS.get(name.partition("[")[0], "Give a number, or a template that makes one."),
            field=name,
        )
    return int(found) if found.is_integer() else found


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Give a mapping; a template's text is read as JSON.

    :param name: of the argument.
    :param value: what was given. Nothing is an empty mapping.
    :raises ConfigurationError: it is none.
    """
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ConfigurationError(
                f"{name} is text, but no JSON.", hint="Give a dictionary, or a template that makes JSON.", field=name
            ) from None
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{name} has to be a mapping, but is a {type(value).__name__}.",
            hint="Give a dictionary, or a template that makes JSON.",
            field=name,
        )
    return dict(value)


def runtime_environment(value: Any, folders: Iterable[Path] = ()) -> dict[str, Any]:
    """Give the runtime environment; a text that ends as a YAML file's path does is read from there.

    Relative paths begin in the folder of the DAG's file, or in the working directory of the worker.

    :param value: the argument ``runtime_env``.
    :param folders: of the DAG's file.
    :raises ConfigurationError: it is none, or the file can't be read.
    """
    if isinstance(value, str) and value.strip().endswith((".yaml", ".yml")):
        from ray_provider.clusters.helm.values import load_yaml

        path = Path(located(value.strip(), folders))
        try:
            value = load_yaml(path.read_text(), str(path)) or {}
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"runtime_env names the file {path}, which can't be read: {error}.",
                hint="The path has to exist on the worker that runs the task.",
                field="runtime_env",
            ) from error
    found = mapping("runtime_env", value)
    # A template that gave nothing; packed as it is, it would be the folder that the worker happens to run in.
    found = {key: item for key, item in found.items() if key != "working_dir" or item not in ("", None)}
    return {field: _with_places(field, item, folders) for field, item in found.items()}


def located(given: str | Path, folders: Iterable[Path]) -> str:
    """Give the first place where a relative path leads to something; else the text as it is, for the error to show.

    :param given: the path.
    :param folders: of the DAG's file.
    """
    return next((str(path) for path in candidates(given, folders) if path.exists()), str(given))


def _with_places(field: str, value: Any, folders: Iterable[Path]) -> Any:
    """Give a field of a runtime environment with the places of what it names."""
    if field == "py_modules" and isinstance(value, list | tuple):
        return [located(item, folders) if _is_path(item) else item for item in value]
    if field in ("pip", "uv") and isinstance(value, Mapping) and _is_path(value.get("packages")):
        return {**value, "packages": located(value["packages"], folders)}
    # Other text of conda is an environment's name.
    names_one = field in ("working_dir", "pip", "uv") or (field == "conda" and str(value).endswith((".yaml", ".yml")))
    return located(value, folders) if names_one and _is_path(value) else value


def _is_path(value: Any) -> bool:
    return isinstance(value, Path) or (isinstance(value, str) and bool(value) and "://" not in value)


def numbers(name: str, value: Any) -> dict[str, float] | None:
    """Give a mapping of names to numbers.

    :param name: of the argument.
    :param value: as for :func:`mapping`. Names without a number are left out.
    :return: ``None``: nothing is left.
    :raises ConfigurationError: it holds something else.
    """
    found = {key: number(f"{name}[{key!r}]", item) for key, item in mapping(name, value).items()}
    return {key: item for key, item in found.items() if item is not None} or None


def texts(name: str, value: Any) -> dict[str, str]:
    """Give a mapping of texts to texts.

    :param name: of the argument.
    :param value: as for :func:`mapping`.
    :raises ConfigurationError: it holds something else.
    """
    found = mapping(name, value)
    for key, item in found.items():
        if not isinstance(key, str) or not isinstance(item, str):
            raise ConfigurationError(
                f"{name} holds a {type(item).__name__} at {key!r}: Ray takes only strings there.",
                hint="Quote names and values.",
                field=name,
            )
    return found


def names(name: str, value: Any) -> list[str]:
    """Give a list of names; one name may stand alone.

    :param name: of the argument.
    :param value: what was given.
    :raises ConfigurationError: it is none.
    """
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
        raise ConfigurationError(
            f"{name} has to be a list of names, but is {value!r}.", hint='Give a list: [".env"].', field=name
        )
    return list(found)


def job_spec(operator: JobArguments, folders: Iterable[Path] = ()) -> JobSpec:
    """Make the job's specification of an operator's arguments: before anything is created.

    :param operator: whose templates are rendered.
    :param folders: of the DAG's file.
    :return: without an id, unless the operator names one.
    :raises ConfigurationError: an argument that can't work; the message names it.
    """
    from ray_provider.jobs.models import JobSpec
    from ray_provider.jobs.submit import runtime_env

    if operator.ray_cluster_yaml and not operator.wait_for_completion:
        raise ConfigurationError(
            "A cluster of the task's own (ray_cluster_yaml) goes when the task ends: the job would go with it.",
            hint="Leave wait_for_completion on, or set the cluster up with SetupRayCluster.",
            field="wait_for_completion",
        )
    if operator.ray_cluster_yaml and operator.cluster:
        raise ConfigurationError(
            "Both cluster and ray_cluster_yaml are given.", hint="Keep one of the two.", field="cluster"
        )
    spec = JobSpec(
        entrypoint=command(operator.entrypoint),
        submission_id=operator.submission_id or None,
        runtime_env=runtime_environment(operator.runtime_env, folders),
        metadata=texts("metadata", operator.metadata),
        num_cpus=number("num_cpus", operator.num_cpus) or None,
        num_gpus=number("num_gpus", operator.num_gpus) or None,
        memory=number("memory", operator.memory) or None,
        resources=numbers("resources", operator.ray_resources),
        label_selector=texts("label_selector", operator.label_selector) or None,
    )
    spec.validate()
    for line in runtime_env.check(spec.runtime_env):
        operator.log.warning("%s", line)
    return spec


def watch_options(operator: JobArguments) -> WatchOptions:
    """Make of an operator's arguments how its job is watched; the deadline counts from now.

    :param operator: whose templates are rendered.
    :raises ConfigurationError: an argument that can't work; the message names it.
    """
    from ray_provider.jobs.watch.watcher import WatchOptions

    timeout = number("job_timeout_seconds", operator.job_timeout_seconds)
    patience = number("max_unreachable_seconds", operator.max_unreachable_seconds)
    lines = number("log_max_lines", operator.log_max_lines)
    return WatchOptions(
        poll_interval=number("poll_interval", operator.poll_interval, above=True) or 0.5,
        fetch_logs=operator.fetch_logs,
        deadline=time.time() + timeout if timeout else None,
        max_unreachable_seconds=600.0 if patience is None else patience,
        log_max_lines=None if lines is None else int(lines),
    )


def limit_of(operator: JobArguments) -> str | None:
    """Say in words which limit of time counts for an operator's job.

    :param operator: whose job reached it.
    :return: ``None``: no limit of time was set.
    """
    timeout = number("job_timeout_seconds", operator.job_timeout_seconds)
    own = operator.execution_timeout.total_seconds() if operator.execution_timeout is not None else None
    if own is not None and (not timeout or own <= timeout):
        return f"execution_timeout is {own:g} s"
    if not timeout:
        return None
    return f"job_timeout_seconds is {timeout:g} s" + (", which is the default" if timeout == DEFAULT_TIMEOUT else "")


def timeout_at(limit: timedelta | None, started: datetime | None, now: float) -> float | None:
    """Give when (seconds since 1970) a task's ``execution_timeout`` is over; ``None``: it has none.

    Airflow does not enforce it while a task is deferred.

    :param limit: the task's ``execution_timeout``.
    :param started: when the task began; unless known, now.
    :param now: seconds since 1970.
    """
    return None if limit is None else (started.timestamp() if started else now) + limit.total_seconds()


def deadline_of(context: Mapping[str, Any], seconds: float, limit: timedelta | None) -> float:
    """Give when (seconds since 1970) a task's waiting ends.

    :param context: of the task.
    :param seconds: that it may wait.
    :param limit: the task's ``execution_timeout``.
    """
    now = time.time()
    until = timeout_at(limit, getattr(context["ti"], "start_date", None), now)
    return now + seconds if until is None else min(now + seconds, until)
