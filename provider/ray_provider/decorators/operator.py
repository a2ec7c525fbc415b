"""The operator behind ``@task.ray``: ``SubmitRayJob`` whose job is a function."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import DecoratedOperator

from ray_provider._compat import AirflowFailException, AirflowSkipException, redact
from ray_provider.decorators import transfer
from ray_provider.decorators.arguments import checked_config, context_arguments, make_config
from ray_provider.decorators.storage import reference_of
from ray_provider.decorators.values import materialize
from ray_provider.decorators.xcom import without_nan
from ray_provider.exceptions import ConfigurationError, JobError, RayApiError, RayConnectionError, RayProviderError
from ray_provider.operators._job.storage import ObjectStore, as_text
from ray_provider.operators.job import SubmitRayJob

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.functions.payload import PackedCall
    from ray_provider.functions.results import FunctionResult
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.models import JobSpec
    from ray_provider.jobs.watch.watcher import JobOutcome
    from ray_provider.operators._job.run import JobRun
    from ray_provider.operators._rayjob.arguments import RayJobArguments

#: An argument's name where the attribute has another one.
_ATTRIBUTES = {"resources": "ray_resources"}
#: The function's own arguments, and their defaults.
_OWN: dict[str, Any] = {
    "allow_pickle_results": False,
    "max_result_bytes": 16 * 1024 * 1024,
    "result_path": None,
    "lenient_results": False,
    "send": "auto",
    "ray_job": None,
}
_SENDS = ("auto", "pickle", "source")
#: What a configuration may hold.
_ARGUMENTS = (frozenset(inspect.signature(SubmitRayJob.__init__).parameters) - {"self", "kwargs"}) | set(_OWN)
#: What a result file may have beyond the value itself: its header, or the texts of an exception (bytes).
_RESULT_MARGIN = 1024 * 1024


class RayDecoratedOperator(DecoratedOperator, SubmitRayJob):
    """Sends a function to a Ray cluster, waits for it like ``SubmitRayJob``, and returns what it returned.

    Without ``cluster``, ``xcom_task_key`` or an address in the connection, the task makes a Ray cluster for itself
    where the connection says (``backend``, or a cluster), and deletes it when it ends.

    :param python_callable: the function.
    :param config: arguments of ``SubmitRayJob`` and those below, or a callable that makes them when the task runs.
    :param allow_pickle_results: take a pickle where JSON can't say the return value. Reading one runs whatever code the
        cluster put into it.
    :param max_result_bytes: the largest return value (bytes) that goes through XCom.
    :param result_path: object storage that cluster and workers reach (an fsspec URL or an ``ObjectStoragePath``) for
        pandas and Arrow tables, for values of more than 256 KiB, and for arguments of more than 100 MiB; the task then
        returns a reference for :func:`ray_provider.decorators.read_reference`.
    :param lenient_results: what XCom can't carry of a return value becomes null, with a warning that names the place,
        instead of an error. ``@ray.task``, the predecessor's form, has it on: there the value was not looked at.
    :param send: how the function travels. ``"pickle"``: as bytecode, which takes all that cloudpickle takes, to the
        same minor version of Python only. ``"source"``: as its source, and that of the functions and classes of its
        file that it uses, to any. ``"auto"``: as a pickle, but as source where the versions differ.
    :param ray_job: have KubeRay make the task's own cluster, by a RayJob: ``True``, or a dictionary of those arguments
        of ``RunRayJob`` that say what the cluster is (``{"profile": "gpu-eks", "local_queue": "team"}``). On the local
        backend it has no effect: the function gets a Ray of its own there in any case.
    :param kwargs: arguments of ``SubmitRayJob`` and of any operator; they win over ``config``.
    """

    custom_operator_name = "@task.ray"
    makes_cluster = True
    template_fields: Sequence[str] = (*SubmitRayJob.template_fields, "op_args", "op_kwargs", "result_path", "ray_job")

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        config: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
        allow_pickle_results: bool = False,
        max_result_bytes: int = 16 * 1024 * 1024,
        result_path: Any = None,
        lenient_results: bool = False,
        send: str = "auto",
        ray_job: bool | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        from ray_provider.functions.payload import ENTRYPOINT, check_callable

        own = {
            "allow_pickle_results": allow_pickle_results,
            "max_result_bytes": max_result_bytes,
            "result_path": result_path,
            "lenient_results": lenient_results,
            "send": send,
            "ray_job": ray_job,
        }
        kwargs |= {name: value for name, value in own.items() if value != _OWN[name]}
        self.config = config
        self._given = frozenset(kwargs)
        settings = {} if config is None or callable(config) else checked_config(config, _ARGUMENTS)
        # The function's own job reserves a CPU for itself, as astro-provider-ray's did.
        arguments: dict[str, Any] = {"entrypoint": ENTRYPOINT, "num_cpus": 1, **_OWN, **settings, **kwargs}
        self.allow_pickle_results = arguments.pop("allow_pickle_results")
        self.max_result_bytes = arguments.pop("max_result_bytes")
        self.result_path = as_text(arguments.pop("result_path"))
        self.lenient_results = arguments.pop("lenient_results")
        self.send = arguments.pop("send")
        self.ray_job = arguments.pop("ray_job")
        #: Packs the call; told to, as source.
        self._pack: Callable[..., PackedCall] | None = None
        self._packed: PackedCall | None = None
        if arguments["entrypoint"] == ENTRYPOINT:
            check_callable(python_callable)
        super().__init__(python_callable=python_callable, **arguments)

    @property
    def runs_function(self) -> bool:
        """Whether the job is the function: a configuration may name an entrypoint of its own."""
        from ray_provider.functions.payload import ENTRYPOINT

        return bool(self.entrypoint == ENTRYPOINT)

    @property
    def has_ray_job(self) -> bool:
        """Whether the function gets a cluster of its own by a RayJob."""
        return bool(self.ray_job)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral. The operator is a new object: what a callable configures is asked for anew.

        :param next_method: that Airflow goes on with.
        :param next_kwargs: of it: the trigger's event, or an error.
        :param context: of the task.
        """
        self._configure(context)
        return super().resume_execution(next_method, next_kwargs, context)

    def prepare(self, context: Context) -> None:
        """Make the configuration, and pack the function and its arguments.

        :param context: of the task.
        :raises ConfigurationError: ``send`` or ``config`` can't work, or the function can't be sent.
        """
        from ray_provider.functions.payload import ResultSettings, pack

        self._configure(context)
        if not self.runs_function:
            return
        if self.send not in _SENDS:
            raise ConfigurationError(
                f"send is {self.send!r}.", hint=f"It is one of {', '.join(map(repr, _SENDS))}.", field="send"
            )
        store = self._store()
        settings = ResultSettings(
            allow_pickle=self.allow_pickle_results,
            lenient=self.lenient_results,
            max_result_bytes=self.max_result_bytes,
            result_path=store.url if store else None,
        )
        args, kwargs = materialize((tuple(self.op_args), dict(self.op_kwargs)))
        kwargs |= context_arguments(self.python_callable, args, kwargs, context)
        self._pack = partial(pack, self.python_callable, args, kwargs, settings=settings)
        self._packed = self._pack(as_source=self.send == "source")

    def specify(self, context: Context, run: JobRun, spec: JobSpec) -> JobSpec:
        """Upload the function, and have the job run it.

        :param context: of the task.
        :param run: knows the cluster, which is there.
        :param spec: of the job, without the function.
        """
        if self._packed is None:
            return spec
        from ray_provider.functions.results import result_file
        from ray_provider.jobs.ray_versions import check

        check(run.ray_version, spec, functions=True)
        packed, self._packed = self._packed, None
        if self.send != "source" and (theirs := run.run(transfer.other_python)):
            packed = self._packed_for(theirs)
        self._pack = None
        run.run(lambda client: transfer.send(client, packed))
        runtime_env = spec.runtime_env
        variables = {
            **_context_variables(context),
            **(runtime_env.get("env_vars") or {}),
            "AIRFLOW_RAY_RESULT_FILE": result_file(str(spec.submission_id)),
        }
        if packed.apart is not None and (store := self._store()):
            variables["AIRFLOW_RAY_CALL_PATH"] = store.write(f"airflow-call-{spec.submission_id}.pkl", packed.apart)
        modules = runtime_env.get("py_modules") or []
        if isinstance(modules, list | tuple):  # anything else is refused where it is packed
            modules = [*modules, packed.uri]
        return replace(spec, runtime_env={**runtime_env, "env_vars": variables, "py_modules": modules})

    def result(self, context: Context, run: JobRun, outcome: JobOutcome) -> Any:
        """Read what the function returned.

        :param context: of the task.
        :param run: knows the job and its cluster.
        :param outcome: of a job that succeeded.
        :raises AirflowSkipException: the function wants its task to be skipped.
        """
        if not self.runs_function:
            return super().result(context, run, outcome)
        found = self._fetch(run, outcome)
        if found.error is not None and found.meaning != "skip":
            raise self._raised(run, outcome, found)
        if found.error is not None:  # the one error with which a job succeeds: the function wants to be skipped
            self.log.info("The function asks for its task to be skipped: %s", found.error["message"])
            raise AirflowSkipException(found.error["message"])
        if not found.by_reference:
            value, lost = without_nan(found.value) if self.allow_pickle_results else (found.value, [])
            if lost := [*found.became_null, *lost]:
                self.log.warning(
                    "XCom can't carry all of the return value; null in it: %s. With result_path= it goes to object "
                    "storage whole.",
                    redact("; ".join(lost)),
                )
            return value
        store = self._store()
        if store is None:
            raise RayProviderError(f"Job {outcome.submission_id} gives a reference, but there is no result_path.")
        reference = reference_of(store, outcome.submission_id, found.value)
        self.log.info("The result is at %s (%s bytes).", reference["path"], f"{reference.get('bytes'):,}")
        return reference

    def failure(self, context: Context, run: JobRun, outcome: JobOutcome, error: RayProviderError) -> Exception:
        """Read what the function raised, if it came that far.

        :param context: of the task.
        :param run: knows the job and its cluster.
        :param outcome: of a job that did not succeed.
        :param error: what is raised where the function left nothing.
        """
        if not self.runs_function or outcome.kind != "final" or outcome.status != "FAILED":
            return super().failure(context, run, outcome, error)
        try:
            found = self._fetch(run, outcome)
        except (JobError, RayApiError, RayConnectionError) as missing:
            self.log.info("The function left no result: its process was ended from outside or by itself (%s)", missing)
            return error
        if found.error is None:
            return error
        if outcome.cause:
            self.log.warning("%s What to do: %s", outcome.cause, outcome.advice)
        return self._raised(run, outcome, found)

    def ray_job_arguments(self, context: Context) -> RayJobArguments | None:  # noqa: ARG002
        """Say what the cluster is to be that KubeRay makes for the function; ``None``: it makes none.

        :param context: of the task.
        """
        from ray_provider.operators._rayjob.arguments import RayJobArguments

        return RayJobArguments.from_given(self.ray_job)

    def _configure(self, context: Context) -> None:
        """Take what a callable configuration makes; arguments that are given by name win."""
        if not callable(self.config):
            return
        made = checked_config(make_config(self.config, context, self.op_kwargs), _ARGUMENTS)
        if self.joined_group and any(made.get(name) for name in ("xcom_task_key", "ray_cluster_yaml", "ray_job")):
            self.cluster = None  # it names another one than its group's, after all
        for name, value in made.items():
            if name not in self._given:
                setattr(self, _ATTRIBUTES.get(name, name), as_text(value) if name == "result_path" else value)

    def _packed_for(self, theirs: str) -> PackedCall:
        """Pack the function as source for another version of Python, or say that and why it can't be."""
        from ray_provider.functions.results import python_mismatch

        ours = sys.version_info[:2]
        if self.send != "auto" or self._pack is None:
            raise python_mismatch(theirs.split("."), ours)
        try:
            packed = self._pack(as_source=True)
        except ConfigurationError as error:
            why = str(error.data.get("reason") or error.message)
            raise python_mismatch(theirs.split("."), ours, not_as_source=why) from error
        self.log.info(
            "The Ray cluster runs Python %s, this worker %s: the function is sent as source.",
            theirs,
            ".".join(map(str, ours)),
        )
        return packed

    def _raised(self, run: JobRun, outcome: JobOutcome, found: FunctionResult) -> Exception:
        """Make the error to raise of what the function raised."""
        where = run.endpoint.display_url if run.endpoint else "the cluster"
        code = getattr(inspect.unwrap(self.python_callable), "__code__", None)
        raised = found.exception(
            submission_id=outcome.submission_id, url=where, source=code.co_filename if code else ""
        )
        if found.meaning == "fail":
            failed = AirflowFailException(str(raised))
            failed.__cause__ = raised
            return failed
        return raised

    def _store(self) -> ObjectStore | None:
        return ObjectStore.parse(self.result_path) if self.result_path else None

    def _fetch(self, run: JobRun, outcome: JobOutcome) -> FunctionResult:
        from ray_provider.functions.results import decode

        async def read(client: RayJobsClient) -> bytes:
            return await transfer.read_result(client, outcome.submission_id, self.max_result_bytes + _RESULT_MARGIN)

        found = decode(run.run(read), allow_pickle=self.allow_pickle_results)
        if found.error is None:
            return found
        # An exception may quote the arguments, which came from a connection.
        # Only texts are hidden in: what else the error says (None, False) has to stay what it is.
        hidden = {name: redact(value) if isinstance(value, str) else value for name, value in found.error.items()}
        return replace(found, error=hidden)


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
