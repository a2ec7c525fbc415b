"""The code in the documentation, and the examples that need nothing but Ray, are DAGs that Airflow can read."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
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
    "name", ["ray_taskflow", "ray_large_result", "ray_job_of_its_own", "ray_serve", "ray_service", "ray_shared_cluster"]
)
def test_the_examples_are_dags(name):
    found = runpy.run_path(str(ROOT / "examples" / "dags" / f"{name}.py"), init_globals={}, run_name=name)
    assert isinstance(found[name](), DAG)
