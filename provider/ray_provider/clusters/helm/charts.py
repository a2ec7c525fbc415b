"""Which chart: the one that comes with the provider, a folder or archive, one of a repository or an OCI registry."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from ray_provider._shared.paths import candidates
from ray_provider.clusters.helm.fetch import display_url, is_this_machine
from ray_provider.exceptions import ConfigurationError
from ray_provider.resources import bundled

BUNDLED = "ray-cluster"
_PIN = re.compile(r"sha256:([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class ChartSource:
    """A chart, as Helm takes it.

    :param ref: path, name in the repository, or URL.
    :param repo: URL of the repository.
    :param version: which version; ``None`` for the newest, or the only one.
    :param pin: sha256 that its archive has to have.
    """

    ref: str
    repo: str | None = None
    version: str | None = None
    pin: str | None = None

    @property
    def folder(self) -> Path | None:
        """The chart's folder, if it is one."""
        path = Path(self.ref)
        return path if path.is_dir() else None

    @property
    def is_remote(self) -> bool:
        """Whether it has to be fetched."""
        return self.repo is not None or "://" in self.ref

    def digest(self, resolved_version: str) -> str:
        """Give what changes when the chart does: of a folder its content, else its name and version.

        :param resolved_version: of the chart that was found.
        """
        seen = hashlib.sha256(f"{self.repo or ''}\0{'' if self.folder else self.ref}\0{resolved_version}".encode())
        if self.pin is not None:
            seen.update(self.pin.encode())
        if self.folder is not None:
            for path in sorted(self.folder.rglob("*")):
                if path.is_file():
                    seen.update(str(path.relative_to(self.folder)).encode() + b"\0")
                    seen.update(hashlib.sha256(path.read_bytes()).digest())
        elif Path(self.ref).is_file():
            seen.update(Path(self.ref).read_bytes())
        return seen.hexdigest()


@dataclass(frozen=True, slots=True)
class OperatorChart:
    """Which chart brings the operator, if it has to be installed.

    :param source: the chart.
    :param values: for it.
    :param namespace: where it goes.
    :param timeout_seconds: until it is available.
    """

    source: ChartSource
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    namespace: str = "kuberay-system"
    timeout_seconds: float = 300.0


def find_chart(
    chart: str | Path, *, repo: str | None = None, version: str | None = None, folders: Iterable[Path] = ()
) -> ChartSource:
    """Find out what chart is meant.

    :param chart: ``ray-cluster`` (the provider's own), a path, a name in ``repo``, an ``oci://`` or ``https://`` URL.
    :param repo: URL of a chart repository. Plain ``http`` other than on this machine needs a digest, also of an archive
        to which an ``https`` repository leads.
    :param version: of the chart. With ``@sha256:`` and the hash of its archive behind, it has to be that one: for a
        URL without a version, ``@sha256:...`` alone.
    :param folders: where relative paths are looked for, beside the working directory.
    :raises ConfigurationError: there is no such chart.
    """
    text = str(chart)
    version, pin = _split_pin(version)
    remote = repo or (text if "://" in text else "")
    if pin and not remote:
        raise ConfigurationError(
            f"`chart_version` names a digest, and the chart {text!r} comes from no repository.",
            hint="Leave the digest out: what is on this worker is used as it is.",
        )
    if remote.startswith("http://") and not pin and not is_this_machine(urlsplit(remote).hostname or ""):
        raise ConfigurationError(
            f"{display_url(remote)} is plain http: anybody on the network path can put another chart in its place.",
            hint="Use https or oci, or say which archive it has to be: chart_version='1.2.3@sha256:...'.",
        )
    if repo:
        if not repo.startswith(("http://", "https://", "oci://", "file://")):
            raise ConfigurationError(f"`chart_repo` is {repo!r}: a chart repository is a URL.")
        if repo.startswith("oci://"):
            return ChartSource(f"{repo.rstrip('/')}/{text}", version=version, pin=pin)
        return ChartSource(text, repo=repo, version=version, pin=pin)
    if text.startswith(("oci://", "https://", "http://")):
        return ChartSource(text, version=version, pin=pin)
    if text == BUNDLED:
        own = bundled("helm", BUNDLED)
        have = str(yaml.safe_load((own / "Chart.yaml").read_text(encoding="utf-8"))["version"])
        if version and version != have:
            raise ConfigurationError(
                f"The provider's chart ray-cluster has version {have}, and `chart_version` is {version}.",
                hint="Leave `chart_version` out, or name the repository that has it in `chart_repo`.",
            )
        return ChartSource(str(own))
    tried = candidates(text, folders)
    for one in tried:
        if (one / "Chart.yaml").is_file() or (one.is_file() and one.name.endswith((".tgz", ".tar.gz"))):
            return ChartSource(str(one.resolve()))
    raise ConfigurationError(
        f"There is no chart {text!r}: no folder with a Chart.yaml and no .tgz at {', '.join(map(str, tried))}.",
        hint='Use chart="ray-cluster" (comes with the provider), a path, an oci:// URL, or a name with `chart_repo=`.',
    )


def _split_pin(version: str | None) -> tuple[str | None, str | None]:
    """Take ``1.2.3@sha256:...`` apart."""
    text, at, pin = (version or "").partition("@")
    if not at:
        return version, None
    found = _PIN.fullmatch(pin)
    if not found:
        raise ConfigurationError(
            f"The digest {pin[:80]!r} of a chart is none.", hint="Write sha256: and 64 hexadecimal digits."
        )
    return text or None, found[1].lower()


def profile_names() -> list[str]:
    """Give the names of the profiles that come with the provider."""
    return sorted(path.stem for path in bundled("helm", "profiles").glob("*.yaml"))


def find_profile(profile: str) -> Path:
    """Find a profile that comes with the provider.

    :param profile: its name, such as ``gpu-eks``.
    :raises ConfigurationError: there is none of that name.
    """
    names = profile_names()
    if profile not in names:
        raise ConfigurationError(
            f"There is no profile {profile!r}.", hint=f"There are: {', '.join(names)}. Your own values go to `values`."
        )
    return bundled("helm", "profiles", f"{profile}.yaml")
