"""What a state holds, read from the state itself: no module, no provider plugin and no cloud is needed for that."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_provider.infrastructure.errors import BackendError

_PROVIDER = re.compile(r'provider\["(?P<address>[^"]+)"\](?:\.(?P<alias>[\w-]+))?$')
_ARN = re.compile(r"arn:[\w-]+:[\w-]+:(?P<region>[a-z0-9-]*):(?P<account>\d{12}|):")
#: Types that are clusters of Kubernetes.
CLUSTER_TYPES = {"aws_eks_cluster": "aws", "google_container_cluster": "gcp"}
#: A bundled module's own guard (its destroy ends with an error while it is on).
_GUARD = "terraform_data.deletion_guard"


@dataclass(frozen=True, slots=True)
class StateResource:
    """A managed resource in a state.

    :param address: as a plan names it.
    :param type: of the resource.
    :param values: its attributes. They may hold secrets: they are never printed.
    """

    address: str
    type: str
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def region(self) -> str | None:
        """The AWS region that it is in, or ``None`` for what is in no region (or not on AWS)."""
        if not self.type.startswith("aws_"):
            return None
        own = self.values.get("region")
        if isinstance(own, str) and own and "arn" in self.values:
            return own
        match = _ARN.match(str(self.values.get("arn") or ""))
        return (match["region"] or None) if match else None

    @property
    def account(self) -> str | None:
        """The AWS account or the Google Cloud project that it is in."""
        if self.type.startswith("aws_"):
            match = _ARN.match(str(self.values.get("arn") or ""))
            return (match["account"] or None) if match else None
        if self.type.startswith("google_"):
            value = self.values.get("project")
            return value if isinstance(value, str) and value else None
        return None

    def text(self, name: str) -> str:
        """Give an attribute as text; empty if there is none.

        :param name: the attribute's.
        """
        value = self.values.get(name)
        return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class StateView:
    """A state.

    :param resources: what is managed.
    :param outputs: the outputs that are not sensitive.
    :param providers: source addresses of all providers in it.
    """

    resources: tuple[StateResource, ...] = ()
    outputs: Mapping[str, Any] = field(default_factory=dict)
    providers: frozenset[str] = frozenset()

    @classmethod
    def from_text(cls, text: str) -> StateView:
        """Read what ``terraform state pull`` prints; nothing at all is an empty state.

        :param text: the state's JSON.
        :raises BackendError: this is no state that we can read.
        """
        if not text.strip():
            return cls()
        try:
            data = json.loads(text)
            found = [item for item in data["resources"] if isinstance(item, Mapping)]
            return cls(
                resources=tuple(_resources(found)),
                outputs={
                    name: item.get("value")
                    for name, item in (data.get("outputs") or {}).items()
                    if not item.get("sensitive")
                },
                providers=frozenset(_provider(item.get("provider")) for item in found),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Not with the parser's words: they may quote the state.
            raise BackendError(
                f"backend: what lies there is no state of Terraform ({type(error).__name__}).", field="backend"
            ) from None

    @property
    def addresses(self) -> list[str]:
        """Name what is managed."""
        return [resource.address for resource in self.resources]

    @property
    def regions(self) -> tuple[str, ...]:
        """The AWS regions of its clusters, else of everything in it; the one with most of them first."""
        return _by_count(item.region for item in self.clusters) or _by_count(item.region for item in self.resources)

    @property
    def accounts(self) -> tuple[str, ...]:
        """The AWS accounts (or Google Cloud projects) of its resources; the one with most of them first."""
        return _by_count(resource.account for resource in self.resources)

    @property
    def clusters(self) -> tuple[StateResource, ...]:
        """The clusters in it."""
        return tuple(resource for resource in self.resources if resource.type in CLUSTER_TYPES)

    @property
    def cluster_name(self) -> str | None:
        """The name of what it holds: the output, or the cluster's."""
        name = self.outputs.get("cluster_name")
        if isinstance(name, str) and name:
            return name
        return self.clusters[0].text("name") or None if self.clusters else None

    @property
    def protected(self) -> bool:
        """Whether its destroy is refused: by a bundled module's own guard, or by Google Cloud's."""
        return any(
            (resource.address == _GUARD and _is_true(resource.values.get("input")))
            or (resource.type == "google_container_cluster" and resource.values.get("deletion_protection") is True)
            for resource in self.resources
        )


def check_providers(state: StateView) -> None:
    """Refuse a state that names providers of other people: Terraform would fetch and run them.

    A bundled module's state has none. A handle, or whoever may write into the backend, could name such a state.

    :param state: of a bundled module.
    :raises BackendError: it does.
    """
    strange = sorted(
        name
        for name in state.providers
        if not re.fullmatch(r"[\w.-]+/hashicorp/[\w-]+|terraform\.io/builtin/terraform", name)
    )
    if strange:
        raise BackendError(
            f"backend: the state wants the provider {', '.join(strange)}, which no bundled module uses. Nothing of"
            f" it was"
            " run, and nothing was changed.",
            hint="This is another module's state, or somebody changed it: look at `backend`, and at who may write"
            " there.",
            field="backend",
        )


def _resources(items: Iterable[Mapping[str, Any]]) -> Iterable[StateResource]:
    for item in items:
        if item.get("mode") != "managed":
            continue
        base = f"{item['type']}.{item['name']}"
        if item.get("module"):
            base = f"{item['module']}.{base}"
        seen: set[str] = set()
        for instance in item.get("instances") or ():
            address = base
            if "index_key" in instance:
                address += f"[{json.dumps(instance['index_key'])}]"
            if address in seen:
                # Deposed: the old one of a replacement that was not finished.
                continue
            seen.add(address)
            yield StateResource(address, str(item["type"]), instance.get("attributes") or {})


def _provider(text: Any) -> str:
    match = _PROVIDER.search(str(text or ""))
    return match["address"] if match else str(text or "")


def _by_count(values: Iterable[str | None]) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for value in values:
        if value:
            counts[value] = counts.get(value, 0) + 1
    return tuple(sorted(counts, key=lambda value: -counts[value]))


def _is_true(value: Any) -> bool:
    # `input` of terraform_data has a dynamic type: {"type": "bool", "value": true}.
    return value is True or (isinstance(value, Mapping) and value.get("value") is True)
