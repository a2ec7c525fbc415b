"""The decorator, under its two names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

if TYPE_CHECKING:
    from airflow.sdk.bases.decorator import Task

P = ParamSpec("P")
R = TypeVar("R")


@overload
def ray_task(python_callable: Callable[P, R]) -> Task[P, R]: ...


@overload
def ray_task(
    python_callable: None = None,
    multiple_outputs: bool | None = None,
    config: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
    **kwargs: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def ray_task(
    python_callable: Callable[..., Any] | None = None,
    multiple_outputs: bool | None = None,
    config: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
    **kwargs: Any,
) -> Any:
    """Run a Python function as a Ray job. Registered as ``@task.ray``.

    :param python_callable: the function.
    :param multiple_outputs: push each key of the returned dictionary as an XCom of its own.
    :param config: arguments of :class:`~ray_provider.operators.SubmitRayJob` and those named below as a dictionary, or
        a callable that makes one when the task runs; it may ask for ``context`` and for keys of it. With an
        ``entrypoint`` in it, that is run and the function is not.
    :param kwargs: arguments of ``SubmitRayJob`` and of any operator, and ``allow_pickle_results``, ``max_result_bytes``
        and ``result_path``. They win over ``config``.
    """
    from airflow.providers.common.compat.sdk import task_decorator_factory

    from ray_provider.decorators.operator import RayDecoratedOperator

    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=RayDecoratedOperator,
        config=config,
        **kwargs,
    )


class ray:  # noqa: N801 - the name that DAGs import
    """Namespace of ``@ray.task(config=...)``."""

    # Not `staticmethod(…)`: type checkers would forget the overloads, and with them the function's own parameters.
    if TYPE_CHECKING:
        task = ray_task
    else:

        def task(*args: Any, **kwargs: Any) -> Any:
            """Make the task: as ``@task.ray``, but what XCom can't carry of its value costs nothing but a warning.

            :param kwargs: as of ``@task.ray``. ``lenient_results`` is on unless it is given.
            """
            return ray_task(*args, **{"lenient_results": True, **kwargs})
