"""What is written on a cloud's cluster besides Terraform: who uses it, and until when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray_provider._compat import in_thread
from ray_provider.exceptions import RayProviderError
from ray_provider.hooks.cloud_cluster import CloudCluster
from ray_provider.infrastructure.cloud.marks import CHANGING, PREFIX, USED, Marks, Tags
from ray_provider.infrastructure.cloud.presence import Cloud, aws_in
from ray_provider.infrastructure.cloud.presence_google import Google

Say = Callable[[str], None]


def cloud_of_cluster(cluster: CloudCluster) -> Cloud:
    """Give the cloud of a cluster, with the identity that enters it. Blocking.

    :param cluster: which one, and by which connection or role.
    :raises ConfigurationError: the connection can't be used, or a package is missing.
    """
    from ray_provider.hooks.cloud import aws_session, google_credentials
    from ray_provider.infrastructure.cloud.eks import boto3_for
    from ray_provider.infrastructure.cloud.gke import GkeCluster, acting_as

    if cluster.cloud == "aws":
        role = {"assume_role": {"role_arn": cluster.role_arn}} if cluster.role_arn else {}
        session = aws_session(cluster.aws_conn_id, cluster.location) if cluster.aws_conn_id else None
        return aws_in(session or boto3_for("AWS").Session(), cluster.location, role, {})
    credentials: Any = None
    if cluster.gcp_conn_id:
        credentials = google_credentials(cluster.gcp_conn_id)[0]
    project = str(cluster.project or "")
    if cluster.impersonate:
        own = GkeCluster(cluster.name, cluster.location, project, impersonate=cluster.impersonate)
        credentials = acting_as(own, credentials)
    return Google(credentials, project)


async def record_use(identity: Any, say: Say) -> None:
    """Write down that a Ray cluster is set up on a cloud's cluster, before it is.

    A teardown that can't reach the Kubernetes API needs to know. Only a cluster that says ``used: no`` is changed.

    :param identity: of the access to Kubernetes; anything but a cloud's cluster is let be.
    :param say: gets a warning where it can't be written.
    """
    if not isinstance(identity, CloudCluster):
        return

    def record(cluster: CloudCluster) -> None:
        cloud = cloud_of_cluster(cluster)
        found = cloud.cluster(cluster.name, cluster.location)
        if found is not None and found.tags.get(USED) == "no":
            cloud.retag(found, {USED: "yes"})

    try:
        await in_thread(record, identity)
    except RayProviderError as error:
        say(
            f"WARNING: it can't be written on {identity.name} that a Ray cluster is set up there: {error.message} While"
            " the cluster says otherwise, DeleteRayInfrastructure does not insist on looking into it where it can't be"
            " reached. The identity of this task needs eks:TagResource, or container.clusters.update."
        )


def never_used(cloud: Cloud | None, name: str, location: str) -> bool | None:
    """Tell whether it is on record that no Ray cluster was ever set up on a cluster; ``None``: nothing is recorded.

    :param cloud: who is asked; ``None``: nobody can be.
    :param name: the cluster's.
    :param location: its region or zone.
    """
    found = None if cloud is None else cloud.cluster(name, location)
    marks = None if found is None else Marks.read(found.tags)
    return None if marks is None or marks.used is None else not marks.used


def renew(cloud: Cloud | None, name: str, location: str, wanted: Tags, say: Say) -> None:
    """Write the run, and until when it is needed, on a cluster that an earlier run made. Terraform does not look there.

    :param cloud: who is asked; ``None``: nobody can be, and nothing is written.
    :param name: the cluster's.
    :param location: its region or zone.
    :param wanted: the tags of this run.
    :param say: told if it can't be written.
    """
    try:
        found = None if cloud is None else cloud.cluster(name, location)
        if cloud is None or found is None:
            return
        names = [name for key in CHANGING if (name := PREFIX + key) != USED]
        changed = {key: wanted.cluster[key] for key in names if key in wanted.cluster}
        changed = {key: value for key, value in changed.items() if found.tags.get(key) != value}
        gone = [key for key in names if key in found.tags and key not in wanted.cluster]
        if changed or gone:
            cloud.retag(found, changed, gone)
    except RayProviderError as error:
        say(
            f"WARNING: it can't be written on {name} who set it up last and until when it is needed: {error.message}"
            " `ray-provider reap --infrastructure` goes by what stands there."
        )
