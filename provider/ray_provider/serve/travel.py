"""A former configuration on its way through Airflow's database: as a trigger's argument it may hold no secret.

Values of ``env_vars`` are secrets (Ray hides them, too). Most of them are the same before and after an update: of those
the argument says just that, and they are read back from the cluster. Where they are not, it can't travel.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from ray_provider._shared.plain_text import without_credentials
from ray_provider._shared.redaction import leaves, secrets_in
from ray_provider.exceptions import ServeError

#: Instead of a value that is the same in the configuration that was written.
_SAME = "<as it is now>"


def packed(former: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give a configuration without its secrets; ``None``: they are in no other place.

    :param former: the configuration.
    :param written: the one that replaces it.
    """
    found: dict[str, Any] = copy.deepcopy(dict(former))
    now = dict(_env_vars(written))
    for where, variables in _env_vars(found):
        for name, value in variables.items():
            if now.get(where, {}).get(name) != value:
                return None
            variables[name] = _SAME
    rest = {key: value for key, value in found.items() if key != "runtime_env"}
    if secrets_in(rest) or any(without_credentials(text) != text for text in leaves(found)):
        return None
    return found


def unpacked(former: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Give the configuration back as it was.

    :param former: as :func:`packed` gave it, or one that was never packed.
    :param written: the one that replaced it.
    :raises ServeError: what it refers to is not there.
    """
    found: dict[str, Any] = copy.deepcopy(dict(former))
    now = dict(_env_vars(written))
    for where, variables in _env_vars(found):
        for name, value in variables.items():
            if value != _SAME:
                continue
            if name not in now.get(where, {}):
                raise ServeError(
                    f"The former configuration of {found.get('name')!r} can't be put back: env_vars {name} is lost.",
                    hint="Deploy the former version again by its own task.",
                )
            variables[name] = now[where][name]
    return found


def _env_vars(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each ``env_vars`` of a configuration, with the name of the deployment that it is for."""
    environments = [("", config.get("runtime_env"))]
    for deployment in config.get("deployments") or ():
        options = deployment.get("ray_actor_options") if isinstance(deployment, Mapping) else None
        if isinstance(options, Mapping):
            environments.append((f"deployment {deployment.get('name')}", options.get("runtime_env")))
    for where, environment in environments:
        variables = environment.get("env_vars") if isinstance(environment, Mapping) else None
        if isinstance(variables, dict):
            yield where, variables
