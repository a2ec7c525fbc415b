"""A task group whose tasks share a Ray cluster: set up before the first of them, deleted after the last."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from types import TracebackType
from typing import Any, Self

from ray_provider._compat import TaskGroup
from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks.ray import RayHook
from ray_provider.operators.cluster import DeleteRayCluster, SetupRayCluster

_OF_GROUP = frozenset(inspect.signature(TaskGroup.__init__).parameters) - {"self", "group_id"}
_OF_SET_UP = frozenset(inspect.signature(SetupRayCluster.__init__).parameters) - {"self", "kwargs", "conn_id"}
#: What both tasks get from the group, and what would lead the delete elsewhere, or have it run at another time.
_NOT_OF_A_TASK = frozenset({"conn_id", "dag", "task_group"})
_NOT_OF_DELETE = _NOT_OF_A_TASK | {
    "backend",
    "cluster",
    "infrastructure",
    "name",
    "namespace",
    "ray_cluster_yaml",
    "trigger_rule",
}


class RayClusterTaskGroup(TaskGroup):
    """Several tasks on one Ray cluster, which lives as long as they run.

    .. code-block:: python

        with RayClusterTaskGroup("train", conn_id="ray_default", profile="cpu") as cluster:
            prepare() >> SubmitRayJob(task_id="fit", entrypoint="python fit.py")

    ``SetupRayCluster`` is the group's setup, ``DeleteRayCluster`` its teardown, as Airflow means these: the cluster is
    deleted when the last task of the group is done, whether it succeeded, failed or was skipped; a task that failed
    fails the run all the same; who clears a task of the group has the cluster made anew, and deleted again.
    ``SubmitRayJob``, ``@task.ray``, ``RayJobSensor`` and what deploys applications of Serve run, within the group, at
    any depth and mapped ones too, on its cluster by its connection, unless they name another cluster, or make one of
    their own (``ray_cluster_yaml``, ``ray_job``, ``RunRayJob``). Other tasks can be in the group, too.

    All arguments of :class:`~ray_provider.operators.SetupRayCluster` say what the cluster is; those of Airflow's
    ``TaskGroup`` (``tooltip``, ``default_args``, ``prefix_group_id`` …) what the group is.

    :param group_id: of the group.
    :param conn_id: connection of type ``ray``, for all tasks of the group that name none.
    :param setup_args: further arguments of the set-up's task alone, e.g. ``{"retries": 2, "pool": "clusters"}``.
    :param delete_args: further arguments of the delete's task alone: ``timeout_seconds``, ``force``, ``retries`` …
    :param further: see above.
    """

    def __init__(
        self,
        group_id: str,
        *,
        conn_id: str = RayHook.default_conn_name,
        setup_args: Mapping[str, Any] | None = None,
        delete_args: Mapping[str, Any] | None = None,
        **further: Any,
    ) -> None:
        _refuse_unknown(group_id, further)
        self._setup_args = {
            "task_id": "setup_cluster",
            **{name: value for name, value in further.items() if name not in _OF_GROUP},
            **_checked(group_id, "setup_args", setup_args, _NOT_OF_A_TASK | _OF_SET_UP),
        }
        self._delete_args = {
            "task_id": "delete_cluster",
            **({"helm_path": further["helm_path"]} if further.get("helm_path") else {}),
            **_checked(group_id, "delete_args", delete_args, _NOT_OF_DELETE),
        }
        self._conn_id = conn_id
        self._setup: SetupRayCluster | None = None
        self._delete: DeleteRayCluster | None = None
        super().__init__(group_id=group_id, **{name: value for name, value in further.items() if name in _OF_GROUP})

    @property
    def setup(self) -> SetupRayCluster:
        """The task that makes the cluster: the group's setup.

        :raises ConfigurationError: the group was not entered.
        """
        if self._setup is None:
            raise ConfigurationError(
                f"The group {self.group_id!r} has no cluster yet.",
                hint=f'Use it as a context: with RayClusterTaskGroup("{self.group_id}") as cluster: …',
                field="group_id",
            )
        return self._setup

    @property
    def delete(self) -> DeleteRayCluster:
        """The task that deletes the cluster: the group's teardown."""
        return self._delete if self._delete is not None else self.setup  # type: ignore[return-value] # it raises

    @property
    def output(self) -> Any:
        """The cluster's handle, for tasks elsewhere that run while it is there: ``cluster=group.output``."""
        return self.setup.output

    @property
    def ray_cluster(self) -> tuple[str, Any]:
        """By which connection, and on which cluster, the group's tasks run."""
        return self._conn_id, self.output

    def __enter__(self) -> Self:
        """Make the set-up and the delete, and take in the tasks that are made from here on."""
        if self._setup is None:
            own: dict[str, Any] = {"conn_id": self._conn_id, "dag": self.dag, "task_group": self}
            self._setup = SetupRayCluster(**self._setup_args, **own)
            self._delete = DeleteRayCluster(cluster=self._setup.output, **self._delete_args, **own)
            self._delete.as_teardown(setups=self._setup)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the group's tasks between its set-up and its delete.

        :param kind: of an exception in the group, which passes.
        :param error: the exception.
        :param trace: of it.
        :raises ConfigurationError: there are none.
        """
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        if kind is None:
            self._wire()

    def _wire(self) -> None:
        own = {self.setup.task_id, self.delete.task_id}
        tasks = [task for task in self if task.task_id not in own]
        if not tasks:
            raise ConfigurationError(
                f"The group {self.group_id!r} makes a Ray cluster, and has no task that could use it.",
                hint="Make the tasks that are to run on it within the group's `with` block.",
                field="group_id",
            )
        ids = {task.task_id for task in tasks}
        for task in tasks:
            # All of them, whether they use Ray or not: who clears one of them gets the cluster of those after it.
            if task.upstream_task_ids.isdisjoint(ids) and self.setup.task_id not in task.upstream_task_ids:
                self.setup.set_downstream(task)
            if task.downstream_task_ids.isdisjoint(ids) and self.delete.task_id not in task.downstream_task_ids:
                self.delete.set_upstream(task)


def _refuse_unknown(group_id: str, given: Mapping[str, Any]) -> None:
    for name in sorted(set(given) - _OF_GROUP - _OF_SET_UP):
        near = get_close_matches(name, _OF_GROUP | _OF_SET_UP, n=1)
        raise ConfigurationError(
            f"The group {group_id!r} has no argument {name!r}. Neither SetupRayCluster nor a TaskGroup has it."
            f"{f' Is {near[0]!r} meant?' if near else ''}",
            hint="What only the task that sets the cluster up, or deletes it, is to get goes into setup_args or "
            "delete_args; what all tasks of the group are to get into default_args.",
            field=name,
        )


def _checked(group_id: str, what: str, given: Any, refused: frozenset[str]) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"{what} of the group {group_id!r} is a {type(given).__name__}.",
            hint='Give a dictionary of a task\'s arguments: {"retries": 2}.',
            field=what,
        )
    for name in sorted(refused & given.keys()):
        raise ConfigurationError(
            f"{what} of the group {group_id!r} holds {name!r}, which the group says itself.",
            hint="Give what the cluster is (and conn_id) to the group, not to its tasks; leave the rest out.",
            field=what,
        )
    return dict(given)
