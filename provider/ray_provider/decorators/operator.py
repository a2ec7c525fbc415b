"""The operator behind ``@task.ray``: ``SubmitRayJob`` whose job is a function."""

from __future__ import annotations

import asyncio
import inspect
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import DecoratedOperator

from ray_provider._compat import AirflowFailException, AirflowSkipException
from ray_provider.exceptions import ConfigurationError, JobError, RayApiError, RayProviderError
from ray_provider.operators.job import SubmitRayJob

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.functions.payload import PackedCall
    from ray_provider.functions.results import FunctionResult
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.models import JobSpec
    from ray_provider.jobs.watcher import JobOutcome
    from ray_provider.operators.job_run import JobRun

#: An argument's name where the attribute has another one.
_ATTRIBUTES = {"resources": "ray_resources"}
#: What astro-provider-ray's configuration may hold and `SubmitRayJob` takes.
_ARGUMENTS = frozenset(inspect.signature(SubmitRayJob.__init__).parameters) - {"self", "kwargs"}


class RayDecoratedOperator(DecoratedOperator, SubmitRayJob):
    """Sends a function to a Ray cluster, waits for it like ``SubmitRayJob``, and returns what it returned.

    :param python_callable: the function.
    :param config: arguments of ``SubmitRayJob``, or a callable that makes them when the task runs.
    :param allow_pickle_results: take a pickle where JSON can't say the return value. Reading one runs whatever code the
        cluster put into it.
    :param max_result_bytes: the largest return value (bytes) that goes through XCom.
    :param result_path: object storage (an fsspec URL that cluster and workers reach) for pandas and Arrow tables and
        for values of more than 256 KiB; the task then returns a reference for
        :func:`ray_provider.decorators.read_reference`.
    """

    custom_operator_name = "@task.ray"
    template_fields: Sequence[str] = (*SubmitRayJob.template_fields, "op_args", "op_kwargs", "result_path")

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        config: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
        allow_pickle_results: bool = False,
        max_result_bytes: int = 16 * 1024 * 1024,
        result_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        from ray_provider.functions.payload import ENTRYPOINT

        self.config = config
        self.allow_pickle_results = allow_pickle_results
        self.max_result_bytes = max_result_bytes
        self.result_path = result_path
        self._given = frozenset(kwargs)
        settings = {} if config is None or callable(config) else _checked(config)
        # The function's own job reserves a CPU for itself, as astro-provider-ray's did.
        arguments = {"entrypoint": ENTRYPOINT, "num_cpus": 1, **settings, **kwargs}
        super().__init__(python_callable=python_callable, **arguments)
        self.runs_function = self.entrypoint == ENTRYPOINT

    def execute(self, context: Context) -> Any:
        """Run the function on the cluster.

        :param context: of the task.
        :return: what the function returned; of an entrypoint, the submission id.
        """
        from ray_provider.functions.payload import ENTRYPOINT

        if callable(self.config):
            for name, value in _checked(self._make_config(self.config, context)).items():
                if name not in self._given:
                    setattr(self, _ATTRIBUTES.get(name, name), value)
            self.runs_function = self.entrypoint == ENTRYPOINT
        return super().execute(context)

    def _make_config(self, make: Callable[..., Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
        wanted = inspect.signature(make).parameters
        known = {**self.op_kwargs, "context": context}
        return make(**{name: known[name] for name in wanted if name in known})

    def specify(self, context: Context, run: JobRun, spec: JobSpec) -> JobSpec:
        """Upload the function, and have the job run it."""
        if not self.runs_function:
            return spec
        from ray_provider.functions.payload import ResultSettings, pack
        from ray_provider.functions.results import result_file

        settings = ResultSettings(
            allow_pickle=self.allow_pickle_results,
            max_result_bytes=self.max_result_bytes,
            result_path=self.result_path,
        )
        packed = pack(self.python_callable, tuple(self.op_args), self.op_kwargs, settings=settings)
        run.run(lambda client: _send(client, packed))
        variables = {
            **_context_variables(context),
            **(spec.runtime_env.get("env_vars") or {}),
            "AIRFLOW_RAY_RESULT_FILE": result_file(str(spec.submission_id)),
        }
        modules = [*(spec.runtime_env.get("py_modules") or []), packed.uri]
        return replace(spec, runtime_env={**spec.runtime_env, "env_vars": variables, "py_modules": modules})

    def result(self, context: Context, run: JobRun, outcome: JobOutcome) -> Any:
        """Read what the function returned."""
        if not self.runs_function:
            return super().result(context, run, outcome)
        found = self._fetch(run, outcome)
        if found.error is not None:  # the one error with which a job succeeds: the function wants to be skipped
            raise AirflowSkipException(found.error["message"])
        return found.value

    def failure(self, context: Context, run: JobRun, outcome: JobOutcome, error: RayProviderError) -> Exception:
        """Read what the function raised, if it came that far."""
        if not self.runs_function or outcome.kind != "final" or outcome.status != "FAILED":
            return super().failure(context, run, outcome, error)
        try:
            found = self._fetch(run, outcome)
        except (JobError, RayApiError) as missing:
            self.log.info("The function left no result: its process was ended from outside or by itself (%s)", missing)
            return error
        if found.error is None:
            return error
        where = run.endpoint.display_url if run.endpoint else "the cluster"
        raised = found.exception(submission_id=outcome.submission_id, url=where)
        if found.meaning == "fail":
            failed = AirflowFailException(str(raised))
            failed.__cause__ = raised
            return failed
        return raised

    def _fetch(self, run: JobRun, outcome: JobOutcome) -> FunctionResult:
        from ray_provider.functions.results import decode, result_file

        async def read(client: RayJobsClient) -> bytes:
            details = await client.get(outcome.submission_id)
            if details is None or not details.driver_node_id:
                raise JobError(
                    f"The result of job {outcome.submission_id} can't be found: Ray does not say where it ran.",
                    submission_id=outcome.submission_id,
                )
            content = await client.read_log_file(details.driver_node_id, result_file(outcome.submission_id))
            if not content:  # what Ray answers for a file that is not there
                raise JobError(
                    f"Job {outcome.submission_id} left no result: its process ended before the function did.",
                    submission_id=outcome.submission_id,
                )
            return content

        return decode(run.run(read), allow_pickle=self.allow_pickle_results)


async def _send(client: RayJobsClient, packed: PackedCall) -> None:
    """Upload a call, unless the cluster has it, or can't run it."""
    await _compare_pythons(client)
    if await client.package_exists(packed.uri):
        return
    with tempfile.TemporaryDirectory(prefix="ray_") as folder:
        path = Path(folder) / "call.zip"
        await asyncio.to_thread(path.write_bytes, packed.content)
        await client.upload_package(packed.uri, path)


async def _compare_pythons(client: RayJobsClient) -> None:
    """Refuse a cluster with another minor version of Python: a pickled function does not survive it.

    A cluster that does not say (its version of Ray is too old) is asked by the function's own runner, a little later.
    """
    from ray_provider.functions.results import python_mismatch

    try:
        answer = await client.transport.json("GET", "/api/v0/cluster_metadata")
    except RayApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return
    version = str((answer.get("data") or {}).get("pythonVersion") or "") if isinstance(answer, dict) else ""
    theirs = version.split(".")[:2]
    ours = [str(part) for part in sys.version_info[:2]]
    if version and theirs != ours:
        raise python_mismatch(theirs, ours)


def _context_variables(context: Context) -> dict[str, str]:
    """Tell the function who it is, by the names that Airflow gives in a worker."""
    instance: Any = context["ti"]
    return {
        "AIRFLOW_CTX_DAG_ID": str(instance.dag_id),
        "AIRFLOW_CTX_TASK_ID": str(instance.task_id),
        "AIRFLOW_CTX_DAG_RUN_ID": str(instance.run_id),
        "AIRFLOW_CTX_TRY_NUMBER": str(instance.try_number),
        "AIRFLOW_CTX_MAP_INDEX": str(getattr(instance, "map_index", -1)),
    }


def _checked(config: Any) -> dict[str, Any]:
    if not isinstance(config, Mapping):
        raise ConfigurationError(f"config has to be a dictionary, but is a {type(config).__name__}.", field="config")
    if unknown := sorted(set(config) - _ARGUMENTS):
        raise ConfigurationError(
            f"config holds what SubmitRayJob does not know: {', '.join(unknown)}.",
            hint=f"It takes: {', '.join(sorted(_ARGUMENTS))}.",
            field="config",
        )
    return dict(config)
