"""Provider schemas from the published bindings of the providers, for plugins that no package registry carries.

``cdktn-provider-google`` and ``cdktn-provider-aws`` (PyPI) are generated from the providers' own schemas: their
JavaScript names every argument with its type, nesting and whether it is required, optional or computed. Only that shape
is read here. What the bindings don't say (allowed values, rules across fields, what a cloud answers) isn't known.

``python -m tests.infrastructure.lab.schemas`` fetches and converts beforehand.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.terraform import cache_dir, root_modules

PRIMITIVES = {"string": "string", "number": "number", "boolean": "bool", "any": "dynamic"}
#: The getters that the bindings use for attributes that are only computed.
GETTERS: Mapping[str, Any] = {
    "String": "string",
    "Number": "number",
    "Boolean": "bool",
    "List": ["list", "string"],
    "NumberList": ["list", "number"],
    "StringMap": ["map", "string"],
    "NumberMap": ["map", "number"],
    "BooleanMap": ["map", "bool"],
    "AnyMap": ["map", "dynamic"],
}


@dataclass(frozen=True)
class Binding:
    """One published binding."""

    provider: str
    package: str
    version: str
    sha256: str

    @property
    def folder(self) -> Path:
        """Where its schema is kept."""
        return cache_dir("provider-schemas", f"{self.provider}-{self.version}")


BINDINGS: Mapping[str, Binding] = {
    "google": Binding(
        "google", "cdktn-provider-google", "21.1.0", "157dead5025d5db5abe48e40cc49f0b6a4d8088fd0498eb17ad5a36bca811b2a"
    ),
    "aws": Binding(
        "aws", "cdktn-provider-aws", "25.8.1", "2ffa579cb88b063cb3a9937e43c519391e876845768f51638a848bdf2ce9f354"
    ),
}


def used_resources(provider: str) -> set[str]:
    """Give the binding's folder names of all resources and data sources that our modules use."""
    names = set()
    for folder in root_modules():
        for path in folder.glob("*.tf"):
            for kind, name in re.findall(rf'^(resource|data) "{provider}_(\w+)"', path.read_text(), re.M):
                names.add(("data-" + provider + "-" if kind == "data" else "") + name.replace("_", "-"))
    return names


def schema(provider: str) -> dict[str, Any]:
    """Give the schema of what our modules use of a provider, from the cache or from the binding.

    :raises RuntimeError: the binding can't be fetched.
    """
    binding, wanted = BINDINGS[provider], sorted(used_resources(provider))
    code = Path(__file__).read_bytes()
    key = hashlib.sha256(json.dumps([binding.sha256, wanted, hashlib.sha256(code).hexdigest()]).encode()).hexdigest()[
        :16
    ]
    path = binding.folder / f"{key}.json"
    if not path.exists():
        found = convert(wheel(binding), wanted)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(found, sort_keys=True, separators=(",", ":")))
        aside.rename(path)
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def wheel(binding: Binding) -> Path:
    """Give the binding's wheel, fetched once."""
    cached = next(iter(binding.folder.glob("*.whl")), None)
    if cached:
        return cached
    binding.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binding.folder) as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{binding.package}=={binding.version} --hash=sha256:{binding.sha256}\n")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--disable-pip-version-check",
                "--no-deps",
                "--require-hashes",
                "-d",
                folder,
                "-r",
                str(requirements),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode:
            raise RuntimeError(f"{binding.package} {binding.version} can't be had: {done.stderr.strip()[-400:]}")
        (found,) = Path(folder).glob("*.whl")
        return found.rename(binding.folder / found.name)


def convert(path: Path, wanted: Iterable[str]) -> dict[str, Any]:
    """Make a provider schema out of a wheel's JavaScript."""
    folders = {"provider", *wanted}
    sources: dict[str, list[tuple[str, str]]] = {name: [] for name in folders}
    with zipfile.ZipFile(path) as outer:
        inner = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as archive:
            for member in archive:
                match = re.match(r"package/lib/([\w-]+)/(.+\.js)$", member.name)
                if match and match[1] in folders:
                    content = archive.extractfile(member)
                    assert content is not None
                    sources[match[1]].append((match[2], content.read().decode()))
    result: dict[str, Any] = {"resource_schemas": {}, "data_source_schemas": {}}
    for name in sorted(folders):
        if not sources[name]:
            raise RuntimeError(f"the provider has no {name}")
        text = "\n".join(content for _, content in sorted(sources[name]))
        kind, type_name, block = _Reader(text).top()
        if kind == "TerraformProvider":
            result["provider"] = block
            version = re.search(r"providerVersion: '([\d.]+)'", text)
            assert version is not None
            result["version"] = version[1]
        else:
            result["data_source_schemas" if kind == "TerraformDataSource" else "resource_schemas"][type_name] = block
    return result


@dataclass
class _Member:
    computed: bool
    optional: bool
    required: bool
    code: str


@dataclass
class _Reader:
    """Reads the classes of one resource."""

    text: str
    fields: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    classes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for match in re.finditer(r"^function (\w+)ToHclTerraform\(struct\) \{(.*?)^\}", self.text, re.S | re.M):
            self.fields[match[1].lower()] = self._fields(match[2])
        bases = "ComplexObject|ComplexList|TerraformResource|TerraformDataSource|TerraformProvider|TerraformEphemeralResource"
        for match in re.finditer(
            rf"^class (\w+) extends [\w.]*?\w*?({bases})\b.*?\{{(.*?)^\}}", self.text, re.S | re.M
        ):
            self.classes[match[1]] = (match[2], match[3])

    def top(self) -> tuple[str, str | None, dict[str, Any]]:
        """Find the resource, data source or provider itself."""
        for name, (kind, body) in self.classes.items():
            if kind in ("TerraformResource", "TerraformDataSource", "TerraformProvider"):
                type_name = re.search(r'static tfResourceType = "(\w+)"', body) or re.search(
                    rf'{name}\.tfResourceType = "(\w+)"', self.text
                )
                return (
                    kind,
                    type_name[1] if type_name else None,
                    self._block(name, self._fields(body[body.find("synthesizeHclAttributes") :])),
                )
        raise RuntimeError("no resource in this binding")

    @staticmethod
    def _fields(body: str) -> dict[str, dict[str, Any]]:
        found = re.finditer(
            r"^\s+(\w+|'[^']+'): \{\s*value: (.*?),\s*isBlock: (true|false),\s*type: \"(\w+)\",\s*storageClassType: \"(\w+)\",",
            body,
            re.S | re.M,
        )
        return {
            match[1].strip("'"): {"value": match[2], "block": match[3] == "true", "kind": match[4], "storage": match[5]}
            for match in found
        }

    @staticmethod
    def _members(body: str) -> dict[str, _Member]:
        parts = re.split(
            r"^ {4,8}// (\w+) - computed: (true|false), optional: (true|false), required: (true|false)\s*$",
            body,
            flags=re.M,
        )
        return {
            parts[i]: _Member(parts[i + 1] == "true", parts[i + 2] == "true", parts[i + 3] == "true", parts[i + 4])
            for i in range(1, len(parts), 5)
        }

    def _element(self, code: str) -> tuple[str, str, bool] | None:
        """Give class, nesting and whether there is exactly one, for a member that is an object."""
        match = re.search(r"= new (?:\w+\.)?(\w+)\(this, \"(\w+)\"(?:, (true|false))?\)", code)
        if not match:
            return None
        name = match[1]
        if name.endswith(("List", "Map")):
            inner = re.sub(r"(List|Map)$", "OutputReference", name)
            if inner in self.classes:
                return inner, "set" if match[3] == "true" else "map" if name.endswith("Map") else "list", False
        return (name, "list", True) if name in self.classes else None

    def _object(self, name: str) -> list[Any]:
        return [
            "object",
            {key: self._type(member.code) for key, member in self._members(self.classes[name][1]).items()},
        ]

    def _type(self, code: str) -> Any:
        element = self._element(code)
        if element:
            return [element[1], self._object(element[0])]
        match = re.search(r"get(\w+?)Attribute\('", code)
        return GETTERS.get(match[1], "string") if match else "string"

    @staticmethod
    def _storage_type(storage: str, kind: str) -> Any:
        for suffix, container in (("List", "list"), ("Map", "map"), ("Set", "set")):
            base = storage.removesuffix(suffix)
            if storage.endswith(suffix) and base in PRIMITIVES:
                return ["set" if kind == "set" else container, PRIMITIVES[base]]
        return PRIMITIVES.get(storage, "string")

    def _block(self, name: str, fields: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
        if fields is None:
            fields = self.fields.get(name.removesuffix("OutputReference").lower(), {})
        block: dict[str, Any] = {"attributes": {}, "block_types": {}}
        for key, member in self._members(self.classes[name][1]).items():
            element, known = self._element(member.code), fields.get(key)
            if element and known and known["block"] and not re.search(r", false\)\(", known["value"]):
                nested: dict[str, Any] = {"block": self._block(element[0]), "nesting_mode": "single"}
                if key != "timeouts":
                    nested |= {
                        "nesting_mode": element[1],
                        "min_items": int(member.required),
                        "max_items": int(element[2]),
                        "computed": member.computed,
                    }
                block["block_types"][key] = nested
            else:
                kind = (
                    self._storage_type(known["storage"], known["kind"])
                    if known and not element
                    else self._type(member.code)
                )
                block["attributes"][key] = {
                    "type": kind,
                    "required": member.required,
                    "optional": member.optional,
                    "computed": member.computed,
                }
        return block


def prepare() -> None:
    """Fetch and convert all schemas."""
    for provider in BINDINGS:
        found = schema(provider)
        print(
            f"{provider} {found['version']}: {len(found['resource_schemas'])} resources, {len(found['data_source_schemas'])} data sources"
        )


if __name__ == "__main__":
    prepare()
