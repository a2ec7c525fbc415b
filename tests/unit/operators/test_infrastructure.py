"""Infrastructure as tasks: what they hand on, refuse, take back, and say. A small program stands for Terraform."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import AirflowFailException

from ray_provider.exceptions import ConfigurationError, InfrastructureError
from ray_provider.hooks import cloud, cloud_marks
from ray_provider.infrastructure.cloud.presence import CloudClusterFacts
from ray_provider.infrastructure.handle import InfrastructureHandle
from ray_provider.operators import DeleteRayInfrastructure, SetupRayInfrastructure
from tests.unit.infrastructure.terraform_double import TerraformDouble, error_event
from tests.unit.infrastructure.test_run import CLUSTER, MAIN, plan, state

KEPT = state({"arn": "arn:aws:ec2:eu-west-1:123456789012:vpc/v"})
HOLDING = state(CLUSTER, kind="aws_eks_cluster", name="k", cluster_name="c", cloud="aws")


class Ti:
    """Keeps what is pushed, in order."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, Any]] = []

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed.append((key, json.loads(json.dumps(value))))


class CloudDouble:
    """A cloud with one cluster, or none."""

    def __init__(self, **tags: str) -> None:
        self.tags = tags
        self.found: CloudClusterFacts | None = None
        self.retagged: list[dict[str, str]] = []

    def identity(self) -> str:
        return "123456789012"

    def exists(self, _: Any) -> bool | None:
        return None

    def cluster(self, name: str, location: str) -> CloudClusterFacts | None:
        return self.found

    def retag(self, _: Any, tags: dict[str, str], remove: Any = ()) -> None:
        self.retagged.append(dict(tags))


class Scene:
    """A module, a Terraform, a cloud and a task's context."""

    def __init__(self, tmp_path: Path) -> None:
        self.double = TerraformDouble(tmp_path / "double")
        self.module = tmp_path / "module"
        self.module.mkdir()
        (self.module / "main.tf").write_text(MAIN)
        self.state = tmp_path / "x.tfstate"
        self.cloud = CloudDouble()
        self.ti = Ti()
        self.context: Any = {"ti": self.ti, "run_id": "run-1", "ds": "2026-01-01"}
        self.double.says("show", plan("aws_vpc.v", action="create"))
        self.double.says(
            "output", json.dumps({"cluster_name": {"value": "c"}, "token": {"value": 1, "sensitive": True}})
        )
        self.double.says("state-pull", KEPT)
        self.double.says("state-pull.1", state())

    def given(self, **further: Any) -> dict[str, Any]:
        return {
            "task_id": "t",
            "module": str(self.module),
            "backend": {"type": "local", "path": str(self.state)},
            "variables": {"name": "mine"},
            "terraform_binary": str(self.double.path),
            **further,
        }

    def set_up(self, **further: Any) -> dict[str, Any]:
        return SetupRayInfrastructure(**self.given(**further)).execute(self.context)

    def delete(self, **further: Any) -> dict[str, Any]:
        return DeleteRayInfrastructure(**self.given(confirm="c", **further)).execute(self.context)

    @property
    def commands(self) -> list[str]:
        return [call.name for call in self.double.calls]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    for name in ("TF_CLI_CONFIG_FILE", "TF_PLUGIN_CACHE_DIR", "AWS_REGION", "AWS_DEFAULT_REGION", "GOOGLE_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_PROVIDER_KEPT_STATES", str(tmp_path / "kept"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    made = Scene(tmp_path)
    monkeypatch.setattr(cloud, "cloud_of_run", lambda run, **_: made.cloud)
    return made


def test_the_handle_is_handed_on_before_anything_is_made_and_after_it(scene: Scene) -> None:
    handle = scene.set_up(aws_conn_id=None, workspace="w")
    assert [key for key, _ in scene.ti.pushed] == ["return_value", "return_value", "plan"]
    first, second = scene.ti.pushed[0][1], scene.ti.pushed[1][1]
    assert (first["complete"], second["complete"], handle["complete"]) == (False, False, True)
    assert first["backend"]["path"] == second["backend"]["path"] == handle["backend"]["path"] == str(scene.state)
    assert (handle["workspace"], handle["variables"]) == ("w", {"name": "mine"})
    assert handle["outputs"]["cluster_name"] == "c"
    assert "token" not in json.dumps(handle["outputs"])
    assert handle["made_by"]["terraform"] == "Terraform 1.11.4"
    assert handle["place"] == {"region": "eu-west-1", "account": "123456789012"}
    assert scene.ti.pushed[2][1]["counts"]["create"] == 1
    assert "apply" in scene.commands


def test_the_cluster_is_marked_with_whose_it_is_and_until_when(scene: Scene) -> None:
    scene.set_up(ttl="12h")
    variables = next(iter(scene.double.asked("plan").files.values()))[1]
    tags = variables["cluster_tags"]
    assert tags["airflow-ray-used"] == "no"
    assert tags["airflow-ray-task"] == "t"
    assert tags["airflow-ray-run"].startswith("run-1")
    assert "airflow-ray-expires" in tags


@pytest.mark.parametrize("ttl", ["30s", timedelta(seconds=59), "soon"])
def test_an_end_that_is_none_is_refused(scene: Scene, ttl: Any) -> None:
    with pytest.raises(AirflowFailException, match="ttl|is no age"):
        scene.set_up(ttl=ttl)
    assert scene.commands == []


@pytest.mark.parametrize("missing", ["tags", "cluster_tags"])
def test_a_module_that_can_not_be_marked_takes_no_end(scene: Scene, missing: str) -> None:
    (scene.module / "main.tf").write_text(MAIN.replace(f'variable "{missing}" {{ default = {{}} }}', ""))
    scene.set_up()
    assert "cluster_tags" not in json.dumps(scene.double.asked("plan").files)
    with pytest.raises(AirflowFailException, match="has no variables for the tags of its cluster"):
        scene.set_up(ttl=timedelta(minutes=1))


def test_a_plan_alone_changes_nothing(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    assert scene.set_up(plan_only=True)["complete"] is False
    assert "apply" not in scene.commands
    assert "plan_only is set: nothing is changed." in capsys.readouterr().out


def test_nothing_to_do_is_not_applied(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.double.says("show", plan())
    assert scene.set_up()["complete"] is True
    assert "apply" not in scene.commands
    assert "Nothing is to be changed." in capsys.readouterr().out


@pytest.mark.parametrize(("action", "allow"), [("delete", "allow_destroy"), ("replace", "allow_replace")])
def test_what_would_be_lost_is_refused_unless_it_is_meant(scene: Scene, action: str, allow: str) -> None:
    told = plan("aws_vpc.v", action="delete")
    if action == "replace":
        told = told.replace('["delete"]', '["delete", "create"]')
    scene.double.says("show", told)
    with pytest.raises(AirflowFailException, match="aws_vpc.v"):
        scene.set_up(guarded_types=["aws_*"])
    assert "apply" not in scene.commands
    scene.set_up(guarded_types=["aws_*"], **{allow: True})
    assert "apply" in scene.commands


def test_a_name_that_is_taken_is_not_made_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_provider.infrastructure.run import InfrastructureRun

    monkeypatch.setattr(InfrastructureRun, "wanted_cluster", lambda _: ("c", "eu-west-1"))
    scene.cloud.found = CloudClusterFacts("c", "eu-west-1", "ACTIVE", "https://api")
    with pytest.raises(AirflowFailException, match="there is a cluster c in eu-west-1 already"):
        scene.set_up()
    assert "plan" not in scene.commands
    scene.set_up(plan_only=True)


def test_the_end_is_written_anew_on_a_cluster_that_is_there(scene: Scene) -> None:
    scene.double.says("state-pull.1", HOLDING)
    scene.double.says("state-pull", HOLDING)
    scene.double.says("show", plan())
    scene.cloud.found = CloudClusterFacts("c", "eu-west-1", "ACTIVE", "https://api", {"airflow-ray-name": "c"})
    scene.set_up(ttl="1h")
    [tags] = scene.cloud.retagged
    assert {"airflow-ray-run", "airflow-ray-expires"} <= set(tags)
    assert "airflow-ray-used" not in tags
    scene.cloud.retagged.clear()
    scene.set_up(ttl="1h", plan_only=True)
    assert scene.cloud.retagged == []


# ---------------------------------------------------------------- an apply that fails


def test_what_a_failed_apply_made_is_kept_by_default(scene: Scene) -> None:
    scene.double.says("apply", error_event("creating x"), code=1)
    with pytest.raises(InfrastructureError, match="creating x"):
        scene.set_up()
    assert scene.commands.count("apply") == 1


def test_a_first_set_up_that_failed_is_taken_back_if_that_is_wanted(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.double.says("apply.1", error_event("creating x"), code=1)
    scene.double.says("state-pull.3", state())
    with pytest.raises(InfrastructureError, match="creating x") as caught:
        scene.set_up(on_failure="destroy")
    assert caught.value.__notes__ == ["What was made was destroyed."]
    assert scene.commands[-5:] == ["state-pull", "plan", "show", "apply", "state-pull"]
    assert "-destroy" in [call for call in scene.double.calls if call.name == "plan"][-1].argv
    assert "what it made is destroyed (on_failure='destroy')" in capsys.readouterr().out


def test_what_could_not_be_taken_back_is_told(scene: Scene) -> None:
    scene.double.says("apply", error_event("creating x"), code=1)
    with pytest.raises(InfrastructureError, match="creating x") as caught:
        scene.set_up(on_failure="destroy")
    assert caught.value.__notes__[0].startswith("What was made could not be destroyed: terraform apply failed")
    scene.double.says("apply.4")
    with pytest.raises(InfrastructureError):
        scene.set_up(on_failure="destroy")


def test_what_is_left_after_a_take_back_is_named(scene: Scene) -> None:
    scene.double.says("apply.1", error_event("creating x"), code=1)
    with pytest.raises(InfrastructureError) as caught:
        scene.set_up(on_failure="destroy")
    assert caught.value.__notes__ == ["What was made is in the state still: aws_vpc.v"]


def test_what_was_there_before_is_not_taken_back(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.double.says("state-pull.1", KEPT)
    scene.double.says("apply", error_event("creating x"), code=1)
    with pytest.raises(InfrastructureError, match="creating x"):
        scene.set_up(on_failure="destroy")
    assert scene.commands.count("apply") == 1
    assert "takes back only what a first set-up made" in capsys.readouterr().out


def test_a_word_that_is_none_is_refused(scene: Scene) -> None:
    with pytest.raises(AirflowFailException, match="on_failure: it has to be one of keep, destroy"):
        scene.set_up(on_failure="leave")
    with pytest.raises(AirflowFailException, match="live_clusters: it has to be one of refuse, ignore"):
        scene.delete(live_clusters="keep")
    for confirm in ("", "  ", None):
        with pytest.raises(AirflowFailException, match="confirm: give the name"):
            DeleteRayInfrastructure(**scene.given(confirm=confirm)).execute(scene.context)
    assert scene.commands == []


def test_a_kill_interrupts_what_runs(scene: Scene) -> None:
    operator = SetupRayInfrastructure(**scene.given())
    operator.on_kill()  # nothing runs yet
    run = operator.new_run(scene.context)
    operator.on_kill()
    with pytest.raises(InfrastructureError, match="stopped before"), run:
        pass


# ---------------------------------------------------------------- deleting


@pytest.fixture
def holding(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A state with a cluster that nobody uses; its destroy empties it."""
    scene.double.says("state-pull.1", HOLDING)
    scene.double.says("state-pull", state())
    scene.double.says("show", plan("aws_eks_cluster.k"))
    use(monkeypatch, [])
    return scene


def use(monkeypatch: pytest.MonkeyPatch, users: list[str] | Exception) -> None:
    async def found(_: Any) -> list[str]:
        if isinstance(users, Exception):
            raise users
        return users

    monkeypatch.setattr(cloud, "users_of_cluster", found)


def test_a_delete_says_how_much_it_destroyed(holding: Scene) -> None:
    assert holding.delete() == {"destroyed": 1}


def test_a_delete_without_variables_takes_the_name_that_it_confirms(holding: Scene) -> None:
    def named(operator: DeleteRayInfrastructure, handle: InfrastructureHandle | None = None) -> object:
        return operator.new_run(holding.context, handle, destroy=True, name="c").spec.variables.get("name")

    assert named(DeleteRayInfrastructure(**holding.given(confirm="c", variables=None))) == "c"
    assert named(DeleteRayInfrastructure(**holding.given(confirm="c"))) == "mine"
    handle = InfrastructureHandle(module=str(holding.module), backend={}, outputs={})
    given = holding.given(confirm="c", variables={})
    assert named(DeleteRayInfrastructure(**given), handle) is None, "the handle says what there is"


def test_a_handle_is_enough_for_a_delete_but_for_code(holding: Scene) -> None:
    handle = {
        "module": str(holding.module),
        "backend": {"type": "local", "path": str(holding.state)},
        "variables": {"name": "mine"},
    }
    with pytest.raises(AirflowFailException, match="which is not one of the bundled modules"):
        holding.delete(module=None, variables=None, infrastructure=handle)
    assert holding.delete(backend=None, infrastructure=handle) == {"destroyed": 1}
    with pytest.raises(AirflowFailException, match="the handle says more, or something else"):
        holding.delete(variables={"name": "x"}, infrastructure=handle)
    with pytest.raises(AirflowFailException, match="infrastructure: there is no handle"):
        holding.delete(module=None)


def test_a_cluster_in_use_is_not_destroyed(holding: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ["RayCluster a/b"])
    with pytest.raises(InfrastructureError, match="The cluster c is in use: RayCluster a/b") as caught:
        holding.delete()
    assert caught.value.data["users"] == ["RayCluster a/b"]
    assert "plan" not in holding.commands


def test_users_can_be_ignored(holding: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, AssertionError("it is not asked"))
    assert holding.delete(live_clusters="ignore") == {"destroyed": 1}


@pytest.mark.parametrize(
    ("unused", "words"),
    [(False, "a Ray cluster was set up on it"), (None, "nothing says that none was ever set up on it")],
)
def test_what_can_not_be_looked_into_stays(
    holding: Scene, monkeypatch: pytest.MonkeyPatch, unused: bool | None, words: str
) -> None:
    use(monkeypatch, InfrastructureError("It can't be reached."))
    monkeypatch.setattr(cloud_marks, "never_used", lambda *_: unused)
    with pytest.raises(InfrastructureError, match=f"It can't be reached. Nothing was destroyed: {words}") as caught:
        holding.delete()
    assert (caught.value.data["cluster"], caught.value.data["used"]) == ("c", None if unused is None else True)
    assert "plan" not in holding.commands


def test_what_was_never_used_goes_unseen(
    holding: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, InfrastructureError("It can't be reached."))
    monkeypatch.setattr(cloud_marks, "never_used", lambda *_: True)
    assert holding.delete() == {"destroyed": 1}
    assert "It goes all the same" in capsys.readouterr().out


def test_a_cloud_that_is_silent_too_keeps_it(holding: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: Any) -> bool | None:
        raise ConfigurationError("no credentials")

    use(monkeypatch, InfrastructureError("It can't be reached."))
    monkeypatch.setattr(cloud_marks, "never_used", silent)
    with pytest.raises(InfrastructureError, match="nothing says that none was ever set up on it"):
        holding.delete()
