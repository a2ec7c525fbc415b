"""One task, one cluster, one job: KubeRay makes the cluster for the job alone, and takes it away (a RayJob).

On Kubernetes this needs no set-up and no delete task: `RunRayJob` is both. With `backend: local` in the connection the
same DAG runs on a Ray of its own on the worker. `LOCAL_QUEUE` names a queue of Kueue, where the cluster waits for its
turn; leave it out where there is none.
"""

from __future__ import annotations

import os

import pendulum
from airflow.sdk import dag, task

from ray_provider.operators import RunRayJob

CONNECTION = "ray_default"
LOCAL_QUEUE = os.environ.get("RAY_EXAMPLE_LOCAL_QUEUE")
ESTIMATE = """python -c "
import random, ray

@ray.remote
def hits(n):
    return sum(random.random() ** 2 + random.random() ** 2 < 1 for _ in range(n))

print('pi is about', 4 * sum(ray.get([hits.remote(50_000) for _ in range(4)])) / 200_000)
" """


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), catchup=False, tags=["ray", "example"], doc_md=__doc__)
def ray_job_of_its_own():
    estimate = RunRayJob(
        task_id="estimate",
        conn_id=CONNECTION,
        entrypoint=ESTIMATE,
        local_queue=LOCAL_QUEUE,
        job_timeout_seconds=600,
        deferrable=True,
    )

    @task.ray(conn_id=CONNECTION, ray_job={"local_queue": LOCAL_QUEUE}, deferrable=True)
    def square(number: int) -> int:
        import ray

        return ray.get(ray.remote(lambda: number**2).remote())

    estimate >> square(12)


ray_job_of_its_own()
