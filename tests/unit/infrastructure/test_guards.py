"""The state is believed only as far as the cloud agrees with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from ray_provider.exceptions import InfrastructureError
from ray_provider.infrastructure.cloud.presence import CloudClusterFacts
from ray_provider.infrastructure.errors import BackendError, PlanRefusedError, TerraformCredentialsError
from ray_provider.infrastructure.guards import guard_gone, guard_missing, guard_new_cluster
from ray_provider.infrastructure.terraform.state import StateResource, StateView

ACCOUNT = "123456789012"


@dataclass
class CloudDouble:
    """Answers as a cloud: which addresses are there, and which cluster."""

    there: dict[str, bool | None] = field(default_factory=dict)
    account: str = ACCOUNT
    found: CloudClusterFacts | None = None
    fails: bool = False

    def identity(self) -> str:
        return self.account

    def exists(self, resource: StateResource) -> bool | None:
        self._may_fail()
        return self.there.get(resource.address)

    def cluster(self, name: str, location: str) -> CloudClusterFacts | None:
        self._may_fail()
        return self.found

    def _may_fail(self) -> None:
        if self.fails:
            raise TerraformCredentialsError("the token is over")


def state(*addresses: str) -> StateView:
    arn = f"arn:aws:ec2:eu-west-1:{ACCOUNT}:vpc/v"
    return StateView(resources=tuple(StateResource(each, "aws_vpc", values={"arn": arn}) for each in addresses))


def missing(cloud: CloudDouble | None, *addresses: str, **further: Any) -> list[str]:
    return guard_missing(addresses, state(*addresses), lambda: cloud, doing="The destroy", **further)


def test_what_the_cloud_calls_gone_is_gone() -> None:
    assert missing(CloudDouble({"aws_vpc.a": False, "aws_vpc.b": False}), "aws_vpc.a", "aws_vpc.b") == [
        "aws_vpc.a",
        "aws_vpc.b",
    ]
    assert missing(CloudDouble(fails=True)) == []


def test_what_the_cloud_still_has_is_not_taken_for_deleted() -> None:
    cloud = CloudDouble({"aws_vpc.a": True, "aws_vpc.b": False, "aws_vpc.c": None})
    with pytest.raises(PlanRefusedError) as caught:
        missing(cloud, "aws_vpc.a", "aws_vpc.b", "aws_vpc.c")
    text = str(caught.value)
    assert "The destroy is refused, and nothing was changed. The refresh did not find 3 resources" in text
    assert "the cloud says that they are there: aws_vpc.a" in text
    assert "nobody says that they are gone: aws_vpc.c" in text
    assert "allow_drifted=['aws_vpc.a']" in text
    assert (caught.value.data["there"], caught.value.data["unknown"]) == (["aws_vpc.a"], ["aws_vpc.c"])


@pytest.mark.parametrize(
    ("cloud", "why"),
    [
        (None, "nobody says that they are gone: aws_vpc.a."),
        (CloudDouble(fails=True), "The cloud could not be asked: the token is over"),
        (CloudDouble({"aws_vpc.a": False}, account="999999999999"), "credentials are of the account 999999999999"),
    ],
)
def test_without_an_answer_nothing_is_given_up(cloud: CloudDouble | None, why: str) -> None:
    with pytest.raises(PlanRefusedError) as caught:
        missing(cloud, "aws_vpc.a")
    assert why in str(caught.value)
    assert caught.value.data["unknown"] == ["aws_vpc.a"]


def test_what_somebody_names_needs_no_answer() -> None:
    cloud = CloudDouble(fails=True)
    assert missing(cloud, "aws_vpc.a[0]", allow_drifted=["aws_vpc.a[0]"]) == []
    assert missing(cloud, "aws_vpc.a", "aws_vpc.b", allow_drifted=["aws_vpc.*"]) == []
    with pytest.raises(PlanRefusedError, match="did not find 1 resources"):
        missing(cloud, "aws_vpc.a", "aws_eip.b", allow_drifted=["aws_vpc.*"])


def test_a_long_list_is_cut() -> None:
    names = [f"aws_vpc.v{number:02}" for number in range(23)]
    with pytest.raises(PlanRefusedError, match="aws_vpc.v19 and 3 more"):
        missing(None, *names)
    with pytest.raises(PlanRefusedError) as caught:
        missing(None, *names[:20])
    assert "more" not in str(caught.value).partition("gone: ")[2].partition("\n")[0]


# ---------------------------------------------------------------- before and after


def cluster(endpoint: str = "https://API.example.com/", status: str = "ACTIVE") -> CloudClusterFacts:
    return CloudClusterFacts(name="c", location="eu-west-1", status=status, endpoint=endpoint, tags={})


def new(cloud: CloudDouble | None, *, name: str = "c", location: str = "eu-west-1", **further: Any) -> list[str]:
    told: list[str] = []
    guard_new_cluster(name, location, "s3://b/k", lambda: cloud, told.append, **further)
    return told


def test_a_cluster_of_that_name_is_not_made_a_second_time() -> None:
    with pytest.raises(BackendError) as caught:
        new(CloudDouble(found=cluster()))
    text = str(caught.value)
    assert "there is a cluster c in eu-west-1 already" in text
    assert "(s3://b/k) does not hold it (status ACTIVE). Nothing was made." in text
    assert (caught.value.data["field"], caught.value.data["cluster"]) == ("backend", "c")


def test_a_name_that_is_free_may_be_taken() -> None:
    there = CloudDouble(found=cluster())
    assert new(CloudDouble()) == new(None) == new(CloudDouble(found=cluster(status="DELETING"))) == []
    assert new(there, allowed=True) == new(there, name="") == new(there, location="") == []


def test_a_cloud_that_can_not_be_asked_before_is_told_of() -> None:
    [told] = new(CloudDouble(fails=True))
    assert told == ("WARNING: the cloud could not be asked whether the cluster c is there already: the token is over")


def gone(cloud: CloudDouble | None, *clusters: tuple[str, str, str]) -> list[str]:
    told: list[str] = []
    guard_gone(clusters or [("c", "eu-west-1", "https://api.example.com")], lambda: cloud, told.append)
    return told


def test_a_cluster_that_outlives_its_state_is_an_error() -> None:
    with pytest.raises(InfrastructureError) as caught:
        gone(CloudDouble(found=cluster()))
    text = str(caught.value)
    assert "The cluster c is still there and costs money" in text
    assert "still in eu-west-1 (status ACTIVE, https://API.example.com/)" in text
    assert (caught.value.data["cluster"], caught.value.data["location"]) == ("c", "eu-west-1")
    with pytest.raises(InfrastructureError):
        gone(CloudDouble(found=cluster()), ("", "", ""), ("c", "eu-west-1", "api.example.com"))


def test_what_is_gone_or_going_is_no_error() -> None:
    assert gone(CloudDouble()) == gone(None) == gone(CloudDouble(found=cluster(status="DELETING"))) == []
    assert gone(CloudDouble(found=cluster()), ("", "eu-west-1", "api.example.com"), ("c", "", "x")) == []


def test_another_cluster_of_that_name_is_not_taken_for_this_one() -> None:
    [told] = gone(CloudDouble(found=cluster("https://other")))
    assert told == "A cluster c is in eu-west-1, but not this one: it is at https://other."
    [told] = gone(CloudDouble(found=cluster("")), ("c", "eu-west-1", ""))
    assert "it is at no address yet" in told


def test_a_cloud_that_can_not_be_asked_afterwards_is_told_of_for_each() -> None:
    told = gone(CloudDouble(fails=True), ("a", "r", "x"), ("b", "r", "y"))
    assert [line.partition(",")[0] for line in told] == [
        "WARNING: the state says that a is gone",
        "WARNING: the state says that b is gone",
    ]
