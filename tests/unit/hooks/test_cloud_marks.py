"""What is written on a cloud's cluster besides Terraform, and what is read from it."""

from __future__ import annotations

from typing import Any

import pytest

from ray_provider.hooks import cloud, cloud_marks
from ray_provider.hooks.cloud_cluster import CloudCluster
from ray_provider.hooks.cloud_marks import cloud_of_cluster, never_used, record_use, renew
from ray_provider.infrastructure.cloud.marks import Tags
from ray_provider.infrastructure.cloud.presence import CloudClusterFacts
from ray_provider.infrastructure.errors import TerraformCredentialsError

NAME = {"airflow-ray-name": "c", "airflow-ray-state-type": "s3"}


class CloudDouble:
    """A cloud with one cluster, or none, that keeps how it was changed."""

    def __init__(self, tags: dict[str, str] | None = None, *, fails: bool = False) -> None:
        self.tags, self.fails = tags, fails
        self.changed: list[tuple[dict[str, str], list[str]]] = []
        self.asked: list[tuple[str, str]] = []

    def cluster(self, name: str, location: str) -> CloudClusterFacts | None:
        self.asked.append((name, location))
        if self.fails:
            raise TerraformCredentialsError("the token is over.")
        return None if self.tags is None else CloudClusterFacts(name, location, tags=self.tags)

    def retag(self, _: Any, tags: dict[str, str], remove: Any = ()) -> None:
        self.changed.append((dict(tags), list(remove)))


def aws(**further: Any) -> CloudCluster:
    return CloudCluster(**{"cloud": "aws", "name": "c", "location": "r", **further})


@pytest.mark.parametrize(
    ("tags", "changed"),
    [
        ({**NAME, "airflow-ray-used": "no"}, [({"airflow-ray-used": "yes"}, [])]),
        ({**NAME, "airflow-ray-used": "yes"}, []),
        (NAME, []),
        (None, []),
    ],
)
async def test_the_first_use_is_written_on_the_cluster(
    monkeypatch: pytest.MonkeyPatch, tags: Any, changed: Any
) -> None:
    double, said = CloudDouble(tags), []
    monkeypatch.setattr(cloud_marks, "cloud_of_cluster", lambda _: double)
    await record_use(aws(), said.append)
    assert (double.changed, double.asked, said) == (changed, [("c", "r")], [])


async def test_what_can_not_be_written_is_told_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(cloud_marks, "cloud_of_cluster", lambda _: CloudDouble(fails=True))
    await record_use(aws(), said.append)
    [line] = said
    assert line.startswith("WARNING: it can't be written on c that a Ray cluster is set up there: the token is over.")
    assert "eks:TagResource" in line


async def test_another_kubernetes_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_marks, "cloud_of_cluster", lambda _: pytest.fail("it is asked"))
    for identity in (None, "a kubeconfig"):
        await record_use(identity, pytest.fail)


@pytest.mark.parametrize(
    ("double", "answer"),
    [
        (None, None),
        (CloudDouble(None), None),
        (CloudDouble({}), None),
        (CloudDouble(NAME), None),
        (CloudDouble({**NAME, "airflow-ray-used": "no"}), True),
        (CloudDouble({**NAME, "airflow-ray-used": "yes"}), False),
    ],
)
def test_whether_it_was_ever_used(double: Any, answer: bool | None) -> None:
    assert never_used(double, "c", "r") is answer


WANTED = Tags({}, {**NAME, "airflow-ray-run": "run-2", "airflow-ray-expires": "later", "airflow-ray-used": "no"})


def renewed(double: CloudDouble | None, wanted: Tags = WANTED) -> list[str]:
    said: list[str] = []
    renew(double, "c", "r", wanted, said.append)  # type: ignore[arg-type]
    return said


def test_the_last_run_and_its_end_are_written() -> None:
    double = CloudDouble({**NAME, "airflow-ray-run": "run-1", "airflow-ray-used": "yes"})
    assert renewed(double) == []
    [(tags, gone)] = double.changed
    assert (tags, gone) == ({"airflow-ray-run": "run-2", "airflow-ray-expires": "later"}, [])


def test_an_end_that_is_wanted_no_more_goes() -> None:
    double = CloudDouble({**NAME, "airflow-ray-run": "run-2", "airflow-ray-expires": "soon", "other": "x"})
    renewed(double, Tags({}, {**NAME, "airflow-ray-run": "run-2"}))
    assert double.changed == [({}, ["airflow-ray-expires"])]


def test_what_stands_there_already_is_not_written_again() -> None:
    same = {"airflow-ray-run": "run-2", "airflow-ray-expires": "later"}
    for double in (CloudDouble({**NAME, **same}), CloudDouble(None)):
        assert renewed(double) == []
        assert double.changed == []
    assert renewed(None) == []


def test_what_could_not_be_renewed_is_told() -> None:
    [line] = renewed(CloudDouble(fails=True))
    assert line.startswith(
        "WARNING: it can't be written on c who set it up last and until when it is needed: the token"
    )
    assert "`ray-provider reap --infrastructure` goes by what stands there." in line


def test_the_cloud_of_a_cluster_is_asked_as_who_enters_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(cloud_marks, "aws_in", lambda *given: asked.append(given) or "aws")
    monkeypatch.setattr(cloud, "aws_session", lambda conn_id, region: f"session of {conn_id} in {region}")
    assert cloud_of_cluster(aws(aws_conn_id="a", role_arn="arn:r")) == "aws"
    assert asked == [("session of a in r", "r", {"assume_role": {"role_arn": "arn:r"}}, {})]
    cloud_of_cluster(aws())
    assert asked[1][2] == {}
    assert "session of" not in str(asked[1][0])
