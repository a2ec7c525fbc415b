"""Helm releases, by pyhelm3 with a command of our own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ray_provider._shared.redaction import Redactor, secrets_in
from ray_provider.clusters.helm.charts import ChartSource
from ray_provider.clusters.helm.command import find_helm, helm_version, make_command
from ray_provider.clusters.kubernetes.access import KubernetesAccess, kubeconfig_file
from ray_provider.exceptions import ConfigurationError

Json = dict[str, Any]

#: A release of the operator's chart takes up half of what a Secret can hold: few revisions are kept.
HISTORY = 3


@dataclass(frozen=True, slots=True)
class HelmOptions:
    """How Helm is run.

    :param path: of its executable.
    :param timeout_seconds: of its own steps; it does not wait for clusters to become ready.
    """

    path: str | None = None
    timeout_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Release:
    """A release as it is.

    :param status: Helm's word, e.g. ``deployed`` or ``pending-install``.
    :param revision: its number.
    :param description: what the last change was described by: here stands the digest of what was installed.
    :param updated: when it was changed.
    :param resources: what it consists of.
    """

    name: str
    status: str
    revision: int
    description: str
    updated: datetime
    resources: tuple[Json, ...] = field(default=(), repr=False)

    @property
    def is_stuck(self) -> bool:
        """Whether a Helm was, or is, in the middle of something."""
        return self.status.startswith("pending-") or self.status == "uninstalling"

    @property
    def age(self) -> float:
        """Seconds since it was changed."""
        updated = self.updated if self.updated.tzinfo else self.updated.replace(tzinfo=UTC)
        return (datetime.now(tz=UTC) - updated).total_seconds()

    def of_kind(self, kind: str) -> list[Json]:
        """Give what it holds of a kind.

        :param kind: such as ``RayCluster``.
        """
        return [one for one in self.resources if one.get("kind") == kind]


class Helm:
    """Helm, for one Kubernetes.

    :param client: pyhelm3's.
    :param command: by which the client runs Helm: for what the client has no method for.
    :param version: Helm's own.
    :param options: how long Helm's own steps may take.
    """

    def __init__(self, client: Any, command: Any, version: tuple[int, int, int], options: HelmOptions) -> None:
        self._client = client
        self._command = command
        self._kept = ExitStack()
        self.version = version
        self._timeout = f"{max(1, round(options.timeout_seconds))}s"

    async def chart(self, source: ChartSource) -> Any:
        """Fetch a chart's metadata.

        :param source: where it is.
        :raises ConfigurationError: there is no such chart.
        """
        import pydantic

        wanted = source.ref
        if source.is_remote:
            source = await self._fetched(source)
        try:
            return await self._client.get_chart(source.ref, repo=source.repo, version=source.version)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            raise ConfigurationError(
                f"{wanted} is no chart that can be used: {'.'.join(map(str, first['loc']))}: {first['msg']}."
            ) from error

    def close(self) -> None:
        """Remove the charts that were fetched."""
        self._kept.close()

    async def _fetched(self, source: ChartSource) -> ChartSource:
        """Fetch a chart's archive, and give it if it is the one that is meant: what was looked at is installed."""
        folder = self._kept.enter_context(tempfile.TemporaryDirectory(prefix="airflow-ray-chart-"))
        options = [f"--{key}={value}" for key, value in (("repo", source.repo), ("version", source.version)) if value]
        await self._command.pull([source.ref, "--destination", folder, *options], plain_http=source.pin is not None)
        (archive,) = Path(folder).glob("*.tgz")
        found = hashlib.sha256(await asyncio.to_thread(archive.read_bytes)).hexdigest()
        if source.pin not in (None, found):
            raise ConfigurationError(
                f"The chart {source.ref} has the sha256 {found}, and `chart_version` says {source.pin}: it is not "
                "used.",
                hint="Look at what changed before you change the digest.",
            )
        return ChartSource(str(archive))

    async def defaults(self, chart: Any) -> Json:
        """Give a chart's own values.

        :param chart: as :meth:`chart` gave it.
        """
        values: Json | None = await chart.values()
        return values or {}

    async def crds(self, chart: Any) -> list[Json]:
        """Give what a chart has in ``crds/``.

        :param chart: as :meth:`chart` gave it.
        """
        folder = Path(str(chart.ref))
        if folder.is_dir():
            return await asyncio.to_thread(_read_crds, folder)
        if folder.is_file():
            shown = await self._command.run(["show", "crds", folder])
            return await asyncio.to_thread(_load_all, shown)
        pulled = self._client.pull_chart(chart.ref, repo=chart.repo, version=chart.metadata.version)
        async with pulled as unpacked:
            return await asyncio.to_thread(_read_crds, Path(str(unpacked.ref)))

    async def render(
        self, chart: Any, release: str, namespace: str, values: Mapping[str, Any], *, is_upgrade: bool = False
    ) -> list[Json]:
        """Give the objects that a chart would make.

        :param chart: as :meth:`chart` gave it.
        :param release: its name.
        :param namespace: where it is to be.
        :param values: on top of the chart's own.
        :param is_upgrade: what the chart is told; charts may make other objects then. Default: no.
        :raises ConfigurationError: the chart refuses the values.
        """
        found = await self._client.template_resources(
            chart, release, dict(values), namespace=namespace, is_upgrade=is_upgrade
        )
        return [one for one in await asyncio.to_thread(list, found) if one]

    async def release(self, name: str, namespace: str) -> Release | None:
        """Look a release up; ``None`` where there is none.

        :param name: the release's.
        :param namespace: where it is.
        """
        from pyhelm3.errors import ReleaseNotFoundError

        try:
            revision = await self._client.get_current_revision(name, namespace=namespace)
        except ReleaseNotFoundError:
            return None
        if revision.status.value == "uninstalled":
            return None
        return Release(
            name=name,
            status=revision.status.value,
            revision=revision.revision,
            description=revision.description or "",
            updated=revision.updated,
            resources=tuple(one for one in await revision.resources() if one),
        )

    async def mend(self, name: str, namespace: str) -> Release | None:
        """Bring a release out of ``pending-*`` that a killed Helm left it in: roll back, or remove a half-made one.

        :param name: the release's.
        :param namespace: where it is.
        """
        await self._client.get_proceedable_revision(name, namespace=namespace, timeout=self._timeout)
        return await self.release(name, namespace)

    async def install(
        self, name: str, namespace: str, chart: Any, values: Mapping[str, Any], *, description: str
    ) -> None:
        """Install a release that is not there. ``upgrade`` with ``--install`` would change one that is there by now.

        :param name: the release's.
        :param namespace: where it is to be; it has to be there.
        :param chart: as :meth:`chart` gave it.
        :param values: on top of the chart's own.
        :param description: kept with the revision.
        :raises HelmError: it is there (cause ``release exists``).
        """
        # pyhelm3 can only install or upgrade.
        argv = ["install", name, chart.ref, "--namespace", namespace, "--version", chart.metadata.version]
        argv += ["--skip-crds", "--description", description, "--timeout", self._timeout, "--output", "json"]
        argv += [*(["--repo", chart.repo] if chart.repo else []), "--values", "-"]
        await self._command.run(argv, json.dumps(dict(values)).encode())

    async def upgrade(
        self,
        name: str,
        namespace: str,
        chart: Any,
        values: Mapping[str, Any],
        *,
        description: str,
        create_namespace: bool = False,
        skip_crds: bool = True,
        wait: bool = False,
    ) -> None:
        """Install a release, or upgrade it. Returns when Kubernetes has the objects, not when they are ready.

        :param name: the release's.
        :param namespace: where it is, or is to be.
        :param chart: as :meth:`chart` gave it.
        :param values: on top of the chart's own.
        :param description: kept with the revision.
        :param create_namespace: make the namespace if it is not there.
        :param skip_crds: leave the chart's CRDs alone.
        :param wait: for Helm's idea of ready.
        """
        options: Json = {}
        if self.version >= (4, 0, 0):
            # Helm 4 applies server-side: fields that others own (the autoscaler's replicas) would be conflicts. What
            # is to stay as it is, the chart has read from the cluster. By itself it goes on in the way in which a
            # release was installed, and for one of Helm 3 it would refuse: no conflicts without a server-side apply.
            options |= {"server_side": "true", "force_conflicts": True}
        await self._client.install_or_upgrade_release(
            name,
            chart,
            dict(values),
            namespace=namespace,
            create_namespace=create_namespace,
            description=description,
            reset_values=True,
            skip_crds=skip_crds,
            timeout=self._timeout,
            wait=wait,
            **options,
        )

    async def roll_back(self, name: str, namespace: str, revision: int) -> None:
        """Give a release the revision that it had before.

        :param name: the release's.
        :param namespace: where it is.
        :param revision: the one to go back to.
        """
        await self._command.run(["rollback", name, str(revision), "--namespace", namespace, "--timeout", self._timeout])

    async def uninstall(self, name: str, namespace: str) -> None:
        """Uninstall a release. No error where there is none.

        :param name: the release's.
        :param namespace: where it is.
        """
        await self._client.uninstall_release(name, namespace=namespace, timeout=self._timeout)


def _read_crds(folder: Path) -> list[Json]:
    return [one for path in sorted((folder / "crds").rglob("*.y*ml")) for one in _load_all(path.read_bytes())]


def _load_all(text: bytes) -> list[Json]:
    # KubeRay's are 4 MB: Python's own loader takes a minute for them.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [one for one in yaml.load_all(text, Loader=loader) if one]


@asynccontextmanager
async def open_helm(
    kube_access: KubernetesAccess,
    options: HelmOptions | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
) -> AsyncIterator[Helm]:
    """Give Helm, with a kubeconfig that is there as long as it is used.

    :param kube_access: how Kubernetes is reached.
    :param options: Helm's own. Default: those of :class:`HelmOptions`.
    :param labels: put on releases that are installed or upgraded.
    :param values: what will be installed: secrets in it are kept out of logs and errors.
    :raises ConfigurationError: there is no Helm, or it is too old; or pyhelm3 is missing.
    """
    try:
        from pyhelm3 import Client
    except ImportError as error:
        raise ConfigurationError(
            "pyhelm3 is not installed, by which Helm is run.", hint="pip install 'airflow-ray[kubernetes]'"
        ) from error
    options = options or HelmOptions()
    executable = find_helm(options.path)
    version = await helm_version(executable)
    async with kubeconfig_file(kube_access) as path:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        user = config["users"][0]["user"]
        secrets = [str(user[key]) for key in ("token", "password", "client-key-data") if user.get(key)]
        command = make_command(
            executable,
            version,
            path,
            redact=Redactor([*secrets, *secrets_in(values or {})], guess=True),
            history=HISTORY,
            timeout=f"{max(1, round(options.timeout_seconds))}s",
            labels=labels,
        )
        helm = Helm(Client(command=command, executable=executable), command, version, options)
        try:
            yield helm
        finally:
            helm.close()
