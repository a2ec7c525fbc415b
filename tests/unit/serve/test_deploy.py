"""Read, merge, write, look again, wait, and the way back: against a double, with others who write at the same time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from ray_provider.exceptions import ConfigurationError, ServeError, ServeFailedError, ServeTimeoutError
from ray_provider.serve import deploy
from ray_provider.serve.client import ServeClient
from ray_provider.serve.deploy import Deploying, Written, take_back, with_way_back
from ray_provider.serve.removal import remove_application
from ray_provider.serve.waiting import OverwrittenError, WaitOptions, wait_for, wait_running

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("settle")]


def config(name: str = "a", import_path: str = "m:app", **further: Any) -> dict[str, Any]:
    return {"name": name, "import_path": import_path, "route_prefix": f"/{name}", **further}


def soon(seconds: float = 20.0) -> float:
    return time.time() + seconds


def deploying(client: ServeClient, said: list[str], wanted: dict[str, Any] | None = None, **options: Any) -> Deploying:
    return Deploying(client, wanted or config(), say=said.append, **options)


async def test_the_first_application_starts_serve_where_it_is_wanted(dashboard, client, said):
    made = deploying(client, said, http_options={"host": "127.0.0.1", "port": 1234})
    written = await made.write()
    assert (written.found, written.former) == ("absent", None)
    found = await made.wait(soon())
    assert found.status == "RUNNING"
    assert dashboard.serve.http_options == {"host": "127.0.0.1", "port": 1234}
    assert any("Serve is started for it" in line for line in said)


async def test_an_update_leaves_others_and_knows_what_was_there(dashboard, client, said):
    serve = dashboard.serve
    serve.add("a", "m:v1")
    serve.add("other", args={"x": 1})
    serve.add("job", imperative=True)
    serve.target_capacity = 60.0
    made = deploying(client, said, config(import_path="m:v2"))
    written = await made.write()
    assert written.found == "other"
    assert written.former["import_path"] == "m:v1"
    await made.wait(soon())
    assert serve.applications["a"].config["import_path"] == "m:v2"
    assert serve.applications["other"].config["args"] == {"x": 1}
    assert serve.applications["job"].status == "RUNNING"
    assert serve.target_capacity == 60.0


async def test_what_runs_as_wanted_is_not_written_again(dashboard, client, said, monkeypatch):
    monkeypatch.setattr(deploy, "_SETTLE_SECONDS", 30.0)
    dashboard.serve.add("a")
    made = deploying(client, said)
    await made.write()
    began = time.monotonic()
    await made.wait(soon())
    assert time.monotonic() - began < 15, "nothing has to settle"
    assert dashboard.serve.bodies == []
    assert await made.take_back() == "Nothing was changed."


async def test_one_that_failed_is_written_again_and_then_left(dashboard, client, said):
    dashboard.serve.add("a").status = "DEPLOY_FAILED"
    made = deploying(client, said)
    await made.write()
    await made.wait(soon())
    assert len(dashboard.serve.bodies) == 1
    assert "left as it is" in await made.take_back()


async def test_it_does_not_count_as_deployed_before_others_have_had_their_time(dashboard, client, said):
    """Who had read before our write writes a moment later: ours runs already, and is gone then."""
    serve = dashboard.serve
    serve.deploy_seconds = 0.0

    async def other() -> None:
        await asyncio.sleep(0.15)
        serve.write({"applications": [config("other")]})

    task: list[asyncio.Task[None]] = []
    serve.after_write = lambda number: task.append(asyncio.ensure_future(other())) if number == 1 else None
    made = deploying(client, said)
    await made.write()
    await made.wait(soon())
    assert {"a", "other"} <= {name for name, one in serve.applications.items() if one.status == "RUNNING"}
    assert any("merged and written again" in line for line in said)


async def test_two_writers_at_once_both_end_right(dashboard):
    serve = dashboard.serve
    serve.write_seconds = 0.05
    lines: list[str] = []
    names = [f"app{number}" for number in range(6)]

    async def one(name: str) -> None:
        async with ServeClient(dashboard.endpoint()) as client:
            made = deploying(client, lines, config(name))
            await made.write()
            await made.wait(soon(40))

    await asyncio.gather(*map(one, names))
    assert sorted(serve.applications) == names
    assert {one.status for one in serve.applications.values()} == {"RUNNING"}
    assert any("written again" in line for line in lines), "they did write over each other"


async def test_somebody_who_never_lets_go_is_told(dashboard, client, said, monkeypatch):
    monkeypatch.setattr(deploy, "_FIRST_PAUSE", 0.01)
    dashboard.serve.after_write = lambda _number: dashboard.serve.applications.clear()
    with pytest.raises(ServeError, match="keeps writing over the application 'a'"):
        await deploying(client, said).write()


async def test_a_write_whose_answer_is_lost_is_looked_for(dashboard, client, said):
    dashboard.serve.fail_writes = [502]
    made = deploying(client, said)
    await made.write()
    await made.wait(soon())
    assert len(dashboard.serve.bodies) == 1
    assert any(line.startswith("WARNING") and "looked at" in line for line in said)


async def test_what_serve_drops_is_told_and_taken_back(dashboard, client, said):
    made = deploying(client, said, config(deployments=[{"name": "M", "teleport": 1}]))
    with pytest.raises(ConfigurationError, match=r"does not know deployments\.M\.teleport"):
        await made.write()
    assert "removed again" in await made.take_back()
    assert dashboard.serve.applications == {}


async def test_a_refusal_is_told_and_nothing_stays(dashboard, client, said):
    with pytest.raises(ConfigurationError, match="(?s)Serve refuses the configuration.*Field required"):
        await client.write({"applications": [{"name": "a"}]})
    dashboard.serve.installed = False
    with pytest.raises(ConfigurationError, match="has no Serve"):
        await deploying(client, said).write()


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_a_failure_has_its_reason_and_the_former_version_comes_back(dashboard, client, said):
    serve = dashboard.serve
    serve.add("a", "m:v1")
    serve.add("other")
    serve.fates["m:v2"] = ("DEPLOY_FAILED", "Deploying app 'a' failed with exception:\nValueError: no", {})
    made = deploying(client, said, config(import_path="m:v2"))
    await made.write()
    with pytest.raises(
        ServeFailedError, match="can't run the application 'a': it could not be imported.*: ValueError: no"
    ):
        await made.wait(soon())
    assert await made.take_back() == "The former version was put back, and runs."
    assert serve.applications["a"].config["import_path"] == "m:v1"
    assert serve.applications["other"].status == "RUNNING"


async def test_a_first_deploy_is_removed_again_and_one_that_is_kept_is_not(dashboard, client, said):
    serve = dashboard.serve
    serve.fates["m:app"] = ("DEPLOY_FAILED", "ValueError: no", {})
    for keep in (True, False):
        made = deploying(client, said)
        await made.write()
        error = await with_way_back(ServeFailedError("It can't run"), made.take_back, keep=keep)
        assert ("keep_on_failure" if keep else "removed again") in error.message
        assert error.message.startswith("It can't run. ")
        assert ("a" in serve.applications) is keep
        serve.applications.clear()


async def test_a_deployment_that_the_new_version_has_not_is_told(dashboard, client, said):
    """Serve ends it at once: requests fail until the new one runs."""
    serve = dashboard.serve
    serve.add("a", "m:v1").deployments = {"Old": {"status": "HEALTHY"}, "Same": {"status": "HEALTHY"}}
    serve.fates["m:v2"] = ("RUNNING", "", {"New": {"status": "HEALTHY"}, "Same": {"status": "HEALTHY"}})
    made = deploying(client, said, config(import_path="m:v2"))
    await made.write()
    await made.wait(soon())
    [line] = [line for line in said if line.startswith("WARNING")]
    assert "has no deployment Old." in line


async def test_what_somebody_else_deployed_since_is_left(dashboard, client, said):
    serve = dashboard.serve
    serve.add("a", "m:v1")
    made = deploying(client, said, config(import_path="m:v2"))
    written = await made.write()
    serve.write({"applications": [config(import_path="m:v3")]})
    assert "Somebody else has deployed 'a' since" in await take_back(client, written, say=said.append)
    assert serve.applications["a"].config["import_path"] == "m:v3"
    serve.applications.clear()
    assert "no application 'a' any more" in await take_back(client, written, say=said.append)


async def test_the_way_back_by_what_travelled(dashboard, client, said):
    """All that a trigger knows: no secret is in it."""
    serve = dashboard.serve
    environment = {"env_vars": {"TOKEN": "hunter2"}}
    serve.add("a", "m:v1", runtime_env=environment)
    wanted = config(import_path="m:v2", runtime_env=environment)
    written = await deploying(client, said, wanted).write()
    packed = written.packed(wanted)
    assert "hunter2" not in str(packed)
    again = Written.from_dict(packed or {})
    assert again.is_ours(serve.applications["a"].config)
    assert "runs" in await take_back(client, again, say=said.append)
    assert serve.applications["a"].config["runtime_env"] == environment
    assert serve.applications["a"].config["import_path"] == "m:v1"
    assert written.packed(config()) is None, "a secret that is nowhere else"


async def test_a_time_out_says_why(dashboard, client, said):
    told = 'taken more than 30s to be scheduled. Resources required for each replica: {"CPU": 9}, total resources available: {}. '
    dashboard.serve.fates["m:app"] = ("DEPLOYING", "", {"M": {"status": "UPDATING", "message": told}})
    made = deploying(client, said)
    await made.write()
    with pytest.raises(ServeTimeoutError, match=r'no room for a replica of deployment M: each asks for \{"CPU": 9\}'):
        await made.wait(soon(0.5))
    assert sum("no room" in line for line in said) == 1, "told once, as soon as it is seen"


async def test_a_dashboard_that_is_away_is_waited_for(dashboard, client, said):
    made = deploying(client, said)
    written = await made.write()
    dashboard.unavailable = True

    async def back() -> None:
        await asyncio.sleep(6.5)
        dashboard.unavailable = False

    task = asyncio.create_task(back())
    options = WaitOptions(soon(), written.settled_at, 30.0)
    assert (await wait_running(client, "a", made.is_ours, options, say=said.append)).status == "RUNNING"
    assert any("answers again" in line for line in said)
    await task


async def test_one_that_is_overwritten_is_noticed_by_who_only_watches(dashboard, client, said):
    written = await deploying(client, said).write()
    dashboard.serve.write({"applications": []})
    with pytest.raises(OverwrittenError):
        await wait_running(client, "a", written.is_ours, WaitOptions(soon()), say=said.append)


async def test_waiting_for_one_that_somebody_else_deploys(dashboard, client, said):
    async def deploy() -> None:
        await asyncio.sleep(0.3)
        dashboard.serve.write({"applications": [config()]})

    task = asyncio.create_task(deploy())
    assert (await wait_for(client, "a", WaitOptions(soon()), say=said.append)).status == "RUNNING"
    assert "There is no application 'a' yet." in said
    await task
    with pytest.raises(ServeTimeoutError, match="'none' did not run within"):
        await wait_for(client, "none", WaitOptions(soon(0.2)), say=said.append)


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_a_cancellation_while_the_write_is_on_its_way_takes_it_back(dashboard, client, said):
    serve = dashboard.serve
    serve.add("a", "m:v1")
    serve.write_seconds = 0.5
    made = deploying(client, said, config(import_path="m:v2"))
    task = asyncio.create_task(made.write())
    while not dashboard.count["PUT /api/serve/applications/"]:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made.has_written
    # The double drops a request whose client is gone; Ray does not.
    serve.write({"applications": [config(import_path="m:v2")]})
    assert await made.take_back(wait=False) == "The former configuration was put back."
    assert serve.applications["a"].config["import_path"] == "m:v1"


async def test_deleting_one_leaves_the_others(dashboard, client, said):
    serve = dashboard.serve
    serve.add("a")
    serve.add("b")
    serve.add("job", imperative=True)
    assert await remove_application(client, "a", say=said.append)
    assert sorted(serve.applications) == ["b", "job"]
    assert not await remove_application(client, "a", say=said.append)
    assert "nothing to delete" in said[-1]
    with pytest.raises(ConfigurationError, match="not removed by REST"):
        await remove_application(client, "job", say=said.append)


async def test_one_that_somebody_brings_back_is_removed_again(dashboard, client, said):
    serve = dashboard.serve
    serve.add("a")
    serve.delete_seconds = 0.0
    serve.after_write = lambda number: serve.add("a") if number == 1 else None
    assert await remove_application(client, "a", say=said.append)
    assert serve.applications == {}
    assert any("removed again" in line for line in said)


async def test_one_that_does_not_go_is_told(dashboard, client, said):
    dashboard.serve.add("a")
    dashboard.serve.delete_seconds = 30.0
    with pytest.raises(ServeTimeoutError, match="was not gone after 1 s: DELETING"):
        await remove_application(client, "a", timeout=0.7, say=said.append)
