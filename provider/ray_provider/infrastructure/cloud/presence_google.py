"""What is there on Google Cloud, as far as GKE goes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from ray_provider.infrastructure.cloud.presence import CloudClusterFacts
from ray_provider.infrastructure.errors import TerraformCredentialsError
from ray_provider.infrastructure.terraform.state import StateResource


class Google:
    """Google Cloud, as far as GKE goes.

    :param credentials: google-auth credentials; ``None`` for the application default ones.
    :param project: the project.
    """

    def __init__(self, credentials: Any, project: str) -> None:
        self._credentials = credentials
        self._project = project

    def identity(self) -> str:
        """Give the project: it stands in every name, so that nothing else can be meant."""
        return self._project

    def cluster(self, name: str, location: str) -> CloudClusterFacts | None:
        """Describe a GKE cluster.

        :param name: the cluster's.
        :param location: its region or zone.
        """
        found = self._ask("get_cluster", name=f"projects/{self._project}/locations/{location}/clusters/{name}")
        return None if found is None else self._facts(found)

    def clusters(self) -> list[CloudClusterFacts]:
        """Describe the GKE clusters of the project, wherever they are."""
        found = self._ask("list_clusters", parent=f"projects/{self._project}/locations/-")
        return [self._facts(item) for item in (found.clusters if found is not None else ())]

    def retag(self, cluster: CloudClusterFacts, tags: Mapping[str, str], remove: Collection[str] = ()) -> None:
        """Change labels of a GKE cluster. Refused by the cloud if somebody else changed them since they were read.

        :param cluster: as it was described last.
        :param tags: labels to be set.
        :param remove: keys to be removed. Default: none.
        :raises TerraformCredentialsError: the cluster is gone, or the cloud refuses it.
        """
        labels = {key: value for key, value in {**cluster.tags, **tags}.items() if key not in remove}
        name = f"projects/{self._project}/locations/{cluster.location}/clusters/{cluster.name}"
        request = {"name": name, "resource_labels": labels, "label_fingerprint": cluster.reference}
        if self._ask("set_labels", request=request) is None:
            raise TerraformCredentialsError(
                f"The cluster {cluster.name} is not there any more.", operation="set_labels"
            )

    def networks(self) -> list[tuple[str, Mapping[str, str]]]:
        """Give none: networks have no labels there."""
        return []

    def exists(self, resource: StateResource) -> bool | None:
        """Tell whether a resource is there.

        :param resource: as the state names it.
        """
        if resource.account not in {None, self._project}:
            return None
        if resource.type == "google_container_cluster":
            return self.cluster(resource.text("name"), resource.text("location")) is not None
        if resource.type == "google_container_node_pool":
            cluster = resource.text("cluster").rpartition("/")[2]
            path = f"projects/{self._project}/locations/{resource.text('location')}/clusters/{cluster}"
            return self._ask("get_node_pool", name=f"{path}/nodePools/{resource.text('name')}") is not None
        return None

    @staticmethod
    def _facts(found: Any) -> CloudClusterFacts:
        return CloudClusterFacts(
            name=str(found.name),
            location=str(found.location),
            status=found.status.name,
            endpoint=str(found.endpoint or ""),
            tags=dict(found.resource_labels),
            created=_google_time(found.create_time),
            reference=str(found.label_fingerprint or ""),
        )

    def _ask(self, operation: str, **arguments: Any) -> Any:
        from google.api_core.exceptions import GoogleAPICallError, NotFound
        from google.auth.exceptions import GoogleAuthError

        from ray_provider.infrastructure.cloud.gke import container_client

        try:
            with container_client(self._credentials) as client:
                return getattr(client, operation)(**arguments, timeout=60.0)
        except NotFound:
            return None
        except (GoogleAPICallError, GoogleAuthError) as error:
            raise TerraformCredentialsError(
                f"Google Cloud can't be asked ({operation} in {self._project}): {str(error)[:500]}",
                hint="The identity needs the role roles/container.admin, as for making the cluster. Give it by"
                " `gcp_conn_id`, by the worker's workload identity, or by GOOGLE_APPLICATION_CREDENTIALS.",
                operation=operation,
            ) from error


def _google_time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
