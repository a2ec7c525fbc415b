"""Checks of the arguments of a deploy, after templating: before anything is sent or uploaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ray_provider.exceptions import ConfigurationError
from ray_provider.operators._job.arguments import mapping, number, runtime_environment

if TYPE_CHECKING:
    from ray_provider.serve.applications import ServeApplication
    from ray_provider.serve.smoke import SmokeTest

_HTTP_KEYS = (
    "host", "keep_alive_timeout_s", "port", "request_timeout_s", "root_path", "ssl_ca_certs", "ssl_certfile",
    "ssl_keyfile", "ssl_keyfile_password",
)  # fmt: skip


class ServeArguments(Protocol):
    """What an operator was given for an application, as it was given or as a template made it."""

    name: Any
    import_path: Any
    route_prefix: Any
    args: Any
    runtime_env: Any
    deployments: Any
    options: Any
    http_options: Any
    serve_url: Any
    smoke_test: Any
    timeout_seconds: Any
    max_unreachable_seconds: Any

    @property
    def log(self) -> Any:
        """The task's log."""
        ...


@dataclass(frozen=True, slots=True)
class Deploy:
    """What an operator is to do.

    :param application: what is wanted. Local paths are not uploaded yet.
    :param http_options: where Serve is to listen; ``None``: wherever it does.
    :param serve_url: where its proxies are reached, if the user says it.
    :param smoke_test: asked before it counts as deployed.
    :param timeout_seconds: for all of it.
    :param max_unreachable_seconds: how long a dashboard that does not answer is waited for.
    """

    application: ServeApplication
    http_options: Mapping[str, Any] | None
    serve_url: str | None
    smoke_test: SmokeTest | None
    timeout_seconds: float
    max_unreachable_seconds: float


def deploy_of(operator: ServeArguments, folders: Iterable[Path] = ()) -> Deploy:
    """Read and check what an operator was given.

    :param operator: whose arguments they are.
    :param folders: of the DAG's file: relative paths begin there.
    :raises ConfigurationError: an argument that can't work; the message names it.
    """
    from ray_provider.jobs.submit import runtime_env
    from ray_provider.serve.applications import ServeApplication
    from ray_provider.serve.smoke import SmokeTest

    folders = tuple(folders)
    application = ServeApplication(
        name=operator.name,
        import_path=operator.import_path,
        route_prefix=operator.route_prefix,
        args=mapping("args", operator.args),
        runtime_env=runtime_environment(operator.runtime_env, folders),
        deployments=tuple(_with_environment(one, folders) for one in _deployments(operator.deployments)),
        further=_options(operator.options),
    )
    lines = application.validate()
    for environment in environments(application.to_config()):
        lines += runtime_env.check(environment)
    smoke_test = mapping("smoke_test", operator.smoke_test)
    if smoke_test and application.route_prefix is None:
        raise ConfigurationError(
            "smoke_test needs a route_prefix: the application is not reached by HTTP.", field="smoke_test"
        )
    for line in lines:
        operator.log.warning("%s", line)
    timeout = number("timeout_seconds", operator.timeout_seconds, above=True)
    patience = number("max_unreachable_seconds", operator.max_unreachable_seconds)
    return Deploy(
        application=application,
        http_options=_http_options(operator.http_options),
        serve_url=operator.serve_url or None,
        smoke_test=SmokeTest.from_dict(smoke_test) if smoke_test else None,
        timeout_seconds=600.0 if timeout is None else float(timeout),
        max_unreachable_seconds=600.0 if patience is None else float(patience),
    )


def environments(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give all runtime environments of a configuration, to be read or changed in place.

    :param config: of an application.
    """
    found = [config.get("runtime_env")]
    for deployment in config.get("deployments") or ():
        options = deployment.get("ray_actor_options")
        found.append(options.get("runtime_env") if isinstance(options, Mapping) else None)
    return [one for one in found if isinstance(one, dict)]


def _deployments(given: Any) -> list[Any]:
    if given is None or given == "":
        return []
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            given = None
    if not isinstance(given, list | tuple):
        raise ConfigurationError(
            "deployments has to be a list of dictionaries, or a template that makes JSON of one.",
            hint='For example [{"name": "Model", "num_replicas": 2}].',
            field="deployments",
        )
    return list(given)


def _with_environment(deployment: Any, folders: tuple[Path, ...]) -> Any:
    """Give a deployment whose runtime environment has its places; what is none is told later."""
    options = deployment.get("ray_actor_options") if isinstance(deployment, Mapping) else None
    if not isinstance(options, Mapping) or "runtime_env" not in options:
        return deployment
    environment = runtime_environment(options["runtime_env"], folders)
    return {**deployment, "ray_actor_options": {**options, "runtime_env": environment}}


def _options(given: Any) -> dict[str, Any]:
    found = mapping("options", given)
    own = {"name", "import_path", "route_prefix", "args", "runtime_env", "deployments"}
    if twice := sorted(own & found.keys()):
        raise ConfigurationError(
            f"options has {twice[0]!r}, for which there is an argument.", hint=f"Give {twice[0]}=….", field="options"
        )
    return found


def _http_options(given: Any) -> dict[str, Any] | None:
    from ray_provider.serve.applications import unknown_keys

    found = mapping("http_options", given)
    for key, near in unknown_keys(found, _HTTP_KEYS):
        raise ConfigurationError(
            f"http_options has the key {key!r}, which Serve ignores without a word.",
            hint=f"Is {near!r} meant?" if near else f"It knows {', '.join(_HTTP_KEYS)}.",
            field="http_options",
        )
    return found or None
