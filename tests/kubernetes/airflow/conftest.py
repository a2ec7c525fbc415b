"""Fixtures of the tests of DAGs: one Airflow and one namespace for all of them. Each test leaves the namespace empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_provider.testing import AirflowStack
from tests.kubernetes.airflow.dag_runs import airflow
from tests.support.kubernetes import Kubernetes


@pytest.fixture(scope="package")
def place(kubernetes: Kubernetes) -> Iterator[str]:
    """The namespace in which the DAGs' clusters are made."""
    with kubernetes.namespace("dags") as name:
        yield name


@pytest.fixture(scope="package")
def stack(kubernetes: Kubernetes, place: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    """A real Airflow with all DAGs; it ends with the last test of this folder."""
    with airflow(kubernetes, place, tmp_path_factory.mktemp("airflow")) as stack:
        yield stack
