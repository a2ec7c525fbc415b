"""The place of a new version beside the one that has the traffic: taken by one deploy at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ray_provider.clusters.kubernetes.client import Json, Kube
from ray_provider.clusters.naming import describe_owner, same_owner
from ray_provider.clusters.rayservice.blue_green.traffic import (
    VERSION,
    Traffic,
    check_name,
    found_again,
    look,
    make,
    version_of,
    write,
)
from ray_provider.exceptions import ClusterError, ConfigurationError


class Place:
    """Where one deploy puts its version.

    :param kube: the Kubernetes.
    :param traffic: who has the traffic, as it was when the deploy began.
    :param labels: that say whose our Service is.
    """

    def __init__(self, kube: Kube, traffic: Traffic, labels: Mapping[str, str]) -> None:
        self._kube, self._labels = kube, labels
        self.traffic = traffic
        #: The RayService that is to be it.
        self.name = traffic.other
        self.version = ""
        self._taken = False

    @classmethod
    async def find(
        cls, kube: Kube, namespace: str, name: str, owner: Mapping[str, Any], labels: Mapping[str, str]
    ) -> Place:
        """Look who has the traffic. Changes nothing.

        :param kube: the API.
        :param namespace: in which it is.
        :param name: of our Service.
        :param owner: whose it has to be.
        :param labels: that say whose our Service is.
        :return: the place.
        :raises ConfigurationError: it is another's.
        :raises ClusterError: it is being deleted.
        """
        check_name(name)
        traffic = await look(kube, namespace, name)
        if traffic is not None:
            theirs = traffic.document["metadata"].get("labels")
            if not same_owner(theirs, owner):
                raise ConfigurationError(
                    f"The Service {namespace}/{name} is there, and is not this task's: it is {describe_owner(theirs)}.",
                    hint="Give this one another name; it belongs to one task of one DAG, over all of its runs.",
                    namespace=namespace,
                    name=name,
                    cause="not ours",
                )
            if traffic.ending:
                raise ClusterError(
                    f"{namespace}/{name} is being deleted.",
                    hint="DeleteRayService ends it; a retry of this task then makes it anew.",
                    namespace=namespace,
                    name=name,
                    cause="race",
                )
        return cls(kube, traffic or await found_again(kube, namespace, name), labels)

    def holds(self, service: Json, beside: Iterable[Json]) -> bool:
        """Give a version its mark. Tells whether the very same has the traffic: then that one is meant.

        :param service: the RayService as it would be made here; it is changed.
        :param beside: what goes beside it.
        """
        text = json.dumps([service["spec"], list(beside)], sort_keys=True)
        for name in self.traffic.names:
            text = text.replace(name, self.traffic.name)
        self.version = hashlib.sha256(text.encode()).hexdigest()[:16]
        service["metadata"]["annotations"] = {**(service["metadata"].get("annotations") or {}), VERSION: self.version}
        if self.version != self.traffic.version or self.name == self.traffic.active:
            return False
        self.name = self.traffic.active
        return True

    def is_free(self, there: Json | None) -> bool:
        """Whether the version has to be made: nothing is in its place, or another version.

        :param there: the RayService that is there.
        """
        return there is None or version_of(there) != self.version

    async def take(self) -> None:
        """Write down that the place is this deploy's. What was in it can't be promoted any more.

        :raises ClusterError: another deploy has taken it since, or what is in it was promoted.
        :raises KubernetesError: somebody else was quicker (409).
        """
        before = self.traffic
        now = await look(self._kube, before.namespace, before.name)
        if now is None:
            wanted = replace(before, other_version=self.version, other_is="candidate")
            await make(self._kube, wanted, self._labels)
        elif now.ending or now.active != before.active:
            raise ClusterError(
                f"{before.namespace}/{before.name}: the traffic was moved by somebody else while this deploy began. "
                "Nothing was changed.",
                hint="A retry of the task puts the version beside the one that has it now.",
                cause="race",
            )
        elif self._taken and now.other_version != self.version:
            raise ClusterError(
                f"{before.namespace}/{before.name}: a later deploy has taken the place of this one.",
                hint="max_active_runs=1 has one at a time.",
                cause="race",
            )
        else:
            await write(self._kube, replace(now, other_version=self.version, other_is="candidate"))
        self._taken = True
