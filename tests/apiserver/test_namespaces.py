"""Who may make RayClusters may have the node's files and network: not in a namespace that we make, unless it is said."""

from __future__ import annotations

import secrets

import pytest

from ray_provider.exceptions import ConfigurationError
from tests.kubernetes.clusters import HEAD_ONLY, Scene
from tests.support.kubernetes import KubectlError, until

pytestmark = pytest.mark.timeout(600)

OF_THE_NODE = """
apiVersion: v1
kind: Pod
metadata: {name: theirs}
spec:
  hostNetwork: true
  containers: [{name: a, image: b}]
  volumes: [{name: node, hostPath: {path: /}}]
"""


@pytest.mark.parametrize(("create", "level"), [(True, "baseline"), ("restricted", "restricted"), ("privileged", None)])
async def test_a_namespace_that_is_made_is_limited(kubernetes, create, level):
    name = f"made-{secrets.token_hex(4)}"
    scene = Scene(kubernetes, name)
    try:
        applied = await scene.apply(scene.spec(HEAD_ONLY, create_namespace=create))
        assert kubernetes.exists("raycluster", applied.handle.name, "-n", name)
        until(lambda: kubernetes.exists("serviceaccount", "default", "-n", name), 300, "default service account")
        if level is None:
            kubernetes.kubectl("apply", "--dry-run=server", "-n", name, "-f", "-", stdin=OF_THE_NODE)
        else:
            with pytest.raises(KubectlError, match=f'violates PodSecurity "{level}:latest".*host namespaces.*hostPath'):
                kubernetes.kubectl("apply", "--dry-run=server", "-n", name, "-f", "-", stdin=OF_THE_NODE)
    finally:
        kubernetes.kubectl("delete", "namespace", name, "--wait=false")


def test_a_level_that_is_none_is_refused_before_anything_is_made(kubernetes, namespace):
    with pytest.raises(ConfigurationError, match="`create_namespace` is 'open'"):
        Scene(kubernetes, namespace).spec(HEAD_ONLY, create_namespace="open")
