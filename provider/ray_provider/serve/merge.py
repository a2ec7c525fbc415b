"""One application among the others: what is written so that those stay as they are, and whether it is as written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_provider.exceptions import ConfigurationError, ServeError
from ray_provider.serve.state import RUNNING, ApplicationState, ServeState

#: What a dashboard shows instead of values of ``env_vars`` to what it takes for a browser.
_HIDDEN = "<redacted>"
#: Below these Serve keeps what it is given; elsewhere it keeps the keys it knows.
_FREE = frozenset({"args", "runtime_env", "user_config"})
#: Serve writes it into each application where the whole has one.
_ADDED = "logging_config"


def with_application(
    state: ServeState, config: Mapping[str, Any], http_options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Give the body that adds or changes one application and leaves all others.

    :param state: what there is.
    :param config: of the application.
    :param http_options: where Serve listens if this write starts it.
    :raises ConfigurationError: name or route belong to another application.
    :raises ServeError: another application would be lost.
    """
    check(state, config)
    name = config["name"]
    kept = _kept(state, name)
    position = list(kept).index(name) if name in kept else len(kept)
    configs = list(kept.values())
    configs[position : position + 1] = [dict(config)]
    return _body(state, configs, http_options)


def without_application(state: ServeState, name: str) -> dict[str, Any]:
    """Give the body that removes one application and leaves all others.

    :param state: what there is.
    :param name: of the one that goes.
    :raises ServeError: another application would be lost.
    """
    kept = _kept(state, name)
    kept.pop(name, None)
    return _body(state, list(kept.values()), None)


def check(state: ServeState, config: Mapping[str, Any]) -> None:
    """Refuse a name or a route that belongs to another application.

    :param state: what there is.
    :param config: of the application.
    :raises ConfigurationError: with the other one's name.
    """
    name = config["name"]
    own = state.applications.get(name)
    if own is not None and own.is_there and own.is_imperative:
        raise ConfigurationError(
            f"A job made the application {name!r} (serve.run): it is not replaced.",
            hint=f"End it in that job (serve.delete({name!r})), or give another name.",
            field="name",
        )
    route = config.get("route_prefix", "/")
    for other in state.applications.values():
        if route is not None and other.name != name and other.is_there and route in other.routes:
            raise ConfigurationError(
                f"route_prefix {route!r} is taken by the application {other.name!r}.",
                hint=f"Give one of its own, such as route_prefix='/{name}', or delete {other.name!r} before.",
                field="route_prefix",
            )


def check_http(state: ServeState, wanted: Mapping[str, Any]) -> None:
    """Refuse to have a Serve that runs listen elsewhere: it would take the wish, and do nothing.

    :param state: what there is.
    :param wanted: options of its proxies.
    :raises ConfigurationError: it listens elsewhere.
    """
    for key, value in wanted.items():
        if state.runs and state.http_options.get(key, value) != value:
            raise ConfigurationError(
                f"http_options: Serve runs already, with {key} {state.http_options[key]!r} instead of {value!r}.",
                hint="It can't be changed while it runs: leave http_options out, or end Serve (and all of its "
                "applications) on the cluster first.",
                field="http_options",
            )


def _kept(state: ServeState, but: str) -> dict[str, Mapping[str, Any]]:
    """Give the configurations that have to be written again. What a job made stays without."""
    found: dict[str, Mapping[str, Any]] = {}
    for application in state.applications.values():
        if not application.is_there or application.is_imperative:
            continue
        if application.config is None:
            if application.name == but:
                continue
            raise ServeError(
                f"Nothing is written: Serve shows no configuration of the application {application.name!r}, and would "
                "delete it with the write.",
                hint="If a job made it (serve.run): this Ray deletes such applications with each write by REST. Deploy "
                f"{application.name!r} by DeployServeApplication too, or use another cluster.",
                name=application.name,
            )
        if application.name != but and _is_hidden(application.config):
            raise ServeError(
                f"Nothing is written: the dashboard hides env_vars of the application {application.name!r} from us.",
                hint="It takes us for a browser: a proxy on the way adds Origin, Referer or a User-Agent. Let it not.",
                name=application.name,
            )
        found[application.name] = application.config
    return found


def _is_hidden(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_is_hidden(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_is_hidden(item) for item in value)
    return bool(value == _HIDDEN)


def _body(state: ServeState, configs: list[Any], http_options: Mapping[str, Any] | None) -> dict[str, Any]:
    body: dict[str, Any] = {"applications": configs}
    if state.runs:
        # They count only where Serve was ended since: then it listens where it did.
        body["http_options"] = dict(state.http_options)
        if state.proxy_location:
            body["proxy_location"] = state.proxy_location
    elif http_options:
        body["http_options"] = dict(http_options)
    if state.target_capacity is not None:
        body["target_capacity"] = state.target_capacity
    return body


# -- as written? -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """How a configuration that Serve shows differs from the one that was written.

    :param other: where it has other values.
    :param dropped: what Serve does not know, and has dropped.
    """

    other: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.other or self.dropped)


def difference(wanted: Mapping[str, Any], shown: Mapping[str, Any]) -> Difference:
    """Compare what was written with what Serve shows.

    :param wanted: as it was written.
    :param shown: as Serve shows it.
    """
    other: list[str] = [key for key in shown if key not in wanted and key != _ADDED and shown[key]]
    dropped: list[str] = []
    _compare(wanted, shown, "", other, dropped)
    return Difference(tuple(sorted(other)), tuple(sorted(dropped)))


def _compare(
    wanted: Mapping[str, Any], shown: Mapping[str, Any], where: str, other: list[str], dropped: list[str]
) -> None:
    for key, value in wanted.items():
        path = f"{where}{key}"
        if key not in shown:
            if value not in (None, {}, []):
                dropped.append(path)
        elif key in _FREE:
            if value != shown[key]:
                other.append(path)
        elif isinstance(value, Mapping) and isinstance(shown[key], Mapping):
            _compare(value, shown[key], f"{path}.", other, dropped)
        elif key == "deployments" and isinstance(value, list | tuple) and isinstance(shown[key], list):
            if [one.get("name") for one in value] != [one.get("name") for one in shown[key]]:
                other.append(path)
                continue
            for one, same in zip(value, shown[key], strict=True):
                _compare(one, same, f"{path}.{one.get('name')}.", other, dropped)
        elif value != shown[key]:
            other.append(path)


def digest(config: Mapping[str, Any]) -> str:
    """Give what tells a configuration that Serve shows from others, and tells nothing of what it holds.

    :param config: as Serve shows it.
    """
    plain = json.dumps(_plain({key: item for key, item in config.items() if key != _ADDED}), sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Serve's numbers come back as 1 or 1.0."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def interrupted(application: ApplicationState, config: Mapping[str, Any]) -> list[str]:
    """Give the deployments whose replicas Serve stops before new ones have started: all of them at once.

    Unless it is to surge, Serve replaces a fifth of a deployment's replicas at a time, and at least one.

    :param application: as it is.
    :param config: of the version that replaces it.
    """
    wanted = {one.get("name"): one.get("max_surge_percent") for one in config.get("deployments") or ()}
    return [
        name
        for name, one in application.deployments.items()
        if sum(each.state == RUNNING for each in one.replicas) == 1
        and not (one.surges if wanted.get(name) is None else wanted[name])
    ]


def former_of(application: ApplicationState | None) -> Mapping[str, Any] | None:
    """Give the configuration that a write replaces, if there is one.

    :param application: as it was before.
    """
    return application.config if application is not None and application.is_there else None
