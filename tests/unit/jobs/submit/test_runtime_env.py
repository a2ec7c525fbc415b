"""What Ray never takes in a runtime environment is refused by name; what it may take is not."""

from __future__ import annotations

import pytest

from ray_provider.exceptions import ConfigurationError
from ray_provider.jobs.submit.runtime_env import KEYS, check


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"env_var": {}}, "'env_vars'"),
        ({"workingdir": "."}, "'working_dir'"),
        ({"wokring_dir": "."}, "'working_dir'"),
        ({"py_module": []}, "'py_modules'"),
        ({"pipp": []}, "'pip'"),
        ({"pip": ["a"], "conda": {"dependencies": []}}, "both 'pip' and 'conda'"),
        ({"pip": ["a"], "uv": ["b"]}, "both 'pip' and 'uv'"),
        ({"working_dir": "git+https://github.com/a/b.git"}, "git[+]https://, which Ray can't fetch"),
        ({"working_dir": "dbfs://code.zip"}, "s3://"),
        ({"working_dir": "s3://bucket/folder"}, "archives only"),
        ({"py_modules": ["./here", "gs://bucket/package"]}, "py_modules.*1.*archives only"),
    ],
)
def test_what_can_not_work_is_refused(given, says):
    """Before: Ray ignored the key, or told it by a job that failed on a cluster that had been made for it."""
    with pytest.raises(ConfigurationError) as error:
        check(given)
    error.match(says)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {key: None for key in KEYS},
        {"working_dir": "./src", "py_modules": ["s3://bucket/x.whl", "gcs://_ray_pkg_0123.zip"], "pip": ["a"]},
        {"working_dir": "https://example.com/code.tar.gz?version=3"},
        {"working_dir": "https://github.com/a/b/archive/HEAD.zip", "conda": "base", "pip": []},
    ],
)
def test_what_works_passes_without_a_word(given):
    assert check(given) == []


def test_a_plug_in_gets_one_warning():
    [line] = check({"our_plugin": {}, "another": 1, "env_vars": {}})
    assert "'our_plugin', 'another'" in line
