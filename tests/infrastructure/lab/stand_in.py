"""A provider plugin that stands in for a cloud's: real arguments and types, invented answers.

Terraform starts it like any plugin, from a filesystem mirror that ``install()`` makes. It knows the provider's schema
(``schemas``), so that a misspelt argument, a wrong type or an unknown block is refused as by the real one. It knows no
allowed values and no rules across fields: it shows that the modules have the provider's shape, not that a cloud takes them.

What it "makes" lies as files in a folder, so that a test can see what is there and what is left.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NESTING = {"single": 1, "list": 2, "set": 3, "map": 4}
CA = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk5PVCBBIFJFQUwgT05FCi0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K"

#: What data sources and new resources answer, by type and attribute; everything else is invented by ``invent``.
ANSWERS: dict[str, dict[str, Any]] = {
    "google_project": {"number": "123456789012"},
    "google_storage_project_service_account": {
        "email_address": "service-123456789012@gs-project-accounts.iam.gserviceaccount.com"
    },
    "google_container_cluster": {
        "endpoint": "203.0.113.10",
        "dns_endpoint_config.endpoint": "gke-0123456789ab.europe-west4.gke.goog",
        "cluster_ca_certificate": CA,
        "master_version": "1.33.4-gke.1000",
    },
    "aws_region": {"id": "us-east-1", "region": "us-east-1", "name": "us-east-1"},
    "aws_partition": {"id": "aws", "partition": "aws", "dns_suffix": "amazonaws.com"},
    "aws_caller_identity": {"account_id": "123456789012"},
    "aws_availability_zones": {"names": ["us-east-1a", "us-east-1b", "us-east-1c"]},
    "aws_availability_zone": {"zone_id": "use1-az6", "zone_type": "availability-zone"},
    "aws_ec2_instance_type_offerings": {"locations": ["us-east-1a", "us-east-1b", "us-east-1c"]},
    "aws_iam_policy_document": {"json": "{}"},
    "aws_eks_cluster": {
        "endpoint": "https://203.0.113.20",
        "certificate_authority": [{"data": CA}],
        "identity": [{"oidc": [{"issuer": "https://oidc.example.org/id/0"}]}],
        "cluster_security_group_id": "sg-0123456789abcdef0",
    },
    "aws_eks_node_group": {"resources": []},
}

#: What EC2 says of some instance types.
INSTANCE_TYPES: Mapping[str, Mapping[str, Any]] = {
    "m6i.xlarge": {"default_vcpus": 4, "memory_size": 16384},
    "m6i.2xlarge": {"default_vcpus": 8, "memory_size": 32768},
    "g5.xlarge": {
        "default_vcpus": 4,
        "memory_size": 16384,
        "gpus": [{"count": 1, "manufacturer": "NVIDIA", "memory_size": 24576, "name": "A10G"}],
    },
    "g5.12xlarge": {
        "default_vcpus": 48,
        "memory_size": 196608,
        "gpus": [{"count": 4, "manufacturer": "NVIDIA", "memory_size": 24576, "name": "A10G"}],
    },
    "p5.48xlarge": {
        "default_vcpus": 192,
        "memory_size": 2097152,
        "efa_supported": True,
        "efa_maximum_interfaces": 32,
        "gpus": [{"count": 8, "manufacturer": "NVIDIA", "memory_size": 81920, "name": "H100"}],
    },
    "trn1.2xlarge": {
        "default_vcpus": 8,
        "memory_size": 32768,
        "neuron_devices": [{"count": 1, "core_count": 2, "core_version": 2, "memory_size": 32768, "name": "Trainium"}],
    },
}

#: What Compute Engine says of some machine types: virtual CPUs, MiB, GPUs; and in which zones they aren't offered.
MACHINE_TYPES: Mapping[str, tuple[int, int, tuple[str, int] | None]] = {
    "e2-standard-4": (4, 16384, None),
    "e2-standard-8": (8, 32768, None),
    "n1-standard-8": (8, 30720, None),
    "n2-standard-8": (8, 32768, None),
    "n2-highmem-128": (128, 884736, None),
    "c4-standard-96": (96, 368640, None),
    "g2-standard-8": (8, 32768, ("nvidia-l4", 1)),
    "g2-standard-48": (48, 196608, ("nvidia-l4", 4)),
    "g4-standard-48": (48, 184320, ("nvidia-rtx-pro-6000", 1)),
    "a2-ultragpu-8g": (96, 1392640, ("nvidia-a100-80gb", 8)),
    "a3-highgpu-8g": (208, 1916928, ("nvidia-h100-80gb", 8)),
    "a4x-highgpu-4g": (140, 905216, ("nvidia-gb200", 4)),
    "ct6e-standard-4t": (180, 737280, None),
    "ct6e-standard-8t": (180, 1474560, None),
}
NOT_OFFERED: Mapping[str, tuple[str, ...]] = {"a3-highgpu-8g": ("europe-west4-a",)}


def machine_types(kind: str | None, zone: str) -> list[dict[str, Any]]:
    """Answer ``google_compute_machine_types`` with the filter ``name = "…"``."""
    name = str(kind or "").removeprefix('name = "').removesuffix('"')
    if name not in MACHINE_TYPES or zone in NOT_OFFERED.get(name, ()):
        return []
    cpus, mib, gpus = MACHINE_TYPES[name]
    accelerators = [{"guest_accelerator_type": gpus[0], "guest_accelerator_count": gpus[1]}] if gpus else []
    return [
        {
            "accelerators": accelerators,
            "architecture": "X86_64",
            "deprecated": [],
            "description": "",
            "guest_cpus": cpus,
            "is_shared_cpus": False,
            "maximum_persistent_disks": 128,
            "maximum_persistent_disks_size_gb": 263168,
            "memory_mb": mib,
            "name": name,
            "self_link": f"zones/{zone}/machineTypes/{name}",
        }
    ]


def install(
    folder: Path, provider: str, schema: Mapping[str, Any], *, answers: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[Path, dict[str, str]]:
    """Make a filesystem mirror with the stand-in, and the environment that Terraform has to run it in.

    :param folder: a private folder.
    :param schema: the provider's schema, from ``schemas.schema``.
    :param answers: what its resources and data sources answer, over ``ANSWERS``; such as a cluster's endpoint.
    """
    from tests.support.terraform import REGISTRY, ROOT, TOFU_REGISTRY, target

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{provider}-schema.json").write_text(json.dumps(schema))
    (folder / f"{provider}-answers.json").write_text(json.dumps(answers or {}))
    code = folder / "protocol"
    if not (code / "plugin_pb2.py").exists():
        from grpc_tools import protoc

        code.mkdir(exist_ok=True)
        if protoc.main(["protoc", f"-I{HERE}", f"--python_out={code}", "plugin.proto"]):
            raise RuntimeError("plugin.proto can't be compiled")
    things = folder / f"{provider}-things"
    things.mkdir(exist_ok=True)
    version = schema["version"]
    for registry in (REGISTRY, TOFU_REGISTRY):
        place = folder / "mirror" / registry / "hashicorp" / provider / version / target()
        place.mkdir(parents=True, exist_ok=True)
        program = place / f"terraform-provider-{provider}_v{version}_x5"
        program.write_text(
            "#!/bin/sh\n"
            f"PYTHONPATH='{ROOT}:{code}' exec '{sys.executable}' -m tests.infrastructure.lab.stand_in "
            f"'{folder / f'{provider}-schema.json'}' '{folder / f'{provider}-answers.json'}' '{things}'\n"
        )
        program.chmod(0o755)
    return folder / "mirror", {"TF_DISABLE_PLUGIN_TLS": "1"}


def made(folder: Path, provider: str) -> list[dict[str, Any]]:
    """List what the stand-in has made and not destroyed: ``{type, values}`` each."""
    return [json.loads(path.read_text()) for path in sorted((folder / f"{provider}-things").iterdir())]


class StandIn:
    """The provider's answers. Values are plain data, as msgpack has them."""

    def __init__(self, schema: Mapping[str, Any], answers: Mapping[str, Mapping[str, Any]], things: Path) -> None:
        self.schema, self.things = schema, things
        self.answers = {kind: {**ANSWERS.get(kind, {}), **answers.get(kind, {})} for kind in {*ANSWERS, *answers}}

    def plan(
        self, kind: str, prior: dict[str, Any] | None, proposed: dict[str, Any] | None, unknown: Any
    ) -> dict[str, Any] | None:
        """Plan: what is proposed, and on creation everything computed is unknown."""
        if proposed is None:
            return None
        block = self.schema["resource_schemas"][kind]
        if prior is None:
            return self._mark(block, proposed, unknown)
        for name, nested in block["block_types"].items():
            if nested.get("computed") and not proposed.get(name) and prior.get(name):
                proposed[name] = prior[name]
        return proposed

    def apply(
        self, kind: str, prior: dict[str, Any] | None, planned: dict[str, Any] | None, is_unknown: Callable[[Any], bool]
    ) -> dict[str, Any] | None:
        """Make, change or destroy."""
        if planned is None:
            assert prior is not None
            self._file(kind, prior).unlink()
            return None
        if isinstance(planned.get("creation_seconds"), (int, float)):
            # Of a test's own schema: a call to a cloud, which nobody can take back.
            time.sleep(planned["creation_seconds"])
        values = self._settle(kind, self.schema["resource_schemas"][kind], planned, planned, is_unknown)
        for name, answer in self.answers.get(kind, {}).items():
            # a computed block that the configuration doesn't have
            if name in self.schema["resource_schemas"][kind]["block_types"] and not values.get(name):
                values[name] = answer
        self._file(kind, values).write_text(json.dumps({"type": kind, "values": values}))
        return values

    def read_data(self, kind: str, config: dict[str, Any]) -> dict[str, Any]:
        """Answer a data source."""
        block = self.schema["data_source_schemas"][kind]
        answers = dict(self.answers.get(kind, {}))
        if kind == "aws_ec2_instance_type":
            if config["instance_type"] not in INSTANCE_TYPES:
                raise ValueError(f"no such instance type: {config['instance_type']}")
            answers = {
                "supported_architectures": ["x86_64"],
                "efa_supported": False,
                **INSTANCE_TYPES[config["instance_type"]],
            }
        if kind == "google_compute_zones":
            answers = {"names": [f"{config['region']}-{letter}" for letter in "abc"]}
        if kind == "google_compute_machine_types":
            answers = {"machine_types": machine_types(config["filter"], config["zone"])}
        if kind == "aws_subnet":
            answers = {"availability_zone": f"us-east-1{config['id'][-1]}"}
        for name, attribute in block["attributes"].items():
            if config.get(name) is None and attribute["computed"]:
                config[name] = answers.get(name, self._invent(kind, name, attribute["type"], config))
        return config

    def _file(self, kind: str, values: Mapping[str, Any]) -> Path:
        return self.things / f"{kind}.{hashlib.sha256(str(values.get('id')).encode()).hexdigest()[:16]}.json"

    def _mark(self, block: Mapping[str, Any], values: dict[str, Any], unknown: Any) -> dict[str, Any]:
        for name, attribute in block["attributes"].items():
            if attribute["computed"] and values.get(name) is None:
                values[name] = unknown
        for name, nested in block["block_types"].items():
            for item in _items(values.get(name)):
                self._mark(nested["block"], item, unknown)
        return values

    def _settle(
        self,
        kind: str,
        block: Mapping[str, Any],
        values: dict[str, Any],
        root: dict[str, Any],
        is_unknown: Callable[[Any], bool],
        inside: str = "",
    ) -> dict[str, Any]:
        for name, attribute in block["attributes"].items():
            if is_unknown(values.get(name)):
                answers = self.answers.get(kind, {})
                known = f"{inside}.{name}" if f"{inside}.{name}" in answers else name
                values[name] = answers[known] if known in answers else self._invent(kind, name, attribute["type"], root)
        for name, nested in block["block_types"].items():
            for item in _items(values.get(name)):
                self._settle(kind, nested["block"], item, root, is_unknown, name)
        return values

    @staticmethod
    def _invent(kind: str, name: str, of: Any, root: Mapping[str, Any]) -> Any:
        """Invent a value of a type: stable names where others refer to them, else something empty."""
        if of in ("number", "bool"):
            return 0 if of == "number" else False
        if isinstance(of, list):
            return {"list": [], "set": [], "map": {}}.get(of[0])
        if of != "string":
            return None
        project = root.get("project") if isinstance(root.get("project"), str) else "test-project"
        own = next(
            (
                root[key]
                for key in ("name", "name_prefix", "account_id", "bucket_prefix")
                if isinstance(root.get(key), str)
            ),
            "",
        )
        if kind == "google_service_account" and name in ("email", "name"):
            email = f"{root.get('account_id')}@{project}.iam.gserviceaccount.com"
            return email if name == "email" else f"projects/{project}/serviceAccounts/{email}"
        if name in ("id", "self_link", "arn"):
            stem = f"{kind}/{own}" if own else f"{kind}/{os.urandom(4).hex()}"
            return (
                f"arn:aws:test:us-east-1:123456789012:{stem}"
                if name == "arn"
                else f"projects/{project}/{stem}/{os.urandom(2).hex()}"
            )
        if name == "project":
            return project
        return own if name in ("name", "bucket") and own else f"invented-{name}"


def _items(value: Any) -> list[dict[str, Any]]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, dict)]


def _block(protocol: Any, block: Mapping[str, Any]) -> Any:
    made_block = protocol.Schema.Block()
    for name, attribute in sorted(block["attributes"].items()):
        made_block.attributes.add(
            name=name,
            type=json.dumps(attribute["type"]).encode(),
            required=attribute["required"],
            optional=attribute["optional"],
            computed=attribute["computed"],
        )
    for name, nested in sorted(block["block_types"].items()):
        entry = made_block.block_types.add(
            type_name=name,
            nesting=NESTING[nested["nesting_mode"]],
            min_items=nested.get("min_items", 0),
            max_items=nested.get("max_items", 0),
        )
        entry.block.CopyFrom(_block(protocol, nested["block"]))
    return made_block


class Service:
    """Plugin protocol 6 over a ``StandIn``: one method for each call, found by its name."""

    def __init__(self, stand_in: StandIn) -> None:
        import msgpack
        import plugin_pb2

        self.stand_in, self.protocol, self._msgpack = stand_in, plugin_pb2, msgpack
        self.unknown = msgpack.ExtType(0, b"\x00")

    def decode(self, value: Any) -> Any:
        if value.msgpack:
            return self._msgpack.unpackb(value.msgpack, raw=False, strict_map_key=False)
        return json.loads(value.json) if value.json else None

    def encode(self, value: Any) -> Any:
        return self.protocol.Value(msgpack=self._msgpack.packb(value, use_bin_type=True))

    def methods(self) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
        p = self.protocol
        nothing = functools.partial(self._nothing, p.Empty)
        return {
            "GetProviderSchema": (p.Empty, self._schema),
            "ValidateProviderConfig": (p.Empty, nothing),
            "ValidateResourceConfig": (p.Empty, nothing),
            "ValidateDataResourceConfig": (p.Empty, nothing),
            "ConfigureProvider": (p.Empty, nothing),
            "StopProvider": (p.Empty, lambda _: p.Stopped()),
            "UpgradeResourceState": (
                p.Upgrade,
                lambda request: p.Upgraded(state=self.encode(json.loads(request.raw_state.json))),
            ),
            "ReadResource": (p.Read, lambda request: p.WasRead(state=request.state, private=request.private)),
            "PlanResourceChange": (p.Plan, self._plan),
            "ApplyResourceChange": (p.Apply, self._apply),
            "ReadDataSource": (p.Typed, self._read_data),
        }

    @staticmethod
    def _nothing(kind: Any, _: Any) -> Any:
        return kind()

    def _schema(self, _: Any) -> Any:
        p, schema = self.protocol, self.stand_in.schema
        return p.Schemas(
            provider=p.Schema(block=_block(p, schema["provider"])),
            resource_schemas={
                name: p.Schema(block=_block(p, block)) for name, block in schema["resource_schemas"].items()
            },
            data_source_schemas={
                name: p.Schema(block=_block(p, block)) for name, block in schema["data_source_schemas"].items()
            },
            server_capabilities=p.Capabilities(get_provider_schema_optional=True),
        )

    def _plan(self, request: Any) -> Any:
        state = self.stand_in.plan(
            request.type_name, self.decode(request.prior), self.decode(request.proposed), self.unknown
        )
        return self.protocol.Planned(state=self.encode(state), legacy_type_system=True)

    def _apply(self, request: Any) -> Any:
        import msgpack

        state = self.stand_in.apply(
            request.type_name,
            self.decode(request.prior),
            self.decode(request.planned),
            lambda value: isinstance(value, msgpack.ExtType),
        )
        return self.protocol.Applied(state=self.encode(state), legacy_type_system=True)

    def _read_data(self, request: Any) -> Any:
        try:
            state = self.stand_in.read_data(request.type_name, self.decode(request.config))
        except ValueError as error:
            return self.protocol.WasRead(diagnostics=[self.protocol.Diagnostic(severity=1, summary=str(error))])
        return self.protocol.WasRead(state=self.encode(state))


def main() -> None:
    """Be a plugin: answer on a loopback port until Terraform says stop."""
    import grpc

    if "TF_PLUGIN_MAGIC_COOKIE" not in os.environ:
        raise SystemExit("This is a plugin of Terraform: Terraform starts it.")
    schema, answers, things = (Path(argument) for argument in sys.argv[1:4])
    service = Service(StandIn(json.loads(schema.read_text()), json.loads(answers.read_text()), things))
    methods, stop = service.methods(), threading.Event()

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            name = details.method.rpartition("/")[2]
            if details.method == "/plugin.GRPCController/Shutdown":
                kind, call = service.protocol.Empty, self._stop
            elif name in methods:
                kind, call = methods[name]
            else:
                return None
            return grpc.unary_unary_rpc_method_handler(
                lambda request, _: call(request),
                request_deserializer=kind.FromString,
                response_serializer=lambda answer: answer.SerializeToString(),
            )

        @staticmethod
        def _stop(_: Any) -> Any:
            threading.Timer(0.05, stop.set).start()
            return service.protocol.Empty()

    size = 256 << 20
    server = grpc.server(
        futures.ThreadPoolExecutor(8),
        options=[("grpc.max_send_message_length", size), ("grpc.max_receive_message_length", size)],
    )
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"1|6|tcp|127.0.0.1:{port}|grpc", flush=True)
    stop.wait()
    server.stop(0)


if __name__ == "__main__":
    main()
