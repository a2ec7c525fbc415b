"""Twelve secrets, given to a real Airflow by every way there is, and after runs with failures looked for everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import pytest

from ray_provider.testing import AirflowStack
from tests.security.scan import RAY_TOKEN, ArgvSampler, Scanner
from tests.support import helm as helm_support
from tests.support.ray_head import RayHead
from tests.support.terraform import need_terraform

HERE = Path(__file__).parent
NAMES = (
    "password",  # of the connection: Ray's token
    "token",  # in its extra
    "header",
    "cookie",
    "kubeconfig",
    "environment",  # a variable in runtime_env
    "terraform",  # a variable
    "backend",  # its key
    "helm",  # a value
    "function",  # an argument
    "webhook",  # a URL
    "aws",  # an access key's secret
)
SECRETS = {name: f"planted-{name}-{token_hex(8)}" for name in NAMES}
SECRETS["password"] = RAY_TOKEN
SECRETS["webhook"] = f"https://hooks.example.com/services/{SECRETS['webhook']}"
#: What is refused was sent by the worker, however the job is waited for: each way shows two of three ends.
EVERYTHING = os.environ.get("AIRFLOW_RAY_TESTS") == "all"
ENDS = {"good": "success", "bad": "failed", "refused": "failed"}
JOBS = {
    "jobs_plain": tuple(ENDS) if EVERYTHING else ("bad", "refused"),
    "jobs_deferred": tuple(ENDS) if EVERYTHING else ("good", "bad"),
}
DAGS = {
    **{dag: {name: ENDS[name] for name in names} for dag, names in JOBS.items()},
    "functions": {"fails": "failed"},
    "clusters": {"cluster": "failed"},
    "infrastructure": {"fails": "failed", "backend": "failed"},
}


@dataclass
class Traces:
    """What a run has left."""

    home: Path
    folders: list[Path]
    logs: dict[str, str]
    states: dict[str, str]
    argv: ArgvSampler
    jobs: list[dict]
    scanner: Scanner
    exceptions: str


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """Home and temporary files of all that runs. Short: Terraform's plugins make sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="rs-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory, scratch: Path, ray: RayHead) -> Traces:
    terraform = need_terraform()
    home = tmp_path_factory.mktemp("airflow")
    folders = [scratch / "home", scratch / "tmp"]
    for folder in folders:
        folder.mkdir()
    module = scratch / "module"
    shutil.copytree(HERE / "module", module)
    (scratch / "state").mkdir()
    env = {
        "HOME": str(folders[0]),
        "TMPDIR": str(folders[1]),
        "TEST_HELM": str(helm_support.tool("helm4")),
        "TEST_TERRAFORM": str(terraform.path),
        "TEST_MODULE": str(module),
        "TEST_STATE": str(scratch / "state"),
        "TEST_JOBS": json.dumps(JOBS),
    }
    scanner = Scanner(SECRETS)
    with ArgvSampler(scanner, ray.pid) as argv, AirflowStack(home, dags_folder=HERE / "dags", env=env) as stack:
        plant(stack, ray.url)
        states, logs = run_all(stack)
    jobs = list_jobs(ray)
    return Traces(home, [*folders, home / "logs"], logs, states, argv, jobs, scanner, "\n".join(logs.values()))


def plant(stack: AirflowStack, url: str) -> None:
    client = stack.client
    client.add_connection("ray_planted", "ray", password=SECRETS["password"], extra={"address": url})
    refused = {
        "address": url,
        "token": SECRETS["token"],
        "headers": json.dumps({"X-Key": SECRETS["header"]}),
        "cookies": json.dumps({"session": SECRETS["cookie"]}),
        "webhook_url": SECRETS["webhook"],
    }
    client.add_connection("ray_refused", "ray", extra=refused)
    kubeconfig = {
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:9"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": {"token": SECRETS["kubeconfig"]}}],
    }
    client.add_connection("kube_planted", "ray", extra={"kube_config": json.dumps(kubeconfig), "namespace": "n"})
    client.add_connection(
        "aws_planted", "aws", login="AKIAPLANTED", password=SECRETS["aws"], extra={"region_name": "eu-west-1"}
    )
    for name in ("environment", "webhook", "function", "helm", "terraform", "backend"):
        client.add_connection(f"planted_{name}", "generic", host="h", password=SECRETS[name])


def run_all(stack: AirflowStack) -> tuple[dict[str, str], dict[str, str]]:
    client = stack.client
    runs = {dag: client.trigger_run(dag) for dag in DAGS}
    states, logs = {}, {}
    for dag, run in runs.items():
        for task in DAGS[dag]:
            name = f"{dag}.{task}"
            found = client.wait_task(dag, run, task, state=("success", "failed"), timeout=600)
            states[name] = found["state"]
            logs[name] = client.log_text(dag, run, task)
    return states, logs


def list_jobs(ray: RayHead) -> list[dict]:
    """Those of the runs: other tests have jobs on the same head."""
    request = urllib.request.Request(f"{ray.url}/api/jobs/", headers={"Authorization": f"Bearer {ray.token}"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return [job for job in json.load(answer) if (job["metadata"] or {}).get("airflow_run_id")]


@pytest.mark.timeout(1200)
def test_the_runs_were_what_they_should_be(traces: Traces) -> None:
    """Else nothing would have been looked at: good ones used their secrets, bad ones failed for the reason meant."""
    wanted = {f"{dag}.{task}": state for dag, tasks in DAGS.items() for task, state in tasks.items()}
    assert traces.states == wanted, traces.logs
    said = {"good": "fine", "bad": "broken", "refused": "refuses the token"}
    for dag, names in JOBS.items():
        for name in names:
            assert said[name] in traces.logs[f"{dag}.{name}"]
    assert "the service refuses ***" in traces.logs["functions.fails"]
    assert "can't be reached" in traces.logs["clusters.cluster"]
    assert "***" in traces.logs["infrastructure.fails"]
    assert "exit status 1" in traces.logs["infrastructure.fails"]
    assert "Traceback" in traces.exceptions or "Error" in traces.exceptions


def test_none_in_task_logs(traces: Traces) -> None:
    assert {name: found for name, text in traces.logs.items() if (found := traces.scanner.found_in(text))} == {}


def test_none_in_the_database(traces: Traces) -> None:
    """Trigger rows, XCom, rendered templates, serialized DAGs, the audit log: every table; connections are encrypted."""
    database = traces.home / "airflow.db"
    assert database.stat().st_size > 100_000
    assert traces.scanner.in_database(database) == {}


def test_none_in_files_of_home_temporary_folder_and_logs(traces: Traces) -> None:
    assert traces.scanner.in_files(traces.folders) == {}
    assert any((traces.home / "logs").rglob("*.log"))


def test_none_in_command_lines(traces: Traces) -> None:
    assert traces.argv.samples > 50
    assert any(" apply " in line or "terraform" in line for line in traces.argv.seen)
    assert traces.argv.found == {}
    # Ray itself hands a job's variables to its workers by their command line; that is on the cluster, and documented.
    assert set().union(*traces.argv.in_cluster.values()) <= {"environment", "webhook"}


def test_none_in_what_ray_shows_of_the_jobs_but_their_variables(traces: Traces) -> None:
    assert len(traces.jobs) >= 4
    for job in traces.jobs:
        variables = (job.get("runtime_env") or {}).pop("env_vars", {})
        said = job.pop("message")  # it ends with the last lines that the job's own code wrote
        assert traces.scanner.found_in(json.dumps(job)) == set(), job
        assert traces.scanner.found_in(said) <= {"function"}
        assert traces.scanner.found_in(json.dumps(variables)) <= {"environment", "webhook"}
        assert all(isinstance(value, str) for value in job["metadata"].values())


# The scan itself ----------------------------------------------------------------------------------------------------


def test_the_scan_finds_what_is_planted(tmp_path: Path) -> None:
    import base64
    import sqlite3
    import zlib

    scanner = Scanner({"one": "planted-one-1234567", "two": 'planted "two" & more'})
    one, two = scanner.secrets["one"], scanner.secrets["two"]
    for shown in (one, json.dumps({"x": two}), f"a {one[::-1]}", one.encode().hex(), zlib.compress(two.encode())):
        assert len(scanner.found_in(shown)) == 1, shown
    for before in ("", "a", "ab", "user:"):
        assert scanner.found_in(base64.b64encode(f"{before}{one}@".encode())) == {"one"}
    assert scanner.found_in("nothing of them: planted-on") == set()

    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text(f"key={one}")
    assert list(scanner.in_files([tmp_path]).values()) == [{"one"}]
    with sqlite3.connect(tmp_path / "db") as database:
        database.execute("CREATE TABLE xcom (value TEXT)")
        database.execute("INSERT INTO xcom VALUES (?)", (json.dumps({"k": two}),))
    assert scanner.in_database(tmp_path / "db") == {"xcom": {"two"}}

    with ArgvSampler(scanner) as argv:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", one])
        try:
            deadline = time.monotonic() + 300
            while not argv.found and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            child.kill()
            child.wait()
    assert {"one"} in argv.found.values()
