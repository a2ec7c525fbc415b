"""A function with a connection and nothing else: the task makes a Ray cluster for itself."""

from __future__ import annotations

from airflow.sdk import dag, task


@dag(schedule=None, catchup=False)
def alone():
    @task.ray(conn_id="kube")
    def squares(numbers: list[int]) -> dict:
        import ray

        ray.init()

        @ray.remote(num_cpus=0)
        def square(number: int) -> int:
            return number * number

        return {
            "squares": ray.get([square.remote(number) for number in numbers]),
            "nodes": len([node for node in ray.nodes() if node["Alive"]]),
        }

    @task
    def use(found: dict) -> int:
        return sum(found["squares"])

    use(squares([1, 2, 3]))


alone()
