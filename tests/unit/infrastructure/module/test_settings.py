"""Where Terraform works: what a handle may say of it, what a task says, and what the state knows better."""

from __future__ import annotations

from typing import Any

import pytest

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.module.settings import (
    bundled_cloud,
    merge_backend,
    merge_providers,
    place_of,
    project_in,
    public_settings,
    region_in,
    settle,
)
from ray_provider.infrastructure.terraform.state import StateResource, StateView

NOWHERE = dict.fromkeys(
    (
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_PROFILE",
        "GOOGLE_PROJECT",
        "GOOGLE_CLOUD_PROJECT",
        "GCLOUD_PROJECT",
        "CLOUDSDK_CORE_PROJECT",
    )
)


@pytest.fixture(autouse=True)
def no_place_of_the_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in NOWHERE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def on_aws(region: str, account: str = "123456789012", number: int = 1) -> tuple[StateResource, ...]:
    return tuple(
        StateResource(f"aws_vpc.v[{n}]", "aws_vpc", values={"arn": f"arn:aws:ec2:{region}:{account}:vpc/v-{n}"})
        for n in range(number)
    )


def on_google(project: str) -> tuple[StateResource, ...]:
    return (StateResource("google_compute_network.n", "google_compute_network", values={"project": project}),)


def test_what_sounds_secret_is_not_shown_at_any_depth() -> None:
    given = {
        "region": "eu-west-1",
        "secret_key": "planted",
        "assume_role": [{"role_arn": "arn:r", "session_token": "planted"}],
        "nested": ({"password": "planted", "plain": 1},),
        "impersonate_service_account": "sa@p",
        "skip_credentials_validation": True,
    }
    assert public_settings(given) == {
        "region": "eu-west-1",
        "assume_role": [{"role_arn": "arn:r"}],
        "nested": [{"plain": 1}],
        "impersonate_service_account": "sa@p",
        "skip_credentials_validation": True,
    }


# ---------------------------------------------------------------- what a handle says of providers


@pytest.mark.parametrize(
    ("provider", "settings"),
    [
        ("aws", {"region": "eu-west-1"}),
        ("aws", {"assume_role": {"role_arn": "arn:r"}, "profile": "team", "use_fips_endpoint": True}),
        ("aws", {"allowed_account_ids": ["1"], "default_tags": {"tags": {"a": "b"}}, "s3_use_path_style": True}),
        ("google", {"project": "p", "zone": "z", "request_timeout": "60s"}),
        ("google-beta", {"project": "p", "impersonate_service_account": "sa@p"}),
    ],
)
def test_a_delete_works_where_the_handle_says(provider: str, settings: dict[str, Any]) -> None:
    assert merge_providers({}, {provider: settings}) == {provider: settings}


def test_what_the_task_says_is_kept_and_filled_up() -> None:
    given = {"aws": {"secret_key": "mine", "region": "eu-west-1"}, "other": {"x": 1}}
    recorded = {"aws": {"region": "eu-west-1", "profile": "team"}}
    assert merge_providers(given, recorded) == {
        "aws": {"secret_key": "mine", "region": "eu-west-1", "profile": "team"},
        "other": {"x": 1},
    }
    assert given["aws"] == {"secret_key": "mine", "region": "eu-west-1"}, "the task's own is not changed"


@pytest.mark.parametrize(
    ("provider", "settings", "field"),
    [
        ("aws", {"endpoints": {"s3": "http://elsewhere"}}, "providers.aws.endpoints"),
        ("aws", {"shared_credentials_files": ["/etc/x"]}, "providers.aws.shared_credentials_files"),
        ("google", {"credentials": "/etc/x"}, "providers.google.credentials"),
        ("kubernetes", {"host": "https://elsewhere"}, "providers.kubernetes.host"),
    ],
)
def test_where_credentials_go_is_no_handles_to_say(provider: str, settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError, match="which a handle does not decide") as caught:
        merge_providers({}, {provider: settings})
    assert caught.value.data["field"] == field
    assert "Give `providers` to this task too" in str(caught.value)


def test_a_task_that_says_another_place_than_the_handle_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'eu-west-1', and this task says 'us-east-1'") as caught:
        merge_providers({"aws": {"region": "us-east-1"}}, {"aws": {"region": "eu-west-1"}})
    assert caught.value.data["field"] == "providers.aws.region"


def test_several_configurations_of_a_provider_have_to_be_the_same() -> None:
    both = [{"region": "a"}, {"alias": "b", "region": "b", "secret_key": "planted"}]
    known = public_settings(both)
    assert merge_providers({"aws": both}, {"aws": known}) == {"aws": both}
    for given in ({}, {"aws": [{"region": "c"}]}, {"aws": {"region": "a"}}):
        with pytest.raises(ConfigurationError, match=r"providers\.aws"):
            merge_providers(given, {"aws": known})


# ---------------------------------------------------------------- what it says of a backend


@pytest.mark.parametrize(
    "recorded",
    [
        {"type": "local", "path": "/states/x", "workspace_dir": "/states/w"},
        {"type": "s3", "bucket": "b", "key": "k", "region": "r", "use_lockfile": True, "role_arn": "arn:r"},
        {"type": "s3", "bucket": "b", "dynamodb_table": "t", "workspace_key_prefix": "w", "profile": "team"},
        {"type": "gcs", "bucket": "b", "prefix": "p", "impersonate_service_account": "sa"},
    ],
)
def test_the_handles_backend_counts_where_the_task_says_none(recorded: dict[str, Any]) -> None:
    assert merge_backend(None, recorded) == recorded
    assert merge_backend({}, recorded) == recorded


@pytest.mark.parametrize(
    ("recorded", "field"),
    [
        ({"type": "http", "address": "http://elsewhere"}, "backend.type"),
        ({"type": "s3", "bucket": "b", "endpoint": "http://elsewhere"}, "backend.endpoint"),
        ({"type": "gcs", "bucket": "b", "storage_custom_endpoint": "http://e"}, "backend.storage_custom_endpoint"),
    ],
)
def test_a_handle_sends_no_state_elsewhere(recorded: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        merge_backend(None, recorded)
    assert caught.value.data["field"] == field


def test_the_tasks_own_backend_has_to_be_the_same_one() -> None:
    given = {"type": "s3", "bucket": "b", "key": "k", "secret_key": "mine", "endpoint": "http://mine"}
    assert merge_backend(given, {"type": "s3", "bucket": "b", "key": "k"}) == given
    with pytest.raises(ConfigurationError) as caught:
        merge_backend(given, {"type": "s3", "bucket": "b", "key": "another"})
    assert caught.value.data["field"] == "backend.key"


# ---------------------------------------------------------------- regions and projects


def test_the_clouds_of_the_bundled_modules() -> None:
    assert (bundled_cloud("eks"), bundled_cloud("gke"), bundled_cloud("/my/module")) == ("aws", "gcp", None)


def test_the_region_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert region_in({}) is None
    (tmp_path / "config").write_text("[default]\nregion = from-file\n[profile team]\nregion = of-team\n")
    assert region_in({}) == "from-file"
    assert region_in({"AWS_PROFILE": "team"}) == "of-team"
    assert region_in({"AWS_PROFILE": "nobody"}) is None
    monkeypatch.setenv("AWS_DEFAULT_REGION", "second")
    assert region_in({}) == "second"
    assert region_in({"AWS_REGION": "first"}) == "first"


def test_the_project_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert project_in({}) is None
    names = ["CLOUDSDK_CORE_PROJECT", "GCLOUD_PROJECT", "GOOGLE_CLOUD_PROJECT", "GOOGLE_PROJECT"]
    for name in names:  # each comes before those that were set so far
        monkeypatch.setenv(name, name.lower())
        assert project_in({}) == name.lower()
    assert project_in({"GOOGLE_PROJECT": "of-the-task"}) == "of-the-task"


def settled(resources: tuple[StateResource, ...] = (), **given: Any) -> dict[str, str]:
    options: dict[str, Any] = {"providers": {}, "given_env": {}, "expected": {}, **given}
    return settle(StateView(resources=resources), **options)


def test_terraform_is_sent_to_where_the_state_is() -> None:
    aws = {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1"}
    assert settled(on_aws("eu-west-1")) == aws
    assert settled(expected={"region": "eu-west-1"}) == aws
    assert settled(on_aws("eu-west-1"), expected={"region": "eu-west-1"}) == aws
    google = settled(on_google("p"))
    assert google == dict.fromkeys(
        ("GOOGLE_PROJECT", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"), "p"
    )
    assert settled() == {}
    assert settled(expected={"region": "", "project": None}) == {}


def test_what_the_task_says_itself_is_left_to_it() -> None:
    assert settled(on_aws("eu-west-1"), providers={"aws": {"region": "eu-west-1"}}) == {}
    assert settled(on_aws("eu-west-1"), given_env={"AWS_REGION": "eu-west-1"}) == {}
    two = (*on_aws("eu-west-1", number=2), *on_aws("us-east-1"))
    assert settled(two) == {}, "which of them, nobody can say"
    assert settled(two, providers={"aws": {"region": "us-east-1"}}) == {}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"providers": {"aws": {"region": "us-east-1"}}}, "providers.aws.region"),
        ({"given_env": {"AWS_REGION": "us-east-1"}}, "env.AWS_REGION"),
        ({"given_env": {"AWS_DEFAULT_REGION": "us-east-1"}}, "env.AWS_DEFAULT_REGION"),
        ({"providers": {"aws": [{"region": "x"}]}, "given_env": {"AWS_REGION": "us-east-1"}}, "env.AWS_REGION"),
    ],
)
def test_another_region_than_the_states_is_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(
        ConfigurationError, match="it says us-east-1, and what the state holds is in eu-west-1"
    ) as caught:
        settled(on_aws("eu-west-1"), **given)
    assert caught.value.data["field"] == field
    assert caught.value.data["wanted"] == ["eu-west-1"]
    with pytest.raises(ConfigurationError, match="the handle says it is in eu-west-1"):
        settled(expected={"region": "eu-west-1"}, **given)


def test_another_project_than_the_states_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        settled(on_google("p"), providers={"google": {"project": "other"}})
    assert caught.value.data["field"] == "providers.google.project"


def test_a_handle_and_a_state_of_different_places_are_not_the_same_infrastructure() -> None:
    with pytest.raises(ConfigurationError, match="the handle says region us-east-1, and the state eu-west-1"):
        settled(on_aws("eu-west-1"), expected={"region": "us-east-1"})


def place(resources: tuple[StateResource, ...] = (), **given: Any) -> dict[str, str]:
    options: dict[str, Any] = {"cloud": None, "providers": {}, "env": {}, **given}
    return place_of(StateView(resources=resources), **options)


def test_the_place_that_a_handle_gets() -> None:
    assert place() == {}
    assert place(env={"AWS_REGION": "r", "GOOGLE_PROJECT": "p"}) == {}, "no cloud is known"
    assert place(cloud="aws", env={"AWS_REGION": "r"}) == {"region": "r"}
    assert place(cloud="aws", env={"AWS_REGION": "r"}, providers={"aws": {"region": "said"}}) == {"region": "said"}
    assert place(providers={"aws": {}}, env={"AWS_REGION": "r"}) == {"region": "r"}
    assert place(on_aws("of-state"), env={"AWS_REGION": "r"}, providers={"aws": {"region": "said"}}) == {
        "region": "of-state",
        "account": "123456789012",
    }
    assert place(on_google("other") + on_aws("of-state")) == {
        "region": "of-state",
        "account": "123456789012",
        "project": "other",
    }, "each cloud's own"
    assert place(cloud="gcp", env={"GOOGLE_PROJECT": "p"}) == {"project": "p"}
    assert place(providers={"google": {"project": "said"}}, env={"GOOGLE_PROJECT": "p"}) == {"project": "said"}
    assert place(on_google("of-state"), providers={"google": {"project": "said"}}) == {"project": "of-state"}
    assert place(cloud="gcp") == {}
