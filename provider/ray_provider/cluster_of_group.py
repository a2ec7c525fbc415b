"""Tasks within a ``RayClusterTaskGroup``: they get the group's cluster, unless they name another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class JoinsGroup(Protocol):
    """A task that runs on a Ray cluster."""

    conn_id: str
    cluster: Any


def join(task: JoinsGroup, given: Mapping[str, Any], *, default_conn_id: str) -> bool:
    """Give a task that names no cluster that of the innermost group around it which has one.

    Called while the task is made; also for each instance of a mapped one, when it runs.

    :param task: it has its group already; but an instance of a mapped one on Airflow 2.
    :param given: the arguments that the task was made with, for Airflow itself: that instance is given its group.
    :param default_conn_id: a connection of this id is the group's own: nobody named one.
    :return: whether there is such a group.
    :raises ConfigurationError: the group has no set-up yet.
    """
    group = getattr(task, "task_group", None) or given.get("task_group")
    while group is not None:
        # By attribute: the group's own module stands above all tasks.
        found = getattr(group, "ray_cluster", None)
        if found is not None:
            conn_id, task.cluster = found
            if task.conn_id == default_conn_id:
                task.conn_id = conn_id
            return True
        group = getattr(group, "parent_group", None)
    return False


def named(cluster: Any) -> Any:
    """Give the handle where somebody names a group in its place.

    :param cluster: the argument of a task.
    """
    given = getattr(cluster, "ray_cluster", None) if hasattr(type(cluster), "ray_cluster") else None
    return cluster if given is None else given[1]
