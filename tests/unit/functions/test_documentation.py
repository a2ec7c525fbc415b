"""The code in the documentation, and the examples that need nothing but Ray, are DAGs that Airflow can read."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml
from airflow.sdk import DAG

ROOT = Path(__file__).parents[3]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "functions.md").read_text(), re.DOTALL)


def test_the_first_block_is_a_whole_dag(tmp_path):
    path = tmp_path / "documented.py"
    path.write_text(BLOCKS[0].replace("\ndelays()", "\nmade = delays()"))
    dag = runpy.run_path(str(path))["made"]
    assert dag.task_dict.keys() == {"extract", "fit", "report"}
    assert dag.task_dict["fit"].upstream_task_ids == {"extract"}


def test_the_other_blocks_compile():
    for block in BLOCKS[1:]:
        compile(block, "docs/functions.md", "exec")


@pytest.mark.parametrize(
    "name",
    [
        "ray_taskflow",
        "ray_etl",
        "ray_train",
        "ray_batch_inference",
        "ray_model_ops",
        "ray_nightly_gpus",
        "ray_large_result",
        "ray_job_of_its_own",
        "ray_serve",
        "ray_service",
        "ray_service_approval",
        "ray_shared_cluster",
    ],
)
def test_the_examples_are_dags(name):
    found = runpy.run_path(str(ROOT / "examples" / "dags" / f"{name}.py"), init_globals={}, run_name=name)
    assert isinstance(found[name](), DAG)


def test_the_example_with_a_gate_moves_no_traffic_before_a_person_has_said_so():
    found = runpy.run_path(str(ROOT / "examples" / "dags" / "ray_service_approval.py"), run_name="approval")
    dag = found["ray_service_approval"]()
    deploy, approve, promote, take_down = (
        dag.task_dict[name] for name in ("deploy", "approve", "promote", "take_down")
    )
    assert (deploy.strategy, deploy.promote) == ("blue_green", False)
    assert (approve.upstream_task_ids, promote.upstream_task_ids - {"deploy"}) == ({"deploy"}, {"approve"})
    assert approve.defaults == ["Reject"], "nobody answers"
    # A rejection skips what comes right after the gate, and this is what is left to be done then.
    assert "take_down" not in approve.downstream_task_ids
    assert (take_down.trigger_rule, take_down.upstream_task_ids) == ("all_skipped", {"promote"})


def test_the_nightly_pool_fits_the_queue_that_its_documentation_has_made():
    """tests/kueue/test_example.py has a Kueue admit it."""
    found = runpy.run_path(str(ROOT / "examples" / "dags" / "ray_nightly_gpus.py"), run_name="nightly")
    pool = found["ray_nightly_gpus"]().task_dict["pool"]
    (text,) = re.findall(r"```yaml\n(.*?)```", found["__doc__"], re.DOTALL)
    objects = {one["kind"]: one for one in yaml.safe_load_all(text)}
    names = {kind: one["metadata"]["name"] for kind, one in objects.items()}
    assert (pool.local_queue, pool.priority_class) == (names["LocalQueue"], names["WorkloadPriorityClass"])
    (resources,) = objects["ClusterQueue"]["spec"]["resourceGroups"]
    quota = {one["name"]: one["nominalQuota"] for one in resources["flavors"][0]["resources"]}
    assert list(quota) == resources["coveredResources"]
    profile = yaml.safe_load((ROOT / "helm" / "profiles" / f"{pool.profile}.yaml").read_text())
    group = {**profile["additionalWorkerGroups"]["gpu"], **pool.values["additionalWorkerGroups"]["gpu"]}
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"], "a queue admits no cluster that grows"
    wanted = group["resources"]["limits"]
    assert group["replicas"] * int(wanted["nvidia.com/gpu"]) == int(quota["nvidia.com/gpu"])
    assert group["replicas"] * int(wanted["cpu"]) < int(quota["cpu"]), "and the head"
