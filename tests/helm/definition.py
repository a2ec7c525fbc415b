"""Strict validation of a RayCluster against its definition (CRD), without an API server.

What ``fieldValidation=Strict`` refuses: fields that are not in the definition, and wrong types.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator

_INT_OR_STRING = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
_PLAIN = ("type", "enum", "pattern", "minimum", "maximum", "maxLength", "minLength", "required", "maxItems", "minItems")


def _strict(node: dict[str, Any]) -> dict[str, Any]:
    if node.get("x-kubernetes-int-or-string"):
        return _INT_OR_STRING
    out = {key: node[key] for key in _PLAIN if key in node}
    if node.get("nullable"):
        out["type"] = [out["type"], "null"]
    if "properties" in node:
        out["properties"] = {key: _strict(value) for key, value in node["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in node:
            out["additionalProperties"] = False
    if isinstance(node.get("additionalProperties"), dict):
        out["additionalProperties"] = _strict(node["additionalProperties"])
    if "items" in node:
        out["items"] = _strict(node["items"])
    return out


@functools.cache
def validator(definition: Path) -> Draft7Validator:
    """Make a validator of a definition's version v1."""
    versions = yaml.load(definition.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    schema = next(v for v in versions if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    strict = _strict(schema)
    # The API server knows these three itself.
    strict["properties"]["metadata"] = {"type": "object"}
    return Draft7Validator(strict)


def errors(definition: Path, cluster: dict[str, Any]) -> list[str]:
    """Say what is wrong with a RayCluster, field by field."""
    found = validator(definition).iter_errors(cluster)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in found]
