"""Ray Serve on the local backend: deployed, updated, an update that fails, one that is killed, waited for, deleted."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Param, task

from ray_provider.operators import DeleteRayCluster, DeleteServeApplication, DeployServeApplication, SetupRayCluster
from ray_provider.sensors import RayServeSensor


def greeter(setup: SetupRayCluster, task_id: str, word: str, **further) -> DeployServeApplication:
    return DeployServeApplication(
        task_id=task_id,
        name="greeter",
        route_prefix="/greet",
        import_path="greeter:build",
        args={"word": word, **further.pop("args", {})},
        runtime_env={"working_dir": "serving", "env_vars": {"GREETER_KEY": "hunter2-of-the-greeter"}},
        cluster=setup.output,
        **further,
    )


@task(trigger_rule="all_done")
def ask(url: str) -> str:
    import json
    import urllib.request

    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)["word"]


with DAG(
    "serves",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    params={"seconds": Param(0)},
    render_template_as_native_obj=True,
):
    setup = SetupRayCluster(task_id="setup", local={"num_cpus": 2})
    plain = greeter(setup, "plain", "hello", smoke_test={"json": {"word": "hello"}})
    deferred = greeter(setup, "deferred", "good day", deferrable=True)
    broken = greeter(setup, "broken", "none", deferrable=True)
    slow = greeter(
        setup, "slow", "slow", args={"seconds": "{{ params.seconds }}"}, deferrable=True, trigger_rule="all_done"
    )
    # The slow one takes longer than this: what runs then is what was put back.
    back = RayServeSensor(
        task_id="back",
        application=plain.output,
        mode="reschedule",
        poke_interval=5,
        timeout=400,
        trigger_rule="all_done",
    )
    after = ask.override(task_id="after")(plain.output["ray_serve_url"])
    drop = DeleteServeApplication(task_id="drop", application=plain.output, trigger_rule="all_done")
    delete = DeleteRayCluster(task_id="delete", cluster=setup.output, trigger_rule="all_done")
    setup >> plain >> deferred >> broken >> slow >> back >> after >> drop >> delete
