"""What runs on the cluster, piece by piece: what it says of values and errors, and what it leaves behind."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ray_provider.functions import runner
from ray_provider.operators._job.storage import ObjectStore

SETTINGS: dict[str, Any] = {
    "allow_pickle": False,
    "lenient": False,
    "max_result_bytes": 1000,
    "max_inline_bytes": 100,
    "result_path": None,
    "python": list(sys.version_info[:3]),
}


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIRFLOW_RAY_LOG_FOLDER", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_RAY_RESULT_FILE", "airflow-result-job.bin")
    return tmp_path


@pytest.fixture
def modules() -> Iterator[None]:
    """Take away afterwards what was imported, and who watches imports."""
    before, watchers = dict(sys.modules), list(sys.meta_path)
    yield
    sys.meta_path[:] = watchers
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def written(logs: Path) -> tuple[dict[str, Any], bytes]:
    header, _, content = (logs / "airflow-result-job.bin").read_bytes().partition(b"\n")
    return json.loads(header), content


def test_a_result_says_what_it_is_and_is_there_at_once(logs: Path) -> None:
    runner.write_result({"kind": "json", "more": 1}, b"content")
    header, content = written(logs)
    assert content == b"content"
    assert header == {
        "format": 1,
        "size": 7,
        "sha256": hashlib.sha256(b"content").hexdigest(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "kind": "json",
        "more": 1,
    }
    assert os.listdir(logs) == ["airflow-result-job.bin"], "nothing half written"


def test_results_that_nobody_reads_any_more_go(logs: Path) -> None:
    old, new, other = (logs / name for name in ("airflow-result-old.bin", "airflow-result-new.bin", "job-driver-x.log"))
    for path in (old, new, other):
        path.touch()
    now = time.time()
    os.utime(old, (now - 24 * 3600 - 60, now - 24 * 3600 - 60))
    os.utime(new, (now - 24 * 3600 + 60, now - 24 * 3600 + 60))
    os.utime(other, (0, 0))
    runner.tidy()
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)


def test_the_log_folder_is_that_of_the_drivers_output(tmp_path: Path) -> None:
    import subprocess

    script = "import sys; sys.path.insert(0, sys.argv[1]); import runner; sys.stderr.write(str(runner.log_folder()))"
    env = {key: value for key, value in os.environ.items() if key != "AIRFLOW_RAY_LOG_FOLDER"}
    with (tmp_path / "job-driver-x.log").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", script, str(Path(runner.__file__).parent)],
            env=env,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert done.stderr == str(tmp_path)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        ((1, "a"), (1, "a")),
        ([1, (2.5, None)], [1, [2.5, None]]),
        ({"a": 1}, {"a": 1}),
        ({1: "a", None: "b", False: "c", 2.5: "d"}, {"1": "a", "None": "b", "False": "c", "2.5": "d"}),
        (np.float64(1.5), 1.5),
        (np.int32(7), 7),
        (np.array(3), 3),
        ({np.int64(5): np.bool_(True)}, {"5": True}),
        ([float("nan"), 1.0], [None, 1.0]),
        ([[]], [[]]),
    ],
)
def test_values_as_xcom_knows_them(value: Any, plain: Any) -> None:
    assert runner.plain(value) == plain


def test_what_became_null_is_noted_by_its_place() -> None:
    carrier = runner.Carrier()
    assert carrier.plain({"a": [1.0, math.inf], "b": float("nan")}) == {"a": [1.0, None], "b": None}
    assert carrier.notes == ["the return value['a'][1] is inf", "the return value['b'] is nan"]
    whole = runner.Carrier(whole=True)
    assert whole.plain([math.inf]) == [math.inf]
    assert whole.notes == ["the return value[0] is inf"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [object()]}, "the return value['a'][0] is of type builtins.object"),
        ({(1, 2): 1}, "the return value has the key (1, 2) of type tuple: XCom's are strings"),
        ({1: "a", "1": "b"}, "the return value has two keys that are '1' as text"),
        ([np.arange(2)], "the return value[0] is of type numpy.ndarray"),
    ],
)
def test_what_can_not_travel_is_named_or_left_out(value: Any, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        runner.plain(value)
    assert str(caught.value) == words
    lenient = runner.Carrier(lenient=True)
    plain = lenient.plain(value)
    if isinstance(value, list):
        assert (plain, lenient.notes) == ([[0, 1]], []), "an array is a list there"
    else:
        assert lenient.notes == [words]
        assert plain in ({"a": [None]}, {}, {"1": "a"})


def test_the_kind_of_a_result_is_what_was_asked_for() -> None:
    assert runner.encode({"a": "ü\ud800"}, SETTINGS) == ("json", b'{"a": "\xc3\xbc\xed\xa0\x80"}', [])
    with pytest.raises(runner.UnserializableResult, match="allow_pickle_results=True"):
        runner.encode({1, 2}, SETTINGS)
    kind, content, notes = runner.encode({1, 2}, {**SETTINGS, "allow_pickle": True})
    assert (kind, notes) == ("pickle", [])
    import pickle

    assert pickle.loads(content) == {1, 2}
    assert runner.encode([object()], {**SETTINGS, "lenient": True}) == (
        "json",
        b"[null]",
        ["the return value[0] is of type builtins.object"],
    )
    kind, _, _ = runner.encode([{1}], {**SETTINGS, "lenient": True, "allow_pickle": True})
    assert kind == "pickle", "what may be pickled is not left out"
    with pytest.raises(runner.UnserializableResult, match="of type generator can't be pickled"):
        runner.encode((x for x in ()), {**SETTINGS, "allow_pickle": True})


def test_another_python_gets_no_bytecode() -> None:
    older = {**SETTINGS, "allow_pickle": True, "python": [3, 8, 0]}
    assert not runner.reads_bytecode(older)
    assert runner.reads_bytecode(SETTINGS)
    with pytest.raises(runner.UnserializableResult, match="can't be pickled"):
        runner.encode(lambda: 1, older)
    assert runner.encode(lambda: 1, {**SETTINGS, "allow_pickle": True})[0] == "pickle"


# ---------------------------------------------------------------- where a result goes


@pytest.mark.parametrize(("length", "inline"), [(98, True), (99, False)])
def test_up_to_its_limit_a_value_goes_inline(logs: Path, length: int, inline: bool) -> None:
    settings = {**SETTINGS, "result_path": f"file://{logs}/store/"}
    runner.send("x" * length, settings)  # and two quotes
    header, content = written(logs)
    if inline:
        assert (header["kind"], content) == ("json", b'"' + b"x" * length + b'"')
    else:
        assert header["kind"] == "reference"
        reference = json.loads(content)
        stored = (logs / "store" / "airflow-result-job.json").read_bytes()
        assert reference == {
            "path": f"file://{logs}/store/airflow-result-job.json",
            "bytes": length + 2,
            "format": "json",
            "sha256": hashlib.sha256(stored).hexdigest(),
        }


def test_what_xcom_can_not_say_goes_whole_however_small(logs: Path) -> None:
    runner.send([math.inf], {**SETTINGS, "result_path": f"file://{logs}/store"})
    assert written(logs)[0]["kind"] == "reference"
    assert (logs / "store" / "airflow-result-job.json").read_text() == "[Infinity]"
    runner.send([math.inf], SETTINGS)
    header, content = written(logs)
    assert (header["kind"], header["null"], content) == ("json", ["the return value[0] is inf"], b"[null]")


class Bucket(MemoryFileSystem):  # type: ignore[misc]
    """A store in which a folder is made by making the bucket: s3fs does so."""

    protocol = "r2"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("r2://").strip("/")

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        raise PermissionError(f"{path} can't be made ({exist_ok=})")


def test_no_bucket_is_made(logs: Path) -> None:
    fsspec.register_implementation("r2", Bucket, clobber=True)
    runner.send("x" * 200, {**SETTINGS, "result_path": "r2://bucket/runs/1"})
    assert json.loads(written(logs)[1])["path"] == "r2://bucket/runs/1/airflow-result-job.json"
    ObjectStore.parse("r2://bucket/runs/1").write("call.pkl", b"call")
    assert sorted(Bucket.store) == ["/bucket/runs/1/airflow-result-job.json", "/bucket/runs/1/call.pkl"]


def test_a_pickle_and_tables_by_reference(logs: Path) -> None:
    import pandas as pd
    import pyarrow as pa

    settings = {**SETTINGS, "result_path": f"file://{logs}/store", "allow_pickle": True, "max_inline_bytes": 0}
    runner.send({1}, settings)
    assert json.loads(written(logs)[1])["format"] == "pickle"
    assert (logs / "store" / "airflow-result-job.pkl").exists()
    for table, kind in ((pd.DataFrame({"a": [1, 2]}), "pandas"), (pa.table({"a": [1, 2]}), "arrow")):
        runner.send(table, settings)
        reference = json.loads(written(logs)[1])
        assert (reference["format"], reference["type"], reference["rows"]) == ("parquet", kind, 2)
        assert reference["path"].endswith("/store/airflow-result-job.parquet")
        assert reference["bytes"] == (logs / "store" / "airflow-result-job.parquet").stat().st_size


@pytest.mark.parametrize(("length", "fits"), [(998, True), (999, False)])
def test_more_than_goes_through_xcom_is_refused(logs: Path, length: int, fits: bool) -> None:
    if fits:
        runner.send("x" * length, SETTINGS)
        assert len(written(logs)[1]) == 1000
        return
    with pytest.raises(runner.UnserializableResult, match=r"is 1,001 bytes \(json\): more than the 1,000"):
        runner.send("x" * length, SETTINGS)


def test_few_of_many_notes_are_told(logs: Path) -> None:
    runner.send([math.inf] * 10, SETTINGS)
    assert len(written(logs)[0]["null"]) == 10
    runner.send([math.inf] * 12, SETTINGS)
    told = written(logs)[0]["null"]
    assert (len(told), told[-1]) == (11, "and 2 more")


def test_what_can_not_travel_is_kept(logs: Path) -> None:
    import cloudpickle

    with pytest.raises(runner.UnserializableResult) as caught:
        runner.deliver({1}, {**SETTINGS, "result_path": f"file://{logs}/store"})
    kept = logs / "airflow-result-job.pkl"
    assert cloudpickle.loads(kept.read_bytes()) == {1}
    assert f"It is kept as a pickle (read it with cloudpickle.load): {kept} on the node {os.uname().nodename}" in str(
        caught.value
    )
    assert f"; file://{logs}/store/airflow-result-job.pkl. It is not computed again." in str(caught.value)
    with pytest.raises(runner.UnserializableResult, match="It can't be kept either: TypeError"):
        runner.deliver((x for x in ()), SETTINGS)
    with pytest.raises(runner.UnserializableResult, match="Error: "):
        runner.deliver("x" * 200, {**SETTINGS, "result_path": "nowhere://x"})


def test_what_can_be_kept_nowhere_is_told(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_RAY_LOG_FOLDER", str(logs / "no" / "folder"))
    assert runner.keep(1, SETTINGS) == "It could not be kept: nothing could be written."


# ---------------------------------------------------------------- errors


class BadText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raised(error: BaseException) -> dict[str, Any]:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001
        return runner.describe(caught)


class Skipped(type("AirflowSkipException", (Exception,), {})):  # type: ignore[misc]
    """By its parent's name it means a skip."""


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ValueError("x"), "error"),
        (Skipped("x"), "skip"),
        (type("AirflowFailException", (Exception,), {})("x"), "fail"),
        (runner.UnserializableResult("x"), "fail"),
        (SystemExit(3), "error"),
    ],
)
def test_what_an_exception_means(error: BaseException, meaning: str) -> None:
    told = raised(error)
    assert told["meaning"] == meaning
    assert told["type"].endswith(type(error).__qualname__)
    assert "missing_module" not in told


def test_texts_of_exceptions_are_whole_at_both_ends() -> None:
    told = raised(ValueError("a" * 6000 + "b" * 6000))
    assert told["message"].startswith("a" * 5000 + "\n... 2,000 characters left out ...\n")
    assert told["message"].endswith("\n" + "b" * 5000)
    assert raised(ValueError("x" * 10_000))["message"] == "x" * 10_000
    assert raised(BadText())["message"] == "<no text: its __str__ raised RuntimeError>"
    assert raised(ModuleNotFoundError("x", name="lost"))["missing_module"] == "lost"


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError(), 1), (SystemExit(0), 1), (SystemExit(256), 1), (SystemExit(7), 7), (SystemExit(-1), 255)],
)
def test_no_failure_looks_like_a_success(error: BaseException, status: int) -> None:
    assert runner.exit_status(error) == status


def test_a_call_that_ends_itself() -> None:
    assert runner.call(lambda x, y: x + y, (1,), {"y": 2}) == 3
    assert runner.call(sys.exit, (), {}) is None
    assert runner.call(sys.exit, (0,), {}) is None
    with pytest.raises(SystemExit):
        runner.call(sys.exit, (1,), {})


# ---------------------------------------------------------------- the DAG's file on the cluster


def square(x: int) -> int:
    return x * x


@pytest.mark.usefixtures("modules")
def test_functions_of_the_dags_file_are_found_by_their_names() -> None:
    import cloudpickle  # as on a worker: it is there before the call

    runner.offer({"module": "dags_of.mine.flights"}, {"square": square})
    assert importlib.import_module("dags_of.mine.flights").square(3) == 9
    import dags_of.mine  # type: ignore[import-not-found]

    assert dags_of.mine.flights.square is square
    assert sys.modules["dags_of"].mine is sys.modules["dags_of.mine"]
    assert "dags_of.mine.flights" in cloudpickle.list_registry_pickle_by_value()
    cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES.discard("dags_of.mine.flights")


@pytest.mark.usefixtures("modules")
def test_nothing_is_offered_where_it_is_there_already() -> None:
    before = list(sys.meta_path)
    for settings, found in (({"module": "json"}, {"x": 1}), ({"module": ""}, {"x": 1}), ({"module": "new_one"}, {})):
        runner.offer(settings, found)
    assert sys.meta_path == before
    assert not hasattr(json, "x")
    assert "new_one" not in sys.modules


@pytest.mark.usefixtures("modules")
def test_a_cloudpickle_that_comes_later_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "rays_own"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "cloudpickle.py").write_text("_PICKLE_BY_VALUE_MODULES = set()\n")
    (folder / "other.py").write_text("_PICKLE_BY_VALUE_MODULES = set()\n")
    monkeypatch.syspath_prepend(tmp_path)
    sys.meta_path.insert(0, runner.ByValue("mine"))
    assert importlib.import_module("rays_own.cloudpickle")._PICKLE_BY_VALUE_MODULES == {"mine"}
    assert importlib.import_module("rays_own.other")._PICKLE_BY_VALUE_MODULES == set()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("nowhere.cloudpickle")


def test_what_is_no_module_is_not_told() -> None:
    runner.by_value(types.SimpleNamespace(_PICKLE_BY_VALUE_MODULES={1}), "mine")
    module = types.ModuleType("x")
    module.__dict__["_PICKLE_BY_VALUE_MODULES"] = ["not a set"]
    runner.by_value(module, "mine")
    assert module.__dict__["_PICKLE_BY_VALUE_MODULES"] == ["not a set"]


# ---------------------------------------------------------------- arguments from object storage


def test_large_arguments_come_from_object_storage_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tmp_path / "call.pkl"
    stored.write_bytes(b"packed")
    monkeypatch.setenv("AIRFLOW_RAY_CALL_PATH", f"file://{stored}")
    with pytest.raises(RuntimeError, match="does not hold the arguments that the task packed"):
        runner.read_call({"call_sha256": hashlib.sha256(b"another").hexdigest()})
    assert stored.exists()
    assert runner.read_call({"call_sha256": hashlib.sha256(b"packed").hexdigest()}) == b"packed"
    assert not stored.exists()
