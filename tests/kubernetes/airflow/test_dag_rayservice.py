"""A service by the example's DAG: deployed by its first run, updated by the next one, asked by a task, deleted by a task."""

from __future__ import annotations

import pytest

from tests.kubernetes.airflow.dag_runs import left
from tests.support.kubernetes import until

pytestmark = pytest.mark.timeout(1200)


def test_the_example_deploys_a_model_updates_it_and_deletes_it(kubernetes, place, stack):
    client, handles = stack.client, []
    for number in (1, 2):
        run = client.trigger_run("ray_service", run_id=f"model-{number}")
        client.wait_run("ray_service", run, state="success", timeout=600)
        handle = client.xcom("ray_service", run, "deploy")
        handles.append(handle)
        assert client.xcom("ray_service", run, "deploy", key="ray_serve_url") == handle["url"]
        # Another task asks it, with what the provider's Role allows.
        flight = {"dep_delay": 60, "distance": 1000, "hour": 18}
        asked = client.trigger_run("ask_service", conf={"url": handle["url"], "send": flight})
        client.wait_run("ask_service", asked, state="success", timeout=300)
        answer = client.xcom("ask_service", asked, "ask")
        assert answer["version"] == run
        assert 40 < answer["minutes"] < 65, "what the task in the other cluster has fitted"
    first, second = handles
    assert first["cluster"] == second["cluster"], "updated in place"
    logs = [client.log_text("ray_service", f"model-{number}", "deploy") for number in (1, 2)]
    assert f"Making RayService {place}/delay." in logs[0]
    assert "The applications change: Serve updates them in place" in logs[1]
    for log in logs:
        assert "in the triggerer" in log
        assert "The smoke test of 'delay' passed" in log
        assert f"RayService {place}/delay answers at {first['url']}" in log
    gone = client.trigger_run("ray_service_delete")
    client.wait_run("ray_service_delete", gone, state="success", timeout=300)
    assert client.xcom("ray_service_delete", gone, "delete") is True
    assert not kubernetes.exists("rayservices", "-n", place)
    until(lambda: not left(kubernetes, place), 300, "the end of all")
