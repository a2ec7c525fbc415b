"""One run of a module, and its removal: what Terraform is given, what is kept secret, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ray_provider.exceptions import ConfigurationError, InfrastructureError
from ray_provider.infrastructure.cloud.presence import CloudClusterFacts
from ray_provider.infrastructure.errors import (
    BackendError,
    PlanRefusedError,
    TerraformInterruptedError,
    UnsavedStateError,
    VariableError,
)
from ray_provider.infrastructure.module.spec import InfrastructureSpec
from ray_provider.infrastructure.removal import Removal, outputs_of, remove
from ray_provider.infrastructure.run import InfrastructureRun
from ray_provider.infrastructure.terraform.state import StateView
from tests.unit.infrastructure.terraform_double import TerraformDouble, error_event

MAIN = """
variable "name" { type = string }
variable "number" { default = 1 }
variable "hidden" {
  default   = ""
  sensitive = true
}
variable "once" {
  default   = ""
  ephemeral = true
}
variable "tags" { default = {} }
variable "cluster_tags" { default = {} }
resource "aws_vpc" "v" {}
"""
ARN = "arn:aws:ec2:eu-west-1:123456789012:vpc/v"


def state(*instances: dict[str, Any], kind: str = "aws_vpc", name: str = "v", **outputs: Any) -> str:
    resource = {
        "mode": "managed",
        "type": kind,
        "name": name,
        "provider": 'provider["registry.terraform.io/hashicorp/aws"]',
        "instances": [{"attributes": each} for each in instances],
    }
    told = {key: {"value": value} for key, value in outputs.items()}
    return json.dumps({"serial": 1, "lineage": "l", "resources": [resource] if instances else [], "outputs": told})


def plan(*addresses: str, action: str = "delete", configured: str = "aws_vpc.v") -> str:
    kind, _, name = configured.partition(".")
    changes = [
        {
            "address": address,
            "type": address.partition(".")[0],
            "name": "v",
            "mode": "managed",
            "provider_name": "registry.terraform.io/hashicorp/aws",
            "change": {"actions": [action], "before": {"id": 1}, "after": None},
        }
        for address in addresses
    ]
    resources = [{"address": configured, "mode": "managed", "type": kind, "name": name}]
    return json.dumps({"resource_changes": changes, "configuration": {"root_module": {"resources": resources}}})


class Scene:
    """A module, a Terraform, and what a run wrote."""

    def __init__(self, tmp_path: Path) -> None:
        self.double = TerraformDouble(tmp_path / "double")
        self.module = tmp_path / "module"
        self.module.mkdir()
        (self.module / "main.tf").write_text(MAIN)
        self.state = tmp_path / "states" / "x.tfstate"
        self.lines: list[str] = []
        self.double.says("show", plan("aws_vpc.v", action="create"))
        self.double.says("output", json.dumps({"cluster_name": {"value": "c"}}))

    def run(self, **further: Any) -> InfrastructureRun:
        options: dict[str, Any] = {
            "module": str(self.module),
            "backend": {"type": "local", "path": str(self.state)},
            "variables": {"name": "mine"},
            "binary": str(self.double.path),
            **further,
        }
        return InfrastructureRun(InfrastructureSpec(**options), write=self.lines.append)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    for name in ("TF_CLI_CONFIG_FILE", "TF_PLUGIN_CACHE_DIR", "AWS_REGION", "AWS_DEFAULT_REGION", "GOOGLE_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_PROVIDER_KEPT_STATES", str(tmp_path / "kept"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return Scene(tmp_path)


def test_a_run_from_its_beginning_to_its_outputs(scene: Scene) -> None:
    with scene.run(workspace="w", variables={"name": "mine", "once": "planted-once"}) as run:
        folder = Path(run.runner.folder)
        assert run.plan().counts["create"] == 1
        run.apply()
        assert run.outputs().cluster_name == "c"
        assert run.backend.label == scene.text.partition("state in ")[2].partition(",")[0]
        run.plan(lock=False, refresh=False)
    assert not folder.exists()
    names = [call.name for call in scene.double.calls]
    assert names == ["init", "workspace-select", "state-pull", "plan", "show", "apply", "output", "plan", "show"]
    assert scene.lines[0].startswith("Terraform 1.11.4, module ")
    assert scene.lines[0].endswith(", workspace w")
    calls = scene.double.calls
    assert calls[1].argv == ["workspace", "select", "-or-create", "w"]
    assert list(calls[3].files.values()) == [[0o600, {"name": "mine", "once": "planted-once"}]]
    assert list(calls[5].files.values()) == [[0o600, {"once": "planted-once"}]], "a plan does not keep these"
    assert (calls[6].argv, calls[4].argv[:2]) == (["output", "-json"], ["show", "-json"])
    assert {"-lock=false", "-refresh=false"} <= set(calls[7].argv)
    assert calls[0].env["TF_PLUGIN_CACHE_DIR"].endswith("/cache/airflow-ray/terraform-providers")
    assert [path.name for path in scene.module.iterdir()] == ["main.tf"], "it is worked on in a copy"


def test_a_workspace_that_is_terraforms_own_is_not_asked_for(scene: Scene) -> None:
    with scene.run(workspace="default"):
        pass
    assert [call.name for call in scene.double.calls] == ["init", "state-pull"]
    assert "workspace default" in scene.text


def test_what_is_secret_shows_nowhere_and_is_not_in_the_handle(scene: Scene) -> None:
    secrets = ("planted-hidden", "planted-given", "planted-env", "planted-file", "planted-key", "planted-once")
    scene.double.says("init", *secrets)
    given = {"name": "mine", "hidden": secrets[0], "once": secrets[5]}
    with scene.run(
        variables=given,
        sensitive_variables={"number": secrets[1]},
        env={"MY_PASSWORD": secrets[2]},
        files={"AWS_SHARED_CREDENTIALS_FILE": f"[default]\nsecret_key = {secrets[3]}\n"},
        providers={"aws": {"secret_key": secrets[4], "region": "eu-west-1"}},
    ) as run:
        assert run.public_variables() == {"name": "mine"}
        assert run.can_be_marked
        handle = run.first_handle()
        call = scene.double.calls[0]
        path = Path(call.env["AWS_SHARED_CREDENTIALS_FILE"])
        assert path.read_text().endswith(f"secret_key = {secrets[3]}\n")
        assert path.stat().st_mode & 0o077 == 0
        [providers] = Path(call.cwd).glob("zz_airflow_ray_provider_*")
        assert json.loads(providers.read_text()) == {
            "provider": {"aws": {"secret_key": secrets[4], "region": "eu-west-1"}}
        }
        assert providers.name.endswith("_aws.tf.json")
    assert "planted" not in scene.text + json.dumps(handle.to_dict())
    assert scene.text.count("***") >= len(secrets)
    assert handle.variables == {"name": "mine"}
    assert (handle.complete, handle.providers) == (False, {"aws": {"region": "eu-west-1"}})
    assert not path.exists()


def test_a_provider_that_the_module_configures_is_overridden(scene: Scene) -> None:
    with (scene.module / "main.tf").open("a") as file:
        file.write('  provider "aws" {}\n')
    with scene.run(providers={"aws": {"region": "eu-west-1"}, "google": {}}):
        names = {path.name for path in Path(scene.double.calls[0].cwd).glob("zz_airflow_ray_provider_*")}
    assert names == {"zz_airflow_ray_provider_aws_override.tf.json", "zz_airflow_ray_provider_google.tf.json"}


def test_wrong_variables_are_refused_before_anything_runs(scene: Scene) -> None:
    with pytest.raises(VariableError, match="did you mean 'number'"), scene.run(variables={"name": "x", "numbr": 1}):
        pass
    assert scene.double.calls == []


def test_what_the_environment_and_files_set_is_not_missed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VariableError, match=r"variables\.name: it has no default"), scene.run(variables={}):
        pass
    (scene.module / "terraform.tfvars").write_text('name = "x"\n')
    with scene.run(variables={}):
        pass
    (scene.module / "terraform.tfvars").unlink()
    monkeypatch.setenv("TF_VAR_name", "x")
    monkeypatch.setenv("TF_VAR_hidden", "planted-env")
    with scene.run(variables={}) as run:
        assert run.redactor("planted-env") == "***"


def test_a_destroy_leaves_out_what_the_module_knows_no_more(scene: Scene) -> None:
    with scene.run(destroy=True, variables={"gone": 1}) as run:
        run.plan(destroy=True)
    assert "WARNING: the module has no variable gone (any more): it is left out." in scene.lines
    plan_call = scene.double.asked("plan")
    assert "-destroy" in plan_call.argv
    assert [content for _, content in plan_call.files.values()] == [{"name": None}]


def test_a_run_that_is_stopped_early_starts_no_terraform(scene: Scene) -> None:
    run = scene.run()
    run.interrupt()
    with pytest.raises(TerraformInterruptedError, match="stopped before Terraform was started"), run:
        pass
    assert scene.double.calls == []
    with scene.run() as run:
        run.interrupt()
        with pytest.raises(TerraformInterruptedError):
            run.plan()


def test_nothing_works_before_it_is_entered(scene: Scene) -> None:
    with pytest.raises(RuntimeError, match="not entered"):
        scene.run().runner  # noqa: B018
    assert scene.run().backend.type == "local"


def test_it_works_where_the_state_is_whatever_this_worker_says(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    scene.double.says("state-pull", state({"arn": ARN}))
    with scene.run(place={"project": "p"}) as run:
        assert run.place() == {"region": "eu-west-1", "account": "123456789012", "project": "p"}
        assert run.read_state().addresses == ["aws_vpc.v"]
        run.plan()
    assert scene.double.asked("plan").env["AWS_REGION"] == "eu-west-1"
    assert scene.double.asked("plan").env["AWS_DEFAULT_REGION"] == "eu-west-1"
    told = "AWS_REGION is eu-west-1 in this run, where the infrastructure is; this worker says another one."
    assert scene.lines.count(told) == 1
    assert "AWS_DEFAULT_REGION is" not in scene.text
    with pytest.raises(ConfigurationError, match="it says us-west-2"), scene.run(given_env={"AWS_REGION": "us-west-2"}):
        pass


def test_a_state_that_was_kept_is_saved_first(scene: Scene, tmp_path: Path) -> None:
    with scene.run() as run:
        identity = run.runner.rescue["identity"]
    folder = tmp_path / "kept" / identity["key"]
    folder.mkdir(parents=True)
    kept = folder / "x.tfstate"
    kept.write_text(state({"arn": ARN}))
    kept.with_suffix(".json").write_text(json.dumps({**identity, "lock_id": "l-1"}))
    scene.double.says("state-push", "err:Error: no such bucket", code=1)
    with pytest.raises(UnsavedStateError, match="no such bucket") as caught, scene.run():
        pass
    assert caught.value.data["path"] == str(kept)
    # The lock of the apply that made it: the state is saved under it, and it goes.
    locked = "err:Error acquiring the state lock", "err:  ID: l-1"
    scene.double.says("state-push.2", *locked, code=1)
    scene.double.says("state-push.3")
    with scene.run():
        pass
    assert [call.argv for call in scene.double.calls if call.name in ("state-push", "force-unlock")][1:] == [
        ["state", "push", "-lock-timeout=60s", str(kept)],
        ["state", "push", "-lock=false", str(kept)],
        ["force-unlock", "-force", "l-1"],
    ]
    assert scene.lines[-2:] == [
        f"A state of an earlier run could not be saved, and lies in {kept}. It is pushed now.",
        "It is saved.",
    ]
    assert os.listdir(folder) == []


def test_the_state_of_another_module_is_not_planned_over(scene: Scene) -> None:
    data = json.loads(plan("aws_eip.other", configured="aws_vpc.v"))
    data["prior_state"] = {
        "values": {"root_module": {"resources": [{"address": "aws_eip.other", "mode": "managed", "type": "aws_eip"}]}}
    }
    scene.double.says("show", json.dumps(data))
    scene.double.says("state-pull", state({"arn": ARN}, kind="aws_eip", name="other", cluster_name="c"))
    with scene.run() as run, pytest.raises(BackendError):
        run.plan()
    with scene.run(destroy=True) as run:
        assert run.plan(destroy=True).counts["delete"] == 1, "a destroy goes by the name of what it destroys"


# ---------------------------------------------------------------- providers that are damaged


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """The folder of a provider in the cache."""
    cache = tmp_path / "cache" / "airflow-ray" / "terraform-providers"
    folder = cache / "registry.terraform.io" / "hashicorp" / "aws" / "6.0.0" / "linux_amd64"
    folder.mkdir(parents=True)
    return folder


BROKEN = error_event("Failed to load plugin schemas", "registry.terraform.io/hashicorp/aws: exec format error")
TOLD = "The cached provider hashicorp/aws/6.0.0/linux_amd64 is damaged: it is removed, and fetched once more."


def test_a_damaged_provider_is_fetched_once_more_before_a_plan(scene: Scene, cached: Path) -> None:
    scene.double.says("plan.1", BROKEN, code=1)
    with scene.run() as run:
        assert run.plan().counts["create"] == 1
    assert [call.name for call in scene.double.calls] == ["init", "state-pull", "plan", "init", "plan", "show"]
    assert not cached.exists()
    assert scene.lines.count(TOLD) == 1


def test_a_damaged_provider_is_fetched_once_more_by_the_first_init(scene: Scene, cached: Path) -> None:
    scene.double.says("init.1", BROKEN, code=1)
    with scene.run():
        pass
    assert [call.name for call in scene.double.calls] == ["init", "init", "state-pull"]
    assert not cached.exists()


def test_what_is_damaged_again_is_an_error(scene: Scene, cached: Path) -> None:
    scene.double.says("init.1", BROKEN, code=1)
    scene.double.says("plan", BROKEN, code=1)
    with scene.run() as run:
        cached.mkdir(parents=True)
        with pytest.raises(InfrastructureError, match="exec format error"):
            run.plan()
    assert [call.name for call in scene.double.calls] == ["init", "init", "state-pull", "plan"]
    assert cached.exists()


def test_another_failure_costs_no_provider(scene: Scene, cached: Path) -> None:
    scene.double.says("plan", error_event("Plugin did not respond", "hashicorp/aws crashed"), code=1)
    with scene.run() as run, pytest.raises(InfrastructureError):
        run.plan()
    assert cached.exists()
    assert "init" not in [call.name for call in scene.double.calls][1:]


def locked(number: str) -> str:
    text = f'provider "registry.terraform.io/hashicorp/aws" {{\\n  version = "{number}"\\n}}\\n'
    return "file:.terraform.lock.hcl:" + json.dumps(text.replace("\\n", "\n"))


def lock_files(tmp_path: Path) -> list[str]:
    return [path.read_text() for path in (tmp_path / "kept").rglob("*.lock.hcl")]


def test_the_providers_of_an_apply_are_those_of_the_next_run(scene: Scene, tmp_path: Path) -> None:
    scene.double.says("init", locked("6.1.0"))
    with scene.run() as run:
        assert lock_files(tmp_path) == [], "only what was applied"
        run.plan()
        run.apply()
    [kept] = lock_files(tmp_path)
    assert '"6.1.0"' in kept
    scene.double.says("init")
    with scene.run() as run:
        assert (Path(scene.double.calls[-1].cwd) / ".terraform.lock.hcl").read_text() == kept
        assert run.made_by()["providers"] == {"registry.terraform.io/hashicorp/aws": "6.1.0"}
    assert "Providers as in the last apply of this state: hashicorp/aws 6.1.0." in scene.text
    # The module wants others: they are chosen, and kept after the next apply.
    outdated = "locked provider registry.terraform.io/hashicorp/aws 6.1.0 does not match configured version constraint"
    number = sum(call.name == "init" for call in scene.double.calls)
    scene.double.says(
        f"init.{number + 1}", error_event("Failed to query available provider packages", outdated), code=1
    )
    scene.double.says(f"init.{number + 2}", locked("7.0.0"))
    with scene.run() as run:
        assert "-upgrade" in scene.double.calls[-2].argv
        run.plan()
        run.apply()
    assert "The module does not take these versions any more, or they are gone: others are chosen." in scene.lines
    assert ['"7.0.0"' in text for text in lock_files(tmp_path)] == [True]


# ---------------------------------------------------------------- removal


def removal(confirm: str = "c", **further: Any) -> Removal:
    options: dict[str, Any] = {"cloud": lambda: None, "refuse_if_used": lambda _: None, **further}
    return Removal(confirm=confirm, **options)


CLUSTER = {"arn": "arn:aws:eks:eu-west-1:123456789012:cluster/c", "name": "c", "endpoint": "https://api"}


class CloudDouble:
    """A cloud that knows one cluster, or none, and what is gone."""

    def __init__(self, found: CloudClusterFacts | None = None, *, gone: bool | None = None) -> None:
        self.found, self.gone = found, gone
        self.asked: list[tuple[str, str]] = []

    def identity(self) -> str:
        return "123456789012"

    def exists(self, _: Any) -> bool | None:
        return None if self.gone is None else not self.gone

    def cluster(self, name: str, location: str) -> CloudClusterFacts | None:
        self.asked.append((name, location))
        return self.found


@pytest.fixture
def holding(scene: Scene) -> Scene:
    """A state with a cluster, whose destroy empties it."""
    scene.double.says("state-pull.1", state(CLUSTER, kind="aws_eks_cluster", name="k", cluster_name="c", cloud="aws"))
    scene.double.says("state-pull", state())
    scene.double.says("show", plan("aws_eks_cluster.k"))
    return scene


def test_what_is_destroyed_is_counted_and_the_cloud_is_asked(holding: Scene) -> None:
    used: list[Mapping[str, Any]] = []
    cloud = CloudDouble()
    with holding.run(destroy=True) as run:
        assert remove(run, removal(cloud=lambda: cloud, refuse_if_used=used.append)) == 1
    assert cloud.asked == [("c", "eu-west-1")]
    assert used == [
        {"cloud": "aws", "cluster_name": "c", "location": "eu-west-1", "project": None},
    ]
    assert [call.name for call in holding.double.calls][2:] == ["plan", "show", "apply", "state-pull"]


def test_a_cluster_that_is_still_there_is_an_error(holding: Scene) -> None:
    cloud = CloudDouble(CloudClusterFacts("c", "eu-west-1", "ACTIVE", "https://api"))
    with holding.run(destroy=True) as run, pytest.raises(InfrastructureError, match="is still there and costs money"):
        remove(run, removal(cloud=lambda: cloud))


REFUSED: dict[str, tuple[Callable[[Scene], Removal], type[Exception], str]] = {
    "another name": (
        lambda _: removal("other"),
        ConfigurationError,
        "'other' is not the name of what this state holds, 'c'",
    ),
    "in use": (lambda _: removal(refuse_if_used=_used), InfrastructureError, "in use"),
}


def _used(_: Mapping[str, Any]) -> None:
    raise InfrastructureError("in use")


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused_is_not_even_planned(holding: Scene, why: str) -> None:
    make, kind, words = REFUSED[why]
    with holding.run(destroy=True) as run, pytest.raises(kind, match=words):
        remove(run, make(holding))
    assert [call.name for call in holding.double.calls] == ["init", "state-pull"]


def test_what_is_protected_is_not_destroyed(scene: Scene) -> None:
    guard = state(
        {"input": {"type": "bool", "value": True}}, kind="terraform_data", name="deletion_guard", cluster_name="c"
    )
    scene.double.says("state-pull", guard)
    with scene.run(destroy=True) as run, pytest.raises(PlanRefusedError, match="protected against deletion"):
        remove(run, removal())


def test_an_empty_state_is_checked_against_the_handle(scene: Scene) -> None:
    cloud = CloudDouble(CloudClusterFacts("c", "eu-west-1", "ACTIVE", "https://api"))
    outputs = {"location": "eu-west-1", "cluster_endpoint": "https://api"}
    with scene.run(destroy=True) as run:
        with pytest.raises(InfrastructureError, match="still there"):
            remove(run, removal(cloud=lambda: cloud, outputs=outputs))
        assert remove(run, removal(cloud=lambda: CloudDouble(), place={"region": "r"})) == 0
    assert cloud.asked == [("c", "eu-west-1")]
    assert "There is nothing in the state: nothing is to be destroyed." in scene.lines
    assert "plan" not in [call.name for call in scene.double.calls]


def test_what_the_refresh_did_not_find_is_asked_for(holding: Scene) -> None:
    holding.double.says("show", plan())
    with holding.run(destroy=True) as run, pytest.raises(PlanRefusedError, match="The destroy is refused"):
        remove(run, removal(cloud=lambda: CloudDouble(gone=False)))
    assert "apply" not in [call.name for call in holding.double.calls]


def test_what_the_cloud_calls_gone_is_told(holding: Scene) -> None:
    holding.double.says("show", plan())
    with holding.run(destroy=True) as run:
        assert remove(run, removal(cloud=lambda: CloudDouble(gone=True))) == 0
    assert "Gone already, as the cloud says too: aws_eks_cluster.k" in holding.lines


def test_what_is_left_in_the_state_is_an_error(holding: Scene) -> None:
    holding.double.says("state-pull", state(CLUSTER, kind="aws_eks_cluster", name="k"))
    with (
        holding.run(destroy=True) as run,
        pytest.raises(InfrastructureError, match="still holds aws_eks_cluster.k") as caught,
    ):
        remove(run, removal())
    assert caught.value.data["resources"] == ["aws_eks_cluster.k"]


def test_the_outputs_of_an_apply_that_came_to_no_end() -> None:
    aws = StateView.from_text(state(CLUSTER, kind="aws_eks_cluster"))
    assert outputs_of(aws) == {"cloud": "aws", "cluster_name": "c", "location": "eu-west-1", "project": None}
    facts = {"name": "c", "location": "europe-west4", "project": "p"}
    google = StateView.from_text(state(facts, kind="google_container_cluster", cluster_name=None, extra=1))
    assert outputs_of(google) == {
        "cloud": "gcp",
        "cluster_name": "c",
        "location": "europe-west4",
        "project": "p",
        "extra": 1,
    }
    assert outputs_of(StateView()) == {}
