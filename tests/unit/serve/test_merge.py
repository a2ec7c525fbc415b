"""One application among others: what is written leaves those as they are, and what is doubtful is not written."""

from __future__ import annotations

from typing import Any

import pytest

from ray_provider.exceptions import ConfigurationError, ServeError
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.serve import merge, travel
from ray_provider.serve.state import ServeState
from ray_provider.serve.urls import application_url, serve_endpoint

NEW = {"name": "new", "import_path": "m:app", "route_prefix": "/new"}


def app(name: str, **further: Any) -> dict[str, Any]:
    config = {"name": name, "import_path": "m:app", "route_prefix": f"/{name}"}
    told = {"status": "RUNNING", "route_prefix": f"/{name}", "source": "declarative", "deployed_app_config": config}
    return {**told, **further}


def state(**applications: Any) -> ServeState:
    return ServeState.from_json(
        {"http_options": {"host": "h", "port": 9}, "proxy_location": "HeadOnly", "target_capacity": 50.0,
         "applications": applications}
    )  # fmt: skip


def names(body: dict[str, Any]) -> list[str]:
    return [one["name"] for one in body["applications"]]


def test_others_are_written_as_they_are_and_so_is_what_counts_for_all() -> None:
    before = state(a=app("a", deployed_app_config={"name": "a", "import_path": "x", "args": {"k": 1}}), b=app("b"))
    body = merge.with_application(before, NEW)
    assert names(body) == ["a", "b", "new"]
    assert body["applications"][0] == {"name": "a", "import_path": "x", "args": {"k": 1}}
    assert (body["target_capacity"], body["proxy_location"]) == (50.0, "HeadOnly")
    assert body["http_options"] == {"host": "h", "port": 9}
    changed = merge.with_application(before, {**NEW, "name": "b"})
    assert names(changed) == ["a", "b"]
    assert changed["applications"][1]["route_prefix"] == "/new"
    assert names(merge.without_application(before, "a")) == ["b"]


def test_the_first_one_says_where_serve_listens() -> None:
    empty = ServeState.from_json({"applications": {}, "controller_info": {}})
    assert not empty.runs
    body = merge.with_application(empty, NEW, {"port": 1234})
    assert body == {"applications": [NEW], "http_options": {"port": 1234}}


def test_a_serve_that_listens_elsewhere_is_refused() -> None:
    merge.check_http(state(), {"port": 9})
    with pytest.raises(ConfigurationError, match="with port 9 instead of 8001"):
        merge.check_http(state(), {"port": 8001})


def test_what_a_job_made_is_not_written_and_not_replaced() -> None:
    made = app("job", source="imperative")  # its configuration is one that was written before the job came
    assert names(merge.with_application(state(job=made), NEW)) == ["new"]
    with pytest.raises(ConfigurationError, match=r"A job made the application 'job' \(serve.run\)"):
        merge.with_application(state(job=made), {**NEW, "name": "job"})


def test_what_goes_is_not_written() -> None:
    assert names(merge.with_application(state(old=app("old", status="DELETING")), NEW)) == ["new"]


@pytest.mark.parametrize("source", ["declarative", ""])
def test_an_application_that_a_write_would_delete_is_told(source: str) -> None:
    lost = app("lost", source=source, deployed_app_config=None)
    for write in (merge.with_application, merge.without_application):
        with pytest.raises(ServeError, match="would delete it"):
            write(state(lost=lost), NEW if write is merge.with_application else "other")


def test_env_vars_that_are_hidden_from_us_are_not_written_back() -> None:
    config = {"name": "a", "import_path": "x", "runtime_env": {"env_vars": {"KEY": "<redacted>"}}}
    with pytest.raises(ServeError, match="hides env_vars of the application 'a'"):
        merge.with_application(state(a=app("a", deployed_app_config=config)), NEW)


@pytest.mark.parametrize("other", [app("a"), app("a", source="imperative", deployed_app_config=None)])
def test_a_route_that_is_taken_is_refused_before_anything_is_sent(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="route_prefix '/a' is taken by the application 'a'") as raised:
        merge.with_application(state(a=other), {**NEW, "route_prefix": "/a"})
    assert "route_prefix='/new'" in str(raised.value)
    merge.with_application(state(a=other), {**NEW, "route_prefix": None})


@pytest.mark.parametrize(
    ("shown", "other", "dropped"),
    [
        ({}, (), ()),
        ({"logging_config": {"log_level": "INFO"}}, (), ()),
        ({"import_path": "m:other"}, ("import_path",), ()),
        ({"args": {"x": 1, "y": 2}}, ("args",), ()),
        ({"runtime_env": {"pip": ["a"]}}, ("runtime_env",), ()),
        ({"deployments": [{"name": "M", "num_replicas": 2.0}]}, (), ("deployments.M.teleport",)),
        ({"deployments": [{"name": "M", "num_replicas": 3, "teleport": 1}]}, ("deployments.M.num_replicas",), ()),
        ({"deployments": []}, ("deployments",), ()),
    ],
)
def test_as_written_or_not(shown: dict[str, Any], other: tuple[str, ...], dropped: tuple[str, ...]) -> None:
    wanted = {**NEW, "args": {"x": 1}, "deployments": [{"name": "M", "num_replicas": 2, "teleport": 1}]}
    found = merge.difference(wanted, {**wanted, **shown})
    assert (found.other, found.dropped) == (other, dropped)
    assert bool(found) == bool(other or dropped)


def test_the_same_configuration_has_the_same_digest_however_serve_writes_its_numbers() -> None:
    one = {**NEW, "deployments": [{"name": "M", "ray_actor_options": {"num_cpus": 1}}]}
    same = {"deployments": [{"ray_actor_options": {"num_cpus": 1.0}, "name": "M"}], **NEW, "logging_config": {}}
    assert merge.digest(one) == merge.digest(same)
    assert merge.digest(one) != merge.digest({**one, "import_path": "m:b"})


@pytest.mark.parametrize(
    ("replicas", "has", "wanted", "expected"),
    [
        (1, 0, None, ["M"]), (1, 100, None, []), (1, 0, 100, []), (1, 100, 0, ["M"]), (2, 0, None, []), (0, 0, None, []),
    ],
)  # fmt: skip
def test_who_is_stopped_before_the_new_one_starts(replicas: int, has: int, wanted: Any, expected: list[str]) -> None:
    deployment = {"replicas": [{"state": "RUNNING"}] * replicas, "deployment_config": {"max_surge_percent": has}}
    before = state(a=app("a", deployments={"M": deployment})).applications["a"]
    surge = {} if wanted is None else {"max_surge_percent": wanted}
    assert merge.interrupted(before, {**NEW, "deployments": [{"name": "M", **surge}]}) == expected


# -- what travels ------------------------------------------------------------------------------------------------------


def config(secret: str, **further: Any) -> dict[str, Any]:
    options = {"runtime_env": {"env_vars": {"KEY": secret}}}
    return {**NEW, "runtime_env": {"env_vars": {"TOKEN": secret}},
            "deployments": [{"name": "M", "ray_actor_options": options}], **further}  # fmt: skip


def test_a_former_version_travels_without_its_secrets_and_comes_back_whole() -> None:
    former, written = config("hunter2", import_path="m:v1"), config("hunter2", import_path="m:v2")
    packed = travel.packed(former, written)
    assert packed is not None
    assert "hunter2" not in str(packed)
    assert travel.unpacked(packed, written) == former
    assert travel.unpacked(former, written) == former, "one that never travelled"


@pytest.mark.parametrize(
    ("former", "written"),
    [
        (config("hunter2"), config("hunter3")),
        (config("hunter2"), NEW),
        ({**NEW, "runtime_env": {"pip": ["--index-url https://u:p@example.com/simple"]}}, NEW),
        ({**NEW, "args": {"api_key": "hunter2"}}, {**NEW, "args": {"api_key": "hunter2"}}),
    ],
)
def test_one_whose_secrets_are_nowhere_else_does_not_travel(former: dict[str, Any], written: dict[str, Any]) -> None:
    assert travel.packed(former, written) is None


def test_a_former_version_whose_secrets_are_gone_is_not_put_back_without_them() -> None:
    packed = travel.packed(config("hunter2"), config("hunter2"))
    with pytest.raises(ServeError, match="env_vars TOKEN is lost"):
        travel.unpacked(packed or {}, NEW)


# -- where it answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dashboard", "given", "expected"),
    [
        ("http://127.0.0.1:8265", None, "http://127.0.0.1:8001/a"),
        ("http://[::1]:8265", None, "http://[::1]:8001/a"),
        ("http://c-head-svc.team.svc:8265", None, "http://c-head-svc.team.svc:8001/a"),
        (
            "https://10.0.0.1/api/v1/namespaces/team/services/c-head-svc:8265/proxy",
            None,
            "https://10.0.0.1/api/v1/namespaces/team/services/c-head-svc:8001/proxy/a",
        ),
        ("https://ray.example.com", None, None),
        ("http://ray.example.com/team/c", None, None),
        ("https://ray.example.com/team/c", "https://serve.example.com/c/", "https://serve.example.com/c/a"),
    ],
)
def test_where_an_application_answers(dashboard: str, given: str | None, expected: str | None) -> None:
    found = serve_endpoint(RayEndpoint(dashboard, token="t", headers={"X": "y"}), {"port": 8001}, given)
    assert (application_url(found, "/a") if found else None) == expected
    assert found is None or found.token is None, "Ray's token is not for applications"
    if given:
        assert not found.headers, "nor are the dashboard's headers for another host"


def test_a_route_that_is_none_has_no_address() -> None:
    assert application_url(RayEndpoint("http://h:1"), None) is None
    assert application_url(RayEndpoint("http://h:1"), "/") == "http://h:1/"
    with pytest.raises(ConfigurationError, match="serve_url has to be a URL"):
        serve_endpoint(RayEndpoint("http://h:1"), {}, "h:8000")
