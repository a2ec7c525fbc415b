"""Functions on Ray clusters on Kubernetes, by real Airflow components: the predecessor's forms, and ``@task.ray``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kubernetes.airflow.dag_runs import left
from tests.support.kubernetes import OPERATOR_NAMESPACE, Kubernetes

pytestmark = pytest.mark.timeout(1200)


def test_a_function_with_a_cluster_of_its_own(kubernetes, place, stack):
    """``@ray.task(config=…)`` with ``ray_cluster_yaml``, as the predecessor's examples have it."""
    dag = "peer_taskflow"
    run = stack.client.trigger_run(dag)
    stack.client.wait_run(dag, run, state="success", timeout=300)
    found = stack.client.xcom(dag, run, "process_data_with_ray")
    assert found == {"squares": [1, 4, 9, 16], "beside": ["1", "2", "3"]}
    assert stack.client.xcom(dag, run, "use") == 33
    assert left(kubernetes, place) == []


@pytest.mark.slow  # test_mission_clouds.py: set-up and delete; tests/integration runs this form
def test_a_script_and_a_function_between_setup_and_teardown(kubernetes, place, stack):
    dag = "peer_setup_teardown"
    run = stack.client.trigger_run(dag)
    stack.client.wait_run(dag, run, state="success", timeout=300)
    assert "sum of squares: 14" in stack.client.log_text(dag, run, "SubmitRayJob")
    assert stack.client.xcom(dag, run, "on_the_same_cluster") == {"sum": 42, "cpus": 2}
    assert left(kubernetes, place) == []


@pytest.mark.slow  # tests/integration has the carriers on one node; the first one has a function on Kubernetes
def test_carriers_on_two_nodes(kubernetes, place, stack):
    """Real data from a task, functions on head and worker, mapped; an error; all is set up and deleted by workers."""
    dag = "carriers"
    run = stack.client.trigger_run(dag)
    stack.client.wait_run(dag, run, timeout=300)
    client = stack.client
    states = {each["task_id"]: each["state"] for each in client.task_instances(dag, run) if each["map_index"] < 0}
    assert states.pop("raises") == "failed"
    assert set(states.values()) == {"success"}, states
    assert "is ready: Ray 2.60.0, head and 1 worker" in client.log_text(dag, run, "cluster")
    fitted = client.xcom(dag, run, "fit")
    assert fitted["nodes"] == 2
    assert 5 < fitted["error_minutes"] < 60
    found = [client.xcom(dag, run, "summarise", map_index=index) for index in range(2)]
    assert [each["carrier"] for each in found] == ["UA", "EV"]
    assert all(each["flights"] > 100 for each in found)
    log = client.log_text(dag, run, "raises")
    assert "return rows[0] / nothing" in log
    assert "ZeroDivisionError" in log
    assert "Nothing is left of Ray cluster" in client.log_text(dag, run, "delete")
    assert left(kubernetes, place) == []


@pytest.fixture
def two_processors(kubernetes: Kubernetes) -> Iterator[None]:
    """Leave both processors of a small node to the pods of Ray: KubeRay's operator requests some of them, too."""
    operator = ("deployment/kuberay-operator", "-n", OPERATOR_NAMESPACE)
    requested = kubernetes.kubectl(
        "get", *operator, "-o", "jsonpath={.spec.template.spec.containers[0].resources.requests.cpu}"
    )
    for cpu in ("0", requested):
        kubernetes.kubectl("set", "resources", *operator, f"--requests=cpu={cpu}")
        kubernetes.kubectl("rollout", "status", *operator, "--timeout=300s")
        if cpu == "0":
            yield


@pytest.mark.slow
@pytest.mark.usefixtures("two_processors")
def test_a_function_that_has_a_connection_and_nothing_else(kubernetes, place, stack):
    """A first function: no cluster is named, no manifest given. The task makes one by the chart, and deletes it."""
    dag = "alone"
    run = stack.client.trigger_run(dag)
    stack.client.wait_run(dag, run, state="success", timeout=300)
    found = stack.client.xcom(dag, run, "squares")
    assert found["squares"] == [1, 4, 9]
    assert found["nodes"] >= 1
    assert stack.client.xcom(dag, run, "use") == 14
    log = stack.client.log_text(dag, run, "squares")
    assert (
        "Nothing names a Ray cluster: the task makes one for itself on Kubernetes, and deletes it when it ends." in log
    )
    assert "Nothing is left of Ray cluster" in log
    assert left(kubernetes, place) == []
