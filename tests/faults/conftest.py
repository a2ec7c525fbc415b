"""One real Airflow and one real Ray for all rows; each row has DAG runs, and gates to Ray, of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_provider.testing import AirflowStack
from tests.faults.cells import Ground, Rows
from tests.support.postgres import PostgresServer
from tests.support.ray_head import RayHead


@pytest.fixture(scope="session")
def ray() -> Iterator[RayHead]:
    with RayHead() as head:
        yield head


@pytest.fixture(scope="session")
def stack(tmp_path_factory, ray) -> Iterator[AirflowStack]:
    # Not SQLite, which gives up where many write at a time: "database is locked".
    with PostgresServer() as database, _stack(tmp_path_factory.mktemp("airflow"), database.sqlalchemy_url) as stack:
        stack.client.add_connection("ray_faults", "ray", extra={"address": ray.url})
        yield stack
    assert not stack.leftovers


def _stack(home: Path, database: str) -> AirflowStack:
    return AirflowStack(
        home,
        sql_alchemy_conn=database,
        dags_folder=Path(__file__).parent / "dags",
        config={
            # Every row that waits in a worker holds a slot.
            "core": {"parallelism": "16"},
            "scheduler": {
                "task_instance_heartbeat_timeout": "30",
                "task_instance_heartbeat_timeout_detection_interval": "3",
            },
        },
    )


@pytest.fixture(scope="session")
def rows(request, stack, ray, tmp_path_factory) -> Iterator[Rows]:
    """All rows that were chosen, under way."""
    chosen = [
        item.callspec.params["row"] for item in request.session.items if "row" in getattr(item, "fixturenames", ())
    ]
    chosen.sort(key=lambda each: not each.long)
    running = Rows(chosen, lambda: Ground(stack, ray, tmp_path_factory.mktemp("row")))
    yield running
    running.close()
