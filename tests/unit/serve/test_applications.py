"""What can't work is refused before anything is sent: Serve drops what it does not know in silence."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from ray_provider.exceptions import ConfigurationError
from ray_provider.serve import applications
from ray_provider.serve.applications import ServeApplication
from ray_provider.serve.handle import ServeHandle
from ray_provider.serve.smoke import SmokeTest


def application(**given: Any) -> ServeApplication:
    return ServeApplication(**{"name": "a", "import_path": "m:app", **given})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": ""}, "name has to be text"),
        ({"import_path": None}, "import_path has to be module:attribute, but is None"),
        ({"import_path": "module"}, "import_path has to be module:attribute"),
        ({"import_path": "a:b:c"}, "import_path has to be module:attribute"),
        ({"import_path": "m:"}, "import_path has to be module:attribute"),
        ({"route_prefix": "a"}, "route_prefix has to be a path"),
        ({"route_prefix": "/a/"}, "route_prefix has to be a path"),
        ({"route_prefix": "/{a}"}, "route_prefix has to be a path"),
        ({"route_prefix": ""}, "route_prefix has to be a path"),
        ({"further": {"loging_config": {}}}, "Is 'logging_config' meant"),
        ({"further": {"colour": 1}}, "which Serve does not know"),
        ({"further": {"port": 1}}, "counts for all of Serve.*\n.*http_options"),
        ({"deployments": ({"num_replicas": 2},)}, "has no name"),
        ({"deployments": ({"name": "M", "num_replica": 2},)}, "Is 'num_replicas' meant"),
        ({"deployments": ({"name": "M", "ray_actor_options": {"num_cpu": 2}},)}, "ray_actor_options.num_cpu"),
        ({"deployments": ({"name": "M"}, {"name": "M"})}, "names 'M' twice"),
        ({"args": {"x": object()}}, "holds what JSON can't"),
        ({"args": {"x": float("nan")}}, "holds what JSON can't"),
    ],
)
def test_what_can_not_work_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        application(**given).validate()


def test_what_works_is_written_without_what_is_not_wanted() -> None:
    assert application().to_config() == {"name": "a", "route_prefix": "/", "import_path": "m:app"}
    whole = application(
        route_prefix=None,
        import_path="package.module.app",
        args={"x": 1},
        runtime_env={"env_vars": {"A": "b"}},
        deployments=({"name": "M", "num_replicas": "auto"},),
        further={"external_scaler_enabled": False},
    )
    assert whole.validate() == []
    assert whole.to_config()["deployments"] == [{"name": "M", "num_replicas": "auto"}]
    assert whole.to_config()["route_prefix"] is None


def test_an_option_of_a_newer_ray_is_let_through_and_told() -> None:
    [line] = application(deployments=({"name": "M", "teleport": True},)).validate()
    assert "teleport" in line


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"paht": "/"}, "Is 'path' meant"),
        ({"status": "good"}, "are numbers"),
        ({"method": "DELETE"}, "not one of GET, POST, PUT"),
    ],
)
def test_a_smoke_test_that_can_not_be_understood_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        SmokeTest.from_dict(given)


def test_a_handle_comes_back_and_anything_else_is_refused() -> None:
    handle = ServeHandle("a", "/a", "http://127.0.0.1:8000/a", {"name": "c"})
    assert ServeHandle.from_dict({**handle.to_dict(), "later": 1}) == handle
    for wrong in ("a", {}, {"name": 1}, {"name": "a", "cluster": "c"}):
        with pytest.raises(ConfigurationError, match="not the handle"):
            ServeHandle.from_dict(wrong)


SCHEMAS = """\
import json
from ray.serve import schema
named = {"KEYS": schema.ServeApplicationSchema, "DEPLOYMENT_KEYS": schema.DeploymentSchema,
         "ACTOR_KEYS": schema.RayActorOptionsSchema}
print(json.dumps({name: sorted(found.model_fields) for name, found in named.items()}))
"""


def test_the_keys_are_those_of_serve_itself():
    """In a process of its own: what Ray brings with it is not to be there for other tests."""
    said = subprocess.run(
        [sys.executable, "-c", SCHEMAS], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    theirs = {name: set(keys) for name, keys in json.loads(said.splitlines()[-1]).items()}
    assert theirs == {
        "KEYS": applications.KEYS | {"host", "port"},  # these two count for all of Serve
        "DEPLOYMENT_KEYS": applications.DEPLOYMENT_KEYS,
        "ACTOR_KEYS": applications.ACTOR_KEYS,
    }
