"""Functions that travel as source, to another minor version of Python: the one on this machine, if there is one."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile

import pytest

from ray_provider.exceptions import ConfigurationError
from ray_provider.functions.payload import PACKAGE, ResultSettings, pack
from ray_provider.functions.results import decode
from tests.support.pythons import other_python
from tests.unit.functions import source_cases as cases


@pytest.fixture(params=["this Python", "another Python"])
def python(request):
    return sys.executable if request.param == "this Python" else other_python()


def version_of(python):
    told = subprocess.check_output([python, "-c", "import json, sys; print(json.dumps(sys.version_info[:2]))"])
    return json.loads(told)


def run(tmp_path, python, function, *args, allow_pickle=False, as_source=True):
    packed = pack(function, args, settings=ResultSettings(allow_pickle=allow_pickle), as_source=as_source)
    zipfile.ZipFile(io.BytesIO(packed.content)).extractall(tmp_path)
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(tmp_path),
        "AIRFLOW_RAY_RESULT_FILE": "r.bin",
        "AIRFLOW_RAY_LOG_FOLDER": str(tmp_path),
    }
    done = subprocess.run([python, "-m", PACKAGE], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (tmp_path / "r.bin").exists(), done.stderr
    return decode((tmp_path / "r.bin").read_bytes(), allow_pickle=allow_pickle)


def test_a_function_and_what_it_uses_of_its_file(tmp_path, python):
    found = run(tmp_path, python, cases.in_a_dag(), cases.Point(1), cases.Colour.RED)
    assert found.error is None, found.error
    assert found.value == {
        "python": version_of(python),
        "inner": [14, 15],
        "point": {"x": 4, "y": 3},
        "colour": ["red", True],
        "text": "bad",
        "path": "/some/where",
        "derived": ["two\nlines", 3],
        "cached": 5,
        "factorial": 120,
        "counter": 2,
        "joined": "a/b",
        "named": "b",
        "lookup": {"a": [1, 2]},
        "other": 11,
    }


def test_no_bytecode_travels(tmp_path):
    packed = pack(cases.in_a_dag(), (cases.Point(1), cases.Colour.RED), as_source=True)
    call = zipfile.ZipFile(io.BytesIO(packed.content)).read(f"{PACKAGE}/call.pkl")
    assert b"CodeType" not in call
    assert b"n * factorial(n - 1)" in call


def test_the_lines_of_an_error_are_those_of_the_file(tmp_path, python):
    error = run(tmp_path, python, cases.raises).error
    line = cases.raises.__code__.co_firstlineno + 1
    assert f'{cases.__file__}", line {line}, in raises' in error["traceback"]
    assert error["message"] == "mine"


def test_processes_get_the_files_functions(tmp_path, python):
    assert run(tmp_path, python, cases.in_processes).value == [6, 24]


def test_an_object_comes_back_as_the_workers_own_class(tmp_path):
    assert run(tmp_path, other_python(), cases.gives_a_point, allow_pickle=True).value == cases.Point(1, 2)


def test_no_bytecode_comes_back(tmp_path):
    """The worker would load it, and might end of it."""
    assert run(tmp_path, other_python(), cases.gives_a_function, allow_pickle=True).error is None
    assert b"CodeType" not in (tmp_path / "r.bin").read_bytes()


def test_a_pickled_function_is_refused_there_and_the_way_out_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match="does not survive") as caught:
        run(tmp_path, other_python(), cases.raises, as_source=False)
    assert 'send="source"' in str(caught.value)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (cases.uses_a_lambda, r"the function <lambda> \(line \d+\) has no source of its own: write a def"),
        (cases.from_text, "has no source in <string>"),
        (lambda: cases.made_class(), "lambda"),
    ],
)
def test_what_has_no_source_is_refused(function, why):
    with pytest.raises(ConfigurationError, match=why):
        pack(function, as_source=True)


def test_a_class_that_hangs_on_a_function_is_refused():
    with pytest.raises(ConfigurationError, match="made_class.*Limited uses limit of the function around it"):
        pack(cases.raises, (cases.made_class()(),), as_source=True)


@pytest.mark.parametrize("changed", ["return 2 * x", "return x + 1"])
def test_a_file_that_changed_since_it_was_read_is_refused(tmp_path, changed):
    """What is in the file now is not what the task is."""
    path = tmp_path / "a_dag.py"
    path.write_text("def f(x):\n    return x - 1\n\n\ndef g(x):\n    return f(x)\n")
    spec = importlib.util.spec_from_file_location("a_dag", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["a_dag"] = module
    try:
        spec.loader.exec_module(module)
        assert pack(module.g, (1,), as_source=True)
        path.write_text(path.read_text().replace("return x - 1", changed))
        with pytest.raises(ConfigurationError, match=r"function f \(line 1\) is another one in .*changed since"):
            pack(module.g, (1,), as_source=True)
        assert pack(module.g, (1,)), "a pickle holds what was read"
    finally:
        del sys.modules["a_dag"]
