"""The operator behind ``@task.ray``: ``SubmitRayJob`` whose job is a function."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import DecoratedOperator

from ray_provider.exceptions import ConfigurationError, JobError, RayApiError
from ray_provider.operators.job import SubmitRayJob

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

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
    """

    custom_operator_name = "@task.ray"
    template_fields: Sequence[str] = (*SubmitRayJob.template_fields, "op_args", "op_kwargs")

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        config: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        from ray_provider.functions.payload import ENTRYPOINT

        self.config = config
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

    def specify(self, context: Context, run: JobRun, spec: JobSpec) -> JobSpec:  # noqa: ARG002
        """Upload the function, and have the job run it."""
        if not self.runs_function:
            return spec
        from ray_provider.functions.payload import pack
        from ray_provider.functions.results import result_file

        packed = pack(self.python_callable, list(self.op_args), self.op_kwargs)

        async def upload(client: RayJobsClient) -> None:
            if await client.package_exists(packed.uri):
                return
            with tempfile.TemporaryDirectory(prefix="ray_") as folder:
                path = Path(folder) / "call.zip"
                path.write_bytes(packed.content)
                await client.upload_package(packed.uri, path)

        run.run(upload)
        variables = dict(spec.runtime_env.get("env_vars") or {})
        variables["AIRFLOW_RAY_RESULT_FILE"] = result_file(str(spec.submission_id))
        modules = [*(spec.runtime_env.get("py_modules") or []), packed.uri]
        return replace(spec, runtime_env={**spec.runtime_env, "env_vars": variables, "py_modules": modules})

    def result(self, context: Context, run: JobRun, outcome: JobOutcome) -> Any:
        """Read what the function returned."""
        if not self.runs_function:
            return super().result(context, run, outcome)
        return self._fetch(run, outcome).value

    def failure(self, context: Context, run: JobRun, outcome: JobOutcome, error: JobError) -> Exception:  # noqa: ARG002
        """Read what the function raised, if it came that far."""
        if self.runs_function and outcome.kind == "final" and outcome.status == "FAILED":
            try:
                found = self._fetch(run, outcome)
            except (JobError, RayApiError) as missing:
                self.log.info("The function left no result: %s", missing)
                return error
            if found.error is not None:
                return found.exception(submission_id=outcome.submission_id, url=str(outcome.submission_id))
        return error

    @staticmethod
    def _fetch(run: JobRun, outcome: JobOutcome) -> FunctionResult:
        from ray_provider.functions.results import decode, result_file

        async def read(client: RayJobsClient) -> bytes:
            details = await client.get(outcome.submission_id)
            if details is None or not details.driver_node_id:
                raise JobError(
                    f"The result of job {outcome.submission_id} can't be found: Ray does not say where it ran.",
                    submission_id=outcome.submission_id,
                )
            return await client.read_log_file(details.driver_node_id, result_file(outcome.submission_id))

        return decode(run.run(read), allow_pickle=False)


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
