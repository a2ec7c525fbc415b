"""What command lines ask of Airflow's metadata database. No task and no trigger may: see :func:`allow`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any


def allow() -> None:
    """Let a command line of ours find connections in the metadata database, as Airflow's own commands do.

    On Airflow 3 a process is taken for a task's otherwise, which may not. To be called before a connection is read.
    """
    import os

    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")


def known_dags() -> set[str]:
    """Give the ids of all DAGs that Airflow has, or has runs of."""
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        return {row[0] for column in (DagModel.dag_id, DagRun.dag_id) for row in session.query(column).distinct()}


def run_states(dag_ids: Iterable[str]) -> dict[tuple[str, str], str]:
    """Give the state of each run of these DAGs.

    :param dag_ids: those that the database does not know give nothing.
    """
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.query(DagRun.dag_id, DagRun.run_id, DagRun.state).filter(DagRun.dag_id.in_(list(dag_ids)))
        return {(dag_id, run_id): str(getattr(state, "value", state)) for dag_id, run_id, state in found}


def run_starts(dag_ids: Iterable[str], run_ids: Iterable[str]) -> dict[tuple[str, str], str]:
    """Give when each of these runs began, as text; empty if it has not. By the ids of its DAG and its own.

    :param dag_ids: of the DAGs.
    :param run_ids: of the runs.
    """
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.query(DagRun.dag_id, DagRun.run_id, DagRun.start_date)
        found = found.filter(DagRun.dag_id.in_(list(dag_ids)), DagRun.run_id.in_(list(run_ids)))
        return {(dag_id, run_id): start.isoformat() if start else "" for dag_id, run_id, start in found}


def task_states(dag_ids: Iterable[str], run_ids: Iterable[str]) -> dict[tuple[str, str, str, int], str]:
    """Give the states of all tasks of these runs, by DAG, run, task and map index; empty for none.

    :param dag_ids: of the DAGs.
    :param run_ids: of the runs.
    """
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    columns = (TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index)
    with create_session() as session:
        found = session.query(*columns, TaskInstance.state)
        found = found.filter(TaskInstance.dag_id.in_(list(dag_ids)), TaskInstance.run_id.in_(list(run_ids)))
        return {
            (dag_id, run_id, task_id, map_index): str(getattr(state, "value", state) or "")
            for dag_id, run_id, task_id, map_index, state in found
        }


def stored_xcoms(key: str, dag_ids: Iterable[str], run_ids: Iterable[str]) -> dict[tuple[str, str, str, int], Any]:
    """Give what lies in the metadata database under a key of XCom, by DAG, run, task and map index.

    Of what a backend of one's own keeps elsewhere, that is only where it lies.

    :param key: of the XComs.
    :param dag_ids: of the DAGs.
    :param run_ids: of the runs.
    """
    from airflow.utils.session import create_session

    xcom = import_module("airflow.models.xcom")
    Model: Any = xcom.XComModel if hasattr(xcom, "XComModel") else xcom.BaseXCom  # noqa: N806 - Airflow 2: the latter
    columns = (Model.dag_id, Model.run_id, Model.task_id, Model.map_index)
    with create_session() as session:
        # Not whole objects: Airflow 2 deserializes those by itself.
        found = session.query(*columns, Model.value).filter(Model.key == key)
        found = found.filter(Model.dag_id.in_(list(dag_ids)), Model.run_id.in_(list(run_ids)))
        return {(row.dag_id, row.run_id, row.task_id, row.map_index): Model.deserialize_value(row) for row in found}
