"""Infrastructure that says itself whose it is and until when: the real AWS provider against an emulated AWS."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ray_provider import cli, infrastructure_reaper
from ray_provider.hooks.cloud_cluster import CloudCluster
from ray_provider.hooks.cloud_marks import record_use
from ray_provider.infrastructure.cloud.marks import Marks, owner_tags, run_tags, state_tags
from ray_provider.operators import DeleteRayInfrastructure, SetupRayInfrastructure
from ray_provider.sensors import InfrastructureDriftSensor
from tests.infrastructure.lab.aws_server import AwsServer
from tests.infrastructure.test_operators import Ti
from tests.infrastructure.test_place import BUCKET, HERE, TAGGED, THERE, aws, backend, clusters, given, worker
from tests.support.terraform import need_terraform

__all__ = ["aws", "worker"]


def context(run: str) -> dict[str, Any]:
    return {"ti": Ti(), "run_id": run}


def tags_of(aws: AwsServer, name: str) -> dict[str, str]:
    found: dict[str, str] = aws.client("eks").describe_cluster(name=name)["cluster"]["tags"]
    return found


def marks_of(aws: AwsServer, name: str) -> Marks:
    found = Marks.read(tags_of(aws, name))
    assert found is not None
    return found


async def test_a_second_run_changes_nothing_renews_the_end_and_keeps_that_it_is_used(
    aws: AwsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = given(tmp_path, "twice", TAGGED, variables={"name": "twice", "tags": {"team": "x"}})
    first = datetime.now(tz=UTC)
    handle = SetupRayInfrastructure(**arguments, ttl="1h").execute(context("run 1"))
    made = marks_of(aws, "twice")
    assert made.expires is not None
    assert first < made.expires < first + timedelta(hours=1, minutes=5)
    assert made.is_of("run", "run 1")
    assert made.is_of("task", "twice")
    assert made.used is False
    assert made.backend["key"] == "twice/terraform.tfstate"
    assert made.workspace is None
    role = {tag["Key"]: tag["Value"] for tag in aws.client("iam").get_role(RoleName="twice-role")["Role"]["Tags"]}
    assert role["team"] == "x"
    assert role["airflow-ray-name"] == "twice"
    assert not {"airflow-ray-run", "airflow-ray-expires"} & set(role)
    assert handle["variables"] == arguments["variables"]

    told: list[str] = []
    await record_use(CloudCluster("aws", "twice", HERE), told.append)
    assert (told, marks_of(aws, "twice").used) == ([], True)
    capsys.readouterr()

    # Another run, and another task, a longer time: it stays whose it was.
    again = {**arguments, "task_id": "other"}
    SetupRayInfrastructure(**again, ttl=timedelta(hours=9)).execute(context("run 2"))
    said = capsys.readouterr().out
    assert "Plan: 0 to create, 0 to change, 0 to replace" in said
    assert "Nothing is to be changed." in said
    renewed = marks_of(aws, "twice")
    assert renewed.is_of("run", "run 2")
    assert renewed.is_of("task", "twice")
    assert renewed.expires is not None
    assert renewed.expires > made.expires + timedelta(hours=7)
    assert renewed.used is True
    assert tags_of(aws, "twice")["team"] == "x"

    # Its API server can't be reached, and a Ray cluster was set up on it. (For one that was not: test_place.)
    delete = DeleteRayInfrastructure(**arguments, confirm="twice")
    with pytest.raises(Exception, match=r"(?s)a Ray cluster was set up on it.*live_clusters=\"ignore\""):
        delete.execute(context("run 3"))
    assert clusters(aws, HERE) == ["twice"]
    aws.client("eks").delete_cluster(name="twice")


#: That a second run finds nothing to change is in the row above, and which marks are written in unit tests.
@pytest.mark.slow
def test_what_is_renewed_is_no_drift_and_an_end_can_be_taken_away(aws: AwsServer, tmp_path: Path) -> None:
    arguments = given(tmp_path, "endless", TAGGED)
    SetupRayInfrastructure(**arguments, ttl="1h").execute(context("run 1"))
    sensor = InfrastructureDriftSensor(**{**arguments, "task_id": "s"})
    assert sensor.poke(context("run 2")).is_done is False
    SetupRayInfrastructure(**arguments).execute(context("run 3"))
    assert marks_of(aws, "endless").expires is None
    aws.client("eks").delete_cluster(name="endless")


def orphan(aws: AwsServer, name: str, *, ends: float | None = -1, airflow: str = "", **more: Any) -> None:
    """Make a cluster with tags, as a set-up leaves it behind; and its state, if it is to have one."""
    place = more.get("backend") or {**backend(name), "region": HERE}
    expires = None if ends is None else datetime.now(tz=UTC) + timedelta(hours=ends)
    tags = {
        **owner_tags({"airflow": airflow, "dag": "train", "task": "infrastructure"}, name),
        **state_tags(more.get("module", "eks"), place, None),
        **run_tags("run 1", expires, "1.0.0"),
    }
    eks = aws.client("eks")
    made = eks.create_cluster(
        name=name,
        roleArn="arn:aws:iam::123456789012:role/x",
        resourcesVpcConfig={"subnetIds": ["a", "b"]},
        tags={} if more.get("untagged") else tags,
    )["cluster"]
    holds = more.get("holds", name)
    if holds is None:
        return

    def resource(kind: str, provider: str, attributes: dict[str, Any], **instance: Any) -> dict[str, Any]:
        instances = [{"schema_version": 0, "attributes": attributes, **instance}]
        return {
            "mode": "managed",
            "type": kind,
            "name": "this",
            "provider": f'provider["{provider}"]',
            "instances": instances,
        }

    cluster = {"name": holds, "arn": made["arn"].replace(name, holds), "endpoint": made["endpoint"]}
    guard = resource(
        "terraform_data", "terraform.io/builtin/terraform", {"id": "1", "input": {"value": True, "type": "bool"}}
    )
    state = {
        "version": 4,
        "terraform_version": "1.9.0",
        "serial": 1,
        "lineage": "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed",
        "outputs": {},
        "resources": [
            resource("aws_eks_cluster", "registry.terraform.io/hashicorp/aws", cluster, **more.get("instance", {})),
            *([{**guard, "name": "deletion_guard"}] if more.get("protected") else []),
        ],
    }
    aws.client("s3").put_object(Bucket=BUCKET, Key=f"{name}/terraform.tfstate", Body=json.dumps(state).encode())


def test_twelve_orphans(aws: AwsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    here = "https://airflow.example.com"
    for name, more in {
        "made": {},
        "half-made": {"instance": {"status": "tainted"}},
        "needed": {"ends": 3},
        "no-end": {"ends": None},
        "running": {},
        "another-airflow": {"airflow": "https://other.example.com"},
        "protected": {"protected": True},
        "state-gone": {"holds": None},
        "state-of-another": {"holds": "somebody"},
        "own-module": {"module": "/opt/module", "holds": None},
        "http-backend": {"backend": {"type": "http", "address": "https://states"}, "holds": None},
        "not-ours": {"untagged": True, "holds": None},
    }.items():
        orphan(aws, name, **{"airflow": here, **more})
    place = infrastructure_reaper.Place("aws", HERE, terraform_binary=str(need_terraform().path))
    found, _ = infrastructure_reaper.survey([place])
    runs = infrastructure_reaper.Runs(here)
    now = datetime.now(tz=UTC)
    verdicts = {}
    for one in found:
        states = {("train", "run 1"): "running"} if one.cluster.name == "running" else {}
        told = infrastructure_reaper.Runs(runs.name, states)
        verdicts[one.cluster.name] = infrastructure_reaper.check(infrastructure_reaper.judge(one, told, None, now))
    for name, delete, reason in (
        ("made", True, "1 resources"),
        ("half-made", True, "1 resources"),
        ("needed", False, "it is needed for another 2h"),
        ("no-end", False, "it has no end"),
        ("running", False, "the run that set it up is running"),
        ("another-airflow", False, "it belongs to another Airflow (https://other.example.com)"),
        ("protected", False, "it is protected"),
        ("state-gone", False, "does not hold it"),
        ("state-of-another", False, "does not hold it"),
        ("own-module", False, "is not bundled"),
        ("http-backend", False, "a backend of the type http"),
    ):
        verdict = verdicts.pop(name)
        assert (verdict.delete, reason in verdict.reason) == (delete, True), f"{name}: {verdict.reason}"
    assert verdicts == {}
    eks = aws.client("eks")
    for name in eks.list_clusters()["clusters"]:
        eks.delete_cluster(name=name)


@pytest.mark.slow
def test_the_bundled_module_is_reaped_by_its_tags_alone(
    aws: AwsServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ``airflow db clean``, on another machine: no handle, no run."""
    arguments = {
        "task_id": "infrastructure",
        "module": "eks",
        "variables": {"name": "ray", "availability_zones": [f"{THERE}a", f"{THERE}b"], "log_drain_seconds": 0},
        "providers": {"aws": {"region": THERE}},
        "backend": backend("reaped"),
        "workspace": "blue",
        "terraform_binary": str(need_terraform().path),
    }
    SetupRayInfrastructure(**arguments, ttl="2h").execute(context("run 1"))
    capsys.readouterr()
    SetupRayInfrastructure(**arguments, ttl="4h").execute(context("run 2"))
    assert "Nothing is to be changed." in capsys.readouterr().out
    monkeypatch.setattr(infrastructure_reaper, "ask_airflow", lambda found: infrastructure_reaper.Runs())
    command = ["reap", "--infrastructure", "--region", THERE, "--terraform-binary", arguments["terraform_binary"]]
    assert cli.main([*command, "--delete"]) == 0
    assert "it is needed for another 3h" in capsys.readouterr().out
    assert clusters(aws, THERE) == ["ray"]

    import boto3

    eks = boto3.client("eks", endpoint_url=aws.url, region_name=THERE)
    arn = eks.describe_cluster(name="ray")["cluster"]["arn"]
    ended = run_tags("run 2", datetime.now(tz=UTC) - timedelta(hours=1), "1.0.0")
    eks.tag_resource(resourceArn=arn, tags=ended)
    assert cli.main(command) == 0
    assert "1 of 1 would be deleted" in capsys.readouterr().out
    assert clusters(aws, THERE) == ["ray"]
    assert cli.main([*command, "--delete"]) == 0
    assert "1 of 1 deleted." in capsys.readouterr().out
    assert clusters(aws, THERE) == []
    assert cli.main(command) == 0
    assert f"No task's infrastructure is in {THERE}." in capsys.readouterr().out
