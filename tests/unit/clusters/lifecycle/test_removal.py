"""What is still there of a cluster that was deleted is waited for, and named in the end."""

from __future__ import annotations

import pytest

from ray_provider.clusters.kubernetes.client import open_kube, path_of
from ray_provider.clusters.lifecycle.removal import wait_gone
from ray_provider.exceptions import ClusterTimeoutError
from tests.support.kubernetes_api import running

SECRETS = path_of("secrets", "n")
OF_HELM = {"metadata": {"labels": {"owner": "helm", "name": "release"}}}


async def test_the_secrets_of_its_release_have_to_go_too_where_it_has_one():
    async with running() as (server, access), open_kube(access) as kube:
        server.selects.add(SECRETS)
        await server.put(SECRETS, "sh.helm.release.v1.release.v1", OF_HELM)
        await wait_gone(kube, "n", "c", None, 0.3)
        await wait_gone(kube, "n", "c", "another", 0.3)
        with pytest.raises(
            ClusterTimeoutError, match=r"There remain: Helm release Secret sh\.helm\.release\.v1\.release"
        ):
            await wait_gone(kube, "n", "c", "release", 0.3)
