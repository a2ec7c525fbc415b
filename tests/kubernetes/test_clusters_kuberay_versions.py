"""Older KubeRays (``make test-kuberay-matrix``): what each lacks is said in words, and the rest works."""

from __future__ import annotations

import os

import pytest

from ray_provider.clusters.kuberay.operator import probe
from ray_provider.clusters.kubernetes.client import open_kube
from ray_provider.exceptions import ConfigurationError
from tests.kubernetes.clusters import HEAD_AND_WORKER, HEAD_ONLY, Scene, values

pytestmark = pytest.mark.timeout(400)


async def test_the_version_is_found_out_by_what_is_known(kubernetes, namespace):
    kuberay = kubernetes.kuberay_version
    async with open_kube(Scene(kubernetes, namespace).access) as kube:
        found = await probe(kube, namespace)
    assert found.text == {"1.4.2": "1.4.0", "1.5.1": "1.5.1", "1.6.1": "1.6.0"}[kuberay]
    assert any("token authentication" in words for words in found.lacks) == (kuberay == "1.4.2")
    assert any("upgradeStrategy" in words for words in found.lacks) == (kuberay != "1.6.1")


# With the version that is tested all day, the other modules say this and more.
if os.environ.get("KUBERAY_VERSION"):

    async def test_a_cluster_of_each_version(kubernetes, namespace):
        kuberay = kubernetes.kuberay_version
        scene = Scene(kubernetes, namespace)
        given = HEAD_AND_WORKER
        if kuberay == "1.4.2":
            with pytest.raises(ConfigurationError) as caught:
                await scene.set_up(scene.spec(HEAD_ONLY))
            assert "token authentication needs KubeRay 1.5.1 or newer" in str(caught.value)
            assert "lacks:" in scene.text
            given = values(given, authOptions={"mode": "disabled"})
        handle = await scene.set_up(scene.spec(given, name="ray-lasting"))
        assert handle.auth.kind == ("none" if kuberay == "1.4.2" else "secret")
        assert "hello" in await scene.job(handle, "echo hello")
        scene.lines.clear()
        changed = values(given, worker__resources__requests__memory="600Mi")
        await scene.set_up(scene.spec(changed, name="ray-lasting", update_if_exists=True))
        rolled = "pods are replaced" in scene.text
        assert rolled == (kuberay == "1.6.1")
        assert rolled or "can't roll changes out (1.6.0 can)" in scene.text
        assert await scene.delete(handle) is True
        assert scene.left(handle.name) == []
