"""Asks a cloud whether what a state names is there. A state says what Terraform believes; the cloud sends the bill."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.cloud.marks import PREFIX
from ray_provider.infrastructure.errors import TerraformCredentialsError
from ray_provider.infrastructure.terraform.state import StateResource


@dataclass(frozen=True, slots=True)
class CloudClusterFacts:
    """A cluster of Kubernetes, as its cloud describes it.

    :param name: of the cluster.
    :param location: its region or zone.
    :param status: in the cloud's words.
    :param endpoint: URL of the API server; empty before it has one.
    :param tags: its tags, or labels.
    :param created: when it was made.
    :param reference: by which its tags are changed: an ARN, or the fingerprint of its labels.
    """

    name: str
    location: str
    status: str = ""
    endpoint: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    created: datetime | None = None
    reference: str = ""

    @property
    def going(self) -> bool:
        """Whether its deletion is under way."""
        return self.status in {"DELETING", "STOPPING"}


class Cloud(Protocol):
    """One account or project of a cloud."""

    def identity(self) -> str:
        """Give the account or project that the credentials are of."""

    def cluster(self, name: str, location: str) -> CloudClusterFacts | None:
        """Describe a cluster; ``None`` if the cloud says that there is none.

        :param name: the cluster's.
        :param location: its region or zone.
        """

    def exists(self, resource: StateResource) -> bool | None:
        """Tell whether a resource is there; ``None`` if nobody here knows how to ask for that type.

        :param resource: as the state names it.
        """

    def clusters(self) -> list[CloudClusterFacts]:
        """Describe all clusters of this region or project."""

    def retag(self, cluster: CloudClusterFacts, tags: Mapping[str, str], remove: Collection[str] = ()) -> None:
        """Change tags of a cluster; the others stay.

        :param cluster: as it was described last.
        :param tags: to be set.
        :param remove: keys to be removed. Default: none.
        """

    def networks(self) -> list[tuple[str, Mapping[str, str]]]:
        """Give id and tags of each network that a set-up of this package made, where the cloud marks networks."""


class Aws:
    """AWS.

    :param session: a boto3 session.
    :param region: for what does not say its own.
    :param endpoints: other addresses, by service.
    """

    def __init__(self, session: Any, region: str, endpoints: Mapping[str, str] | None = None) -> None:
        self._session = session
        self._region = region
        self._endpoints = dict(endpoints or {})
        self._clients: dict[tuple[str, str], Any] = {}

    def identity(self) -> str:
        """Give the account's number."""
        return str(self._call("sts", self._region, "get_caller_identity")["Account"])

    def cluster(self, name: str, location: str) -> CloudClusterFacts | None:
        """Describe an EKS cluster.

        :param name: the cluster's.
        :param location: its region.
        """
        found = self._find("eks", location, "describe_cluster", name=name)
        return None if found is None else self._facts(found["cluster"], location)

    def clusters(self) -> list[CloudClusterFacts]:
        """Describe the EKS clusters of the region."""
        names: list[str] = []
        token: dict[str, str] = {}
        while True:
            answer = self._call("eks", self._region, "list_clusters", **token)
            names += answer["clusters"]
            if not answer.get("nextToken"):
                break
            token = {"nextToken": answer["nextToken"]}
        return [found for name in names if (found := self.cluster(name, self._region)) is not None]

    def retag(self, cluster: CloudClusterFacts, tags: Mapping[str, str], remove: Collection[str] = ()) -> None:
        """Change tags of an EKS cluster.

        :param cluster: as it was described last.
        :param tags: to be set.
        :param remove: keys to be removed. Default: none.
        """
        if tags:
            self._call("eks", cluster.location, "tag_resource", resourceArn=cluster.reference, tags=dict(tags))
        if remove:
            self._call("eks", cluster.location, "untag_resource", resourceArn=cluster.reference, tagKeys=list(remove))

    def networks(self) -> list[tuple[str, Mapping[str, str]]]:
        """Give id and tags of each network that a set-up of this package made."""
        ours = [{"Name": "tag-key", "Values": [f"{PREFIX}name"]}]
        found = self._call("ec2", self._region, "describe_vpcs", Filters=ours)["Vpcs"]
        return [(str(item["VpcId"]), {tag["Key"]: tag["Value"] for tag in item.get("Tags", ())}) for item in found]

    def exists(self, resource: StateResource) -> bool | None:
        """Tell whether a resource is there.

        :param resource: as the state names it.
        """
        region = resource.region or self._region
        ask = _AWS.get(resource.type)
        if ask is not None:
            service, operation, arguments, still_there = ask
            given = arguments(resource)
            if given is None:
                return None
            answer = self._find(service, region, operation, **given)
            return answer is not None and still_there(answer)
        for attribute, parent in (
            ("cluster_name", "aws_eks_cluster"),
            ("bucket", "aws_s3_bucket"),
            ("role", "aws_iam_role"),
        ):
            # What lies in something else is gone with it.
            if resource.text(attribute) and resource.type.startswith(parent.rpartition("_")[0]):
                name = {"name": resource.text(attribute), "bucket": resource.text(attribute)}
                inside = StateResource(resource.address, parent, values={**name, "region": region, "arn": ""})
                return False if self.exists(inside) is False else None
        return None

    @staticmethod
    def _facts(found: Mapping[str, Any], location: str) -> CloudClusterFacts:
        return CloudClusterFacts(
            name=str(found["name"]),
            location=location,
            status=str(found.get("status") or ""),
            endpoint=str(found.get("endpoint") or ""),
            tags=dict(found.get("tags") or {}),
            created=found.get("createdAt"),
            reference=str(found.get("arn") or ""),
        )

    def _find(self, service: str, region: str, operation: str, **arguments: Any) -> Any:
        """Ask for one thing; ``None`` if it is not there."""
        from botocore.exceptions import ClientError

        try:
            return self._client(service, region, operation)(**arguments)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if "NotFound" in code or "NoSuch" in code or code == "404":
                return None
            raise self._refused(operation, region, str(error)) from error
        except Exception as error:
            # botocore, and whatever the session gets its credentials from: no common base. It is told as it is.
            raise self._refused(operation, region, f"{type(error).__name__}: {error}") from error

    def _call(self, service: str, region: str, operation: str, **arguments: Any) -> Any:
        answer = self._find(service, region, operation, **arguments)
        if answer is None:
            raise self._refused(operation, region, "there is no such thing")
        return answer

    def _client(self, service: str, region: str, operation: str) -> Callable[..., Any]:
        key = (service, region)
        if key not in self._clients:
            endpoint = self._endpoints.get(service) or self._endpoints.get("")
            self._clients[key] = self._session.client(
                service, region_name=region, **({"endpoint_url": endpoint} if endpoint else {})
            )
        found: Callable[..., Any] = getattr(self._clients[key], operation)
        return found

    @staticmethod
    def _refused(operation: str, region: str, why: str) -> TerraformCredentialsError:
        return TerraformCredentialsError(
            f"AWS can't be asked ({operation} in {region}): {why[:500]}",
            hint="The identity that runs Terraform has to be allowed to describe what it makes: give it by"
            " `aws_conn_id`,"
            " by the worker's role, or by the usual AWS variables.",
            operation=operation,
            region=region,
        )


def aws_in(session: Any, region: str, provider: Any, env: Mapping[str, str]) -> Aws:
    """Give AWS as Terraform's provider sees it: in its role, at its addresses.

    :param session: whose identity.
    :param region: where.
    :param provider: the provider's configuration.
    :param env: of the run.
    """
    config = provider if isinstance(provider, Mapping) else {}
    roles = config.get("assume_role") or ()
    for role in [roles] if isinstance(roles, Mapping) else roles:
        if role.get("role_arn"):
            from ray_provider.infrastructure.cloud.eks import assume_role

            session = assume_role(session, str(role["role_arn"]), region=region, external_id=role.get("external_id"))
    endpoints: dict[str, str] = {}
    if env.get("AWS_ENDPOINT_URL"):
        endpoints[""] = env["AWS_ENDPOINT_URL"]
    given = config.get("endpoints") or ()
    for item in [given] if isinstance(given, Mapping) else given:
        endpoints |= {str(name): str(value) for name, value in item.items() if value}
    return Aws(session, region, endpoints)


_Arguments = Callable[[StateResource], "dict[str, Any] | None"]


def _id_list(name: str, attribute: str = "id") -> _Arguments:
    return lambda item: {name: [item.text(attribute)]} if item.text(attribute) else None


def _named(name: str, attribute: str = "name") -> _Arguments:
    return lambda item: {name: item.text(attribute)} if item.text(attribute) else None


def _node_group(item: StateResource) -> dict[str, Any] | None:
    names = {"clusterName": item.text("cluster_name"), "nodegroupName": item.text("node_group_name")}
    return names if all(names.values()) else None


def _always(_: Any) -> bool:
    return True


#: How AWS is asked for a type: service, operation, its arguments, and whether the answer says that it is there.
_AWS: dict[str, tuple[str, str, _Arguments, Callable[[Any], bool]]] = {
    "aws_eks_cluster": ("eks", "describe_cluster", _named("name"), _always),
    "aws_eks_node_group": ("eks", "describe_nodegroup", _node_group, _always),
    "aws_nat_gateway": (
        "ec2",
        "describe_nat_gateways",
        _id_list("NatGatewayIds"),
        lambda answer: any(item["State"] != "deleted" for item in answer["NatGateways"]),
    ),
    "aws_eip": ("ec2", "describe_addresses", _id_list("AllocationIds"), lambda answer: bool(answer["Addresses"])),
    "aws_vpc": ("ec2", "describe_vpcs", _id_list("VpcIds"), _always),
    "aws_subnet": ("ec2", "describe_subnets", _id_list("SubnetIds"), _always),
    "aws_internet_gateway": ("ec2", "describe_internet_gateways", _id_list("InternetGatewayIds"), _always),
    "aws_route_table": ("ec2", "describe_route_tables", _id_list("RouteTableIds"), _always),
    "aws_security_group": ("ec2", "describe_security_groups", _id_list("GroupIds"), _always),
    "aws_launch_template": ("ec2", "describe_launch_templates", _id_list("LaunchTemplateIds"), _always),
    "aws_autoscaling_group": (
        "autoscaling",
        "describe_auto_scaling_groups",
        _id_list("AutoScalingGroupNames", "name"),
        lambda answer: bool(answer["AutoScalingGroups"]),
    ),
    "aws_s3_bucket": ("s3", "head_bucket", _named("Bucket", "bucket"), _always),
    "aws_iam_role": ("iam", "get_role", _named("RoleName"), _always),
    "aws_kms_key": (
        "kms",
        "describe_key",
        _named("KeyId", "key_id"),
        lambda answer: answer["KeyMetadata"]["KeyState"] not in {"PendingDeletion", "PendingReplicaDeletion"},
    ),
    "aws_cloudwatch_log_group": (
        "logs",
        "describe_log_groups",
        _named("logGroupNamePrefix"),
        lambda answer: bool(answer["logGroups"]),
    ),
}


def require_identity(cloud: Cloud, accounts: tuple[str, ...]) -> None:
    """Refuse an answer of another account, which has nothing of all this.

    :param cloud: who is asked.
    :param accounts: those that may answer; empty if none is known.
    :raises ConfigurationError: the credentials are of another account or project than the state.
    """
    if not accounts:
        return
    own = cloud.identity()
    if own not in accounts:
        raise ConfigurationError(
            f"The credentials are of the account {own}, and the state's resources of {', '.join(accounts)}: they"
            " can't be found with them. Nothing was changed.",
            hint="Give the task the credentials with which it was made (`aws_conn_id`, `gcp_conn_id`, `providers`).",
            field="credentials",
            wanted=list(accounts),
            account=own,
        )
