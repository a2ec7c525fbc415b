"""RayClusterTaskGroup as a DAG's file has it: who gets which cluster, what depends on what, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator, TaskGroup, XComArg, task, task_group
from airflow.providers.standard.operators.empty import EmptyOperator

from ray_provider import cluster_of_group
from ray_provider.exceptions import ConfigurationError
from ray_provider.operators import (
    DeleteRayCluster,
    DeleteServeApplication,
    DeployServeApplication,
    RunRayJob,
    SetupRayCluster,
    SubmitRayJob,
)
from ray_provider.sensors import RayJobSensor, RayServeSensor
from ray_provider.task_groups import RayClusterTaskGroup


@pytest.fixture
def dag():
    with DAG("d", schedule=None) as made:
        yield made


def job(task_id: str, **further: Any) -> SubmitRayJob:
    return SubmitRayJob(task_id=task_id, entrypoint="true", **further)


def handle_of(operator: Any) -> str:
    """Which task's handle it runs on."""
    cluster = operator.cluster
    assert isinstance(cluster, XComArg)
    return cluster.operator.task_id


def test_the_tasks_are_between_a_setup_and_a_teardown(dag):
    with RayClusterTaskGroup(
        "train", conn_id="ours", values={"image": {"tag": "1"}}, delete_args={"timeout_seconds": 60}
    ) as cluster:
        first = job("first")
        second = job("second")
        other = EmptyOperator(task_id="other")
        first >> second
    setup, delete = dag.get_task("train.setup_cluster"), dag.get_task("train.delete_cluster")
    assert isinstance(setup, SetupRayCluster)
    assert isinstance(delete, DeleteRayCluster)
    assert (cluster.setup, cluster.delete) == (setup, delete)
    assert (setup.is_setup, delete.is_teardown) == (True, True)
    assert not delete.on_failure_fail_dagrun, "a task that failed would be forgotten with it"
    assert (setup.values, setup.conn_id, delete.conn_id, delete.timeout_seconds) == (
        {"image": {"tag": "1"}},
        "ours",
        "ours",
        60,
    )
    assert handle_of(delete) == handle_of(first) == handle_of(second) == "train.setup_cluster"
    assert {first.conn_id, second.conn_id} == {"ours"}
    assert first.names_cluster
    assert setup.downstream_task_ids == {"train.first", "train.second", "train.other", "train.delete_cluster"}
    assert delete.upstream_task_ids == {"train.second", "train.other", "train.setup_cluster"}
    assert other.upstream_task_ids == {"train.setup_cluster"}


def test_what_comes_before_and_after_the_group(dag):
    before, after = EmptyOperator(task_id="before"), EmptyOperator(task_id="after")
    with RayClusterTaskGroup("train") as cluster:
        job("fit")
    before >> cluster >> after
    assert cluster.setup.upstream_task_ids == {"before"}
    assert after.upstream_task_ids == {"train.fit"}, "nobody waits for the delete"


def test_a_task_may_name_another_cluster_or_make_its_own(dag):
    elsewhere = SetupRayCluster(task_id="elsewhere")
    with RayClusterTaskGroup("train", conn_id="ours"):
        named = job("named", cluster=elsewhere.output, conn_id="theirs")
        by_key = job("by_key", xcom_task_key="elsewhere.dashboard")
        own = job("own", ray_cluster_yaml="ray.yaml")
        served = RayServeSensor(task_id="served", application={"name": "a"})
        alone = RunRayJob(task_id="alone", entrypoint="true")

        @task.ray(ray_job=True)
        def function() -> int:
            return 1

        made = function()
    assert handle_of(named) == "elsewhere"
    assert named.conn_id == "theirs"
    assert [one.cluster for one in (by_key, own, served, alone, made.operator)] == [None] * 5
    assert not alone.names_cluster


def test_functions_sensors_and_tasks_at_any_depth_get_it(dag):
    with RayClusterTaskGroup("train", conn_id="ours") as outer:

        @task.ray
        def function() -> int:
            return 1

        made = function()
        waits = RayJobSensor(task_id="waits", submission_id="x")
        deploys = DeployServeApplication(task_id="deploys", name="a", import_path="m:a")
        serves = RayServeSensor(task_id="serves", name="a")
        drops = DeleteServeApplication(task_id="drops", name="a")
        with TaskGroup("deep"), TaskGroup("deeper"):
            deep = job("deep")

        @task_group
        def decorated():
            return job("inside")

        inside = decorated()
        with RayClusterTaskGroup("inner") as inner:
            innermost = job("innermost")
            by_name = job("by_name", cluster=outer)
    outside = job("outside", cluster=outer)
    for one in (
        made.operator,
        waits,
        deploys,
        serves,
        drops,
        deep,
        dag.get_task("train.decorated.inside"),
        by_name,
        outside,
    ):
        assert handle_of(one) == "train.setup_cluster", one
    assert {one.conn_id for one in (made.operator, waits, deploys, serves, drops, deep)} == {"ours"}
    assert outside.conn_id == "ray_default"
    assert handle_of(innermost) == "train.inner.setup_cluster"
    assert inner.setup.upstream_task_ids == {"train.setup_cluster"}
    assert "train.inner.delete_cluster" in outer.delete.upstream_task_ids
    assert inside is not None


def test_mapped_tasks_get_it_when_they_run(dag):
    with RayClusterTaskGroup("train", conn_id="ours") as cluster:
        mapped = SubmitRayJob.partial(task_id="fits").expand(entrypoint=["a", "b"])

        @task.ray
        def square(number: int) -> int:
            return number**2

        squares = square.expand(number=[1, 2])

        @task_group
        def each(number):
            return square(number)

        each.expand(number=[1, 2])
    for operator, values in ((mapped, {"entrypoint": "a"}), (squares.operator, {"op_kwargs": {"number": 1}})):
        assert "train.setup_cluster" in operator.upstream_task_ids
        assert operator.task_id in cluster.delete.upstream_task_ids
        one = operator.unmap(values)
        assert handle_of(one) == "train.setup_cluster"
        assert one.conn_id == "ours"
        assert one.names_cluster
    assert handle_of(dag.get_task("train.each.square")) == "train.setup_cluster"
    assert "train.each.square" in cluster.delete.upstream_task_ids


def test_an_instance_that_does_not_keep_its_group_is_given_it(dag):
    """Airflow 2 gives the instances of a mapped task their group, and does not keep it."""
    with RayClusterTaskGroup("train", conn_id="ours"):
        mapped = SubmitRayJob.partial(task_id="fits").expand(entrypoint=["a", "b"])
    one = mapped.unmap({"entrypoint": "a"})
    one.task_group, one.cluster, one.conn_id = None, None, "ray_default"
    assert not cluster_of_group.join(one, {}, default_conn_id="ray_default")
    assert cluster_of_group.join(one, {"task_group": mapped.task_group}, default_conn_id="ray_default")
    assert (handle_of(one), one.conn_id) == ("train.setup_cluster", "ours")


def test_clearing_a_task_clears_its_cluster_too(dag):
    """What Airflow takes along with a task that is cleared, without what comes after it."""
    with RayClusterTaskGroup("train"):
        first, _ = job("first"), job("beside")
        first >> job("second")
    found = dag.get_task("train.first").get_upstreams_only_setups_and_teardowns()
    assert {one.task_id for one in found} == {"train.setup_cluster", "train.delete_cluster"}


def test_a_configuration_that_names_another_cluster_when_it_runs_wins(dag):
    with RayClusterTaskGroup("train"):

        @task.ray(config=lambda context: {"xcom_task_key": "elsewhere.dashboard"})
        def function() -> int:
            return 1

        made = function().operator
    assert handle_of(made) == "train.setup_cluster"
    made._configure({})
    assert (made.cluster, made.xcom_task_key) == (None, "elsewhere.dashboard")


def test_arguments_of_airflows_own_groups(dag):
    with RayClusterTaskGroup(
        "train",
        tooltip="on Ray",
        default_args={"retries": 3},
        prefix_group_id=False,
        setup_args={"task_id": "up", "retries": 1},
    ) as cluster:
        fit = job("fit")
    assert cluster.tooltip == "on Ray"
    assert (fit.retries, cluster.setup.retries, cluster.delete.retries) == (3, 1, 3)
    assert (fit.task_id, cluster.setup.task_id) == ("fit", "up")


def made_of(**given: Any) -> RayClusterTaskGroup:
    with RayClusterTaskGroup("train", **given) as made:
        job("fit")
    return made


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({"profil": "cpu"}, "profil", "Is 'profile' meant?"),
        ({"retries": 2}, "retries", "setup_args or delete_args"),
        ({"cluster": {}}, "cluster", "Neither SetupRayCluster nor a TaskGroup has it"),
        ({"setup_args": {"profile": "cpu"}}, "setup_args", "holds 'profile', which the group says itself"),
        ({"delete_args": {"cluster": {}}}, "delete_args", "holds 'cluster'"),
        ({"delete_args": {"trigger_rule": "all_done"}}, "delete_args", "'trigger_rule'"),
        ({"delete_args": ["force"]}, "delete_args", "is a list"),
    ],
)
def test_what_can_not_work_is_refused_when_the_file_is_read(dag, given, field, said):
    with pytest.raises(ConfigurationError) as caught:
        made_of(**given)
    assert caught.value.data["field"] == field
    assert said in str(caught.value)
    assert "'train'" in caught.value.message
    assert not dag.tasks, "nothing of it is in the DAG"


def test_a_group_without_a_task_or_without_its_block_is_refused(dag):
    with (
        pytest.raises(ConfigurationError, match="'empty' makes a Ray cluster, and has no task"),
        RayClusterTaskGroup("empty"),
    ):
        pass
    never = RayClusterTaskGroup("never")
    with pytest.raises(ConfigurationError, match="Use it as a context"):
        job("fit", task_group=never)
    with pytest.raises(ConfigurationError, match="has no cluster yet"):
        never.delete  # noqa: B018


def test_an_error_in_the_block_passes(dag):
    with pytest.raises(ZeroDivisionError), RayClusterTaskGroup("train"):
        raise ZeroDivisionError
    assert dag.task_group.children.keys() == {"train"}
    assert isinstance(EmptyOperator(task_id="later"), BaseOperator)
    assert "later" in dag.task_group.children, "the group's block has ended"


def test_a_block_may_be_opened_again(dag):
    with RayClusterTaskGroup("train") as cluster:
        first = job("first")
    with cluster:
        second = job("second")
    assert handle_of(second) == "train.setup_cluster"
    assert {first.task_id, second.task_id} < cluster.delete.upstream_task_ids
    assert len(dag.tasks) == 4
