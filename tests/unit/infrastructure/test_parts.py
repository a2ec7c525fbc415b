"""Declarations, redaction, outputs, sources, backends, events and error classes, without running Terraform."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_provider._shared.redaction import Redactor
from ray_provider.exceptions import ConfigurationError, InfrastructureError
from ray_provider.infrastructure import errors
from ray_provider.infrastructure.handle import InfrastructureHandle
from ray_provider.infrastructure.module.declared import read_declared
from ray_provider.infrastructure.module.outputs import InfrastructureOutputs
from ray_provider.infrastructure.module.source import ModuleSource
from ray_provider.infrastructure.terraform.backend import Backend
from ray_provider.infrastructure.terraform.events import Diagnostic, EventReader
from ray_provider.infrastructure.terraform.failures import error_for

HCL = """
# variable "commented" {
/* variable "too" {} */
variable "plain" {}
variable "full" {
  description = "braces } and ${upper("nested \\" }")} and {"
  type = object({
    default = optional(string) # not the variable's default
    sensitive = optional(bool)
  })
  sensitive = true
  validation {
    condition     = length(var.full.default) > 0
    error_message = <<-EOT
      variable "inside" {
      }
    EOT
  }
}
variable "given" {
  type      = list(string)
  default   = []
  ephemeral = true
  nullable  = false
}
locals { text = "variable \\"fake\\" {" }
"""


def test_declarations_are_found_without_a_parser(tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text(HCL)
    (tmp_path / "more.tf.json").write_text(json.dumps({"variable": {"j": {"type": "number", "default": 1}}}))
    found = read_declared(tmp_path)
    assert set(found) == {"plain", "full", "given", "j"}
    assert (found["plain"].type, found["plain"].required, found["plain"].sensitive) == ("any", True, False)
    assert (found["full"].type[:6], found["full"].required, found["full"].sensitive) == ("object", True, True)
    given_ = found["given"]
    assert (given_.type, given_.required, given_.ephemeral, given_.nullable) == ("list(string)", False, True, False)
    assert found["j"].type == "number"


def test_declarations_of_the_bundled_modules() -> None:
    import hcl2

    for name in ("eks", "gke"):
        folder = Path(ModuleSource.parse(name).location)
        expected: dict[str, Any] = {}
        for path in folder.glob("*.tf"):
            with path.open() as file:
                for block in hcl2.load(file).get("variable", []):
                    expected |= {key.strip('"'): value for key, value in block.items() if not key.startswith("__")}
        found = read_declared(folder)
        assert set(found) == set(expected)
        for key, block in expected.items():
            assert found[key].required is ("default" not in block), key


# ---------------------------------------------------------------- redaction


@given(
    st.text(min_size=4, max_size=60).filter(lambda text: len(text.strip()) >= 4),
    st.text(max_size=20),
    st.text(max_size=20),
)
def test_a_secret_is_found_in_whatever_form(secret: str, before: str, after: str) -> None:
    redact = Redactor()
    redact.add({"deep": [{"x": secret}]})
    for form in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        assert form not in redact(f"{before}\\0{form}\\0{after}") or form in f"{before}\\0***\\0{after}"


def test_short_values_are_left_alone_and_longer_ones_go_first() -> None:
    redact = Redactor()
    redact.add(["abc", "secret", "secret-longer"])
    assert redact("abc secret-longer secret") == "abc *** ***"
    assert "secret" not in repr(redact)


def test_the_secret_part_of_a_key_in_json() -> None:
    redact = Redactor()
    redact.add(json.dumps({"type": "service_account", "private_key": "-----BEGIN-----\nplantedline\n-----END-----"}))
    assert "planted" not in redact("it says plantedline")
    assert redact("service_account") == "service_account"


# ---------------------------------------------------------------- events


def test_events_become_lines_and_cannot_forge_any() -> None:
    lines: list[str] = []
    redact = Redactor()
    redact.add("hidden-value")
    now = [0.0]
    reader = EventReader(lines.append, redact, clock=lambda: now[0])
    resource = {"resource": {"addr": "a.b"}, "action": "create"}
    reader.feed(json.dumps({"type": "apply_start", "hook": resource}))
    for seconds in (10, 20, 70, 80, 140):
        now[0] = seconds
        reader.feed(json.dumps({"type": "apply_progress", "hook": {**resource, "elapsed_seconds": seconds}}))
    reader.feed(json.dumps({"type": "apply_complete", "hook": {**resource, "elapsed_seconds": 141}}))
    assert lines == [
        "a.b: creating …",
        "a.b: still creating (70 s)",
        "a.b: still creating (140 s)",
        "a.b: created after 141 s",
    ]
    lines.clear()
    reader.feed('{"type":"outputs","outputs":{"b":{"value":"hidden-value"},"a":{"sensitive":true}}}')
    reader.feed("plain \x1b[2J text with hidden-value\r\n")
    reader.feed("[1, 2]")
    reader.feed("")
    reader.feed(json.dumps({"type": "log", "@level": "error", "@message": "one\n::group::two"}))
    assert lines == ["Outputs: a (sensitive), b", "plain  [2J text with ***", "[1, 2]", "one", "::group::two"]


def test_a_diagnostic_shows_no_source() -> None:
    lines: list[str] = []
    reader = EventReader(lines.append, Redactor())
    diagnostic = {
        "severity": "error",
        "summary": "Invalid value",
        "detail": "wrong",
        "range": {"filename": "/tmp/x/run.tfvars.json", "start": {"line": 1}},
        "snippet": {"code": '{"password": "planted"}', "values": [{"traversal": "var.pools"}]},
    }
    reader.feed(json.dumps({"type": "diagnostic", "diagnostic": diagnostic}))
    assert "planted" not in "".join(lines) + repr(reader.diagnostics)
    assert "tfvars" not in "".join(lines)


# ---------------------------------------------------------------- errors


def _diagnostic(summary: str, detail: str = "") -> Diagnostic:
    return Diagnostic("error", summary, detail)


@pytest.mark.parametrize(
    ("summary", "detail", "kind", "retryable"),
    [
        (
            "Error acquiring the state lock",
            "Lock Info:\n  ID:        abc-1\n  Who:       me@host\n",
            errors.StateLockedError,
            True,
        ),
        ("Saved plan is stale", "", errors.StalePlanError, True),
        ("Plugin did not respond", "The plugin encountered an error", errors.ProviderCrashError, True),
        ("creating EC2 Instance", "InsufficientInstanceCapacity: no p5 here", errors.CapacityError, True),
        ("creating EKS Node Group", "VcpuLimitExceeded: You have requested more", errors.CapacityError, True),
        ("Error waiting for creating GKE NodePool", "GCE_STOCKOUT: zone europe-west4-a", errors.CapacityError, True),
        ("Error creating NodePool", "Quota 'NVIDIA_H100_GPUS' exceeded. Limit: 0.0", errors.CapacityError, True),
        ("No valid credential sources found", "", errors.TerraformCredentialsError, False),
        (
            "creating IAM Role",
            "AccessDenied: User is not authorized to perform",
            errors.TerraformCredentialsError,
            False,
        ),
        ("Attempted to load application default credentials", "", errors.TerraformCredentialsError, False),
        ("Invalid value for variable", "var.pools is wrong", errors.VariableError, False),
        ("Resource precondition failed", "var.pools: g5.xlarge has A10G.", errors.VariableError, False),
        ("Unsupported argument", 'An argument named "x" is not expected here.', errors.ModuleError, False),
        ('Error: S3 bucket "b" does not exist.', "", errors.BackendError, False),
        ("Something new", "", InfrastructureError, True),
    ],
)
def test_errors_are_told_apart(summary: str, detail: str, kind: type[Exception], retryable: bool) -> None:
    error = error_for("apply", [_diagnostic(summary, detail)], exit_code=1)
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.hint
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    if kind is errors.StateLockedError:
        assert (error.data["lock_id"], error.data["who"]) == ("abc-1", "me@host")
    if kind is errors.VariableError:
        assert error.data["variables"] == ["pools"]


def test_deletion_protection_has_a_way_out() -> None:
    error = error_for("apply", [_diagnostic("Cannot destroy cluster because deletion_protection is set to true")])
    assert "deletion_protection = false" in str(error)


# ---------------------------------------------------------------- outputs and handle


OUTPUTS = {
    "cloud": {"value": "aws", "sensitive": False},
    "cluster_name": {"value": "c", "sensitive": False},
    "cluster_ca_certificate": {"value": "planted-ca", "sensitive": True},
    "node_pools": {
        "value": {
            "gpu": {
                "node_selector": {"ray-pool": "gpu"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "accelerator": {"resource": "nvidia.com/gpu", "type": "a10g", "count": 4},
                "allocatable": {"cpu": 47, "memory_gib": 180, "gpus": 4},
                "min": 0,
                "max": 2,
                "num_of_hosts": 1,
            }
        },
        "sensitive": False,
    },
    "mine": {"value": 7, "sensitive": False},
}


def test_outputs_are_typed_and_the_sensitive_ones_apart() -> None:
    outputs = InfrastructureOutputs.from_json(OUTPUTS)
    assert (outputs.cloud, outputs.cluster_name, outputs.nvidia_device_plugin_required) == ("aws", "c", False)
    assert outputs.sensitive == {"cluster_ca_certificate": "planted-ca"}
    assert outputs.public() == {
        name: output["value"] for name, output in OUTPUTS.items() if name != "cluster_ca_certificate"
    }
    assert "planted" not in repr(outputs) + json.dumps(outputs.public())
    handle = InfrastructureHandle(module="eks", backend={"type": "s3"}, outputs=outputs.public())
    again = InfrastructureHandle.from_dict(json.loads(json.dumps(handle.to_dict())))
    assert again.typed_outputs.public() == outputs.public()


def test_outputs_that_break_the_contract_are_named() -> None:
    with pytest.raises(errors.ModuleError, match="output node_pools is list"):
        InfrastructureOutputs.from_values({"node_pools": []})
    with pytest.raises(errors.ModuleError, match="node_pools.gpu"):
        InfrastructureOutputs.from_values({"node_pools": {"gpu": {"accelerator": {"count": 1}}}})
    with pytest.raises(errors.ModuleError, match="output ray_operator_managed is str, not bool"):
        InfrastructureOutputs.from_values({"ray_operator_managed": "no"})
    for wrong in ({"min": "some"}, {"tolerations": ["x"]}, {"node_selector": 1}, [], {"accelerator": "a10g"}):
        with pytest.raises(errors.ModuleError, match=r"node_pools\.gpu is not what it should be"):
            InfrastructureOutputs.from_values({"node_pools": {"gpu": wrong}})
    with pytest.raises(ConfigurationError, match="infrastructure: the value given is not the handle"):
        InfrastructureHandle.from_dict({"name": "a cluster's handle"})


# ---------------------------------------------------------------- sources and backends


@pytest.mark.parametrize(
    ("text", "location", "folder", "ref", "public"),
    [
        ("git::https://h/o/r.git//m/e?ref=v1", "https://h/o/r.git", "m/e", "v1", "git::https://h/o/r.git//m/e?ref=v1"),
        ("https://u:planted@h/r.git", "https://u:planted@h/r.git", "", "", "git::https://h/r.git"),
        ("git@h:o/r.git//m", "git@h:o/r.git", "m", "", "git::git@h:o/r.git//m"),
        ("git::ssh://git@h/o/r.git", "ssh://git@h/o/r.git", "", "", "git::ssh://git@h/o/r.git"),
    ],
)
def test_git_addresses(text: str, location: str, folder: str, ref: str, public: str) -> None:
    source = ModuleSource.parse(text)
    assert (source.kind, source.location, source.subfolder, source.ref) == ("git", location, folder, ref)
    assert source.public == public
    assert "planted" not in source.public


@pytest.mark.parametrize(
    "text", ["git::https://h/r.git?ref=--upload-pack=x", "git::--x", "git::https://h/r.git//../up", "", "a/b"]
)
def test_addresses_that_are_refused(text: str) -> None:
    with pytest.raises(errors.ModuleError):
        ModuleSource.parse(text)


def test_a_backends_secrets_are_kept_out_of_what_is_shown(tmp_path: Path) -> None:
    backend = Backend.parse(
        {
            "type": "s3",
            "bucket": "b",
            "key": "k",
            "secret_key": "planted-1",
            "assume_role": {"role_arn": "arn:x", "external_id": "e", "session_token": "planted-2"},
        }
    )
    assert set(backend.secrets()) == {"planted-1", "planted-2"}
    assert "planted" not in repr(backend) + json.dumps(backend.public()) + backend.label
    assert backend.public()["assume_role"] == {"role_arn": "arn:x", "external_id": "e"}
    path = backend.write(tmp_path)
    assert json.loads(path.read_text())["terraform"]["backend"]["s3"]["secret_key"] == "planted-1"
    assert path.stat().st_mode & 0o077 == 0


def test_workspaces_of_a_local_state_lie_beside_it() -> None:
    backend = Backend.parse({"type": "local", "path": "/states/ray.tfstate"})
    assert backend.config["workspace_dir"] == "/states/terraform.tfstate.d"


@pytest.mark.parametrize("name", ["eks", "gke"])
def test_the_examples_variables_are_the_modules(name: str) -> None:
    """The examples are imported by their own test; here their variables are checked against the modules."""
    import importlib.util

    from ray_provider.infrastructure.module.declared import check_variables

    path = Path(__file__).parents[3] / "examples" / "dags" / f"ray_infrastructure_{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # What the infrastructure carries goes before it, in the order in which it stands on each other.
    steps = [module.delete_cluster, module.delete_addons, module.delete_infrastructure]
    assert [step.is_teardown for step in steps] == [True, True, True]
    for first, then in zip(steps, steps[1:], strict=False):
        assert then.task_id in first.downstream_task_ids
    assert "cluster" in module.addons.downstream_task_ids
    operator = module.infrastructure.operator if hasattr(module.infrastructure, "operator") else module.infrastructure
    folder = Path(ModuleSource.parse(operator.module).location)
    check_variables(read_declared(folder), operator.variables, elsewhere={})
