"""What ``gpu_device_plugin_yaml="infrastructure"`` stands for."""

from __future__ import annotations

from typing import Any

import pytest

from ray_provider.exceptions import ConfigurationError
from ray_provider.operators._cluster.common import device_plugin_of

MANIFESTS = {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "apps/v1", "kind": "DaemonSet"}]}


def handle(**outputs: Any) -> dict[str, Any]:
    return {"module": "eks", "variables": {}, "backend": {"type": "local"}, "outputs": outputs}


def test_a_manifest_stays_what_it_is() -> None:
    assert device_plugin_of("plugin.yaml", handle(kubernetes_manifests=MANIFESTS)) == "plugin.yaml"
    assert device_plugin_of("", handle(kubernetes_manifests=MANIFESTS)) is None


def test_what_the_module_hands_out() -> None:
    assert device_plugin_of("infrastructure", handle(kubernetes_manifests=MANIFESTS)) == MANIFESTS


def test_a_cloud_that_brings_it_itself_needs_nothing() -> None:
    assert device_plugin_of("infrastructure", handle(nvidia_device_plugin_required=False)) is None


def test_a_module_that_needs_it_and_hands_nothing_out_is_told() -> None:
    with pytest.raises(ConfigurationError, match="no output kubernetes_manifests") as caught:
        device_plugin_of("infrastructure", handle(nvidia_device_plugin_required=True))
    assert "Set the infrastructure up once more" in str(caught.value.hint)


@pytest.mark.parametrize("wrong", ["apiVersion: v1", [], {"items": "all"}])
def test_an_output_that_is_no_list_of_kubernetes_is_told(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no Kubernetes List"):
        device_plugin_of("infrastructure", handle(kubernetes_manifests=wrong))


def test_without_infrastructure_it_means_nothing() -> None:
    with pytest.raises(ConfigurationError, match="`infrastructure` is not given"):
        device_plugin_of("infrastructure", None)
