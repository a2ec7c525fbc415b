"""An application as it is wanted, checked before anything is sent: Serve drops what it does not know in silence."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_provider.exceptions import ConfigurationError

#: The keys of an application (Ray 2.60: ``ServeApplicationSchema``), and those that count for all of Serve.
KEYS = frozenset({
    "args", "autoscaling_policy", "deployments", "external_scaler_enabled", "import_path", "logging_config", "name",
    "route_prefix", "runtime_env",
})  # fmt: skip
_OF_SERVE = frozenset({"host", "port"})
#: The keys of a deployment (``DeploymentSchema``), and of what its replicas ask for.
DEPLOYMENT_KEYS = frozenset({
    "autoscaling_config", "backpressure_config", "deployment_actors", "gang_scheduling_config",
    "graceful_shutdown_timeout_s", "graceful_shutdown_wait_loop_s", "health_check_period_s", "health_check_timeout_s",
    "logging_config", "max_ongoing_requests", "max_queued_requests", "max_replicas_per_node", "max_surge_percent",
    "name", "num_replicas", "placement_group_bundle_label_selector", "placement_group_bundles",
    "placement_group_strategy", "ray_actor_options", "request_router_config", "rolling_update_percentage",
    "user_config",
})  # fmt: skip
ACTOR_KEYS = frozenset({
    "accelerator_type", "fallback_strategy", "label_selector", "memory", "num_cpus", "num_gpus", "resources",
    "runtime_env",
})  # fmt: skip
_NEAR = 0.75


@dataclass(frozen=True, slots=True)
class ServeApplication:
    """An application as somebody wants it.

    :param name: by which it is found again; one per cluster and name.
    :param import_path: ``module:attribute`` of the bound application, or of a function that builds it.
    :param route_prefix: below which it answers; ``None``: not by HTTP.
    :param args: of the function that builds it.
    :param runtime_env: Ray's runtime environment, for all of its deployments.
    :param deployments: options that override those in the code, by ``name``.
    :param further: the application's other keys, as Serve calls them.
    """

    name: str
    import_path: str
    route_prefix: str | None = "/"
    args: Mapping[str, Any] = field(default_factory=dict)
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    deployments: tuple[Mapping[str, Any], ...] = ()
    further: Mapping[str, Any] = field(default_factory=dict)

    def validate(self) -> list[str]:
        """Refuse what can't work, before anything is sent.

        :return: lines of warning about what this Ray may not know.
        :raises ConfigurationError: with the name of the field, and what is near it.
        """
        _check_name(self.name)
        _check_import_path(self.import_path)
        _check_route(self.route_prefix)
        for key in self.further:
            _refuse_unknown(str(key))
        for name in ("args", "runtime_env"):
            if not isinstance(getattr(self, name), Mapping):
                raise ConfigurationError(
                    f"{name} has to be a mapping, but is a {type(getattr(self, name)).__name__}.", field=name
                )
        warnings = [line for one in self.deployments for line in _check_deployment(one)]
        names = [one["name"] for one in self.deployments]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigurationError(
                f"deployments names {twice[0]!r} twice.", hint="Put its options into one entry.", field="deployments"
            )
        try:
            json.dumps(self.to_config(), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"The application {self.name!r} holds what JSON can't: {error}.",
                hint="args, runtime_env and deployments take text, numbers, lists and dictionaries.",
                field="args",
            ) from None
        return warnings

    def to_config(self) -> dict[str, Any]:
        """Give it as Serve takes it. What is not wanted is left out: Serve shows again what it was given."""
        config: dict[str, Any] = {
            "name": self.name,
            "route_prefix": self.route_prefix,
            "import_path": self.import_path,
        }
        for name in ("args", "runtime_env"):
            if getattr(self, name):
                config[name] = dict(getattr(self, name))
        if self.deployments:
            config["deployments"] = [dict(one) for one in self.deployments]
        return {**config, **self.further}


def unknown_keys(given: Iterable[str], known: Iterable[str]) -> list[tuple[str, str | None]]:
    """Give the keys that nobody knows, each with the known one that is near it.

    :param given: the keys.
    :param known: those that there are.
    """
    names = sorted(known)
    return [
        (key, next(iter(difflib.get_close_matches(key, names, 1, _NEAR)), None))
        for key in map(str, given)
        if key not in names
    ]


def _refuse_unknown(key: str) -> None:
    if key in _OF_SERVE:
        raise ConfigurationError(
            f"The application has {key!r}, which counts for all of Serve.",
            hint="Give http_options={'host': …, 'port': …}: they count where this task is the one that starts Serve.",
            field=key,
        )
    for unknown, near in unknown_keys([key], KEYS):
        raise ConfigurationError(
            f"The application has the key {unknown!r}, which Serve does not know and ignores without a word.",
            hint=f"Is {near!r} meant?" if near else f"It knows {', '.join(sorted(KEYS))}.",
            field=unknown,
        )


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError(
            f"The application's name has to be text, but is {name!r}.",
            hint='Give one, such as name="recommender": it is found again by it.',
            field="name",
        )


def _check_import_path(path: Any) -> None:
    """As Serve does, which tells it in pydantic's words, with the whole configuration."""
    separator = ":" if isinstance(path, str) and ":" in path else "."
    module, found, attribute = path.rpartition(separator) if isinstance(path, str) else ("", "", "")
    if not found or not module or not attribute or ":" in module or any(character.isspace() for character in path):
        raise ConfigurationError(
            f"import_path has to be module:attribute, but is {path!r}.",
            hint='For example import_path="model:app": what the cluster imports and serves.',
            field="import_path",
        )


def _check_route(route: Any) -> None:
    if route is None:
        return
    good = isinstance(route, str) and route.startswith("/") and (route == "/" or not route.endswith("/"))
    if not good or any(character in route for character in "{}?# "):
        raise ConfigurationError(
            f"route_prefix has to be a path such as /recommender, but is {route!r}.",
            hint="It begins with a slash, has none at its end and no wildcards; None: not reached by HTTP.",
            field="route_prefix",
        )


def _check_deployment(given: Any) -> list[str]:
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str) or not given["name"]:
        raise ConfigurationError(
            "An entry of deployments has no name.",
            hint='Give each the name of its class: [{"name": "Model", "num_replicas": 2}].',
            field="deployments",
        )
    name = given["name"]
    options = given.get("ray_actor_options")
    found = [(key, near, "") for key, near in unknown_keys(given, DEPLOYMENT_KEYS)]
    if isinstance(options, Mapping):
        found += [(key, near, "ray_actor_options.") for key, near in unknown_keys(options, ACTOR_KEYS)]
    for key, near, where in found:
        if near:
            raise ConfigurationError(
                f"Deployment {name!r} has the key {where}{key}, which Serve ignores without a word.",
                hint=f"Is {near!r} meant?",
                field=f"deployments.{key}",
            )
    return [f"Deployment {name!r} has {where}{key}: Ray 2.60 does not know it." for key, _, where in found]
