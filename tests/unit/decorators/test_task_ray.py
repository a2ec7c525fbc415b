"""``@task.ray`` against a dashboard that behaves as Ray's: what is sent, what is refused before, what is believed."""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG, ObjectStoragePath, task
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.decorators import ray, read_reference
from ray_provider.decorators.operator import RayDecoratedOperator
from ray_provider.exceptions import ClusterError, ConfigurationError, JobError, RayProviderError
from ray_provider.functions import payload
from ray_provider.functions.results import result_file
from ray_provider.hooks import RayHook, own_cluster
from ray_provider.operators import SubmitRayJob
from ray_provider.operators._job.storage import ObjectStore

pytestmark = [pytest.mark.usefixtures("connection"), pytest.mark.timeout(120)]

HERE = ".".join(map(str, sys.version_info[:3]))


def double(x):
    return 2 * x


def operator(function=double, *args, kwargs=None, **arguments) -> RayDecoratedOperator:
    given = {"task_id": "task", "conn_id": "c", "poll_interval": 0.05, **arguments}
    return RayDecoratedOperator(python_callable=function, op_args=list(args), op_kwargs=kwargs or {}, **given)


def answer(content: object, kind: str = "json", **header) -> bytes:
    """A result file as the runner writes it."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    told = {"kind": kind, "size": len(body), "sha256": hashlib.sha256(body).hexdigest(), **header}
    return json.dumps(told).encode() + b"\n" + body


def returning(dashboard, value, kind="json", status="SUCCEEDED", **header):
    """Have the job end with this result."""

    def end(job):
        dashboard.api.files[result_file(job.submission_id)] = answer(value, kind, **header)
        job.run(b"")
        job.end(status)

    dashboard.when_submitted(end)


def run_for_real(dashboard, tmp_path):
    """Have the job do what Ray does with it: unpack, run, leave the result."""

    def act(job):
        env = job.request["runtime_env"]
        package = dashboard.api.packages[env["py_modules"][-1].removeprefix("gcs://")]
        zipfile.ZipFile(io.BytesIO(package)).extractall(tmp_path / "package")
        done = subprocess.run(
            [sys.executable, *job.entrypoint.split()[1:]],
            env={
                **os.environ,
                **env["env_vars"],
                "PYTHONPATH": str(tmp_path / "package"),
                "AIRFLOW_RAY_LOG_FOLDER": str(tmp_path),
            },
            capture_output=True,
            check=False,
        )
        job.run(done.stdout + done.stderr)
        name = env["env_vars"]["AIRFLOW_RAY_RESULT_FILE"]
        dashboard.api.files[name] = (tmp_path / name).read_bytes()
        job.end("SUCCEEDED" if done.returncode == 0 else "FAILED", exit_code=done.returncode)

    dashboard.when_submitted(act)


def test_a_value_comes_back(dashboard, context, tmp_path):
    run_for_real(dashboard, tmp_path)
    assert operator(double, 21).execute(context) == 42
    env = dashboard.job.request["runtime_env"]["env_vars"]
    assert (env["AIRFLOW_CTX_DAG_ID"], env["AIRFLOW_CTX_TASK_ID"], env["AIRFLOW_CTX_MAP_INDEX"]) == (
        "dag",
        "task",
        "-1",
    )


def package(dashboard, name):
    content = dashboard.api.packages[dashboard.job.request["runtime_env"]["py_modules"][-1].removeprefix("gcs://")]
    return zipfile.ZipFile(io.BytesIO(content)).read(f"{payload.PACKAGE}/{name}")


@pytest.mark.parametrize(("version", "way"), [("3.8.20", "source"), (HERE, "pickle")])
def test_another_python_gets_the_source_by_itself(dashboard, context, tmp_path, version, way):
    dashboard.api.python_version = version
    run_for_real(dashboard, tmp_path)
    assert operator(double, 21).execute(context) == 42
    assert json.loads(package(dashboard, "settings.json"))["send"] == way
    assert (b"return 2 * x" in package(dashboard, "call.pkl")) is (way == "source")


def test_source_is_sent_where_it_is_asked_for(dashboard, context, tmp_path):
    run_for_real(dashboard, tmp_path)
    assert operator(double, 21, config={"send": "source"}).execute(context) == 42
    assert b"return 2 * x" in package(dashboard, "call.pkl")


@pytest.mark.parametrize(
    ("function", "send", "words"),
    [
        (double, "pickle", ["What to do: Send it as source", "use a Ray image with Python"]),
        (lambda x: x, "auto", ["can't be sent as source: the function", "write a def", "What to do: Use a Ray image"]),
    ],
)
def test_another_python_is_refused_before_anything_is_sent(dashboard, context, function, send, words):
    dashboard.api.python_version = "3.8.20"
    with pytest.raises(AirflowFailException, match=r"runs Python 3\.8, this Airflow worker runs 3\.1\d") as caught:
        operator(function, 21, send=send).execute(context)
    for each in words:
        assert each in str(caught.value)
    assert not dashboard.api.packages
    assert not dashboard.api.jobs


@pytest.mark.parametrize(("send", "words"), [("source", "as source: the function"), ("text", "send is 'text'")])
def test_what_cannot_be_sent_as_source_is_refused_before_a_cluster_is_made(
    dashboard, context, monkeypatch, send, words
):
    made = []
    monkeypatch.setattr(own_cluster, "set_up", lambda *_: made.append(1))
    with pytest.raises(AirflowFailException, match=words):
        operator(lambda x: x, 1, send=send, ray_cluster_yaml="cluster.yaml").execute(context)
    assert not made
    assert not dashboard.api.requests


@pytest.fixture
def own(dashboard, connection, monkeypatch):
    """The connection has no address; a cluster that the task makes is the double."""
    del connection["address"]
    found = SimpleNamespace(wanted=[], deleted=[], stuck=False)
    handle = ClusterHandle(backend="local", name="task-own", address=dashboard.api.url, created=True)

    async def set_up(_hook, wanted):
        found.wanted.append(wanted)
        return handle

    async def delete(_hook, cluster):
        if found.stuck:
            raise ClusterError("The Ray cluster task-own is still there.")
        found.deleted.append(cluster.name)

    async def endpoint(_hook, cluster=None, _url=None):
        if cluster is None:
            raise ConfigurationError("no Ray address")
        return dashboard.api.endpoint()

    monkeypatch.setattr(own_cluster, "set_up", set_up)
    monkeypatch.setattr(own_cluster, "delete", delete)
    monkeypatch.setattr(RayHook, "endpoint", endpoint)
    return found


@pytest.mark.parametrize(
    "extra", [{"backend": "local"}, {"backend": "kubernetes"}, {"in_cluster": True}, {"kubernetes_conn_id": "k"}]
)
def test_without_a_cluster_the_task_makes_one_for_itself(dashboard, context, connection, own, extra):
    connection.update(extra)
    returning(dashboard, 42)
    assert operator(double, 21).execute(context) == 42
    [wanted] = own.wanted
    assert wanted.ray_cluster_yaml is None
    assert wanted.owner["task_id"] == "task"
    assert own.deleted == ["task-own"]


def test_the_value_of_a_function_outlives_a_cluster_that_could_not_be_deleted(dashboard, context, ti, connection, own):
    connection["backend"] = "local"
    own.stuck = True
    returning(dashboard, {"answer": 42})
    with pytest.raises(ClusterError, match="A retry of the task deletes it, and does not run the job again"):
        operator(double, 21).execute(context)
    own.stuck = False
    ti.retry()
    assert operator(double, 21).execute(context) == {"answer": 42}
    assert own.deleted == ["task-own"]
    assert len(dashboard.api.jobs) == len(own.wanted) == 1


def test_a_value_that_can_not_be_kept_is_not_computed_again_behind_ones_back(dashboard, context, connection, own):
    connection["backend"] = "local"
    own.stuck = True
    returning(dashboard, "x" * 50_000)
    with pytest.raises(AirflowFailException, match="not retried, as that would run the job again"):
        operator(double, 21).execute(context)


def test_that_cluster_goes_with_a_function_that_fails(dashboard, context, connection, own):
    connection["backend"] = "local"
    dashboard.when_submitted(lambda job: (job.run(b""), job.end("FAILED", exit_code=1)))
    with pytest.raises(JobError):
        operator(double, 21).execute(context)
    assert own.deleted == ["task-own"]


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ({}, {}),
        ({"backend": "local"}, {"cluster": "{{ ti.xcom_pull(task_ids='gone') }}"}),
        ({"backend": "local"}, {"xcom_task_key": "gone.dashboard"}),
    ],
    ids=["a connection that says nothing", "a cluster that is not there", "an XCom that is not there"],
)
def test_none_is_made_where_nobody_asked_for_one(context, connection, own, extra, arguments):
    connection.update(extra)
    task = operator(double, 21, **arguments)
    task.cluster = None  # as Airflow renders an XCom that is not there
    with pytest.raises(AirflowFailException, match=r"no Ray address|left no XCom"):
        task.execute(context)
    assert not own.wanted


@pytest.mark.parametrize(
    ("extra", "arguments", "told"),
    [
        ({"backend": "local"}, {"wait_for_completion": False}, "wait_for_completion is off"),
        ({"backend": "kubernetes"}, {"num_gpus": 1}, r"has no GPUs.*profile=\"gpu-eks\""),
    ],
)
def test_what_such_a_cluster_cannot_do_is_refused_before_it_is_made(context, connection, own, extra, arguments, told):
    connection.update(extra)
    with pytest.raises(AirflowFailException, match=f"(?s){told}"):
        operator(double, 21, **arguments).execute(context)
    assert not own.wanted


@pytest.mark.parametrize(
    ("extra", "arguments", "line"),
    [
        ({"backend": "local"}, {"ray_cluster_yaml": "a.yaml"}, "No effect of `ray_cluster_yaml`: the backend is local"),
        ({"backend": "local"}, {"kuberay_version": "1.5.1"}, "No effect of `kuberay_version`: the backend is local"),
        (
            {"address": "http://127.0.0.1:1"},
            {"update_if_exists": False},
            "`update_if_exists`: the task makes no cluster",
        ),
    ],
)
def test_an_argument_without_effect_is_told(dashboard, context, connection, own, extra, arguments, line, capsys):
    connection.update(extra)
    returning(dashboard, 42)
    with contextlib.suppress(AirflowFailException):
        operator(double, 21, **arguments).execute(context)
    assert line in capsys.readouterr().out


def test_the_same_minor_version_is_not(dashboard, context):
    dashboard.api.python_version = f"{sys.version_info[0]}.{sys.version_info[1]}.99"
    returning(dashboard, 42)
    assert operator(double, 21).execute(context) == 42


def test_what_cannot_be_sent_is_refused_before_a_cluster_is_made(dashboard, context, monkeypatch):
    made = []
    monkeypatch.setattr(own_cluster, "set_up", lambda *_: made.append(1))
    with pytest.raises(AirflowFailException, match="Argument 1 of double"):
        operator(double, threading.Lock(), ray_cluster_yaml="cluster.yaml").execute(context)
    assert not made
    assert not dashboard.api.requests


@pytest.mark.parametrize(
    ("runtime_env", "says"),
    [
        ({"pipp": ["a"]}, "Is 'pip' meant"),
        ({"pip": ["a"], "conda": {"dependencies": []}}, "both 'pip' and 'conda'"),
        ({"working_dir": "git+https://github.com/a/b.git"}, "which Ray can't fetch"),
    ],
)
def test_a_runtime_env_that_ray_never_takes_is_refused_before_a_cluster_is_made(
    dashboard, context, connection, own, runtime_env, says
):
    connection["backend"] = "local"
    script = SubmitRayJob(
        task_id="task", conn_id="c", entrypoint="true", runtime_env=runtime_env, ray_cluster_yaml="cluster.yaml"
    )
    for one in (operator(double, 21, runtime_env=runtime_env), script):
        with pytest.raises(AirflowFailException, match=says):
            one.execute(context)
    assert not own.wanted
    assert not dashboard.api.requests


@pytest.mark.parametrize("kind", ["class", "generator", "coroutine"])
def test_what_is_no_function_is_refused_when_the_dag_is_read(kind):
    def generator():
        yield 1

    async def coroutine():
        return 1

    with pytest.raises(ConfigurationError, match=kind):
        operator({"class": Holder, "generator": generator, "coroutine": coroutine}[kind])


class Holder:
    def method(self):
        return 1


def test_a_method_is_refused_when_the_dag_is_read():
    with pytest.raises(TypeError, match="does not support methods"), DAG("d", schedule=None):

        class Model:
            @task.ray
            def fit(self):
                return 1

    with pytest.raises(ConfigurationError, match=r"the method .*Holder\.method: its object would have to travel"):
        operator(Holder().method)


# -- configuration -----------------------------------------------------------------------------------------------------


def test_nothing_of_the_callers_dictionaries_is_changed(dashboard, context, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("A = 1")
    config = {
        "conn_id": "c",
        "poll_interval": 0.05,
        "runtime_env": {
            "working_dir": str(tmp_path / "code"),
            "py_modules": [str(tmp_path / "code")],
            "env_vars": {"A": "1"},
        },
        "metadata": {"team": "maps"},
    }
    before = copy.deepcopy(config)
    returning(dashboard, None)
    RayDecoratedOperator(task_id="task", python_callable=double, op_args=[1], config=config).execute(context)
    assert config == before
    sent = dashboard.job.request["runtime_env"]
    assert len(sent["py_modules"]) == 2
    assert sent["working_dir"].startswith("gcs://")
    assert sent["env_vars"]["A"] == "1"
    assert dashboard.job.request["metadata"]["team"] == "maps"


@pytest.mark.parametrize(
    "make",
    [
        lambda context: {"metadata": {"of": context["ti"].task_id}},
        lambda ctx: {"metadata": {"of": ctx["ti"].task_id}},
        lambda ti, x=None: {"metadata": {"of": ti.task_id, "x": str(x)}},
    ],
    ids=["context", "any name", "keys of it"],
)
def test_a_callable_gets_the_context_by_whatever_name(dashboard, context, make):
    returning(dashboard, 2)
    assert operator(kwargs={"x": 1}, config=make).execute(context) == 2
    metadata = dashboard.job.request["metadata"]
    assert (metadata["of"], metadata.get("x", "1")) == ("task", "1")


def test_arguments_that_are_given_win_over_the_configuration(dashboard, context):
    returning(dashboard, 2)
    operator(double, 1, num_cpus=3, config=lambda: {"num_cpus": 1, "num_gpus": 2}).execute(context)
    request = dashboard.job.request
    assert (request["entrypoint_num_cpus"], request["entrypoint_num_gpus"]) == (3, 2)


@pytest.mark.parametrize("made", [{"num_cpu": 1}, ["num_cpus"]])
def test_a_configuration_that_can_not_work_is_told(dashboard, context, made):
    with pytest.raises(AirflowFailException, match="config h"):
        operator(double, 1, config=lambda: made).execute(context)
    assert not dashboard.api.jobs
    with pytest.raises(ConfigurationError, match="config h"):
        operator(double, 1, config=made)


def test_a_callables_connection_holds_after_a_deferral(dashboard, context, monkeypatch):
    """The operator that is resumed is a new object."""
    from ray_provider.hooks import RayHook

    arguments = {
        "task_id": "task",
        "python_callable": double,
        "op_args": [21],
        "config": lambda: {"conn_id": "made", "poll_interval": 0.05},
        "deferrable": True,
    }
    with pytest.raises(TaskDeferred):
        RayDecoratedOperator(**arguments).execute(context)
    job = dashboard.job
    dashboard.api.files[result_file(job.submission_id)] = answer(42)
    job.run(b"")
    job.end()
    asked = []
    get = RayHook.get_connection
    monkeypatch.setattr(
        RayHook, "get_connection", staticmethod(lambda conn_id: (asked.append(conn_id), get(conn_id))[1])
    )
    event = {
        "status": "success",
        "job_id": job.submission_id,
        "outcome": {"kind": "final", "submission_id": job.submission_id, "status": "SUCCEEDED"},
    }
    resumed = RayDecoratedOperator(**arguments)
    assert resumed.resume_execution("execute_complete", {"event": event}, context) == 42
    assert set(asked) == {"made"}


# -- the context's values ----------------------------------------------------------------------------------------------


def sent_kwargs(dashboard) -> dict:
    import cloudpickle

    [content] = dashboard.api.packages.values()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _, _, kwargs = cloudpickle.loads(archive.read(f"{payload.PACKAGE}/call.pkl"))
    return kwargs


def test_parameters_named_like_context_keys_get_their_values(dashboard, context):
    import pendulum

    def wants(x, ds, *, logical_date, params, run_id=None, ti=None):
        return x

    context |= {
        "ds": "2026-01-31",
        "logical_date": pendulum.datetime(2026, 1, 31, 1, tz="Europe/Berlin"),
        "params": {"factor": 5},
        "run_id": "of the context",
    }
    returning(dashboard, 1)
    operator(wants, 1, kwargs={"run_id": "mine"}).execute(context)
    kwargs = sent_kwargs(dashboard)
    assert kwargs == {
        "ds": "2026-01-31",
        "logical_date": dt.datetime(2026, 1, 31, tzinfo=dt.UTC),
        "params": {"factor": 5},
        "run_id": "mine",
    }
    assert type(kwargs["logical_date"]) is dt.datetime, "the cluster has no pendulum"


def test_the_task_instance_does_not_travel(dashboard, context):
    def wants(ti):
        return ti.task_id

    with pytest.raises(AirflowFailException, match="wants 'ti' from Airflow's context") as caught:
        operator(wants).execute(context)
    assert "AIRFLOW_CTX_DAG_ID" in str(caught.value)
    assert not dashboard.api.packages


def test_a_run_without_a_logical_date_has_no_ds(dashboard, context):
    def wants(ds):
        return ds

    with pytest.raises(AirflowFailException, match="missing a required argument: 'ds'") as caught:
        operator(wants).execute(context)
    assert "A run without a logical date" in str(caught.value)
    assert not dashboard.api.packages


# -- what the cluster says is not believed blindly ---------------------------------------------------------------------


@pytest.mark.parametrize("empty", [False, True], ids=["answers 500", "answers nothing"])
def test_a_job_that_left_no_result_is_told_at_once(dashboard, context, empty):
    dashboard.api.missing_file_is_empty = empty
    dashboard.when_submitted(lambda job: (job.run(b""), job.end("SUCCEEDED")))
    began = time.monotonic()
    with pytest.raises(JobError, match="left no result: its process ended before the function did"):
        operator(double, 21).execute(context)
    assert time.monotonic() - began < 10, "it was asked for again and again"


def test_a_result_larger_than_allowed_is_not_read(dashboard, context):
    returning(dashboard, "x" * 3_000_000)
    with pytest.raises(RayProviderError, match="has more than"):
        operator(double, 1, max_result_bytes=1000).execute(context)


def test_a_reference_to_another_place_is_refused(dashboard, context, tmp_path):
    returning(dashboard, {"path": "file:///etc/passwd", "format": "json"}, kind="reference")
    with pytest.raises(RayProviderError, match="not where job .* was told to write"):
        operator(double, 1, result_path=f"file://{tmp_path}").execute(context)


def test_a_pickle_that_was_not_asked_for_is_not_read(dashboard, context):
    returning(dashboard, b"not even a pickle", kind="pickle")
    with pytest.raises(AirflowFailException, match="does not accept"):
        operator(double, 1).execute(context)


@pytest.mark.parametrize("error", [{}, [], {"type": "X"}])
def test_a_mangled_error_is_told_as_such(dashboard, context, error):
    returning(dashboard, error, kind="error", status="FAILED")
    with pytest.raises(RayProviderError):
        operator(double, 1).execute(context)


# -- object storage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "url", "conn_id"),
    [
        ("s3://bucket/folder/", "s3://bucket/folder", None),
        ("s3://aws_default@bucket/folder", "s3://bucket/folder", "aws_default"),
        (ObjectStoragePath("s3://aws_default@bucket") / "a" / "b", "s3://bucket/a/b", "aws_default"),
        ("abfss://box@account.dfs.core.windows.net/x", "abfss://box@account.dfs.core.windows.net/x", None),
        ("/mnt/shared", "/mnt/shared", None),
    ],
)
def test_a_path_is_an_address_for_the_cluster_and_a_connection_for_tasks(path, url, conn_id):
    assert ObjectStore.parse(path) == ObjectStore(url, conn_id)


def test_a_relative_path_is_refused_before_anything_is_sent(dashboard, context):
    with pytest.raises(AirflowFailException, match="neither a URL nor an absolute path"):
        operator(double, 1, result_path="results").execute(context)
    assert not dashboard.api.requests


def test_templates_in_an_object_storage_path_are_rendered(tmp_path):
    path = ObjectStoragePath(f"file://{tmp_path}") / "{{ run_id }}"
    asked = operator(double, 1, result_path=path)
    asked.render_template_fields({"run_id": "monday", "ti": SimpleNamespace()})
    assert asked.result_path == f"file://{tmp_path}/monday"


def test_arguments_larger_than_a_package_go_through_object_storage(dashboard, context, tmp_path, monkeypatch):
    monkeypatch.setattr(payload, "MAX_PACKAGE_BYTES", 200_000)
    data = os.urandom(300_000)
    with pytest.raises(AirflowFailException, match="Give result_path="):
        operator(measure, data).execute(context)
    run_for_real(dashboard, tmp_path)
    assert operator(measure, data, result_path=f"file://{tmp_path}/store").execute(context) == 300_000
    assert not list((tmp_path / "store").iterdir()), "what was read is removed"


def measure(data):
    return len(data)


def test_altered_arguments_in_object_storage_are_not_read(dashboard, context, tmp_path, monkeypatch):
    monkeypatch.setattr(payload, "MAX_PACKAGE_BYTES", 200_000)
    monkeypatch.setattr(ObjectStore, "write", written_by_somebody_else(ObjectStore.write))
    run_for_real(dashboard, tmp_path)
    with pytest.raises(RayProviderError, match="it was altered, or cut short"):
        operator(measure, os.urandom(300_000), result_path=f"file://{tmp_path}/store").execute(context)


def written_by_somebody_else(write):
    return lambda self, name, content: write(self, name, b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")


def test_a_large_value_is_read_through_the_airflow_connection(dashboard, context, tmp_path, monkeypatch):
    run_for_real(dashboard, tmp_path)
    reference = operator(repeat, 400_000, result_path=f"file://{tmp_path}/store").execute(context)
    assert reference["format"] == "json"
    assert read_reference(reference) == "x" * 400_000
    with_connection = {**reference, "conn_id": "some_connection"}
    opened = []

    def attach(protocol, conn_id=None, **_):
        import fsspec

        opened.append(conn_id)
        return SimpleNamespace(fs=fsspec.filesystem("file"))

    monkeypatch.setattr("airflow.sdk.io.path.attach", attach)
    assert read_reference(with_connection) == "x" * 400_000
    assert "some_connection" in opened


def repeat(times):
    return "x" * times


def test_the_namespace_of_the_predecessor_is_the_same_decorator():
    with DAG("d", schedule=None):

        @ray.task(config={"conn_id": "c", "num_cpus": 2})
        def one(x):
            return x

        @task.ray(conn_id="c", num_cpus=2)
        def two(x):
            return x

        assert type(one(1).operator) is type(two(1).operator) is RayDecoratedOperator
        assert one.override(num_cpus=4)(1).operator.num_cpus == 4
        assert one.partial().expand(x=[1, 2]).operator.operator_class is RayDecoratedOperator


def test_the_predecessors_form_warns_of_what_xcom_cannot_carry(dashboard, context, monkeypatch):
    with DAG("d", schedule=None):

        @ray.task(config={"conn_id": "c"})
        def one():
            return 1

        @task.ray(conn_id="c")
        def two():
            return 1

    first, second = one().operator, two().operator
    assert (first.lenient_results, second.lenient_results) == (True, False)
    job = operator(double, 1)
    returning(dashboard, {"loss": None}, null=["the return value['loss'] is nan"])
    told = []
    monkeypatch.setattr(job.log, "warning", lambda text, *given: told.append(text % given), raising=False)
    assert job.execute(context) == {"loss": None}
    assert any("the return value['loss'] is nan" in line for line in told), told


def test_a_pickle_with_nan_reaches_xcom_with_its_place_named():
    from ray_provider.decorators.xcom import without_nan

    value = {"a": [1.0, (float("inf"), "x")]}
    assert without_nan(value) == ({"a": [1.0, (None, "x")]}, ["the return value['a'][1][0] is inf"])
    same = {"a": [1.0]}
    assert without_nan(same)[0] is same


def test_an_empty_working_dir_is_none_and_a_file_is_read(tmp_path):
    from ray_provider.exceptions import ConfigurationError
    from ray_provider.operators._job.arguments import runtime_environment

    assert runtime_environment({"working_dir": "", "pip": ["a"]}) == {"pip": ["a"]}
    (tmp_path / "env.yaml").write_text("pip: [emoji]\nworking_dir: ''\n")
    assert runtime_environment(str(tmp_path / "env.yaml")) == {"pip": ["emoji"]}
    with pytest.raises(ConfigurationError, match=r"missing\.yml"):
        runtime_environment(str(tmp_path / "missing.yml"))


def test_an_older_cluster_is_told_by_name_before_anything_is_sent(dashboard, context):
    dashboard.api.ray_version = "2.39.0"
    with pytest.raises(AirflowFailException, match=r"Ray 2\.39\.0: functions .* need Ray 2\.40"):
        operator(double, 1).execute(context)
    assert not dashboard.api.packages
    dashboard.api.ray_version = "2.53.0"
    with pytest.raises(AirflowFailException, match=r"label_selector needs Ray 2\.54"):
        operator(double, 1, label_selector={"a": "b"}).execute(context)
    assert not dashboard.api.packages
