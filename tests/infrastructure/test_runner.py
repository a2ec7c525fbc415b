"""Terraform itself, run by us: plans, applies, guards, backends, workspaces, and what can go wrong."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_provider.exceptions import ConfigurationError, InfrastructureError
from ray_provider.infrastructure.errors import (
    BackendError,
    ModuleError,
    PlanRefusedError,
    ProviderCrashError,
    StalePlanError,
    StateLockedError,
    TerraformNotFoundError,
    VariableError,
)
from tests.infrastructure.runner_modules import MODULE, Module, make_module, nothing_left_behind
from tests.support.requirements import need
from tests.support.terraform import need_terraform
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def clean(tmp_path: Path) -> Iterator[None]:
    need_terraform()
    with nothing_left_behind():
        yield


@pytest.fixture
def module(tmp_path: Path) -> Module:
    return make_module(tmp_path)


def test_plan_apply_outputs_and_destroy(module: Module) -> None:
    with module.run(variables={"number": 2, "name": "mine"}) as run:
        summary = run.plan()
        assert summary.counts == {"create": 2, "update": 0, "replace": 0, "delete": 0}
        run.apply()
        assert run.outputs().cluster_name == "mine"
        assert run.plan().is_empty
    assert re.search(r"^terraform_data\.first\[0\]: created after \d+ s$", module.text, re.MULTILINE)
    assert "Apply complete! Resources: 2 added, 0 changed, 0 destroyed." in module.lines
    with module.run(variables={"number": 2, "name": "mine"}) as run:
        assert run.read_state().addresses == ["terraform_data.first[0]", "terraform_data.first[1]"]
        assert run.plan(destroy=True).counts["delete"] == 2
        run.apply()
        assert run.read_state().addresses == []
    assert module.resources() == []


def test_the_state_is_private_and_the_module_untouched(module: Module) -> None:
    module.apply()
    assert stat.S_IMODE(module.state.stat().st_mode) == 0o600
    assert stat.S_IMODE(module.state.parent.stat().st_mode) == 0o700
    assert [path.name for path in module.folder.iterdir()] == ["main.tf"]


def test_what_would_be_lost_is_listed_and_refused(module: Module) -> None:
    module.apply(variables={"number": 3})
    with module.run(variables={"number": 1}) as run:
        summary = run.plan()
        assert "  - terraform_data.first[2] (delete because count index)" in summary.lines()
        with pytest.raises(PlanRefusedError, match=r"destroy terraform_data.first\[1\]") as caught:
            summary.guard(guarded=["terraform_*"])
        assert caught.value.data["destroy"] == ["terraform_data.first[1]", "terraform_data.first[2]"]
        assert "allow_destroy=True" in str(caught.value)
        summary.guard(guarded=["terraform_*"], allow_destroy=True)
        summary.guard()


def test_a_replacement_is_named_with_its_cause(tmp_path: Path) -> None:
    text = 'variable "v" {}\nresource "terraform_data" "cluster" {\n  triggers_replace = var.v\n}\n'
    module = make_module(tmp_path, text)
    module.apply(variables={"v": "1"})
    with module.run(variables={"v": "2"}) as run:
        summary = run.plan()
        assert summary.of("replace") == ("terraform_data.cluster",)
        with pytest.raises(PlanRefusedError, match="replace terraform_data.cluster .*triggers_replace"):
            summary.guard(guarded=["*"], allow_destroy=True)
        summary.guard(guarded=["*"], allow_replace=True)


BROKEN_OFF = """
variable "works" {}
variable "pools" {
  default = 0
}
resource "terraform_data" "cluster" {
  count = 1
  provisioner "local-exec" {
    command = var.works ? "true" : "echo no machines; false"
  }
}
resource "terraform_data" "pool" {
  count      = var.pools
  depends_on = [terraform_data.cluster]
}
"""


def test_a_creation_that_failed_is_tried_again_and_what_was_complete_is_not_replaced(tmp_path: Path) -> None:
    """Both are "tainted": a cluster that never came to be, and one that somebody tainted by hand."""
    module = make_module(tmp_path, BROKEN_OFF)
    with module.run(variables={"works": False}) as run:
        run.plan()
        with pytest.raises(InfrastructureError, match="no machines"):
            run.apply()
    with module.run(variables={"works": True, "pools": 1}) as run:
        summary = run.plan()
        assert summary.of("replace") == ("terraform_data.cluster[0]",)
        summary.guard(guarded=["*"])
        run.apply()
        run.runner.run("taint", "terraform_data.cluster[0]")
        with pytest.raises(PlanRefusedError, match=r"replace terraform_data.cluster\[0\] \(replace because tainted"):
            run.plan().guard(guarded=["*"])


def test_workspaces_have_states_of_their_own(module: Module) -> None:
    module.apply(variables={"number": 1}, workspace="blue")
    module.apply(variables={"number": 2}, workspace="green")
    with module.run(variables={"number": 1}, workspace="blue") as run:
        assert run.plan().is_empty
    with module.run(workspace="green") as run:
        assert len(run.read_state().addresses) == 2
    with module.run() as run:
        assert run.read_state().addresses == []


def test_a_lock_held_by_another(module: Module) -> None:
    other = Module(module.folder, module.state)
    with other.run(variables={"slow": 60}) as first:
        first.plan()
        thread = threading.Thread(target=_ignoring_the_end, args=(first.apply,))
        thread.start()
        try:
            wait_until(lambda: any("slow" in line and "creating" in line for line in other.lines))
            with module.run(lock_timeout="1s") as second, pytest.raises(StateLockedError) as caught:
                second.plan()
            lock_id = json.loads(module.lock.read_text())["ID"]
            assert caught.value.data["lock_id"] == lock_id
            assert f"force-unlock {lock_id}" in str(caught.value)
            assert caught.value.retryable
        finally:
            first.interrupt()
            thread.join()
    assert not module.lock.exists()


def test_a_plan_that_somebody_else_overtook(module: Module) -> None:
    with module.run(variables={"number": 1}) as slow:
        slow.plan()
        module.apply(variables={"number": 2})
        with pytest.raises(StalePlanError, match="nothing was done"):
            slow.apply()
    assert module.resources() == ["terraform_data.first"]


@pytest.mark.parametrize(
    ("variables", "names", "said"),
    [
        ({"nubmer": 2}, ["nubmer"], "did you mean 'number'"),
        ({"number": "many"}, ["number"], "has to be a number, not text"),
        ({"number": [1]}, ["number"], "has to be a number, not a list"),
        ({"pools": ["a"]}, ["pools"], "has to be a mapping, not a list"),
        ({"number": -1}, ["number"], "number must not be negative"),
        ({"pools": {"gpu": {"min": 3, "max": 1}}}, ["pools"], "min must not be more than max"),
        ({"pools": {"gpu": {"max": "lots"}}}, ["pools"], "a number is required"),
        ({"pools": {"gpu": {}}}, ["pools"], '"max" is required'),
    ],
)
def test_bad_variables_are_named_and_nothing_is_made(
    module: Module, variables: dict[str, Any], names: list[str], said: str
) -> None:
    with pytest.raises(VariableError) as caught, module.run(variables=variables) as run:
        run.plan()
    assert caught.value.data["variables"] == names
    assert said in str(caught.value)
    assert not caught.value.retryable
    assert not module.state.exists()


def test_a_missing_variable(tmp_path: Path) -> None:
    module = make_module(tmp_path, 'variable "must" {\n  type = string\n}\n')
    with pytest.raises(VariableError, match=r"variables.must: it has no default") as caught, module.run():
        pass
    assert caught.value.data["variables"] == ["must"]
    with module.run(env={"TF_VAR_must": "x"}) as run:
        run.plan()


def test_a_state_of_another_module(module: Module, tmp_path: Path) -> None:
    module.apply()
    other = make_module(tmp_path / "other", 'resource "terraform_data" "else" {}\n')
    other.state = module.state
    for destroy in (False, True):
        with pytest.raises(BackendError, match="another module") as caught, other.run() as run:
            run.plan(destroy=destroy)
        assert caught.value.data["resources"] == ["terraform_data.first[0]"]
    assert module.resources() == ["terraform_data.first"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"backend": {"type": "floppy"}}, "backend.type"),
        ({"backend": None}, "backend"),
        ({"backend": {"type": "local", "path": "state"}}, "backend.path"),
        ({"backend": {"type": "local", "path": "/proc/nowhere/state"}}, "backend.path"),
        ({"backend": {"type": "s3", "bucket": "b"}}, "backend.key"),
        ({"backend": {"type": "gcs"}}, "backend.bucket"),
        ({"module": "aks"}, "module"),
        ({"module": "modules/eks"}, "module"),
        ({"module": "/nowhere"}, "module"),
        ({"module": "git::https://example.org/x.git?depth=1"}, "module"),
        ({"workspace": "../up"}, "workspace"),
        ({"lock_timeout": "soon"}, "lock_timeout"),
        ({"parallelism": 0}, "parallelism"),
        ({"variables": {"name": object()}}, "variables"),
        ({"env": ["A=B"]}, "env"),
    ],
)
def test_bad_input_is_refused_with_the_fields_name(module: Module, change: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught, module.run(**change):
        pass
    assert caught.value.data["field"] == field
    assert not module.state.exists()


def test_terraform_missing_or_too_old(module: Module, tmp_path: Path) -> None:
    with pytest.raises(TerraformNotFoundError, match="terraform_binary"), module.run(binary="/nowhere/terraform"):
        pass
    for name, answer in (("old", '{"terraform_version": "1.5.7"}'), ("odd", "hello")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{answer}'\n")
        program.chmod(0o755)
        with pytest.raises(TerraformNotFoundError) as caught, module.run(binary=str(program)):
            pass
        assert ("is too old: 1.9 or newer" if name == "old" else "does not answer") in str(caught.value)


def test_a_module_that_is_wrong_in_itself(tmp_path: Path) -> None:
    module = make_module(tmp_path, 'resource "terraform_data" "x" {\n  nonsense = 1\n}\n')
    with pytest.raises(ModuleError, match="nonsense"), module.run() as run:
        run.plan()


def test_a_module_in_git(module: Module, tmp_path: Path) -> None:
    need("git")
    repository = tmp_path / "repository"
    shutil.copytree(module.folder, repository / "modules" / "small")
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"], ["tag", "v1"]):
        subprocess.run([*git, *arguments], check=True)
    first = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (repository / "modules" / "small" / "main.tf").write_text('output "cluster_name" {\n  value = "two"\n}\n')
    subprocess.run([*git, "commit", "-qam", "two"], check=True)
    url = f"git::file://{repository}//modules/small"
    with pytest.raises(ModuleError, match="fetched by 'file'"), module.run(module=url):
        pass
    allowed = {"GIT_ALLOW_PROTOCOL": "https:file"}
    for ref, expected in (("?ref=v1", "ray"), (f"?ref={first}", "ray"), ("", "two")):
        module.state = tmp_path / f"state{expected}{len(ref)}" / "t.tfstate"
        with module.run(module=url + ref, env=allowed) as run:
            run.plan()
            run.apply()
            assert run.outputs().cluster_name == expected
    for wrong in (f"git::file://{repository}//nowhere", url + "?ref=v9", f"git::file://{tmp_path}/none.git"):
        with pytest.raises(ModuleError, match="can't be fetched|has no folder"), module.run(module=wrong, env=allowed):
            pass


def test_a_module_that_uses_its_neighbours(tmp_path: Path) -> None:
    module = make_module(
        tmp_path / "a" / "b",
        'module "n" {\n  source = "../../common/part"\n}\noutput "cluster_name" {\n  value = module.n.x\n}\n',
    )
    part = tmp_path / "a" / "common" / "part"
    part.mkdir(parents=True)
    (part / "main.tf").write_text(
        'module "deep" {\n  source = "../deep"\n}\noutput "x" {\n  value = module.deep.y\n}\n'
    )
    (tmp_path / "a" / "common" / "deep").mkdir()
    (tmp_path / "a" / "common" / "deep" / "main.tf").write_text('output "y" {\n  value = "found"\n}\n')
    with module.run() as run:
        run.plan()
        run.apply()
        assert run.outputs().cluster_name == "found"


def test_a_provider_that_crashes(tmp_path: Path) -> None:
    module = make_module(
        tmp_path,
        'terraform {\n  required_providers {\n    crash = {\n      source = "example.com/test/crash"\n    }\n  }\n}\nresource "crash_it" "x" {}\n',
    )
    target = subprocess.run(["uname", "-m"], check=True, capture_output=True, text=True).stdout.strip()
    platform = "linux_" + {"x86_64": "amd64", "aarch64": "arm64"}[target]
    plugin = (
        tmp_path / "mirror" / "example.com" / "test" / "crash" / "1.0.0" / platform / "terraform-provider-crash_v1.0.0"
    )
    plugin.parent.mkdir(parents=True)
    plugin.write_text("#!/bin/sh\necho 'panic: out of luck' >&2\nexit 2\n")
    plugin.chmod(0o755)
    config = tmp_path / "terraformrc"
    config.write_text(
        f'provider_installation {{\n  filesystem_mirror {{\n    path = "{tmp_path / "mirror"}"\n  }}\n}}\n'
    )
    with pytest.raises(ProviderCrashError) as caught, module.run(env={"TF_CLI_CONFIG_FILE": str(config)}) as run:
        run.plan()
    assert "crash" in str(caught.value)
    assert caught.value.retryable


def test_the_environment_that_terraform_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = make_module(
        tmp_path,
        f'resource "terraform_data" "x" {{\n  provisioner "local-exec" {{\n    command = "env > {tmp_path}/env"\n  }}\n}}\n',
    )
    monkeypatch.setenv("TF_CLI_CONFIG_FILE", "/nowhere/terraformrc")
    monkeypatch.setenv("TF_LOG", "TRACE")
    monkeypatch.setenv("TF_WORKSPACE", "wrong")
    monkeypatch.setenv("TF_CLI_ARGS_plan", "-nonsense")
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://u:secret@h/d")
    monkeypatch.setenv("AIRFLOW_CONN_RAY", "ray://secret")
    monkeypatch.setenv("MINE", "kept")
    module.apply(env={"OWN": "given"})
    env = (tmp_path / "env").read_text()
    assert "MINE=kept" in env
    assert "OWN=given" in env
    for gone in ("TF_CLI_CONFIG_FILE", "TF_LOG=", "TF_WORKSPACE", "TF_CLI_ARGS", "AIRFLOW__", "AIRFLOW_CONN"):
        assert gone not in env, gone
    assert "TF_CLI_CONFIG_FILE points to /nowhere/terraformrc, which does not exist: it is ignored." in module.lines


def test_drift_is_told_apart_from_what_is_wanted(tmp_path: Path) -> None:
    module = make_module(tmp_path, MODULE + '\nresource "terraform_data" "made" {\n  input = "a"\n}\n')
    module.apply()
    with module.run(variables={"name": "other"}) as run:
        summary = run.plan(lock=False)
    assert summary.of("update") == ("terraform_data.first[0]",)
    assert summary.to_dict()["changes"][0]["attributes"] == ["input", "output"]
    assert summary.outputs_changed == ("cluster_name",)


# ---------------------------------------------------------------- single commands


def test_a_single_command_takes_options_by_their_names(module: Module) -> None:
    with module.run() as run:
        assert json.loads(run.runner.run("validate", json=True).out)["valid"] is True
        assert run.runner.run("workspace select", "blue", or_create=True).exit_code == 0
        assert run.runner.run("workspace show").out.strip() == "blue"
        refused = run.runner.run("workspace select", "green", check=False, or_create=False)
        assert refused.exit_code != 0
        assert "green" in refused.err
        with pytest.raises(InfrastructureError, match="green"):
            run.runner.run("workspace select", "green")


def test_variables_win_over_the_file_of_variables_and_lie_nowhere_afterwards(module: Module, tmp_path: Path) -> None:
    file = tmp_path / "given.tfvars.json"
    file.write_text('{"number": 5, "name": "of-the-file"}')
    with module.run() as run:
        plan = run.runner.folder / "own.tfplan"
        before = set(run.runner.folder.rglob("*.tfvars.json"))
        assert run.runner.plan(plan, var_file=file, variables={"number": 2}).exit_code == 2
        assert set(run.runner.folder.rglob("*.tfvars.json")) == before
        run.runner.apply(plan)
        assert run.read_state().addresses == ["terraform_data.first[0]", "terraform_data.first[1]"]
        assert run.outputs().cluster_name == "of-the-file"
        assert run.runner.plan(plan, var_file=file, variables={"number": 2}).exit_code == 0
        with pytest.raises(VariableError):
            run.runner.plan(plan, variables={"number": "x"})
        assert set(run.runner.folder.rglob("*.tfvars.json")) == before


def _ignoring_the_end(call: Any) -> None:
    try:
        call()
    except Exception as error:  # the test interrupts it
        assert "stopped" in str(error)
