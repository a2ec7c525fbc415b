"""Where the state lies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_provider._shared.redaction import leaves, sounds_secret
from ray_provider.infrastructure.errors import BackendError

#: What has to be given, by type. Types that are not here are passed on as they are.
_REQUIRED: dict[str, tuple[str, ...]] = {
    "local": ("path",),
    "s3": ("bucket", "key"),
    "gcs": ("bucket",),
}
_KNOWN = frozenset({"local", "s3", "gcs", "azurerm", "http", "consul", "cos", "kubernetes", "oss", "pg", "oci"})
#: Of names that sound secret and are not.
_HARMLESS = frozenset(
    {
        "use_path_style",
        "kms_encryption_key",
        "impersonate_service_account",
        "shared_credentials_files",
        "skip_credentials_validation",
    }
)


@dataclass(frozen=True, slots=True)
class Backend:
    """A Terraform backend: its type and its arguments.

    :param type: ``local`` (for trials: the folder has to outlive the worker), ``s3``, ``gcs``, or another that
        Terraform knows.
    :param config: its arguments. Secrets in it go into a file in the run's private folder, and nowhere else.
    """

    type: str
    config: Mapping[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, value: Mapping[str, Any] | None) -> Backend:
        """Read ``{"type": "s3", "bucket": …, "key": …}``.

        :param value: as the task gives it.
        :raises BackendError: something is missing or wrong.
        """
        if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
            raise BackendError(
                "backend: it has to be a mapping with a `type`.",
                hint='For example {"type": "s3", "bucket": "my-states", "key": "ray/terraform.tfstate",'
                ' "region": "eu-west-1"}.',
                field="backend",
            )
        config = {key: item for key, item in value.items() if key != "type"}
        kind = value["type"]
        if kind not in _KNOWN:
            raise BackendError(
                f"backend.type: {kind!r} is not one of {', '.join(sorted(_KNOWN))}.", field="backend.type"
            )
        for name in _REQUIRED.get(kind, ()):
            if not isinstance(config.get(name), str) or not config[name].strip():
                raise BackendError(
                    f"backend.{name}: it is needed for the {kind} backend, as text.", field=f"backend.{name}"
                )
        if kind == "local" and not Path(config["path"]).is_absolute():
            raise BackendError(
                f"backend.path: {config['path']!r} is not absolute. The module runs in a folder that is removed"
                " afterwards, and the state with it.",
                hint="Give an absolute path on a disk that outlives the worker.",
                field="backend.path",
            )
        if kind == "local":
            # Terraform's own default lies in the working folder: here, a copy that is removed.
            config.setdefault("workspace_dir", str(Path(config["path"]).parent / "terraform.tfstate.d"))
            if not Path(config["workspace_dir"]).is_absolute():
                raise BackendError("backend.workspace_dir: it has to be absolute.", field="backend.workspace_dir")
        return cls(type=kind, config=config)

    def in_region(self, region: str | None) -> Backend:
        """Give the backend with the region that it would take from the environment: another worker may be elsewhere.

        :param region: of AWS; nothing changes if there is none.
        """
        if self.type != "s3" or self.config.get("region") or not region:
            return self
        return Backend(self.type, {**self.config, "region": region})

    def prepare(self) -> None:
        """Make what may be made: the folder of a local state.

        :raises BackendError: it can't be.
        """
        if self.type != "local":
            return
        folder = Path(self.config["path"]).parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = folder / ".airflow-ray-probe"
            probe.touch(mode=0o600)
            probe.unlink()
        except OSError as error:
            raise BackendError(
                f"backend.path: the folder {folder} can't be made or written ({error.strerror}).", field="backend.path"
            ) from error

    def write(self, folder: Path) -> Path:
        """Write the override file that selects this backend, whatever the module says.

        :param folder: the copy of the module.
        """
        from ray_provider._shared.private_files import write_private

        data = {"terraform": {"backend": {self.type: dict(self.config)}}}
        return write_private(folder / "zz_airflow_ray_backend_override.tf.json", json.dumps(data), replace=True)

    def secrets(self) -> list[str]:
        """Give the secret values in the configuration."""
        found: list[str] = []
        for name, value in self._flat(self.config):
            if sounds_secret(name) and name not in _HARMLESS:
                found.extend(leaves(value))
        return found

    def public(self) -> dict[str, Any]:
        """Give the backend without its secrets, for XCom and logs."""
        return {"type": self.type, **self._without(self.config)}

    @property
    def label(self) -> str:
        """Where the state lies, in a few words."""
        place = self.config.get("path") or "/".join(
            str(self.config[key]) for key in ("bucket", "key", "prefix") if self.config.get(key)
        )
        return f"{self.type} {place}".strip()

    @classmethod
    def _flat(cls, config: Mapping[str, Any]) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        for name, value in config.items():
            if isinstance(value, Mapping) and not sounds_secret(name):
                found.extend(cls._flat(value))
            else:
                found.append((name, value))
        return found

    @classmethod
    def _without(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: cls._without(value) if isinstance(value, Mapping) else value
            for name, value in config.items()
            if not sounds_secret(name) or name in _HARMLESS
        }
