"""Why an application does not run, from texts as Ray 2.60 writes them."""

from __future__ import annotations

from typing import Any

import pytest

from ray_provider.serve.reasons import health_in_log, reason_of
from ray_provider.serve.state import ApplicationState, ReplicaState
from tests.support.jobs_api import NODE

IMPORT = """Deploying app 'a' failed with exception:
Traceback (most recent call last):
  File "/opt/lib/python3.11/site-packages/ray/serve/_private/application_state.py", line 1500, in build_serve_application
    app = call_user_app_builder_with_args_if_necessary(
  File "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0123/model.py", line 3, in <module>
    import torchh
ModuleNotFoundError: No module named 'torchh'
"""
RUNTIME_ENV = """Runtime env setup for app 'a' failed:
Traceback (most recent call last):
  File "/opt/site-packages/ray/_private/worker.py", line 900, in get_objects
    raise value
ray.exceptions.RuntimeEnvSetupError: Failed to set up runtime environment.
Could not create the actor because its associated runtime env failed to be created.
ERROR: No matching distribution found for no-such-package==9
"""
CONSTRUCTOR = """The deployment failed to start 3 times in a row. This may be due to a problem with its constructor or initial health check failing. See controller logs for details. Error:
\x1b[36mray::ServeReplica:a:Bad.initialize_and_get_metadata()\x1b[39m (pid=1, ip=127.0.0.1)
  File "/opt/lib/python3.11/concurrent/futures/_base.py", line 449, in result
    return self.__get_result()
  File "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0123/model.py", line 12, in __init__
    raise ValueError("no weights at /models")
ValueError: no weights at /models
"""
RESOURCES = (
    "Deployment 'Big' in application 'a' has 1 replicas that have taken more than 30s to be scheduled. This may be due "
    "to waiting for the cluster to auto-scale or for a runtime environment to be installed. Resources required for each "
    'replica: {"CPU": 1000}, total resources available: {"CPU": 2.0, "memory": 1e9}. Use `ray status` for more details.'
)


def state(status: str = "DEPLOY_FAILED", message: str = "", **deployments: Any) -> ApplicationState:
    return ApplicationState.from_json("a", {"status": status, "message": message, "deployments": deployments})


@pytest.mark.parametrize(
    ("application", "says", "advice"),
    [
        (
            state(message=IMPORT),
            "built: ModuleNotFoundError: No module named 'torchh' (model.py, line 3, in <module>)",
            "PYTHONPATH",
        ),
        (state(message=RUNTIME_ENV), "No matching distribution found for no-such-package==9", "runtime_env"),
        (
            state(
                message="Failed to update the deployments ['Bad'].",
                Good={"status": "HEALTHY"},
                Bad={"status": "DEPLOY_FAILED", "message": CONSTRUCTOR},
            ),
            "Bad failed to start 3 times: ValueError: no weights at /models (model.py, line 12, in __init__)",
            "deploy anew",
        ),
        (
            state("DEPLOYING", Big={"status": "UPDATING", "message": RESOURCES}),
            'no room for a replica of deployment Big: each asks for {"CPU": 1000}, and {"CPU": 2.0, "memory": 1e9} is',
            "Ask for less",
        ),
        (
            state("UNHEALTHY", "The deployments ['M'] are UNHEALTHY.", M={"status": "UNHEALTHY", "message": ""}),
            "deployment M is unhealthy",
            "health_check_timeout_s",
        ),
        (state(message="", M={"status": "DEPLOY_FAILED", "message": "odd"}), "deployment M failed: odd", "anew"),
        (
            state("DEPLOYING", M={"status": "UPDATING", "message": "It did not start.\nValueError: no weights"}),
            "a replica of deployment M failed to start: ValueError: no weights",
            "deploy anew",
        ),
    ],
)
def test_the_reason_is_found_in_its_place(application: ApplicationState, says: str, advice: str) -> None:
    found = reason_of(application)
    assert found is not None
    assert says in found.text
    assert advice in found.advice
    assert "\x1b" not in found.text
    assert len(found.text) < 700


def test_what_is_on_its_way_has_no_reason() -> None:
    assert reason_of(state("DEPLOYING", M={"status": "UPDATING", "message": ""})) is None


LOG = """INFO 2026-11-29 14:54:48,000 controller 1 -- Starting.
WARNING 2026-11-29 14:54:55,000 controller 1 -- Health check for Replica(id='x', deployment='M', app='a') failed: ray::x
  File "/app/model.py", line 9, in check_health
    raise RuntimeError("the GPU fell off")
RuntimeError: the GPU fell off
WARNING 2026-11-29 14:54:56,000 controller 1 -- Health check for Replica(id='y', deployment='N', app='b') failed: ray::y
ValueError: another's
"""


async def test_why_it_is_unhealthy_stands_in_the_controllers_log(dashboard) -> None:
    dashboard.files["serve/controller_1.log"] = LOG.encode()
    controller = ReplicaState("", NODE, "/serve/controller_1.log")
    found = await health_in_log(dashboard.endpoint(), "a", controller)
    assert found == "RuntimeError: the GPU fell off (/app/model.py, line 9, in check_health)"
    assert await health_in_log(dashboard.endpoint(), "b", controller) == "ValueError: another's"
    assert await health_in_log(dashboard.endpoint(), "c", controller) is None
    assert await health_in_log(dashboard.endpoint(), "a", ReplicaState("", NODE, "/serve/none.log")) is None
    assert await health_in_log(dashboard.endpoint(), "a", ReplicaState("")) is None
