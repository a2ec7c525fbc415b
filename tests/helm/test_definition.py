"""Every kind of render against KubeRay's definition of a RayCluster, strictly: unknown fields would be dropped silently."""

from __future__ import annotations

import pytest

from tests.helm.definition import errors
from tests.support.helm import PROFILES, rayclusters_definition
from tests.support.requirements import need

EVERYTHING = {
    "suspend": False,
    "managedBy": "ray.io/kuberay-operator",
    "upgradeStrategy": {"type": "Recreate"},
    "headServiceAnnotations": {"a": "b"},
    "service": {"headless": False},
    "authOptions": {"secretName": "s"},
    "gcsFaultTolerance": {"enabled": True, "redisAddress": "r:1", "redisPassword": {"value": "x"}},
    "head": {"enableInTreeAutoscaling": True, "rayResources": {"CPU": "0"}, "rayLabels": {"a": "b"}},
    "worker": {"idleTimeoutSeconds": 3, "rayLabels": {"a": "b"}, "rayResources": {"CPU": "1"}},
}
OLD = {"authOptions": {"mode": "disabled"}}


def definition(version="1.6.1"):
    found = rayclusters_definition(version)
    need(f"the definition of RayCluster of KubeRay {version}", present=found is not None, how="make kubernetes-build")
    return found


@pytest.mark.parametrize("profile", sorted(p.stem for p in PROFILES.glob("*.yaml")))
def test_profiles(helm4, profile):
    cluster = helm4.template(files=[PROFILES / f"{profile}.yaml"]).one("RayCluster")
    assert errors(definition(), cluster) == []


def test_everything_at_once(helm4):
    assert errors(definition(), helm4.template(EVERYTHING).one("RayCluster")) == []


def test_the_check_is_worth_something(helm4):
    newer = helm4.template({"kuberayVersion": "1.7.0", "tlsOptions": {"enabled": True}}).one("RayCluster")
    assert any("tlsOptions" in error for error in errors(definition(), newer))
    wrong = helm4.template({"head": {"podSpec": {"priority": "high"}}}).one("RayCluster")
    assert any("priority" in error for error in errors(definition(), wrong))
