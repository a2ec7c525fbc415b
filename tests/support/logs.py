"""Logs of tasks that may not have begun."""

from __future__ import annotations

from ray_provider.testing import AirflowApiError, AirflowClient

_NOT_FOUND = 404


def begun_log(client: AirflowClient, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1) -> str:
    """Give the log of a try, empty until there is one: Airflow knows no log of a task that a scheduler is still to start."""
    try:
        return client.log_text(dag_id, run_id, task_id, try_number=try_number)
    except AirflowApiError as error:
        if error.status != _NOT_FOUND:
            raise
        return ""
