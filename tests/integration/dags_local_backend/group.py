"""A RayClusterTaskGroup whose tasks do what a run asks of them: succeed, fail or be skipped."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Param, task, task_group

from ray_provider.operators import SubmitRayJob
from ray_provider.task_groups import RayClusterTaskGroup

with DAG(
    "local_group",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    params={"first": Param("pass"), "inside": Param("pass")},
):
    with RayClusterTaskGroup("work", local={"num_cpus": 1}):
        first = SubmitRayJob(task_id="first", entrypoint=["python", "-c", "{{ params.first }}"])

        @task.ray(num_cpus=0)
        def inside(code: str) -> int:
            import ray

            exec(code)
            return ray.get(ray.remote(lambda: 1).remote())

        @task_group
        def deeper():
            return inside("{{ params.inside }}")

        @task.ray(num_cpus=0)
        def beside() -> int:
            import ray

            return ray.get(ray.remote(lambda: 2).remote())

        found = deeper()
        first >> found
        beside()

    @task
    def after():
        return "after"

    found >> after()


with DAG("local_group_each", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC")):

    @task_group
    def each(number):
        with RayClusterTaskGroup("own", local={"num_cpus": 1}) as cluster:

            @task.ray(num_cpus=0)
            def square(number: int) -> int:
                return number**2

            square(number)
        return cluster

    each.expand(number=[2, 3])
