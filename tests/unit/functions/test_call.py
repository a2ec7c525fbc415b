"""A call is packed, run as the cluster runs it (a fresh Python without Airflow's packages), and read back."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import io
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest

from ray_provider.exceptions import ConfigurationError, RayProviderError
from ray_provider.functions import runner
from ray_provider.functions.payload import PACKAGE, ResultSettings, pack
from ray_provider.functions.results import FunctionResult, RemoteTraceback, decode, read_reference, result_file

FACTOR = 3


@dataclasses.dataclass
class Point:
    x: int
    y: int


def run(tmp_path, function, *args, settings=None, **kwargs):
    """What the cluster does with the package. Returns (exit status, output, content of the result file)."""
    packed = pack(function, args, kwargs, settings=settings)
    package = tmp_path / "package"
    zipfile.ZipFile(io.BytesIO(packed.content)).extractall(package)
    logs = tmp_path / "logs"
    logs.mkdir(exist_ok=True)
    name = result_file("job-1")
    env = {
        **os.environ,
        "PYTHONPATH": str(package),
        "AIRFLOW_RAY_RESULT_FILE": name,
        "AIRFLOW_RAY_LOG_FOLDER": str(logs),
    }
    done = subprocess.run(
        [sys.executable, "-m", PACKAGE], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    path = logs / name
    return done.returncode, done.stdout + done.stderr, path.read_bytes() if path.exists() else None


def value(tmp_path, function, *args, allow_pickle=False, **kwargs):
    status, output, content = run(
        tmp_path, function, *args, settings=ResultSettings(allow_pickle=allow_pickle), **kwargs
    )
    assert status == 0, output
    return decode(content, allow_pickle=allow_pickle).value


def add_days(when: dt.datetime, *, days: int) -> str:
    return (when + dt.timedelta(days=days)).isoformat()


def test_keyword_only_and_datetime(tmp_path):
    assert value(tmp_path, add_days, dt.datetime(2026, 1, 31, tzinfo=dt.UTC), days=1) == "2026-02-01T00:00:00+00:00"


def test_numpy_and_pandas_arguments(tmp_path):
    def total(array, frame):
        return {"array": array.sum(), "frame": int(frame["a"].sum())}

    assert value(tmp_path, total, np.arange(5), pd.DataFrame({"a": [1, 2]})) == {"array": 10, "frame": 3}


def test_dataclass_of_the_same_module(tmp_path):
    def moved(point):
        return dataclasses.asdict(dataclasses.replace(point, x=point.x + 1))

    assert value(tmp_path, moved, Point(1, 2)) == {"x": 2, "y": 2}


def test_lambda_that_closes_over_a_constant_of_the_module(tmp_path):
    assert value(tmp_path, lambda x: x * FACTOR, 14) == 42


def test_no_argument_at_all(tmp_path):
    def nothing():
        return None

    assert value(tmp_path, nothing) is None


def test_a_pickle_comes_back_only_where_it_is_allowed(tmp_path):
    def point():
        return Point(1, 2)

    assert dataclasses.asdict(value(tmp_path, point, allow_pickle=True)) == {"x": 1, "y": 2}
    status, output, content = run(tmp_path, point)
    assert status == 1
    error = decode(content, allow_pickle=False).error
    assert "allow_pickle_results=True" in error["message"]
    assert "Point" in error["message"]
    assert "UnserializableResult" in output


def test_a_pickle_that_was_not_asked_for_is_refused(tmp_path):
    _, _, content = run(tmp_path, lambda: {1, 2}, settings=ResultSettings(allow_pickle=True))
    with pytest.raises(ConfigurationError, match="does not accept"):
        decode(content, allow_pickle=False)


def test_the_users_frame_is_in_the_traceback_and_ours_is_not(tmp_path):
    def divide(x):
        return 1 / x

    status, output, content = run(tmp_path, divide, 0)
    assert status == 1
    assert "ZeroDivisionError" in output
    result = decode(content, allow_pickle=False)
    error = result.exception(submission_id="job-1", url="http://ray")
    assert "return 1 / x" in str(error)
    assert "airflow_ray_call" not in error.data["remote_traceback"]
    assert isinstance(error.__cause__, RemoteTraceback)


@pytest.mark.parametrize(("name", "meaning"), [("AirflowSkipException", "skip"), ("AirflowFailException", "fail")])
def test_airflows_exceptions_keep_their_meaning(tmp_path, name, meaning):
    import airflow.exceptions

    exception = getattr(airflow.exceptions, name)

    def give_up():
        raise exception("enough")

    status, _, content = run(tmp_path, give_up)
    assert decode(content, allow_pickle=False).meaning == meaning
    assert status == (0 if meaning == "skip" else 1)


def test_airflows_exceptions_work_where_airflow_is_not_installed(tmp_path):
    from airflow.exceptions import AirflowSkipException

    def give_up():
        raise AirflowSkipException("enough")

    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "sitecustomize.py").write_text("import sys; sys.modules['airflow'] = None")
    status, output, content = run(tmp_path, give_up)
    assert status == 0, output
    assert decode(content, allow_pickle=False).meaning == "skip"


def test_another_cloudpickle_on_the_cluster_does_no_harm(tmp_path):
    other = tmp_path / "package" / "cloudpickle"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise RuntimeError('the cluster's own')")
    assert value(tmp_path, lambda x: x * FACTOR, 2) == 6


def test_prints_do_not_touch_the_result(tmp_path):
    def chatty():
        for i in range(50_000):
            print("line", i)
        return "x" * 1_000_000

    status, output, content = run(tmp_path, chatty)
    assert status == 0
    assert output.count("\n") == 50_000
    assert decode(content, allow_pickle=False).value == "x" * 1_000_000


def test_a_process_that_exits_leaves_no_result(tmp_path):
    status, _, content = run(tmp_path, functools.partial(os._exit, 3).func, 3)
    assert status == 3
    assert content is None


@pytest.mark.parametrize(
    ("code", "status"), [(7, 7), (256, 1), (-1, 255), (512, 1), (True, 1), ("no data today", 1), (3.5, 1)]
)
def test_sys_exit_is_an_error_and_never_looks_like_a_success(tmp_path, code, status):
    def leave():
        sys.exit(code)

    ended, _, content = run(tmp_path, leave)
    assert ended == status
    found = decode(content, allow_pickle=False)
    assert found.error["type"] == "builtins.SystemExit"
    assert found.meaning == "error"


@pytest.mark.parametrize("code", [None, 0])
def test_a_function_that_ends_itself_content_returns_nothing(tmp_path, code):
    def leave():
        sys.exit(code)

    assert value(tmp_path, leave) is None


def test_a_closed_output_does_not_fail_a_function(tmp_path):
    def closes():
        sys.stdout.close()
        return 1

    assert value(tmp_path, closes) == 1


def test_a_table_goes_to_object_storage_and_comes_back(tmp_path):
    def frame():
        return pd.DataFrame({"a": range(1000), "b": ["x"] * 1000})

    store = tmp_path / "store"
    status, output, content = run(tmp_path, frame, settings=ResultSettings(result_path=f"file://{store}"))
    assert status == 0, output
    reference = decode(content, allow_pickle=False).value
    assert reference["rows"] == 1000
    assert reference["format"] == "parquet"
    pd.testing.assert_frame_equal(read_reference(reference), frame())


def test_a_large_value_goes_to_object_storage_and_a_small_one_does_not(tmp_path):
    settings = ResultSettings(result_path=f"file://{tmp_path}/store", max_inline_bytes=100)
    _, _, content = run(tmp_path, lambda: "y" * 1000, settings=settings)
    assert read_reference(decode(content, allow_pickle=False).value) == "y" * 1000
    _, _, content = run(tmp_path, lambda: "small", settings=settings)
    assert decode(content, allow_pickle=False).value == "small"


def test_a_result_over_the_limit_says_what_to_do(tmp_path):
    status, _, content = run(tmp_path, lambda: "z" * 2000, settings=ResultSettings(max_result_bytes=1000))
    assert status == 1
    assert "result_path=" in decode(content, allow_pickle=False).error["message"]


@pytest.mark.parametrize(
    "bad", [{(1, 2): "key"}, {1: "a", "1": "b"}, {"deep": [{"when": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}]}]
)
def test_what_json_does_not_know_is_named_with_its_place(tmp_path, bad):
    status, _, content = run(tmp_path, lambda: bad)
    assert status == 1
    assert "the return value" in decode(content, allow_pickle=False).error["message"]


def test_another_python_is_refused_before_the_function_is_read(tmp_path):
    packed = pack(lambda: 1)
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    settings = json.loads(files[f"{PACKAGE}/settings.json"])
    settings["python"] = [3, 8, 0]
    files[f"{PACKAGE}/settings.json"] = json.dumps(settings).encode()
    files[f"{PACKAGE}/call.pkl"] = b"not a pickle"
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    env = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "AIRFLOW_RAY_RESULT_FILE": "r.bin",
        "AIRFLOW_RAY_LOG_FOLDER": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-m", PACKAGE], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    with pytest.raises(ConfigurationError, match=r"runs Python 3\.\d+, this Airflow worker runs 3\.8"):
        decode((tmp_path / "r.bin").read_bytes(), allow_pickle=False)


class Holder:
    def method(self):
        return 1


async def coroutine():
    return 1


def generator():
    yield 1


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (Holder().method, "method"),
        (Holder.method, "method"),
        (Holder, "class"),
        (coroutine, "coroutine"),
        (generator, "generator"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_its_kind(function, word):
    with pytest.raises(ConfigurationError, match=word):
        pack(function)


def test_an_argument_that_cannot_be_pickled_is_named():
    import threading

    with pytest.raises(ConfigurationError, match="Argument 'lock'"):
        pack(lambda lock: 1, (), {"lock": threading.Lock()})


def test_a_damaged_result_is_told_from_a_good_one(tmp_path):
    _, _, content = run(tmp_path, lambda: "good")
    with pytest.raises(RayProviderError, match="damaged"):
        decode(content[:-1], allow_pickle=False)


def test_the_same_call_is_the_same_package():
    assert pack(add_days, (1,), {"days": 2}).uri == pack(add_days, (1,), {"days": 2}).uri
    assert pack(add_days, (1,), {"days": 2}).uri != pack(add_days, (1,), {"days": 3}).uri


def test_what_the_cluster_lacks_is_told_with_the_way_out(tmp_path):
    def wants():
        import a_module_that_is_nowhere  # noqa: F401

    _, _, content = run(tmp_path, wants)
    error = decode(content, allow_pickle=False).exception(submission_id="job-1", url="http://ray")
    assert "The function raised on the cluster: builtins.ModuleNotFoundError" in str(error)
    assert "What to do: The cluster has no module 'a_module_that_is_nowhere'" in str(error)


def test_a_module_beside_the_dag_is_told_from_the_dags_own_file(tmp_path, monkeypatch):
    (tmp_path / "beside_the_dag.py").write_text("def helper():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import beside_the_dag

    helper = beside_the_dag.helper
    elsewhere = tmp_path / "cluster"
    elsewhere.mkdir()
    _, _, content = run(elsewhere, lambda: helper())
    error = decode(content, allow_pickle=False).exception(submission_id="job-1", url="http://ray")
    assert "The function could not be loaded on the cluster" in str(error)
    assert "no module 'beside_the_dag'" in str(error)
    assert "py_modules" in error.hint


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        ({"a": [{"b": [1, "x", {1}]}]}, "['a'][0]['b'][2] is of type builtins.set"),
        ([{"a": 1}, {(2,): "b"}], "[1] has the key (2,) of type tuple"),
        ([1, None, object()], "[2] is of type builtins.object"),
    ],
)
def test_the_place_is_named_however_deep(bad, place):
    with pytest.raises(TypeError) as caught:
        runner.plain(bad)
    assert place in str(caught.value)


@pytest.mark.parametrize(
    "good",
    [
        [1.5, 2.5],
        [1, "x", None, True],
        {"a": {"b": [[1.0], [2.0, 3]]}},
        "\ud800 half a character",
        [],
        {},
        0,
    ],
)
def test_what_json_knows_comes_back_as_it_was(good, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_RAY_LOG_FOLDER", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_RAY_RESULT_FILE", "r.bin")
    runner.deliver(good, dataclasses.asdict(ResultSettings()))
    assert decode((tmp_path / "r.bin").read_bytes(), allow_pickle=False).value == good


def test_numpys_numbers_are_numbers(tmp_path):
    assert runner.plain({"n": np.int64(3), "x": np.float32(0.5), "all": [np.float64(1.5)], "b": np.bool_(True)}) == {
        "n": 3,
        "x": 0.5,
        "all": [1.5],
        "b": True,
    }


def test_an_error_of_a_gigabyte_does_not_travel_whole():
    told = runner.describe(ValueError("x" * 10_000_000))
    assert len(told["message"]) < 11_000
    assert len(told["traceback"]) < 110_000
    assert "characters left out" in told["message"]


def test_old_results_are_removed_and_young_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_RAY_LOG_FOLDER", str(tmp_path))
    old, young, log = (tmp_path / name for name in ("airflow-result-a.bin", "airflow-result-b.bin", "job-driver-a.log"))
    for path in (old, young, log):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    os.utime(log, (1, 1))
    runner.tidy()
    assert (old.exists(), young.exists(), log.exists()) == (False, True, True)


def test_numbers_are_not_compressed_and_text_is():
    numbers = np.random.default_rng(1).normal(size=300_000)
    with zipfile.ZipFile(io.BytesIO(pack(lambda x: x, (numbers,)).content)) as archive:
        assert archive.getinfo(f"{PACKAGE}/call.pkl").compress_type == zipfile.ZIP_STORED
    packed = pack(lambda x: x, ("ab" * 1_000_000,)).content
    assert len(packed) < 200_000


def test_an_altered_value_in_object_storage_is_refused(tmp_path):
    settings = ResultSettings(result_path=f"file://{tmp_path}/store", max_inline_bytes=100)
    _, _, content = run(tmp_path, lambda: "y" * 1000, settings=settings)
    reference = decode(content, allow_pickle=False).value
    [path] = (tmp_path / "store").iterdir()
    path.write_text('"z"')
    with pytest.raises(RayProviderError, match="it was altered"):
        read_reference(reference)


def test_an_arrow_table_comes_back_as_one(tmp_path):
    import pyarrow

    table = pyarrow.table({"a": [1, 2, 3]})
    _, output, content = run(tmp_path, lambda: table, settings=ResultSettings(result_path=f"file://{tmp_path}/store"))
    assert read_reference(decode(content, allow_pickle=False).value).equals(table), output


def test_the_users_lines_are_in_the_traceback_of_a_cluster_that_lacks_the_file():
    def divide(x):
        return 1 / x

    line = divide.__code__.co_firstlineno + 1
    told = {
        "type": "builtins.ZeroDivisionError",
        "message": "division by zero",
        "meaning": "error",
        "traceback": "Traceback (most recent call last):\n"
        f'  File "{__file__}", line {line}, in divide\n'
        '  File "/etc/hostname", line 1, in elsewhere\n'
        "ZeroDivisionError: division by zero\n",
    }
    error = FunctionResult(error=told).exception(submission_id="job-1", url="http://ray", source=__file__)
    assert f"line {line}, in divide\n    return 1 / x\n" in str(error)
    assert "in elsewhere\nZeroDivisionError" in str(error), "no file of the cluster's choice is read"


@functools.lru_cache(maxsize=7)
def remembered(n=5):
    return n if n < 2 else remembered(n - 1) + remembered(n - 2)


def squared(x):
    return x * x


def test_a_cached_function_of_the_file_travels(tmp_path):
    assert value(tmp_path, lambda: [remembered(10), remembered.cache_info().maxsize]) == [55, 7]


def test_a_partial_of_the_files_functions_travels(tmp_path):
    assert value(tmp_path, functools.partial(squared, 3)) == 9


def test_processes_get_the_files_functions_by_their_names(tmp_path):
    def with_processes():
        import concurrent.futures
        import multiprocessing

        import cloudpickle

        with multiprocessing.Pool(2) as pool:
            one = pool.map(squared, [1, 2])
        with concurrent.futures.ProcessPoolExecutor(2) as pool:
            two = list(pool.map(squared, [3]))
        with multiprocessing.Pool(1) as pool:
            three = pool.apply(dataclasses.asdict, (Point(1, 2),))
        # Processes that are none of its own, such as Ray's, still get the code itself.
        by_value = b"squared" in cloudpickle.dumps(squared) and len(cloudpickle.dumps(squared)) > 200
        return [one, two, three, by_value]

    assert value(tmp_path, with_processes) == [[1, 4], [9], {"x": 1, "y": 2}, True]


def test_rays_own_cloudpickle_sends_the_files_functions_by_value(tmp_path):
    def imported_later():
        import multiprocessing

        with multiprocessing.Pool(1) as pool:
            pool.map(squared, [1])
        from ray import cloudpickle

        return len(cloudpickle.dumps(squared)) > 200

    assert value(tmp_path, imported_later) is True


def test_a_function_may_close_its_output(tmp_path):
    def closes():
        sys.stdout.close()
        os.close(2)
        return 1

    assert value(tmp_path, closes) == 1


class BadText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def test_an_exception_without_a_text_is_named(tmp_path):
    def raises():
        raise BadText

    status, _, content = run(tmp_path, raises)
    assert status == 1
    error = decode(content, allow_pickle=False).error
    assert error["type"].endswith("BadText")
    assert "__str__ raised RuntimeError" in error["message"]


def test_keys_that_are_numbers_become_text_as_in_a_plain_task(tmp_path):
    given = {1: {2.5: "a", None: "b", True: "c", np.int64(7): "d"}}
    assert value(tmp_path, lambda: given) == {"1": {"2.5": "a", "None": "b", "True": "c", "7": "d"}}


def test_nan_is_null_with_its_place_and_whole_in_object_storage(tmp_path):
    def metrics():
        return {"loss": [1.0, float("nan")], 3: float("inf")}

    for allow_pickle in (False, True):  # a pickle would bring what XCom can't take
        _, _, content = run(tmp_path, metrics, settings=ResultSettings(allow_pickle=allow_pickle))
        found = decode(content, allow_pickle=allow_pickle)
        assert found.value == {"loss": [1.0, None], "3": None}
        assert found.became_null == ("the return value['loss'][1] is nan", "the return value[3] is inf")
    store = tmp_path / "store"
    _, _, content = run(tmp_path, metrics, settings=ResultSettings(result_path=f"file://{store}"))
    found = decode(content, allow_pickle=False)
    assert found.by_reference
    whole = read_reference(found.value)
    assert np.isnan(whole["loss"][1])
    assert whole["3"] == float("inf")


@pytest.mark.parametrize("with_path", [False, True])
def test_what_cannot_travel_is_kept_and_not_computed_again(tmp_path, with_path):
    import cloudpickle

    store = tmp_path / "store"
    settings = ResultSettings(result_path=f"file://{store}" if with_path else None)
    status, _, content = run(tmp_path, lambda: {1, 2, 3}, settings=settings)
    assert status == 1
    found = decode(content, allow_pickle=False)
    assert found.meaning == "fail", "another try would compute it again, and end alike"
    kept = [tmp_path / "logs" / "airflow-result-job-1.pkl"] + (
        [store / "airflow-result-job-1.pkl"] if with_path else []
    )
    for path in kept:
        assert str(path) in found.error["message"]
        assert cloudpickle.loads(path.read_bytes()) == {1, 2, 3}


def test_a_store_that_fails_does_not_lose_the_value(tmp_path):
    (tmp_path / "a-file").write_text("")
    settings = ResultSettings(result_path=f"file://{tmp_path}/a-file/below")
    _, _, content = run(tmp_path, lambda: "x" * 300_000, settings=settings)
    found = decode(content, allow_pickle=False)
    assert found.meaning == "fail"
    assert "airflow-result-job-1.pkl" in found.error["message"]
    said = str(found.exception(submission_id="job-1", url="http://ray"))
    begin, where, *_ = said.splitlines()
    assert begin.startswith(
        "The function has returned on the cluster, and its value can't be sent back: It could not be written to "
        f"file://{tmp_path}/a-file/below/airflow-result-job-1.json: "
    )
    assert where.startswith("It is kept as a pickle (read it with cloudpickle.load): ")
    assert "What to do: The cluster writes with its own credentials, never with an Airflow connection." in said
    assert "Traceback" not in said


def test_the_predecessors_form_loses_only_what_cannot_be_said(tmp_path):
    def result():
        return {"metrics": {"loss": np.float32(0.5), "all": np.arange(3), "best": float("nan")}, "model": Point(1, 2)}

    _, _, content = run(tmp_path, result, settings=ResultSettings(lenient=True))
    found = decode(content, allow_pickle=False)
    assert found.value == {"metrics": {"loss": 0.5, "all": [0, 1, 2], "best": None}, "model": None}
    assert [note.partition(" is ")[0] for note in found.became_null] == [
        "the return value['metrics']['best']",
        "the return value['model']",
    ]
