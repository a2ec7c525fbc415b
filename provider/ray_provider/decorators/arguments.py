"""What a function and its task are called with: the configuration, and values of Airflow's context."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ray_provider.exceptions import ConfigurationError

log = logging.getLogger(__name__)

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def checked_config(config: Any, known: Collection[str]) -> dict[str, Any]:
    """Give the configuration as a dictionary of its own.

    :param config: the user's; left as it is.
    :param known: the arguments there are.
    :raises ConfigurationError: it is no mapping, or holds something else.
    """
    if not isinstance(config, Mapping):
        raise ConfigurationError(
            f"config has to be a dictionary, or a callable that makes one, but is a {type(config).__name__}.",
            field="config",
        )
    if unknown := sorted(set(config) - set(known)):
        raise ConfigurationError(
            f"config holds what @task.ray does not know: {', '.join(map(str, unknown))}.",
            hint=f"It takes: {', '.join(sorted(known))}.",
            field="config",
        )
    return dict(config)


def make_config(make: Callable[..., Any], context: Mapping[str, Any], op_kwargs: Mapping[str, Any]) -> Any:
    """Call a configuration that is a callable. It gets what it asks for by name.

    :param make: asks for ``context``, for keys of the context, or for the function's keyword arguments. A single
        parameter of any other name gets the context.
    :param context: of the task.
    :param op_kwargs: the function's keyword arguments.
    """
    parameters = inspect.signature(make).parameters.values()
    wanted = [parameter for parameter in parameters if parameter.kind in _NAMED]
    known: dict[str, Any] = {}
    for name in (parameter.name for parameter in wanted):
        if name == "context":
            known[name] = context
        elif name in op_kwargs:
            known[name] = op_kwargs[name]
        elif name in context:  # asked for one by one: some of its values are made when they are read
            known[name] = context[name]
    if len(parameters) == 1 and wanted and not known and wanted[0].default is wanted[0].empty:
        return make(context)
    return make(**known)


def context_arguments(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], context: Mapping[str, Any]
) -> dict[str, Any]:
    """Give values to parameters that bear a context key's name (``ds``, ``run_id``, ``params`` …), as ``@task`` does.

    :param function: the user's.
    :param args: given by position.
    :param kwargs: given by name: these win.
    :param context: of the task.
    :raises ConfigurationError: one without a default has no value, or wants what can't be sent, such as ``ti``.
    """
    signature = inspect.signature(function)
    given = signature.bind_partial(*args, **kwargs).arguments
    found: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind not in _NAMED or name in given or name not in context:
            continue
        try:
            found[name] = _plain(context[name])
        except TypeError as error:
            if parameter.default is not parameter.empty:
                log.info("Parameter %r keeps its default: the context's %r stays in Airflow (%s).", name, name, error)
                continue
            raise ConfigurationError(
                f"{getattr(function, '__qualname__', function)} wants {name!r} from Airflow's context, which can't be "
                f"sent to the cluster: {error}.",
                hint="Pass what you need of it as an argument, e.g. f(run='{{ run_id }}'). The ids of DAG, run and "
                "task are in the environment: AIRFLOW_CTX_DAG_ID and so on.",
                field=name,
            ) from None
    try:
        signature.bind(*args, **{**kwargs, **found})
    except TypeError as error:
        raise ConfigurationError(
            f"{getattr(function, '__qualname__', function)} can't be called: {error}.",
            hint="Pass it as an argument. A run without a logical date (a manual one, for example) has no ds, ts or "
            "logical_date.",
        ) from None
    return found


def _plain(value: Any) -> Any:
    """Give a value of the context as the cluster can read it, where nothing of Airflow is installed."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, datetime):  # pendulum's own class may not be there
        instant = value.astimezone(UTC)
        return datetime.combine(instant.date(), instant.time(), tzinfo=UTC)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"it is a {type(value).__module__}.{type(value).__qualname__}")
