"""Two RayServices side by side: what is each one's own, and whether two versions are the same."""

from __future__ import annotations

import copy
from typing import Any

from ray_provider.clusters.rayservice.blue_green.beside import told_apart
from ray_provider.clusters.rayservice.blue_green.place import Place
from ray_provider.clusters.rayservice.blue_green.traffic import Traffic

POD = {
    "containers": [
        {
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "a"}}}],
            "envFrom": [{"configMapRef": {"name": "code"}}, {"configMapRef": {"name": "theirs"}}],
        }
    ],
    "volumes": [
        {"name": "code", "configMap": {"name": "code"}},
        {"name": "keys", "secret": {"secretName": "keys"}},
        {"name": "both", "projected": {"sources": [{"configMap": {"name": "code"}}, {"secret": {"name": "keys"}}]}},
    ],
}


def made(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    spec = {"rayClusterConfig": {"headGroupSpec": {"template": {"spec": copy.deepcopy(POD)}}}}
    service = {"metadata": {"name": name}, "spec": {"serveConfigV2": "code", **spec}}
    kinds = (("ConfigMap", "code"), ("Secret", "keys"), ("NetworkPolicy", name), ("ServiceAccount", "code"))
    return service, [{"kind": kind, "metadata": {"name": own}} for kind, own in kinds]


def test_what_a_version_brings_with_it_is_its_own():
    service, beside = told_apart(*made("shop-blue"))
    names = [one["metadata"]["name"] for one in beside]
    assert names == ["shop-blue-code", "shop-blue-keys", "shop-blue", "code"]
    text = str(service["spec"]["rayClusterConfig"])
    assert (text.count("'shop-blue-code'"), text.count("'shop-blue-keys'"), text.count("'theirs'")) == (3, 3, 1)
    assert "{'name': 'code', 'configMap': {'name': 'shop-blue-code'}}" in text, "a volume's own name stays"
    assert service["spec"]["serveConfigV2"] == "code"


def test_a_version_is_the_same_whichever_of_the_two_it_is():
    def of(traffic: Traffic, **changes: Any) -> Place:
        place = Place(None, traffic, {})
        service, beside = told_apart(*made(place.name))
        place.holds({**service, "spec": {**service["spec"], **changes}}, beside)
        return place

    green = of(Traffic("n", "shop", active="shop-blue", version="x"))
    blue = of(Traffic("n", "shop"))
    assert (green.name, blue.name, green.version) == ("shop-green", "shop-blue", blue.version)
    assert of(Traffic("n", "shop"), serveConfigV2="other").version != blue.version
    again = of(Traffic("n", "shop", active="shop-blue", version=blue.version))
    assert again.name == "shop-blue", "it has the traffic: nothing is made"
