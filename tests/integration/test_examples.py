"""Examples that people copy, as they are, on real Airflow components and the local backend; their data lie in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest

from ray_provider.testing import AirflowStack

pytestmark = pytest.mark.timeout(1800)

FLIGHTS = 336_776


@pytest.fixture(scope="module")
def stack(shared_stack: AirflowStack) -> AirflowStack:
    return shared_stack


class Run:
    """A run of an example."""

    def __init__(self, stack: AirflowStack, dag: str, **conf: Any) -> None:
        self.client, self.dag = stack.client, dag
        self.id = self.client.trigger_run(dag, conf=conf)

    def ends(self, state: str = "success") -> Run:
        self.client.wait_run(self.dag, self.id, state=state, timeout=900)
        return self

    def xcom(self, task: str, key: str = "return_value") -> Any:
        return self.client.xcom(self.dag, self.id, task, key=key)

    def log(self, task: str) -> str:
        return self.client.log_text(self.dag, self.id, task)

    def state(self, task: str) -> str:
        return self.client.task_instance(self.dag, self.id, task)["state"]


@pytest.fixture(scope="module")
def etl(stack: AirflowStack) -> Run:
    return Run(stack, "ray_etl")


@pytest.fixture(scope="module")
def trained(stack: AirflowStack, etl: Run) -> Run:
    """Beside the other one: both wait most of their time."""
    return Run(stack, "ray_train")


@pytest.mark.usefixtures("trained")
def test_etl_leaves_a_data_set_in_parquet(etl):
    checked = etl.ends().xcom("check")
    assert checked == {"path": etl.xcom("transform"), "rows": 327_346, "dropped": FLIGHTS - 327_346}
    folder = Path(checked["path"].removeprefix("file://"))
    assert {path.name for path in folder.iterdir()} == {f"month={month}" for month in range(1, 13)}
    data = pyarrow.dataset.dataset(folder, partitioning="hive")
    flights = data.to_table(columns=["month", "arr_delay", "wind_speed"]).to_pandas()
    assert round(flights["arr_delay"].mean(), 2) == 6.9
    assert set(flights["month"]) == set(range(1, 13))
    assert flights["wind_speed"].notna().mean() > 0.99, "the weather of each flight's own hour"
    assert 5 < flights["wind_speed"].mean() < 20
    assert "is deleted" in etl.log("delete")


def test_a_model_is_tuned_and_trained_and_predicts(stack, trained):
    best = trained.ends().xcom("tune")
    assert best["trials"] == 4
    assert best["config"]["columns"] == ["dep_delay", "distance", "hour"], "what helps most"
    model = trained.xcom("train")
    assert 10 < model["error_minutes"] < 25, "without the delay at departure it is off by 40"
    run = Run(stack, "ray_batch_inference").ends()
    checked = run.xcom("check")
    assert checked["model"] == trained.id
    assert checked["median_error"] < 15
    rows = pyarrow.dataset.dataset(checked["path"].removeprefix("file://")).to_table().to_pandas()
    assert len(rows) == checked["rows"] == 27_110, "those of December that left"
    assert rows[["dep_delay", "predicted"]].corr().iloc[0, 1] > 0.9


@pytest.mark.slow  # the two before run what these refuse
def test_examples_refuse_what_is_not_good(stack):
    etl = Run(stack, "ray_etl", kept_at_least=0.99)
    nothing = Run(stack, "ray_batch_inference", model="file:///nowhere/model.json").ends("failed")
    assert "There is no model at file:///nowhere/model.json. Run ray_train first" in nothing.log("model")
    assert nothing.state("cluster") == "upstream_failed", "before a cluster costs anything"
    assert etl.ends("failed").state("delete") == "success"
    assert "Of 336,776 flights 327,346 are left: too few." in etl.log("check")
