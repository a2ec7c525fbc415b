"""A drop-in for astro-provider-ray: what the real one offers to DAGs, installed beside us, is here too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ray_provider.provider_info import FORMER_FIELDS, get_provider_info
from tests.support.requirements import need

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / ".venv-peer" / "bin" / "python"
SURFACE = Path(__file__).parent / "peer_surface.py"

#: Not of its own: what its modules import, and what they need for that.
IMPORTED = {"annotations", "Any", "TYPE_CHECKING"}
#: Where its default is not kept, and why.
DEFAULTS_NOT_KEPT = {
    ("operators.SetupRayCluster", "kuberay_version"): "1.0.0: the operator is shared, and whatever runs there is taken",
    ("operators.SubmitRayJob", "poll_interval"): "60 s: the end of a job was known a minute late",
    ("triggers.RayJobTrigger", "poll_interval"): "30 s: likewise",
}


def surface(python: str | Path) -> dict:
    done = subprocess.run([python, "-W", "ignore", SURFACE], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index('{"names"') :])


@pytest.fixture(scope="module")
def peer() -> dict:
    need("the predecessor's environment", present=PEER.exists(), how="Run 'make .venv-peer/.installed'.")
    return surface(PEER)


@pytest.fixture(scope="module")
def ours() -> dict:
    return surface(sys.executable)


def test_its_public_classes_are_where_they_were(peer, ours):
    for path in ("hooks.RayHook", "operators.SubmitRayJob", "triggers.RayJobTrigger", "decorators.ray"):
        assert path in peer["classes"], "the comparison is with the real thing"
    assert {name for name in peer["classes"] if not _is_import(name)} <= set(ours["classes"])
    assert "get_provider_info" in ours["names"][""]
    assert ours["status"] == peer["status"]


def _is_import(path: str) -> bool:
    """Tell a class from the same one imported into another module."""
    home = {
        "RayHook": "hooks",
        "RayJobTrigger": "triggers",
        "RayAirflowException": "exceptions",
        "SubmitRayJob": "operators",
    }
    module, _, name = path.partition(".")
    return home.get(name, module) != module


@pytest.mark.parametrize(
    "path",
    [
        "operators.SetupRayCluster",
        "operators.DeleteRayCluster",
        "operators.SubmitRayJob",
        "triggers.RayJobTrigger",
        "hooks.RayHook",
    ],
)
def test_every_argument_is_taken_as_it_was(peer, ours, path):
    theirs, own = peer["classes"][path], ours["classes"][path]
    own_by_name = {p["name"]: p for p in own["init"]}
    positional = [p["name"] for p in theirs["init"] if p["kind"] == "POSITIONAL_OR_KEYWORD"]
    common = [p["name"] for p in own["init"] if p["kind"] == "POSITIONAL_OR_KEYWORD"][: len(positional)]
    if path != "operators.DeleteRayCluster":
        assert common == positional, "the order of arguments given by position"
    for parameter in theirs["init"]:
        if parameter["kind"] == "VAR_KEYWORD":
            continue
        found = own_by_name.get(parameter["name"])
        assert found is not None, parameter["name"]
        if parameter["default"] is not None and (path, parameter["name"]) not in DEFAULTS_NOT_KEPT:
            assert found["default"] == parameter["default"], parameter["name"]
        if parameter["default"] is None and found["default"] is None:
            assert found["kind"] == parameter["kind"]
    kept = {"ray_resources" if name == "resources" else name for name in theirs["template_fields"]}
    assert kept <= set(own["template_fields"]), "what was templated still is"


def test_the_hooks_methods_take_what_they_took(peer, ours):
    theirs, own = peer["classes"]["hooks.RayHook"]["methods"], ours["classes"]["hooks.RayHook"]["methods"]
    for name, parameters in theirs.items():
        assert name in own, name
        if not any(p["kind"] in {"VAR_POSITIONAL", "VAR_KEYWORD"} for p in own[name]):
            assert [p["name"] for p in own[name]] == [p["name"] for p in parameters], name


def test_every_name_that_the_hook_inherited_is_there_or_says_what_replaces_it(peer):
    from ray_provider.exceptions import ConfigurationError
    from ray_provider.hooks import RayHook

    inherited = peer["inherited"]["airflow.providers.cncf.kubernetes.hooks.kubernetes"]
    assert {"core_v1_client", "get_pod", "is_job_complete", "get_namespace"} <= set(inherited)
    hook = RayHook("ray_default")
    unknown = []
    for name in {*inherited, *peer["inherited"]["ray_provider.hooks"]}:
        if hasattr(type(hook), name):
            continue
        try:
            getattr(hook, name)
        except ConfigurationError as error:
            assert "What to do" in str(error), name
        except AttributeError:
            unknown.append(name)
    assert not unknown, sorted(unknown)


def test_the_connection_form_has_its_fields(peer):
    assert len(peer["form"]) >= 10
    (connection,) = get_provider_info()["connection-types"]
    # Those of former forms are read, without a place in the form.
    assert set(peer["form"]) <= {*connection["conn-fields"], *FORMER_FIELDS}


def test_a_method_that_is_gone_says_what_replaces_it(tmp_path):
    from ray_provider.exceptions import ConfigurationError
    from ray_provider.hooks import RayHook

    hook = RayHook("ray_default")
    for name in ("setup_ray_cluster", "delete_ray_cluster", "install_kuberay_operator", "create_daemon_set"):
        with pytest.raises(ConfigurationError, match="RayCluster"):
            getattr(hook, name)("anything")
    (tmp_path / "a.yaml").write_text("kind: RayCluster\n")
    assert hook.load_yaml_content(str(tmp_path / "a.yaml")) == {"kind": "RayCluster"}
    with pytest.raises(ConfigurationError, match=r"missing\.yaml"):
        hook.load_yaml_content(str(tmp_path / "missing.yaml"))
