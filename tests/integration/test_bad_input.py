"""Bad input, against a real Ray with a token and real TLS: told with its field and the way out, and nothing is started.

Each row runs the operator itself with one thing wrong. :data:`ROWS` is the table: what is given, and what is said.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from ray_provider._compat import AirflowFailException
from ray_provider.clusters.local.state import HOME_VARIABLE, LocalPaths, local_home
from ray_provider.jobs.client import RayJobsClient
from ray_provider.operators import SetupRayCluster, SubmitRayJob
from tests.support.airflow_task import FakeTask, context_of
from tests.support.certificates import Certificates, make_certificates
from tests.support.ray_head import RayHead
from tests.support.tls_front import TlsFront

SECRET = "wrong-token-that-nobody-may-read"


@dataclass(frozen=True)
class Places:
    """What the rows name: ``{ray}`` in an address, ``{big}`` in a path and so on."""

    ray: str
    ray_port: int
    tls: str
    tls_port: int
    tls_other_name: str
    tls_expired: str
    ca: str
    big: str
    folder: str
    missing: str
    token: str

    def put_in(self, value: Any) -> Any:
        if isinstance(value, str):
            for name, place in vars(self).items():
                value = value.replace(f"{{{name}}}", str(place))
            return value
        if isinstance(value, dict):
            return {key: self.put_in(item) for key, item in value.items()}
        return value


@dataclass(frozen=True)
class Row:
    """One mistake.

    :param says: all of these are in the error: the field or place, what is wrong, the way out.
    :param connection: replaces fields of a connection that works; ``None`` takes one away.
    :param task: arguments of the operator.
    :param retryable: trying again may help (the cluster may come up, a certificate be renewed).
    """

    name: str
    says: tuple[str, ...]
    connection: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    retryable: bool = False


KUBECONFIG = json.dumps({"clusters": [], "contexts": [], "users": []})
WRITE_URL = "Give the URL of Ray's dashboard, such as http://127.0.0.1:8265"

ROWS = [
    # Where Ray is.
    Row("no address", ("'ray_bad' has no Ray address", "Set the connection's field `address`"), {"address": None}),
    Row("an empty address", ("has no Ray address", "field `address`"), {"address": "  "}),
    Row("no scheme", ("`address`", "it has no scheme", "Write http://head:8265"), {"address": "head:8265"}),
    Row("Ray Client", ("`address`", "Ray Client address", "http://head:8265"), {"address": "ray://head:10001"}),
    Row("the GCS's port", ("no scheme", "Write http://head:8265"), {"address": "head:6379"}),
    Row("another scheme", ("`address`", "scheme 'ftp'", WRITE_URL), {"address": "ftp://head"}),
    Row("no host", ("`address`", "names no host", WRITE_URL), {"address": "http://:8265"}),
    Row("no port number", ("`address`", "is no URL", WRITE_URL), {"address": "http://head:port"}),
    Row("a query", ("`address`", "has a query", "without what follows `?`"), {"address": "{ray}/?a=b"}),
    Row("auto", ("'auto'", "only a program on the Ray machine", WRITE_URL), {"address": "auto"}),
    Row("extra that is no JSON", ("The extra field of connection 'ray_bad'", "Write it as {...}"), {"": "{not json"}),
    # Who we are.
    Row("no token", ("No token reached Ray", "(401)", "field 'token'"), {"token": None}),
    Row("a wrong token", ("refuses the token (403)", "RAY_AUTH_TOKEN"), {"token": SECRET}),
    Row("headers", ("`headers`", "is no JSON", 'Write headers as a JSON object: {"name": "value"}'), {"headers": "{"}),
    Row("a header's value", ("`headers`", "holds a int at 'a'", "quote them"), {"headers": {"a": 1}}),
    Row("cookies", ("`cookies`", "is no JSON", "Write cookies as a JSON object"), {"cookies": "{"}),
    # TLS.
    Row(
        "an unknown authority",
        ("authority that this machine does not know", "field 'ca_file'"),
        {"address": "{tls}"},
        retryable=True,
    ),
    Row(
        "a certificate for another name",
        ("not made for the name 127.0.0.1", "Use the name that the certificate is made for"),
        {"address": "{tls_other_name}", "ca_file": "{ca}"},
        retryable=True,
    ),
    Row(
        "a certificate that is over",
        ("certificate is expired", "Renew the server's certificate"),
        {"address": "{tls_expired}", "ca_file": "{ca}"},
        retryable=True,
    ),
    Row(
        "https to a server without TLS",
        ("the server does not speak TLS", "Write the address with http://"),
        {"address": "https://127.0.0.1:{ray_port}"},
        retryable=True,
    ),
    Row(
        "http to a server with TLS",
        ("the server speaks TLS, and we plain HTTP", "Write the address with https://"),
        {"address": "http://127.0.0.1:{tls_port}"},
        retryable=True,
    ),
    Row("no such ca_file", ("`ca_file`", "no file on this machine", "a PEM file"), {"ca_file": "/no/such.pem"}),
    Row(
        "a ca_file that is none",
        ("TLS settings can't be used", "ca_file has to be a PEM file"),
        {"address": "{tls}", "ca_file": "{big}/noise.bin"},
    ),
    Row("verify", ("`ca_file`", "'/no/such.pem'", "PEM file"), {"verify": "/no/such.pem"}),
    # Which backend, and Kubernetes.
    Row(
        "an unknown backend",
        ("`backend`", "is 'docker'", "It must be one of: local, kubernetes"),
        {"backend": "docker"},
    ),
    Row("an unknown access", ("`access`", "is 'tunnel'", "one of: auto, proxy, service"), {"access": "tunnel"}),
    Row("two kubeconfigs", ("`kube_config`", "Keep one"), {"kube_config": KUBECONFIG, "kube_config_path": "/x"}),
    Row("a flag", ("`in_cluster`", "is 'maybe'", "Write true or false"), {"in_cluster": "maybe"}),
    Row("metadata of the connection", ("`metadata`", "at 'a'", "quote them"), {"metadata": {"a": 1}}),
    # What is to run.
    Row("no entrypoint", ("entrypoint has to be a command", "python job.py"), task={"entrypoint": " "}),
    Row("an empty list", ("entrypoint has to be a command", "python job.py"), task={"entrypoint": []}),
    Row("metadata", ("metadata", "int at 'team'", "Quote"), task={"metadata": {"team": 7}}),
    Row("metadata that is no mapping", ("metadata is text, but no JSON", "dictionary"), task={"metadata": "x"}),
    Row("negative CPUs", ("num_cpus", "at least 0, but is -1", "Leave it out"), task={"num_cpus": -1}),
    Row("GPUs in words", ("num_gpus", "but is 'many'", "Leave it out"), task={"num_gpus": "many"}),
    Row("negative memory", ("memory", "at least 0, but is '-5'", "Leave it out"), task={"memory": "-5"}),
    Row("negative resources", ("resources['tpu']", "but is -2", "Leave it out"), task={"resources": {"tpu": -2}}),
    Row("resources", ("resources has to be a mapping", "dictionary"), task={"resources": [1]}),
    Row("labels", ("label_selector", "list at 'zone'", "Quote"), task={"label_selector": {"zone": ["a"]}}),
    Row("an id", ("submission_id 'a/b' holds '/'", "Use letters, digits"), task={"submission_id": "a/b"}),
    Row("time", ("job_timeout_seconds", "but is -3", "seconds"), task={"job_timeout_seconds": -3}),
    Row("no poll interval", ("poll_interval", "above 0", "seconds"), task={"poll_interval": 0}),
    Row("lines", ("log_max_lines", "but is 'few'", "all lines"), task={"log_max_lines": "few"}),
    Row(
        "env_vars",
        ("runtime_env[\"env_vars\"]['N'] is a int", "Write the value in quotes"),
        task={"runtime_env": {"env_vars": {"N": 1}}},
    ),
    Row(
        "no working_dir",
        ('runtime_env["working_dir"]', "does not exist on the machine that runs the task", "Give a folder there"),
        task={"runtime_env": {"working_dir": "{missing}"}},
    ),
    Row(
        "a working_dir that is too big",
        ('runtime_env["working_dir"]', "too large to upload", "at most 100", "noise.bin", "excludes"),
        task={"runtime_env": {"working_dir": "{big}"}},
    ),
    Row(
        "a file as working_dir",
        ('runtime_env["working_dir"]', "is a file", "an archive"),
        task={"runtime_env": {"working_dir": "{folder}/main.py"}},
    ),
    Row(
        "no py_modules",
        ('runtime_env["py_modules"][0]', "does not exist", "Give the folder of a package"),
        task={"runtime_env": {"working_dir": "{folder}", "py_modules": ["/no/such/module"]}},
    ),
    Row(
        "excludes",
        ('runtime_env["excludes"] has to be a list', '"excludes": ["data/"'),
        task={"runtime_env": {"working_dir": "{folder}", "excludes": "data/"}},
    ),
    Row(
        "no requirements file",
        ('runtime_env["pip"]', "can't be read", "or a list"),
        task={"runtime_env": {"pip": "/no/such.txt"}},
    ),
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def places(token_ray_head: RayHead, certificates, tmp_path_factory) -> Iterator[Places]:
    big, folder = tmp_path_factory.mktemp("big"), tmp_path_factory.mktemp("code")
    (big / "noise.bin").write_bytes(os.urandom(101 * 1024 * 1024))
    (folder / "main.py").write_text("print('hello')\n")
    contexts = (
        certificates.server_context("127.0.0.1"),
        certificates.server_context("ray.example.com"),
        certificates.server_context("127.0.0.1", valid_for=datetime.timedelta(hours=-1)),
    )
    port = token_ray_head.port
    with TlsFront(port, contexts[0]) as good, TlsFront(port, contexts[1]) as other, TlsFront(port, contexts[2]) as over:
        yield Places(
            ray=token_ray_head.url,
            ray_port=port,
            tls=f"https://127.0.0.1:{good.port}",
            tls_port=good.port,
            tls_other_name=f"https://127.0.0.1:{other.port}",
            tls_expired=f"https://127.0.0.1:{over.port}",
            ca=str(certificates.ca_file),
            big=str(big),
            folder=str(folder),
            missing=str(folder / "not-there"),
            token=str(token_ray_head.token),
        )


@pytest.fixture
def connect(monkeypatch, token_ray_head):
    def connect(changes: dict[str, Any]) -> None:
        extra = {"address": token_ray_head.url, "token": token_ray_head.token, **changes}
        text = changes.get("") or json.dumps({key: value for key, value in extra.items() if value is not None})
        monkeypatch.setenv("AIRFLOW_CONN_RAY_BAD", json.dumps({"conn_type": "ray", "extra": text}))

    return connect


def jobs_at(head: RayHead) -> set[str]:
    async def ask() -> set[str]:
        async with RayJobsClient(head.endpoint) as client:
            return {str(job.submission_id) for job in await client.list_jobs()}

    return asyncio.run(ask())


def run(**arguments: Any) -> Any:
    arguments = {"conn_id": "ray_bad", "entrypoint": "echo started", "deferrable": False, **arguments}
    return SubmitRayJob(task_id="task", **arguments).execute(context_of(FakeTask(run_id=os.urandom(6).hex())))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_it_is_refused_with_its_field_and_the_way_out(row, places, connect, token_ray_head, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    connect({key: places.put_in(value) for key, value in row.connection.items()})
    before = jobs_at(token_ray_head)
    with pytest.raises(Exception) as raised:
        run(**{key: places.put_in(value) for key, value in row.task.items()})
    told = str(raised.value)
    for words in row.says:
        assert words in told
    message, separator, way_out = told.partition("\nWhat to do: ")
    assert message
    assert separator
    assert way_out
    assert isinstance(raised.value, AirflowFailException) is not row.retryable, "whether a retry is burnt"
    assert jobs_at(token_ray_head) == before, "nothing is started"
    assert list(tmp_path.iterdir()) == [], "nothing is left"
    assert SECRET not in told
    assert token_ray_head.token not in told


def test_the_connection_that_the_rows_spoil_works(places, connect, token_ray_head):
    """Else the rows could show anything. By TLS: what an ingress does."""
    connect({"address": places.tls, "ca_file": places.ca})
    assert run(runtime_env={"working_dir": places.folder}, entrypoint="python main.py") in jobs_at(token_ray_head)


def test_an_entrypoint_that_does_not_exist(connect):
    """Only the cluster can tell: the job is started, and its error names the command and the way out."""
    connect({})
    with pytest.raises(Exception, match="127 \\(command not found\\)") as raised:
        run(entrypoint="no-such-command --at-all")
    assert "no-such-command" in str(raised.value)
    assert "What to do: The command is not known in the image: check the entrypoint" in str(raised.value)


def test_a_connection_that_is_not_there():
    with pytest.raises(Exception, match="ray_of_nobody") as raised:
        run(conn_id="ray_of_nobody")
    assert "isn't defined" in str(raised.value)


@pytest.mark.parametrize(
    ("connection", "arguments", "says"),
    [
        ({"backend": "docker"}, {}, ("`backend`", "is 'docker'", "one of: local, kubernetes")),
        ({}, {"backend": "docker"}, ("`backend`", "'docker'", "local", "kubernetes")),
        ({}, {"name": "No Name!"}, ("'No Name!'", "lower case letters")),
        ({}, {"local": {"num_cpus": -1}}, ("num_cpus", "-1", "at least 0")),
        ({}, {"local": {"num_cpu": 1}}, ("num_cpu", "does not know", "num_cpus")),
        ({}, {"local": {"dashboard_port": 70000}}, ("dashboard_port", "70000", "1 to 65535")),
        ({}, {"local": {"resources": {"tpu": -1}}}, ("resources['tpu']", "-1", "at least 0")),
        ({}, {"local": {"env": {"A": 1}}}, ("env['A']", "text", "quotes")),
    ],
)
def test_a_set_up_that_can_not_work_starts_nothing(connection, arguments, says, connect, monkeypatch, tmp_path):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "ray"))
    connect({"address": None, "token": None, "backend": "local", **connection})
    with pytest.raises(AirflowFailException) as raised:
        SetupRayCluster(task_id="task", conn_id="ray_bad", **arguments).execute(context_of(FakeTask()))
    told = str(raised.value)
    for words in says:
        assert words in told
    assert "What to do: " in told
    assert LocalPaths.below(local_home()) == []
    assert not (tmp_path / "ray").exists()
