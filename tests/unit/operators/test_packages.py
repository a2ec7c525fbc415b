"""Secrets in a working_dir, and links that lead out of it, are named before everybody with Ray's token can read them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from ray_provider.operators import SubmitRayJob

pytestmark = [pytest.mark.usefixtures("connection"), pytest.mark.timeout(60)]

KEY = "-----BEGIN RSA PRIVATE KEY-----\nplanted\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder as people have them, and what lies beside it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "shadow").write_text("planted")
    top = tmp_path / "project"
    for name, content in {
        "main.py": "print(1)",
        ".env": "PASSWORD=planted",
        ".env.example": "PASSWORD=",
        "conf/airflow.cfg": "fernet_key = planted",
        "deploy/key.pem": KEY,
        "ca.pem": "-----BEGIN CERTIFICATE-----\n",
        "account.json": '{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\\nplanted"}',
        "left/.netrc": "machine h password planted",
        ".rayignore": "left/\n",
    }.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (top / "data").symlink_to(elsewhere)
    (top / "passwords").symlink_to(elsewhere / "shadow")
    (top / "inside").symlink_to(top / "main.py")
    return top


def warnings(dashboard, context, capsys, folder, **arguments) -> list[str]:
    def succeed(job):
        job.run(b"")
        job.end()

    capsys.readouterr()
    dashboard.when_submitted(succeed, count=len(dashboard.api.jobs) + 1)
    task = SubmitRayJob(
        task_id="task",
        conn_id="c",
        entrypoint="true",
        poll_interval=0.05,
        deferrable=False,
        runtime_env={"working_dir": str(folder)},
        **arguments,
    )
    task.execute(context)
    return [line for line in capsys.readouterr().out.splitlines() if "what is packed" in line]


def test_what_looks_like_a_secret_or_leads_out_is_named(dashboard, context, ti, capsys, folder):
    [told] = warnings(dashboard, context, capsys, folder)
    for name in (
        ".env (it usually holds secrets)",
        "conf/airflow.cfg (it usually holds secrets)",
        "deploy/key.pem (a private key)",
        "account.json (a private key)",
        f"data (a link to {folder.parent / 'elsewhere'}, out of the folder)",
        f"passwords (a link to {folder.parent / 'elsewhere' / 'shadow'}, out of the folder)",
    ):
        assert name in told
    for harmless in ("main.py", ".env.example", "ca.pem", ".netrc", "inside", "planted"):
        assert harmless not in told
    assert "allow_in_package=" in told
    assert "excludes" in told


def test_what_is_meant_can_be_said(dashboard, context, capsys, folder):
    meant = [".env", "conf/*", "*.pem", "account.json", "data", "passwords"]
    assert warnings(dashboard, context, capsys, folder, allow_in_package=meant) == []
    with pytest.raises(AirflowFailException, match="allow_in_package has to be a list of names"):
        warnings(dashboard, context, capsys, folder, allow_in_package={"a": 1})


def test_relative_paths_begin_beside_the_dags_file(dashboard, context, folder, monkeypatch, tmp_path):
    monkeypatch.chdir("/")
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "__init__.py").touch()
    (tmp_path / "needs.txt").write_text("emoji==2.0\n")
    (tmp_path / "env.yaml").write_text("working_dir: project\npy_modules: [library]\npip: {packages: needs.txt}\n")
    context["dag"] = SimpleNamespace(fileloc=str(tmp_path / "dag.py"))

    def sent(runtime_env) -> dict:
        dashboard.when_submitted(lambda job: (job.run(b""), job.end()), count=len(dashboard.api.jobs) + 1)
        task = SubmitRayJob(
            task_id="task", conn_id="c", entrypoint="true", deferrable=False, runtime_env=runtime_env,
            submission_id=f"id-{len(dashboard.api.jobs)}",
        )  # fmt: skip
        task.execute(context)
        return [*dashboard.api.jobs.values()][-1].request["runtime_env"]

    by_file = sent("env.yaml")
    assert by_file["working_dir"].startswith("gcs://")
    assert by_file["py_modules"][0].startswith("gcs://")
    assert by_file["pip"] == {"packages": ["emoji==2.0"]}
    assert sent({"working_dir": "project", "pip": "needs.txt"})["pip"] == ["emoji==2.0"]
    # What is no path stays what it is, whatever lies there.
    (tmp_path / "emoji").touch()
    assert sent({"pip": ["emoji"]}) == {"pip": ["emoji"]}
    assert sent({"conda": "library"}) == {"conda": "library"}
    with pytest.raises(AirflowFailException, match="'nowhere'"):
        sent({"working_dir": "nowhere"})
