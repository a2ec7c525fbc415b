"""What AWS is asked about a state's resources, and what its answers mean."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
from botocore import xform_name
from botocore.exceptions import ClientError, EndpointConnectionError

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.cloud import gke
from ray_provider.infrastructure.cloud.presence import Aws, CloudClusterFacts, aws_in, require_identity
from ray_provider.infrastructure.cloud.presence_google import Google
from ray_provider.infrastructure.errors import TerraformCredentialsError
from ray_provider.infrastructure.terraform.state import StateResource


@cache
def parameters_of(service: str) -> dict[str, set[str]]:
    """What each operation of a service takes, by AWS's own description of it."""
    model = botocore.session.get_session().get_service_model(service)
    operations = map(model.operation_model, model.operation_names)
    return {xform_name(one.name): set(one.input_shape.members if one.input_shape else ()) for one in operations}


class Session:
    """Stands for boto3's: keeps what was asked, and answers (or raises) by operation."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.made: list[dict[str, Any]] = []

    def client(self, service: str, **options: Any) -> Any:
        self.made.append({"service": service, **options})

        def operation(name: str) -> Any:
            def ask(**arguments: Any) -> Any:
                assert set(arguments) <= parameters_of(service)[name]
                self.asked.append((service, name, arguments))
                answer = self.answers.get(name, {})
                answer = answer.pop(0) if isinstance(answer, list) else answer
                if isinstance(answer, Exception):
                    raise answer
                return answer

            return ask

        return type("Client", (), {"__getattr__": lambda _, name: operation(name)})()


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "planted message"}}, "operation")


def resource(kind: str, **values: Any) -> StateResource:
    return StateResource(f"{kind}.x", kind, values=values)


ASKED = [
    ("aws_eks_cluster", {"name": "c"}, "eks", "describe_cluster", {"name": "c"}),
    (
        "aws_eks_node_group",
        {"cluster_name": "c", "node_group_name": "g"},
        "eks",
        "describe_nodegroup",
        {"clusterName": "c", "nodegroupName": "g"},
    ),
    ("aws_vpc", {"id": "v"}, "ec2", "describe_vpcs", {"VpcIds": ["v"]}),
    ("aws_subnet", {"id": "s"}, "ec2", "describe_subnets", {"SubnetIds": ["s"]}),
    ("aws_internet_gateway", {"id": "i"}, "ec2", "describe_internet_gateways", {"InternetGatewayIds": ["i"]}),
    ("aws_route_table", {"id": "r"}, "ec2", "describe_route_tables", {"RouteTableIds": ["r"]}),
    ("aws_security_group", {"id": "g"}, "ec2", "describe_security_groups", {"GroupIds": ["g"]}),
    ("aws_launch_template", {"id": "l"}, "ec2", "describe_launch_templates", {"LaunchTemplateIds": ["l"]}),
    ("aws_s3_bucket", {"bucket": "b"}, "s3", "head_bucket", {"Bucket": "b"}),
    ("aws_iam_role", {"name": "r"}, "iam", "get_role", {"RoleName": "r"}),
]


@pytest.mark.parametrize(("kind", "values", "service", "operation", "arguments"), ASKED)
def test_a_resource_is_asked_for_by_its_own_call(
    kind: str, values: dict[str, Any], service: str, operation: str, arguments: dict[str, Any]
) -> None:
    session = Session()
    assert Aws(session, "eu-west-1").exists(resource(kind, **values)) is True
    assert session.asked == [(service, operation, arguments)]
    assert session.made == [{"service": service, "region_name": "eu-west-1"}]
    for code in ("ResourceNotFoundException", "InvalidVpcID.NotFound", "NoSuchEntity", "404"):
        assert Aws(Session(**{operation: refused(code)}), "r").exists(resource(kind, **values)) is False
    nameless = Session()
    assert Aws(nameless, "r").exists(resource(kind)) is None
    assert nameless.asked == []


@pytest.mark.parametrize(
    ("kind", "values", "operation", "there", "gone"),
    [
        (
            "aws_nat_gateway",
            {"id": "n"},
            "describe_nat_gateways",
            {"NatGateways": [{"State": "deleted"}, {"State": "deleting"}]},
            {"NatGateways": [{"State": "deleted"}]},
        ),
        ("aws_eip", {"id": "e"}, "describe_addresses", {"Addresses": [{}]}, {"Addresses": []}),
        (
            "aws_autoscaling_group",
            {"name": "a"},
            "describe_auto_scaling_groups",
            {"AutoScalingGroups": [{}]},
            {"AutoScalingGroups": []},
        ),
        (
            "aws_kms_key",
            {"key_id": "k"},
            "describe_key",
            {"KeyMetadata": {"KeyState": "Enabled"}},
            {"KeyMetadata": {"KeyState": "PendingDeletion"}},
        ),
        (
            "aws_kms_key",
            {"key_id": "k"},
            "describe_key",
            {"KeyMetadata": {"KeyState": "Disabled"}},
            {"KeyMetadata": {"KeyState": "PendingReplicaDeletion"}},
        ),
        ("aws_cloudwatch_log_group", {"name": "l"}, "describe_log_groups", {"logGroups": [{}]}, {"logGroups": []}),
    ],
)
def test_an_answer_may_say_that_it_is_gone(
    kind: str, values: dict[str, Any], operation: str, there: dict[str, Any], gone: dict[str, Any]
) -> None:
    assert Aws(Session(**{operation: there}), "r").exists(resource(kind, **values)) is True
    assert Aws(Session(**{operation: gone}), "r").exists(resource(kind, **values)) is False


@pytest.mark.parametrize(
    ("kind", "attribute", "operation"),
    [
        ("aws_eks_addon", "cluster_name", "describe_cluster"),
        ("aws_s3_bucket_policy", "bucket", "head_bucket"),
        ("aws_iam_role_policy_attachment", "role", "get_role"),
    ],
)
def test_what_lies_in_something_is_gone_with_it(kind: str, attribute: str, operation: str) -> None:
    inside = resource(kind, **{attribute: "x"})
    there = Session()
    assert Aws(there, "r").exists(inside) is None, "the one may be there without the other"
    gone = Session(**{operation: refused("NoSuchThing")})
    assert Aws(gone, "r").exists(inside) is False
    assert Aws(Session(), "r").exists(resource("aws_sqs_queue", **{attribute: "x"})) is None


def test_each_is_asked_for_where_it_is() -> None:
    session = Session()
    arn = "arn:aws:ec2:us-east-1:123456789012:vpc/v"
    cloud = Aws(session, "eu-west-1")
    cloud.exists(resource("aws_vpc", id="v", arn=arn))
    cloud.exists(resource("aws_vpc", id="w", arn=arn))
    assert session.made == [{"service": "ec2", "region_name": "us-east-1"}], "one client for both"


def test_an_error_is_no_answer() -> None:
    for error in (refused("AccessDenied"), EndpointConnectionError(endpoint_url="http://x")):
        with pytest.raises(TerraformCredentialsError, match=r"AWS can't be asked \(describe_vpcs in r\)") as caught:
            Aws(Session(describe_vpcs=error), "r").exists(resource("aws_vpc", id="v"))
        assert (caught.value.data["operation"], caught.value.data["region"]) == ("describe_vpcs", "r")


MADE = datetime(2026, 1, 1, tzinfo=UTC)
EKS = {
    "name": "c",
    "status": "DELETING",
    "endpoint": "https://api",
    "tags": {"a": "b"},
    "createdAt": MADE,
    "arn": "arn:c",
}


def test_a_cluster_as_eks_describes_it() -> None:
    found = Aws(Session(describe_cluster={"cluster": EKS}), "r").cluster("c", "eu-west-1")
    assert found == CloudClusterFacts("c", "eu-west-1", "DELETING", "https://api", {"a": "b"}, MADE, "arn:c")
    assert found.going
    assert not CloudClusterFacts("c", "r", "ACTIVE").going
    assert CloudClusterFacts("c", "r", "STOPPING").going
    assert Aws(Session(describe_cluster={"cluster": {"name": "c"}}), "r").cluster("c", "r") == CloudClusterFacts(
        "c", "r"
    )
    assert Aws(Session(describe_cluster=refused("ResourceNotFoundException")), "r").cluster("c", "r") is None


def test_all_pages_of_clusters_are_read_and_those_that_went_meanwhile_left_out() -> None:
    session = Session(
        list_clusters=[{"clusters": ["a", "b"], "nextToken": "2"}, {"clusters": ["c"]}],
        describe_cluster=[{"cluster": {"name": "a"}}, refused("ResourceNotFound"), {"cluster": {"name": "c"}}],
    )
    assert [each.name for each in Aws(session, "r").clusters()] == ["a", "c"]
    assert [arguments for _, name, arguments in session.asked if name == "list_clusters"] == [{}, {"nextToken": "2"}]


def test_tags_are_changed_and_taken_away() -> None:
    session = Session()
    cluster = CloudClusterFacts("c", "r", reference="arn:c")
    cloud = Aws(session, "other")
    cloud.retag(cluster, {"a": "b"})
    cloud.retag(cluster, {}, ["z"])
    cloud.retag(cluster, {})
    assert session.asked == [
        ("eks", "tag_resource", {"resourceArn": "arn:c", "tags": {"a": "b"}}),
        ("eks", "untag_resource", {"resourceArn": "arn:c", "tagKeys": ["z"]}),
    ]
    assert session.made[0]["region_name"] == "r"


def test_networks_of_this_package_and_the_account() -> None:
    vpcs = {"Vpcs": [{"VpcId": "v", "Tags": [{"Key": "a", "Value": "b"}]}, {"VpcId": "w"}]}
    session = Session(describe_vpcs=vpcs, get_caller_identity={"Account": 123})
    assert Aws(session, "r").networks() == [("v", {"a": "b"}), ("w", {})]
    assert session.asked[0][2] == {"Filters": [{"Name": "tag-key", "Values": ["airflow-ray-name"]}]}
    assert Aws(session, "r").identity() == "123"
    with pytest.raises(TerraformCredentialsError, match="there is no such thing"):
        Aws(Session(get_caller_identity=refused("404")), "r").identity()


def test_other_addresses_are_taken_by_service() -> None:
    session = Session(describe_cluster={"cluster": EKS})
    env = {"AWS_ENDPOINT_URL": "http://all"}
    config = {"endpoints": [{"ec2": "http://ec2", "eks": ""}]}
    cloud = aws_in(session, "r", config, env)
    cloud.cluster("c", "r")
    cloud.exists(resource("aws_vpc", id="v"))
    assert [made.get("endpoint_url") for made in session.made] == ["http://all", "http://ec2"]
    plain = Session(describe_cluster={"cluster": EKS})
    aws_in(plain, "r", [{"endpoints": {"eks": "http://x"}}], {}).cluster("c", "r")
    assert plain.made == [{"service": "eks", "region_name": "r"}]


def test_another_account_has_nothing_of_a_state() -> None:
    cloud = Aws(Session(get_caller_identity={"Account": "1"}), "r")
    require_identity(cloud, ())
    require_identity(cloud, ("2", "1"))
    with pytest.raises(ConfigurationError, match="of the account 1, and the state's resources of 2, 3") as caught:
        require_identity(cloud, ("2", "3"))
    assert (caught.value.data["wanted"], caught.value.data["account"]) == (["2", "3"], "1")


# ---------------------------------------------------------------- Google Cloud


class Container:
    """Stands for Google's container API."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.asked = answers, []

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __getattr__(self, operation: str) -> Any:
        def ask(**arguments: Any) -> Any:
            self.asked.append((operation, arguments))
            answer = self.answers.get(operation, SimpleNamespace())
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(**answers: Any) -> tuple[Google, Container]:
        client = Container(**answers)
        monkeypatch.setattr(gke, "container_client", lambda credentials: client)
        return Google("credentials", "p"), client

    return make


GKE = SimpleNamespace(
    name="c",
    location="europe-west4",
    status=SimpleNamespace(name="STOPPING"),
    endpoint="10.0.0.1",
    resource_labels={"a": "b", "z": "y"},
    create_time="2026-01-01T00:00:00+00:00",
    label_fingerprint="f",
)


def test_clusters_as_gke_describes_them(google: Any) -> None:
    cloud, client = google(get_cluster=GKE, list_clusters=SimpleNamespace(clusters=[GKE]))
    wanted = CloudClusterFacts("c", "europe-west4", "STOPPING", "10.0.0.1", {"a": "b", "z": "y"}, MADE, "f")
    assert cloud.cluster("c", "l") == wanted
    assert cloud.clusters() == [wanted]
    assert client.asked == [
        ("get_cluster", {"name": "projects/p/locations/l/clusters/c", "timeout": 60.0}),
        ("list_clusters", {"parent": "projects/p/locations/-", "timeout": 60.0}),
    ]
    assert (cloud.identity(), cloud.networks()) == ("p", [])
    late = SimpleNamespace(**{**vars(GKE), "create_time": "soon", "endpoint": None})
    found = google(get_cluster=late)[0].cluster("c", "l")
    assert (found.created, found.endpoint) == (None, "")


def test_what_gke_does_not_find_is_gone(google: Any) -> None:
    from google.api_core.exceptions import NotFound, PermissionDenied

    cluster = resource("google_container_cluster", name="c", location="l")
    pool = resource("google_container_node_pool", name="n", location="l", cluster="projects/p/x/clusters/c")
    cloud, client = google()
    assert cloud.exists(pool) is True
    assert client.asked[0][1]["name"] == "projects/p/locations/l/clusters/c/nodePools/n"
    gone = google(get_cluster=NotFound("x"), get_node_pool=NotFound("x"), list_clusters=NotFound("x"))[0]
    assert gone.exists(cluster) is False
    assert gone.exists(pool) is False
    assert gone.clusters() == []
    assert gone.exists(resource("google_compute_network", name="n")) is None
    assert gone.exists(resource("google_container_cluster", name="c", project="other")) is None
    with pytest.raises(TerraformCredentialsError, match=r"can't be asked \(get_cluster in p\)"):
        google(get_cluster=PermissionDenied("no"))[0].cluster("c", "l")


def test_labels_are_changed_only_as_they_were_read(google: Any) -> None:
    from google.api_core.exceptions import NotFound

    cluster = CloudClusterFacts("c", "l", tags={"a": "b", "z": "y"}, reference="f")
    cloud, client = google()
    cloud.retag(cluster, {"n": "1"}, ["z"])
    assert client.asked[0][1]["request"] == {
        "name": "projects/p/locations/l/clusters/c",
        "resource_labels": {"a": "b", "n": "1"},
        "label_fingerprint": "f",
    }
    with pytest.raises(TerraformCredentialsError, match="is not there any more") as caught:
        google(set_labels=NotFound("x"))[0].retag(cluster, {})
    assert caught.value.data["operation"] == "set_labels"
