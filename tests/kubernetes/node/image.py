"""Writes OCI image archives for ``ctr images import``: no daemon, no registry."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

_OCI = "application/vnd.oci.image."
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class ImageConfig:
    """What a container of the image starts with."""

    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    env: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    user: str = ""
    workdir: str = "/"

    def to_json(self) -> dict[str, object]:
        whole = {
            "Entrypoint": self.entrypoint,
            "Cmd": self.cmd,
            "Env": [f"{k}={v}" for k, v in self.env.items()],
            "User": self.user,
            "WorkingDir": self.workdir,
        }
        return {key: value for key, value in whole.items() if value}


class _Layout:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs/sha256"
        self.blobs.mkdir(parents=True)

    def add_file(self, path: Path, media_type: str) -> dict[str, object]:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
        path.rename(self.blobs / digest)
        return {"mediaType": _OCI + media_type, "digest": f"sha256:{digest}", "size": size}

    def add_json(self, value: object, media_type: str) -> dict[str, object]:
        path = self.folder / "new"
        path.write_text(json.dumps(value))
        return self.add_file(path, media_type)

    def add_folder(self, folder: Path) -> dict[str, object]:
        path = self.folder / "new"
        skip = [f"--exclude=./{name}/*" for name in ("dev", "proc", "sys")]
        # trusted.* are the overlay file system's own marks; runc's snapshotter refuses them in a layer.
        attributes = ["--xattrs", "--xattrs-exclude=trusted.*"]
        subprocess.run(
            ["tar", "--numeric-owner", *attributes, "--sort=name", *skip, "-C", folder, "-cf", path, "."], check=True
        )
        return self.add_file(path, "layer.v1.tar")


def write_image(archive: Path, names: list[str], layers: list[Path], config: ImageConfig) -> None:
    """Write an image archive; the content of each folder in ``layers`` becomes one uncompressed layer.

    :param names: all names the image is known by.
    """
    folder = Path(tempfile.mkdtemp(dir=archive.parent))
    try:
        layout = _Layout(folder)
        added = [layout.add_folder(layer) for layer in layers]
        image = layout.add_json(
            {
                "architecture": _ARCHITECTURES[platform.machine()],
                "os": "linux",
                "config": config.to_json(),
                "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in added]},
                "history": [{"created_by": "tests/kubernetes/node"} for _ in added],
            },
            "config.v1+json",
        )
        manifest_type = _OCI + "manifest.v1+json"
        manifest = layout.add_json(
            {"schemaVersion": 2, "mediaType": manifest_type, "config": image, "layers": added}, "manifest.v1+json"
        )
        manifest["platform"] = {"architecture": _ARCHITECTURES[platform.machine()], "os": "linux"}
        entries = [{**manifest, "annotations": {"io.containerd.image.name": name}} for name in names]
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
        (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        subprocess.run(["tar", "-C", folder, "-cf", archive, "oci-layout", "index.json", "blobs"], check=True)
    finally:
        shutil.rmtree(folder)
