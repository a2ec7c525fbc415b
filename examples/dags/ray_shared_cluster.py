"""Several tasks on one cluster: a task group sets it up before the first one, and deletes it after the last.

No task names the cluster, and none is wired to its set-up or its delete: whatever Ray task is made within the group runs
on the group's cluster. It goes when the last task is done, also when one fails or is skipped; clear a task of the group,
and its cluster is made anew for it, and deleted again. With `backend: local` in the connection the cluster is a Ray on
this machine.
"""

from __future__ import annotations

import pendulum

try:
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task

from ray_provider.operators import SubmitRayJob
from ray_provider.task_groups import RayClusterTaskGroup

CONNECTION = "ray_default"
CHECK = """python -c "
import ray

ray.init()
print('nodes:', len(ray.nodes()))
" """


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), catchup=False, tags=["ray", "example"], doc_md=__doc__)
def ray_shared_cluster():
    with RayClusterTaskGroup("on_ray", conn_id=CONNECTION) as cluster:
        check = SubmitRayJob(task_id="check", entrypoint=CHECK)

        @task.ray(num_cpus=0)
        def count(samples: int) -> int:
            import random

            import ray

            @ray.remote
            def hits(number: int) -> int:
                return sum(random.random() ** 2 + random.random() ** 2 < 1 for _ in range(number))

            return sum(ray.get([hits.remote(samples // 2) for _ in range(2)]))

        # Mapped: one Ray job each, at the same time, on the same cluster.
        counts = count.expand(samples=[20_000, 40_000])
        check >> counts

    @task
    def report(counts: list[int]) -> str:
        text = f"pi is about {4 * sum(counts) / 60_000:.2f}"
        print(text)
        return text

    cluster >> report(counts)


ray_shared_cluster()
