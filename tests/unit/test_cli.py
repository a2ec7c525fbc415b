"""The command line, without starting anything."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
from pathlib import Path

import pytest

from ray_provider import cli
from ray_provider.examples import examples
from ray_provider.resources import bundled


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


def test_the_demonstration_without_what_it_shows_names_the_extra(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "pandas" else real(name, *rest))
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr().err == "The demonstration uses pandas: pip install 'airflow-ray[examples]'\n"


@pytest.mark.parametrize("what", [[], ["--jobs"]])
def test_the_default_connection_is_asked_unless_another_is_named(what, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AIRFLOW_RAY_LOCAL_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", '{"conn_type": "ray", "extra": {"backend": "local"}}')
    for module in ("reaper", "job_reaper"):  # no metadata database here
        monkeypatch.setattr(f"ray_provider.{module}.ask_airflow", lambda found: None)
    assert cli.main(["reap", *what]) == 0
    told = "No job of a task is pending or running there." if what else "No task's Ray cluster is on this machine."
    assert told in capsys.readouterr().out
    assert cli.main(["reap", *what, "--conn-id", "no_such_connection"]) == 1
    assert "no_such_connection" in capsys.readouterr().err


def test_infrastructure_is_looked_for_where_the_arguments_say(monkeypatch, capsys):
    """The clouds are played: each place has nothing."""
    looked_at = []
    monkeypatch.setattr(
        "ray_provider.infrastructure_reaper.survey", lambda where: (looked_at.extend(where), ([], []))[1]
    )
    monkeypatch.setattr("ray_provider.infrastructure_reaper.ask_airflow", lambda found: None)
    where = ["--region", "eu-west-1", "--region", "us-east-1", "--project", "p1"]
    which = ["--aws-conn-id", "aws", "--gcp-conn-id", "gcp", "--terraform-binary", "/usr/bin/tofu"]
    assert cli.main(["reap", "--infrastructure", *where, *which]) == 0
    assert [(place.cloud, place.name) for place in looked_at] == [
        ("aws", "eu-west-1"),
        ("aws", "us-east-1"),
        ("gcp", "p1"),
    ]
    for place in looked_at:
        assert (place.aws_conn_id, place.gcp_conn_id, place.terraform_binary) == ("aws", "gcp", "/usr/bin/tofu")
    assert "No task's infrastructure is in eu-west-1, us-east-1, p1." in capsys.readouterr().out


@pytest.mark.parametrize("command", [["demo"], ["examples"], ["examples", "copy", "anywhere"]])
def test_a_package_without_its_examples_says_so(command, monkeypatch, capsys):
    def missing(*names):
        raise FileNotFoundError("the examples are not in this package")

    monkeypatch.setattr("ray_provider.resources.bundled", missing)
    monkeypatch.setattr("ray_provider.examples.bundled", missing)
    assert cli.main(command) == (2 if command == ["demo"] else 1)
    assert capsys.readouterr() == ("", "the examples are not in this package\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--jobs", "--delete"], "--stop instead of --delete"),
        (["--stop"], "add --jobs"),
        (["--detached"], "add --jobs"),
        (["--jobs", "--infrastructure"], "run it twice"),
    ],
)
def test_switches_of_something_else_are_refused(arguments, expected, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["reap", *arguments])
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


def test_the_version_and_the_help_with_examples(capsys):
    for argument, expected in (
        ("--version", "airflow-ray 1."),
        ("--help", "ray-provider examples copy ~/airflow/dags"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([argument])
        assert ended.value.code == 0
        assert expected in capsys.readouterr().out
    for command in ("demo", "examples", "doctor", "reap"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert f"examples:\n  ray-provider {command}" in capsys.readouterr().out


def test_the_examples_are_listed_the_first_one_first_and_those_that_cost_money_say_so(capsys):
    assert cli.main(["examples"]) == 0
    head, first, *others = capsys.readouterr().out.splitlines()
    assert head.split() == ["DAG", "WHAT"]
    assert first.startswith("ray_quickstart ")
    for line in others:
        assert line.endswith(
            "costs money: makes machines in a cloud"
            if "infrastructure" in line
            else "needs Kubernetes"
            if line.startswith(("ray_service", "ray_nightly_gpus"))
            else "runs on a laptop"
        )


def test_the_examples_are_copied_and_read_from_there(tmp_path, capsys):
    dags = tmp_path / "airflow" / "dags"
    assert cli.main(["examples", "copy", str(dags)]) == 0
    told = capsys.readouterr().out
    assert "Start with ray_quickstart." in told
    assert "cost money: ray_infrastructure_eks, ray_infrastructure_gke" in told
    assert not list(dags.rglob("__pycache__"))
    assert (dags / "include" / "flight_delays.py").exists()
    quickstart = runpy.run_path(str(dags / "ray_quickstart.py"))
    assert Path(quickstart["INCLUDE"]) == dags / "include"


def test_a_copy_replaces_nothing_of_the_users_unless_told(tmp_path, capsys):
    assert cli.main(["examples", "copy", str(tmp_path)]) == 0
    assert cli.main(["examples", "copy", str(tmp_path)]) == 0, "the same files are no reason to stop"
    mine = tmp_path / "ray_quickstart.py"
    mine.write_text("mine = 1\n")
    (tmp_path / "ray_taskflow.py").unlink()
    assert cli.main(["examples", "copy", str(tmp_path)]) == 1
    assert "other files of these names: ray_quickstart.py. Nothing was copied." in capsys.readouterr().err
    assert mine.read_text() == "mine = 1\n"
    assert not (tmp_path / "ray_taskflow.py").exists()
    assert cli.main(["examples", "copy", str(tmp_path), "--force"]) == 0
    assert "SetupRayCluster" in mine.read_text()
    assert cli.main(["examples", "copy", str(mine)]) == 1
    assert "is no folder" in capsys.readouterr().err


def test_a_terminal_gets_a_table_that_hides_no_word(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["examples"]) == 0
    told = capsys.readouterr().out
    assert "ray_quickstart" in told
    assert "─" in told


@pytest.mark.parametrize("terminal", [True, False])
def test_what_takes_long_shows_on_a_terminal_that_it_goes_on(terminal, capsys, monkeypatch):
    """What is printed meanwhile and what is asked for is there in both cases."""
    monkeypatch.setenv("AIRFLOW_CONN_RAY_MINE", '{"conn_type": "ray", "extra": {"backend": "local"}}')
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(
        "ray_provider.hooks.RayHook.test_connection", lambda self: (print("meanwhile"), (True, "fine"))[1]
    )
    assert cli.main(["doctor", "--conn-id", "ray_mine"]) == 0
    told = capsys.readouterr().out
    assert "meanwhile\n" in told
    assert told.endswith("connection ray_mine: ok: fine\n")
    assert ("trying the connection ray_mine" in told) is terminal
    assert ("\x1b[" in told) is terminal


def test_the_page_of_examples_has_each_with_where_it_runs():
    page = Path(__file__).parents[2].joinpath("docs", "examples.md").read_text()
    rows = {name: line for line in page.splitlines() for name in re.findall(r"\[`(ray_\w+)`\]", line)}
    assert set(rows) == {one.name for one in examples()}
    for one in examples():
        assert ("a laptop" in rows[one.name]) is not (one.needs_kubernetes or one.costs_money), one.name
        assert ("**Costs money**" in rows[one.name]) is one.costs_money, one.name


def test_every_example_documents_itself_in_airflow_and_says_if_it_costs_money():
    for one in examples():
        source = (bundled("examples", "dags") / f"{one.name}.py").read_text()
        assert "doc_md=__doc__" in source, one.name
        about = ast.get_docstring(ast.parse(source))
        assert ("costs money" in about) is one.costs_money, one.name
        assert ("\nOn Kubernetes with KubeRay" in about) is one.needs_kubernetes, one.name
        if one.costs_money:
            assert "Start with `ray_quickstart`" in about
