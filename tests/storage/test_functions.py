"""What is too large for XCom or for a package goes through S3 and Cloud Storage, on a real Airflow and a real Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from ray_provider.testing import AirflowStack

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def stack(tmp_path_factory, head, gcs, connection) -> Iterator[AirflowStack]:
    env = {"STORAGE_EMULATOR_HOST": gcs, "GOOGLE_CLOUD_PROJECT": "project"}
    dags = Path(__file__).parent / "dags"
    with AirflowStack(tmp_path_factory.mktemp("airflow"), dags_folder=dags, env=env) as stack:
        stack.client.add_connection("ray", "ray", password=head.token, extra={"address": head.url})
        given = dict(connection)
        stack.client.add_connection("store", given.pop("conn_type"), **given)
        yield stack
    assert not stack.leftovers


@pytest.fixture(scope="module")
def runs(stack) -> dict[str, str]:
    """One run of each DAG, beside each other, when they have ended."""
    runs = {dag: stack.client.trigger_run(dag) for dag in ("s3", "gcs")}
    for dag, run_id in runs.items():
        stack.client.wait_run(dag, run_id, timeout=600)
    return runs


@pytest.mark.parametrize(("dag", "where"), [("s3", "s3://results/"), ("gcs", "gs://results/")])
def test_a_table_and_a_large_value_are_read_by_the_next_task(stack, runs, dag, where):
    state = stack.client.task_instance(dag, runs[dag], "use")["state"]
    assert state == "success", stack.client.log_text(dag, runs[dag], "large")[-3000:]
    assert stack.client.xcom(dag, runs[dag], "use") == {
        "where": where + runs[dag],
        "keys": sum(range(50_000)),
        "names": 50_000,
    }


def test_arguments_that_no_package_takes_go_there_and_are_gone_afterwards(stack, runs, s3):
    assert stack.client.task_instance("s3", runs["s3"], "count")["state"] == "success"
    assert stack.client.xcom("s3", runs["s3"], "count") == 101 << 20
    client = boto3.client("s3", endpoint_url=s3, aws_access_key_id="a", aws_secret_access_key="s")
    names = [one["Key"] for one in client.list_objects_v2(Bucket="results", Prefix=f"{runs['s3']}/")["Contents"]]
    assert sorted(name.rpartition(".")[2] for name in names) == ["json", "parquet"], names


def test_a_bucket_that_is_not_there_is_named(stack, runs):
    assert stack.client.task_instance("s3", runs["s3"], "no_bucket")["state"] == "failed"
    log = stack.client.log_text("s3", runs["s3"], "no_bucket")
    assert f"It could not be written to s3://nowhere/{runs['s3']}/airflow-result-" in log
    assert "The specified bucket does not exist" in log
    assert "Check that the bucket of result_path is there" in log
