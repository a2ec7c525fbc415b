"""The command line, without starting anything."""

from __future__ import annotations

import pytest

from ray_provider import cli


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Undo afterwards what the command line sets for its own process."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "x")
    monkeypatch.delenv("_AIRFLOW_PROCESS_CONTEXT")


def test_doctor_tells_versions_and_programs(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    for expected in ("airflow-ray 1.", "apache-airflow ", "terraform: not on PATH", "helm: not on PATH"):
        assert expected in told


@pytest.mark.parametrize(
    ("extra", "status", "expected"),
    [
        ('{"backend": "local"}', 0, "ok: The backend is local"),
        ('{"address": "http://127.0.0.1:9"}', 1, "FAILED"),
        ('{"address": "127.0.0.1:8265:1"}', 1, "FAILED"),
        ('{"backend": "nowhere"}', 1, "backend"),
    ],
)
def test_doctor_tries_a_connection(extra, status, expected, capsys, monkeypatch):
    import json

    monkeypatch.setenv("AIRFLOW_CONN_RAY_MINE", json.dumps({"conn_type": "ray", "extra": json.loads(extra)}))
    assert cli.main(["doctor", "--conn-id", "ray_mine"]) == status
    assert expected in capsys.readouterr().out


def test_doctor_says_that_there_is_no_such_connection(capsys, tmp_path, monkeypatch):
    assert cli.main(["doctor", "--conn-id", "no_such_connection"]) == 1
    assert "no_such_connection" in capsys.readouterr().out


def test_the_demonstration_outside_a_checkout_says_where_it_runs(monkeypatch, capsys):
    def missing(*_parts):
        raise FileNotFoundError

    monkeypatch.setattr("ray_provider.resources.bundled", missing)
    assert cli.main(["demo"]) == 2
    assert "make demo" in capsys.readouterr().err
