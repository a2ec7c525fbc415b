"""What Terraform gets of a cloud connection: something that it can renew by itself, wherever there is such a thing."""

from __future__ import annotations

import configparser
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks import cloud, terraform_credentials
from ray_provider.hooks.terraform_credentials import aws_credentials, google_credentials

ROLE = "arn:aws:iam::123456789012:role/ray"
KEY = {"type": "service_account", "project_id": "p1", "private_key": "planted-private", "client_email": "a@p1"}


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)

    def given(login: str | None = None, password: str | None = None, **extra: Any) -> None:
        found = SimpleNamespace(login=login, password=password, extra_dejson=extra)
        for module in (cloud, terraform_credentials):
            monkeypatch.setattr(module.BaseHook, "get_connection", staticmethod(lambda _: found))

    return given


def profiles(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


def test_a_role_is_assumed_by_terraform_itself(connection: Callable[..., None]) -> None:
    connection("AKIAPLANTED", "planted-key", role_arn=ROLE, external_id="e1", region_name="eu-west-1")
    found = aws_credentials("c")
    assert profiles(found.files["AWS_CONFIG_FILE"]) == {
        "profile airflow-ray": {
            "role_arn": ROLE,
            "role_session_name": "airflow-ray",
            "external_id": "e1",
            "source_profile": "airflow-ray-base",
            "region": "eu-west-1",
        },
        "profile airflow-ray-base": {"aws_access_key_id": "AKIAPLANTED", "aws_secret_access_key": "planted-key"},
    }
    assert found.env["AWS_PROFILE"] == "airflow-ray"
    assert found.env["AWS_ACCESS_KEY_ID"] == "", "the worker's own key would win"
    assert "planted" not in repr(found) + json.dumps(dict(found.env))


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({}, ("credential_source", "Ec2InstanceMetadata")),
        ({"AWS_ACCESS_KEY_ID": "AKIAWORKER"}, ("credential_source", "Environment")),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23"}, ("credential_source", "EcsContainer")),
        (
            {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_ROLE_ARN": "arn:base"},
            ("source_profile", "airflow-ray-base"),
        ),
    ],
)
def test_a_role_on_top_of_the_workers_identity(
    connection: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    line: tuple[str, str],
) -> None:
    connection(role_arn=ROLE)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = aws_credentials("c")
    assert profiles(found.files["AWS_CONFIG_FILE"])["profile airflow-ray"][line[0]] == line[1]
    assert ("AWS_ACCESS_KEY_ID" in found.env) is (line[1] != "Environment")


def test_a_line_can_not_be_smuggled_into_a_profile(connection: Callable[..., None]) -> None:
    connection("AKIA", "planted\ncredential_process = rm", role_arn=ROLE)
    with pytest.raises(ConfigurationError, match="more than one line") as caught:
        aws_credentials("c")
    assert "planted" not in str(caught.value)


def test_a_profile_of_the_worker_is_named(connection: Callable[..., None]) -> None:
    connection(profile_name="team")
    assert aws_credentials("c").env == {"AWS_PROFILE": "team"}


def test_what_can_not_be_renewed_is_said(connection: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    connection("AKIAPLANTED", "planted-key", aws_session_token="planted-session")
    with caplog.at_level(logging.WARNING):
        assert aws_credentials("c").env["AWS_SESSION_TOKEN"] == "planted-session"
    assert "Terraform can't renew" in caplog.text
    assert "planted" not in caplog.text
    caplog.clear()
    connection("AKIAPLANTED", "planted-key")
    assert set(aws_credentials("c").env) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert caplog.text == ""


def test_googles_keys_and_federations_go_on_as_they_are(connection: Callable[..., None], tmp_path: Path) -> None:
    connection(keyfile_dict=json.dumps(KEY))
    found = google_credentials("c").env
    assert json.loads(found["GOOGLE_CREDENTIALS"]) == KEY
    assert found["GOOGLE_PROJECT"] == "p1"
    path = tmp_path / "key.json"
    path.write_text(json.dumps(KEY))
    connection(key_path=str(path), extra__google_cloud_platform__project="p2")
    found = google_credentials("c").env
    assert json.loads(found["GOOGLE_CREDENTIALS"]) == KEY
    assert found["GOOGLE_PROJECT"] == "p2"
    federation = {"type": "external_account", "audience": "a", "credential_source": {"file": "/token"}}
    connection(credential_config_file=json.dumps(federation))
    assert json.loads(google_credentials("c").env["GOOGLE_CREDENTIALS"]) == federation


def test_googles_static_token_is_gone(connection: Callable[..., None]) -> None:
    """The worker's own identity: Terraform asks for tokens itself, also in the fiftieth minute."""
    connection(project="p1")
    assert google_credentials("c").env == {"GOOGLE_PROJECT": "p1"}
    connection(impersonation_chain="ray@p1.iam.gserviceaccount.com")
    assert google_credentials("c").env == {
        "GOOGLE_IMPERSONATE_SERVICE_ACCOUNT": "ray@p1.iam.gserviceaccount.com",
        "GOOGLE_BACKEND_IMPERSONATE_SERVICE_ACCOUNT": "ray@p1.iam.gserviceaccount.com",
    }


def test_a_key_file_that_is_not_there(connection: Callable[..., None]) -> None:
    connection(key_path="/nowhere/key.json")
    with pytest.raises(ConfigurationError, match="key_path") as caught:
        google_credentials("c")
    assert caught.value.data["field"] == "gcp_conn_id"
