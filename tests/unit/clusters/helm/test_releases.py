"""What Helm is asked for, by its version: pyhelm3's client is played, the rest is real."""

from __future__ import annotations

import pytest

from ray_provider.clusters.helm.releases import Helm, HelmOptions


class Client:
    """pyhelm3's client, as far as a release is installed or upgraded by it."""

    def __init__(self) -> None:
        self.asked: dict[str, object] = {}

    async def install_or_upgrade_release(self, *_: object, **options: object) -> None:
        self.asked = options


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((3, 99, 9), {}),
        ((4, 0, 0), {"server_side": "true", "force_conflicts": True}),
        ((5, 0, 0), {"server_side": "true"}),
    ],
)
async def test_helm_4_and_newer_apply_on_the_server(version, expected):
    client = Client()
    helm = Helm(client, None, version, HelmOptions(timeout_seconds=90.4))
    await helm.upgrade("c", "n", object(), {"a": 1}, description="why")
    assert {key: client.asked.get(key) for key in expected} == expected
    assert ("server_side" in client.asked) is bool(expected)
    assert client.asked["timeout"] == "90s"
