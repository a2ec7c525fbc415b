"""Bad input is refused with the field's name; what Ray adds later does no harm."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_provider.exceptions import ConfigurationError, RayProviderError
from ray_provider.jobs.models import ClusterVersion, JobDetails, JobSpec
from ray_provider.jobs.submit.identity import JobOwner, submission_id_for


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"entrypoint": ""}, "entrypoint"),
        ({"entrypoint": "  "}, "entrypoint"),
        ({"entrypoint": None}, "entrypoint"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {1: "a"}}, "metadata.1"),
        ({"metadata": ["a"]}, "metadata"),
        ({"num_cpus": -1}, "num_cpus"),
        ({"num_gpus": "two"}, "num_gpus"),
        ({"memory": float("nan")}, "memory"),
        ({"num_cpus": True}, "num_cpus"),
        ({"resources": {"TPU": -4}}, "resources['TPU']"),
        ({"resources": {"TPU": None}}, "resources['TPU']"),
        ({"label_selector": {"a": 3}}, "label_selector.a"),
        ({"runtime_env": "x"}, "runtime_env"),
        ({"runtime_env": {"env_vars": {"A": 1}}}, "runtime_env.env_vars.A"),
        ({"submission_id": "a/b"}, "submission_id"),
        ({"submission_id": ""}, "submission_id"),
        ({"submission_id": "a" * 201}, "submission_id"),
    ],
)
def test_bad_input_names_its_field(values, field):
    with pytest.raises(ConfigurationError) as raised:
        JobSpec(**{"entrypoint": "true", **values}).validate()
    assert raised.value.data["field"] == field
    assert field.split(".")[0].split("[")[0] in str(raised.value)


def test_a_bad_environment_variable_keeps_its_value_to_itself():
    with pytest.raises(ConfigurationError) as raised:
        JobSpec("true", runtime_env={"env_vars": {"PASSWORD": 123456789}}).validate()
    assert "123456789" not in str(raised.value)


def test_a_request_has_no_null_keys():
    assert JobSpec("true").to_request() == {"entrypoint": "true"}
    full = JobSpec(
        "true", "id", {"pip": ["a"]}, {"k": "v"}, num_cpus=0, num_gpus=0.5, memory=1e9, resources={"TPU": 1},
        label_selector={"zone": "a"},
    )  # fmt: skip
    full.validate()
    assert full.to_request() == {
        "entrypoint": "true",
        "submission_id": "id",
        "runtime_env": {"pip": ["a"]},
        "metadata": {"k": "v"},
        "entrypoint_num_cpus": 0,
        "entrypoint_num_gpus": 0.5,
        "entrypoint_memory": 1000000000,
        "entrypoint_resources": {"TPU": 1},
        "entrypoint_label_selector": {"zone": "a"},
    }


def test_unknown_fields_are_kept_and_unknown_statuses_survive():
    details = JobDetails.from_json({"submission_id": "a", "status": "HIBERNATING", "colour": "blue", "message": None})
    assert details.extra == {"colour": "blue"}
    assert not details.is_final
    assert not details.is_success
    assert JobDetails.from_json({}).status == "UNKNOWN"


@pytest.mark.parametrize(
    ("status", "final", "success"),
    [
        ("PENDING", False, False),
        ("RUNNING", False, False),
        ("SUCCEEDED", True, True),
        ("FAILED", True, False),
        ("STOPPED", True, False),
    ],
)
def test_statuses(status, final, success):
    details = JobDetails("a", status)
    assert (details.is_final, details.is_success) == (final, success)


def test_a_version_without_a_session():
    version = ClusterVersion.from_json({"ray_version": "2.9", "version": "4", "colour": "blue"})
    assert (version.ray_version, version.api_version, version.session_name) == ("2.9", "4", None)
    assert version.extra == {"colour": "blue"}


@pytest.mark.parametrize("value", [{1, 2}, float("nan")], ids=["a set", "not a number"])
def test_what_json_can_not_say_is_refused_before_it_is_sent(value):
    with pytest.raises(ConfigurationError, match="The job can't be sent") as raised:
        JobSpec(entrypoint="true", runtime_env={"config": {"deep": value}}).to_request()
    assert "runtime_env holds text, numbers" in str(raised.value)


OWNER = JobOwner("etl.daily", "scheduled__2026-01-01T00:00:00+00:00", "group.train model", 3, 2, 1, "1.0.0", "prod")


def test_an_owner_survives_the_way_through_metadata():
    metadata = OWNER.to_metadata()
    assert all(isinstance(each, str) for pair in metadata.items() for each in pair)
    assert JobOwner.from_metadata(metadata) == OWNER
    assert JobOwner.from_metadata({"somebody": "else"}) is None
    assert JobOwner.from_metadata({**metadata, "airflow_map_index": "x"}) is None
    assert OWNER.detached is None, "as the jobs of a release that did not record it"
    for detached in (True, False):
        owner = replace(OWNER, detached=detached)
        assert JobOwner.from_metadata(owner.to_metadata()) == owner
        assert submission_id_for(owner) == submission_id_for(OWNER)


def test_a_mapped_task_with_index_0_keeps_it():
    owner = JobOwner("d", "r", "t", 0)
    assert JobOwner.from_metadata(owner.to_metadata()).map_index == 0


def test_the_submission_id_follows_from_the_logical_attempt_alone():
    same = replace(OWNER, try_number=7, provider_version="9")
    assert submission_id_for(same) == submission_id_for(OWNER)
    others = {
        submission_id_for(replace(OWNER, **change))
        for change in (
            {"dag_id": "x"}, {"run_id": "x"}, {"task_id": "x"}, {"map_index": 4}, {"attempt": 3}, {"deployment": "test"},
        )
    }  # fmt: skip
    assert len(others | {submission_id_for(OWNER)}) == 7


@pytest.mark.parametrize("name", ["a", "ü" * 250, "x.y/z w", "_", "A" * 250, "日本語"])
def test_a_submission_id_is_always_valid(name):
    made = submission_id_for(JobOwner(name, name, name))
    assert len(made) <= 63
    JobSpec("true", made).validate()
    assert made[0].isalnum()


def test_an_error_has_no_terminal_codes():
    """Ray colours what a job's message quotes; in a mail or in Airflow's list of errors the codes would be read."""
    error = RayProviderError("\x1b[36m(f pid=1)\x1b[0m no \x1b[2J disk", hint="\x1b[1mfree\x1b[22m some")
    assert str(error) == "(f pid=1) no  disk\nWhat to do: free some"


def test_an_error_has_no_password_of_a_url():
    """Ray shows the command of a pip that failed, with the address of a private package index."""
    said = (
        "Command '['pip', '--index-url', 'https://me:sesame@pypi.example.com/a@b', 'ftp://:sesame@x']' failed: git@host"
    )
    error = RayProviderError(said, hint="see http://me:sesame@host:8265/#/jobs")
    assert "sesame" not in str(error)
    assert "https://***@pypi.example.com/a@b" in str(error)
    assert "http://***@host:8265/#/jobs" in str(error)
    assert "git@host" in str(error)
