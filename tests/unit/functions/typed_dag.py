"""Read by mypy, not run: what an editor knows of a function under ``@task.ray`` and ``@ray.task``."""

from __future__ import annotations

from typing import Any, assert_type

from airflow.sdk import task
from airflow.sdk.definitions.xcom_arg import XComArg

from ray_provider.decorators import ray


@ray.task(config={"conn_id": "ray_default"})
def configured(rows: int, *, penalty: float = 0.1) -> dict[str, float]:
    return {"error": rows * penalty}


@ray.task
def bare(rows: int) -> str:
    return str(rows)


def make_config(context: dict[str, Any]) -> dict[str, Any]:
    return {"conn_id": context["params"]["conn_id"]}


@ray.task(config=make_config, multiple_outputs=True, num_cpus=2)
def made_at_run_time() -> dict[str, int]:
    return {}


@task.ray(conn_id="ray_default", num_cpus=2)
def registered(rows: int) -> str:
    return str(rows)


assert_type(configured(3, penalty=0.2), XComArg)
assert_type(configured.expand(rows=[1, 2]), XComArg)
assert_type(bare.function(3), str)
assert_type(configured.function(3), dict[str, float])
assert_type(made_at_run_time.function(), dict[str, int])
assert_type(registered.function(3), str)
assert_type(configured.override(num_cpus=1)(3), XComArg)
assert_type(configured.partial(penalty=0.2).expand(rows=[1, 2]), XComArg)

configured("three")  # error: arg-type
configured(rows=3, penalty=0.1, fine=1)  # error: call-arg
bare()  # error: call-arg
registered(rows="three")  # error: arg-type
made_at_run_time(1)  # error: call-arg
