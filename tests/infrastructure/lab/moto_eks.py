"""What moto's EKS lacks of the API that the AWS provider uses, so that a second plan finds nothing to do.

``install()`` changes moto in this process: run it in a process of its own (``aws_server``).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlparse

Response = tuple[int, dict[str, str], str]


def _answer(status: int, body: dict[str, Any], **headers: str) -> Response:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(body)


def _not_found(what: str) -> Response:
    return _answer(404, {"message": f"No {what} found"}, **{"x-amzn-ErrorType": "ResourceNotFoundException"})


def _path(full_url: str) -> list[str]:
    """Split the path of a request; an ARN in it arrives with its slashes escaped, once or twice."""
    return unquote(unquote(urlparse(full_url).path)).strip("/").split("/")


class Collection:
    """One kind of thing that belongs to a cluster: created, described, listed, updated and deleted by its id."""

    def __init__(
        self,
        key: str,
        plural: str,
        id_of: Callable[[dict[str, Any]], str],
        fill: Callable[[str, str, dict[str, Any]], dict[str, Any]],
        ids: str,
    ) -> None:
        self.key, self.plural, self.id_of, self.fill, self.ids = key, plural, id_of, fill, ids
        self.items: dict[tuple[str, str], dict[str, Any]] = {}

    def handle(self, request: Any, full_url: str, headers: Any) -> Response:
        parts = _path(full_url)
        cluster, rest = parts[1], "/".join(parts[3:])
        now = time.time()
        body = json.loads(request.get_data() or b"{}") if request.method in ("POST", "PUT") else {}
        if not rest:
            if request.method == "GET":
                return _answer(
                    200,
                    {self.plural: [self._listed(item) for (owner, _), item in self.items.items() if owner == cluster]},
                )
            name = self.id_of(body)
            item = {**body, "clusterName": cluster, "createdAt": now, "modifiedAt": now, "tags": body.get("tags") or {}}
            item.update(self.fill(cluster, name, body))
            self.items[cluster, name] = item
            return _answer(200, {self.key: item})
        name = rest.removesuffix("/update") if request.method == "POST" else rest
        item = self.items.get((cluster, name))
        if item is None:
            return _not_found(self.key)
        if request.method == "DELETE":
            del self.items[cluster, name]
            return _answer(200, {self.key: item})
        if request.method == "POST":
            item.update({**body, "modifiedAt": now})
            if rest.endswith("/update"):
                return _answer(
                    200,
                    {
                        "update": {
                            "id": str(uuid.uuid4()),
                            "status": "Successful",
                            "type": "AddonUpdate",
                            "createdAt": now,
                            "params": [],
                            "errors": [],
                        }
                    },
                )
        return _answer(200, {self.key: item})

    def _listed(self, item: dict[str, Any]) -> Any:
        return item if self.ids == "" else item[self.ids]


def _policies() -> Callable[[Any, str, Any], Response]:
    """Access policies of access entries: they hang below an ARN, which has slashes of its own."""
    store: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}

    def handle(request: Any, full_url: str, headers: Any) -> Response:
        parts = _path(full_url)
        at = parts.index("access-policies")
        cluster, principal, policy = parts[1], "/".join(parts[3:at]), "/".join(parts[at + 1 :])
        policies = store.setdefault((cluster, principal), {})
        if request.method == "POST":
            body, now = json.loads(request.get_data()), time.time()
            entry = {
                "policyArn": body["policyArn"],
                "accessScope": body.get("accessScope"),
                "associatedAt": now,
                "modifiedAt": now,
            }
            policies[body["policyArn"]] = entry
            return _answer(200, {"clusterName": cluster, "principalArn": principal, "associatedAccessPolicy": entry})
        if request.method == "DELETE":
            policies.pop(policy, None)
            return _answer(200, {})
        return _answer(
            200,
            {"clusterName": cluster, "principalArn": principal, "associatedAccessPolicies": list(policies.values())},
        )

    return handle


def _update(request: Any, full_url: str, headers: Any) -> Response:
    """Every update of this AWS is done at once."""
    return _answer(
        200,
        {
            "update": {
                "id": _path(full_url)[-1],
                "status": "Successful",
                "type": "ConfigUpdate",
                "createdAt": time.time(),
                "params": [],
                "errors": [],
            }
        },
    )


def _fill_addon(cluster: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "addonArn": f"arn:aws:eks:us-east-1:123456789012:addon/{cluster}/{name}/{uuid.uuid4()}",
        "addonVersion": body.get("addonVersion") or "v1.0.0-eksbuild.1",
        "status": "ACTIVE",
        "health": {"issues": []},
    }


def _fill_entry(cluster: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "accessEntryArn": f"arn:aws:eks:us-east-1:123456789012:access-entry/{cluster}/{uuid.uuid4()}",
        "type": body.get("type") or "STANDARD",
        "username": body.get("username") or body["principalArn"],
        "kubernetesGroups": body.get("kubernetesGroups") or [],
    }


def _fill_association(cluster: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "associationId": name,
        "associationArn": f"arn:aws:eks:us-east-1:123456789012:podidentityassociation/{cluster}/{name}",
    }


def _node_groups(models: Any, responses: Any) -> None:
    """Node groups name an Auto Scaling group: let there be one, without machines, that takes tags.

    And they keep from the beginning how they are repaired.
    """
    from moto.autoscaling.models import autoscaling_backends

    create, delete = models.EKSBackend.create_nodegroup, models.EKSBackend.delete_nodegroup

    def name_of(group: Any) -> str:
        return str(group.resources["autoScalingGroups"][0]["name"])

    def create_nodegroup(self: Any, *given: Any, **named: Any) -> Any:
        group = create(self, *given, **named)
        autoscaling_backends[self.account_id][self.region_name].autoscaling_groups[name_of(group)] = SimpleNamespace(
            tags=[]
        )
        return group

    def delete_nodegroup(self: Any, *given: Any, **named: Any) -> Any:
        group = delete(self, *given, **named)
        autoscaling_backends[self.account_id][self.region_name].autoscaling_groups.pop(name_of(group), None)
        return group

    answer_to_create = responses.EKSResponse.create_nodegroup

    def answer(self: Any) -> Any:
        told = answer_to_create(self)
        group = self.eks_backend.describe_nodegroup(
            cluster_name=self._get_param("name"), nodegroup_name=self._get_param("nodegroupName")
        )
        group.node_repair_config = self._get_param("nodeRepairConfig")
        return told

    responses.EKSResponse.create_nodegroup = answer
    models.EKSBackend.create_nodegroup, models.EKSBackend.delete_nodegroup = create_nodegroup, delete_nodegroup


def install(*, endpoint: str | None = None, ca_data: str | None = None) -> None:
    """Change moto.

    :param endpoint: the Kubernetes API's address that every new cluster gets (default moto's invention).
    :param ca_data: its CA, base64-encoded PEM.
    """
    import moto.ec2.models.launch_templates as templates
    import moto.eks.models as models
    import moto.eks.responses as responses
    import moto.eks.urls as urls

    # The tags of a launch template itself are none of what it launches; moto lists them there.
    create_version = templates.LaunchTemplate.create_version

    def without_own_tags(self: Any, data: dict[str, Any], description: str) -> Any:
        if "TagSpecifications" in data:
            kept = [item for item in data["TagSpecifications"] if item.get("ResourceType") != "launch-template"]
            data = {**data, "TagSpecifications": kept}
        return create_version(self, data, description)

    templates.LaunchTemplate.create_version = without_own_tags

    # A node group without remote access must not come back with one.
    models.DEFAULT_REMOTE_ACCESS = None
    create_cluster = responses.EKSResponse.create_cluster

    def create(self: Any) -> Any:
        answer = create_cluster(self)
        cluster = self.eks_backend.clusters[self._get_param("name")]
        access = self._get_param("accessConfig") or {}
        cluster.access_config = {
            "authenticationMode": access.get("authenticationMode", "CONFIG_MAP"),
            "bootstrapClusterCreatorAdminPermissions": access.get("bootstrapClusterCreatorAdminPermissions", True),
        }
        cluster.upgrade_policy = self._get_param("upgradePolicy") or {"supportType": "EXTENDED"}
        cluster.resources_vpc_config = {
            **cluster.resources_vpc_config,
            "clusterSecurityGroupId": f"sg-{uuid.uuid4().hex[:17]}",
            "vpcId": f"vpc-{uuid.uuid4().hex[:17]}",
        }
        for parameter, attribute in (("computeConfig", "compute_config"), ("storageConfig", "storage_config")):
            if self._get_param(parameter):
                setattr(cluster, attribute, self._get_param(parameter))
        if endpoint:
            cluster.endpoint = endpoint
        if ca_data:
            cluster.certificate_authority = {"data": ca_data}
        return answer

    responses.EKSResponse.create_cluster = create

    _node_groups(models, responses)

    addons = Collection("addon", "addons", lambda body: body["addonName"], _fill_addon, "addonName")
    entries = Collection("accessEntry", "accessEntries", lambda body: body["principalArn"], _fill_entry, "principalArn")
    associations = Collection(
        "association", "associations", lambda body: f"a-{uuid.uuid4().hex[:17]}", _fill_association, ""
    )
    policies = _policies()
    cluster = "{0}/clusters/(?P<name>[^/]+)"
    urls.url_paths.update(
        {
            f"{cluster}/updates/(?P<update>[^/]+)$": _update,
            f"{cluster}/addons$": addons.handle,
            f"{cluster}/addons/(?P<addon>[^/]+)$": addons.handle,
            f"{cluster}/addons/(?P<addon>[^/]+)/update$": addons.handle,
            f"{cluster}/access-entries$": entries.handle,
            f"{cluster}/access-entries/(?P<principal>.+)/access-policies$": policies,
            f"{cluster}/access-entries/(?P<principal>.+)/access-policies/(?P<policy>.+)$": policies,
            f"{cluster}/access-entries/(?P<principal>.+)$": entries.handle,
            f"{cluster}/pod-identity-associations$": associations.handle,
            f"{cluster}/pod-identity-associations/(?P<association>[^/]+)$": associations.handle,
        }
    )
