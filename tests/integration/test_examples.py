"""Examples that people copy, as they are, on real Airflow components and the local backend; their data lie in a folder.

``make test`` reads them (tests/unit), and runs those of test_local_dag.py and of tests/kubernetes; these are for the night.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest

from ray_provider.testing import AirflowStack

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]

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


def test_etl_leaves_a_data_set_in_parquet(stack):
    etl = Run(stack, "ray_etl").ends()
    checked = etl.xcom("check")
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


def test_a_model_is_tuned_and_trained_and_predicts(stack):
    trained = Run(stack, "ray_train").ends()
    best = trained.xcom("tune")
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


def test_examples_refuse_what_is_not_good(stack):
    etl = Run(stack, "ray_etl", kept_at_least=0.99)
    nothing = Run(stack, "ray_batch_inference", model="file:///nowhere/model.json").ends("failed")
    assert "There is no model at file:///nowhere/model.json. Run ray_train first" in nothing.log("model")
    assert nothing.state("cluster") == "upstream_failed", "before a cluster costs anything"
    assert etl.ends("failed").state("delete") == "success"
    assert "Of 336,776 flights 327,346 are left: too few." in etl.log("check")


#: Of little use, of less, and of much, to tell how late a flight arrives.
FEW, FEWER, MANY = ["distance", "hour"], ["hour"], ["dep_delay", "distance", "hour"]


def serving(url: str) -> str:
    """The version that answers."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=60) as answer:
        return json.load(answer)["version"]


@pytest.fixture(scope="module")
def champion(stack: AirflowStack) -> Iterator[Run]:
    yield Run(stack, "ray_model_ops", columns=FEW).ends()
    Run(stack, "ray_model_ops_delete").ends()


def test_a_first_model_is_promoted_and_a_worse_one_is_not(stack, champion):
    assert champion.xcom("on_ray.compare") == {
        "challenger": champion.id,
        "challenger_error": 44.16,
        "champion": None,
        "champion_error": None,
        "better": True,
    }
    url = champion.xcom("deploy", key="ray_serve_url")
    assert serving(url) == champion.id
    worse = Run(stack, "ray_model_ops", columns=FEWER).ends()
    compared = worse.xcom("on_ray.compare")
    assert (compared["champion"], compared["champion_error"], compared["better"]) == (champion.id, 44.16, False)
    assert compared["challenger_error"] > 44.16
    assert {worse.state(task) for task in ("serving", "deploy", "promote")} == {"skipped"}
    assert serving(url) == champion.id
    registry = Path(worse.xcom("on_ray.train").removeprefix("file://")).parents[1]
    assert {path.stem for path in (registry / "versions").iterdir()} == {champion.id, worse.id}, "both are kept"
    assert json.loads((registry / "champion.json").read_text())["version"] == champion.id


def test_a_better_model_takes_the_champions_place(stack, champion):
    better = Run(stack, "ray_model_ops", columns=MANY).ends()
    compared = better.xcom("on_ray.compare")
    assert (compared["champion"], compared["champion_error"]) == (champion.id, 44.16)
    assert compared["challenger_error"] < 25
    url = champion.xcom("deploy", key="ray_serve_url")
    assert better.xcom("deploy", key="ray_serve_url") == url, "on the cluster that stays"
    assert serving(url) == better.id
    again = Run(stack, "ray_model_ops", columns=MANY).ends()
    assert again.xcom("on_ray.compare")["better"] is False, "no better than itself"
    assert serving(url) == better.id
