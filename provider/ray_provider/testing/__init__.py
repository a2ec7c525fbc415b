"""What users need to test their own DAGs: a real Airflow on loopback, and a client for its REST API.

.. code-block:: python

    from ray_provider.testing import AirflowStack

    def test_my_dag(tmp_path):
        with AirflowStack(tmp_path, dags_folder="dags") as stack:
            stack.client.add_connection("ray_default", "ray", extra={"backend": "local"})
            run_id = stack.client.trigger_run("my_dag")
            stack.client.wait_run("my_dag", run_id, state="success")

Needs Airflow 3.
"""

from __future__ import annotations

from ray_provider.testing.client import AirflowApiError, AirflowClient
from ray_provider.testing.stack import AirflowStack, StackError

__all__ = ["AirflowApiError", "AirflowClient", "AirflowStack", "StackError"]
