"""What crosses a boundary: from YAML, from names of DAGs and runs, from folders, from clusters into Airflow's log."""

from __future__ import annotations

import ast
import json
import re
import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_provider.clusters import naming
from ray_provider.clusters.helm.fetch import display_url
from ray_provider.clusters.helm.values import read_values
from ray_provider.clusters.kuberay.manifests import read_manifest
from ray_provider.clusters.kubernetes.kubeconfig import read_kubeconfigs
from ray_provider.exceptions import ConfigurationError, JobFailedError, RayProviderError
from ray_provider.functions.results import decode
from ray_provider.hooks.connection import RayConnectionConfig
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.models import JobDetails, JobSpec
from ray_provider.jobs.submit.archive import pack_folder
from ray_provider.jobs.watch.outcome import JobOutcome
from tests.support.jobs_api import JobsApi

PACKAGE = Path(__file__).resolve().parents[2] / "provider" / "ray_provider"

# YAML ---------------------------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(10))}}}\n" for n in range(1, 9)
)
TRAPS = {
    "an object": "x: !!python/object/apply:os.system ['touch pwned']",
    "a module": "x: !!python/module:os",
    "itself": "x: &x {y: *x}",
    "itself in a list": "x: &x [*x]",
    "a billion": LAUGHS,
    "binary": "x: !!binary aGVsbG8=",
    "a set": "x: !!set {a, b}",
    "deep": "x: " + "[" * 5000,
    "deep and closed": "x: " + "{a: " * 3000 + "1" + "}" * 3000,
    "two documents": "x: 1\n---\ny: 2",
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("trap", TRAPS)
def test_yaml_that_does_something_or_has_no_end_is_refused(trap, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TRAPS[trap]
    with pytest.raises(ConfigurationError):
        read_values(text)
    manifest = yaml.safe_dump(
        {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "c"}, "spec": {"headGroupSpec": {}}}
    )
    if trap != "two documents":
        with pytest.raises(ConfigurationError):
            read_manifest(manifest + text)
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigurationError):
        read_kubeconfigs(str(path))
    with pytest.raises(ConfigurationError):
        RayConnectionConfig.from_connection("ray", extra={"kube_config": text}, environ={})
    assert not (tmp_path / "pwned").exists()


def test_a_date_stays_the_text_that_it_is():
    assert read_values("labels: {since: 2024-01-01, at: 12:30:00}") == {
        "labels": {"since": "2024-01-01", "at": yaml.safe_load("12:30:00")}
    }


def test_authentication_that_is_left_empty_is_on():
    text = """
apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: c}
spec:
  rayVersion: 2.60.0
  authOptions:
  headGroupSpec: {template: {}}
"""
    values, notes = read_manifest(text).to_values((1, 6, 1))
    assert values["spec"]["authOptions"] == {"mode": "token"}
    assert any("switched on" in note for note in notes)


def test_a_yaml_error_shows_nothing_of_the_text():
    for text in ("password: planted-1\nx: [", "x: *planted-1", "x: !planted-1 y", "x: 'planted-1\n", "@planted-1"):
        with pytest.raises(ConfigurationError) as raised:
            read_values(text)
        assert "planted-1" not in f"{raised.value}{raised.value.data}"


# Names --------------------------------------------------------------------------------------------------------------

OWNER = st.fixed_dictionaries(
    {"dag_id": st.text(max_size=300), "run_id": st.text(max_size=300), "task_id": st.text(max_size=300)}
)


@settings(max_examples=150, deadline=None)
@given(OWNER)
def test_names_and_labels_are_kubernetes_own_whatever_a_dag_is_called(owner):
    owner = {**owner, "map_index": 3}
    naming.check_name(naming.unique_name(owner))
    for key, value in naming.owner_labels(owner).items():
        assert re.fullmatch(r"[a-z0-9./_-]+", key)
        assert len(value) <= 63
        assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", value)
    assert naming.same_owner(naming.owner_labels(owner), owner)


@settings(max_examples=50, deadline=None)
@given(OWNER, OWNER)
def test_two_runs_never_have_one_name(one, other):
    one, other = {**one, "map_index": -1}, {**other, "map_index": -1}
    if one != other:
        assert naming.unique_name(one) != naming.unique_name(other)
        assert naming.owner_labels(one) != naming.owner_labels(other)


async def test_an_id_can_not_lead_to_another_path():
    async with JobsApi() as api, RayJobsClient(api.endpoint()) as client:
        for name in ("../../api/version", "a/stop", "a?b=c", "a#b", "%2e%2e/x"):
            await client.get(name)
        assert {path for _, path in api.requests} == {
            "/api/jobs/../../api/version",
            "/api/jobs/a/stop",
            "/api/jobs/a?b=c",
            "/api/jobs/a#b",
            "/api/jobs/%2e%2e/x",
        }, "as one segment each, which the server decodes"
    with pytest.raises(ConfigurationError, match="submission_id"):
        JobSpec("echo", "a/../b").validate()


def test_a_url_is_shown_without_its_secrets():
    assert display_url("https://me:pw@h:1/a@b/c?sig=x") == "https://h:1/a@b/c"
    assert display_url("https://h/a") == "https://h/a"


# Archives -----------------------------------------------------------------------------------------------------------


def test_what_is_packed_stays_in_its_folder(tmp_path):
    folder = tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    for name in ("..hidden", "a\\..\\b", "sub/-rf", "sub/new\nline", "sub/C:x", "sub/... "):
        (folder / name).write_text("x")
    (folder / "loop").symlink_to(folder)
    for with_parent in (False, True):
        package = pack_folder(folder, "working_dir", [], with_parent=with_parent)
        package.write(tmp_path / "p.zip")
        with zipfile.ZipFile(tmp_path / "p.zip") as archive:
            assert archive.testzip() is None
            for info in archive.infolist():
                parts = info.filename.split("/")
                assert not info.filename.startswith("/")
                assert ".." not in parts
                assert info.external_attr >> 16 in {0o100644, 0o100755, 0o40755}, "no links, no set-uid"
            out = tmp_path / f"out-{with_parent}"
            archive.extractall(out)
        assert all(path.resolve().is_relative_to(out) for path in out.rglob("*"))


def test_the_provider_unpacks_nothing():
    """No archive of anybody's is opened by the provider: there is nothing that could slip out of a folder."""
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in {"extractall", "extract", "unpack_archive"}:
                raise AssertionError(f"{path}:{node.lineno} unpacks an archive")


def trees():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text())


# Programs -----------------------------------------------------------------------------------------------------------

#: ``loader`` is helm.py's: the safe one in C.
SAFE_LOADERS = {"_Loader", "loader"}
SHELLS = {"system", "popen", "create_subprocess_shell", "getoutput", "getstatusoutput"}


def test_nothing_goes_through_a_shell_or_an_unsafe_loader():
    unpicklers, executors = set(), set()
    for path, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            where = f"{path.relative_to(PACKAGE)}:{node.lineno}"
            assert name not in SHELLS, where
            for keyword in node.keywords:
                assert not (keyword.arg == "shell" and getattr(keyword.value, "value", True)), where
            if name in {"load", "load_all"} and getattr(getattr(node.func, "value", None), "id", "") == "yaml":
                assert any(getattr(keyword.value, "id", "") in SAFE_LOADERS for keyword in node.keywords), where
            assert name not in {"unsafe_load", "full_load", "eval"}, where
            if name == "exec":
                executors.add(str(path.relative_to(PACKAGE)))
            if name in {"loads", "load"} and getattr(getattr(node.func, "value", None), "id", "") in {
                "pickle",
                "cloudpickle",
            }:
                unpicklers.add(str(path.relative_to(PACKAGE)))
    # results.py reads one only where the task says so; runner.py reads, on the cluster, what the worker has sent.
    assert unpicklers <= {"functions/results.py", "functions/runner.py"}
    # On the cluster: the source of a class that the worker has sent.
    assert executors <= {"functions/from_source.py"}


def test_a_pickle_from_the_cluster_is_not_read_unasked(tmp_path):
    import hashlib
    import os
    import pickle

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    body = pickle.dumps(Trap())
    header = {"kind": "pickle", "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    with pytest.raises(ConfigurationError, match="does not accept"):
        decode(json.dumps(header).encode() + b"\n" + body, allow_pickle=False)
    assert not (tmp_path / "pwned").exists()


# Texts of clusters --------------------------------------------------------------------------------------------------

FORGED = "done\r\n::endgroup::\n::group::\x1b[2J\x1b]0;x\x07[2026-01-01] {taskinstance.py:1} INFO - \x9b1A"


def harmless(text: str) -> bool:
    return not re.search(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\[[0-9;:]*m)|::(end)?group::", text)


def test_what_a_cluster_says_does_nothing_in_airflows_log():
    details = JobDetails.from_json({"submission_id": "a", "status": f"FAILED{FORGED}", "message": FORGED})
    assert harmless(details.status)
    assert harmless(details.message)
    assert harmless(str(RayProviderError(FORGED, hint=FORGED)))
    outcome = JobOutcome("a", "final", "FAILED", FORGED, None, 1, None, None, "http://h")
    with pytest.raises(JobFailedError) as raised:
        outcome.raise_for_status()
    assert harmless(str(raised.value))


# The page -----------------------------------------------------------------------------------------------------------


#: What the page says beside its promises; all else names what holds it.
NO_PROMISE = (
    "# Security",
    "## ",
    "An open Ray dashboard",
    "Measured:",
    "<!-- ",
    "| who |",
    "| secret |",
    "|---|",
    # They are trusted, which no test can show.
    "| people who write DAGs |",
    "`make test-fuzz`",
)


def test_each_promise_of_the_page_names_a_test_that_is_there():
    root = PACKAGE.parents[1]
    page = (root / "docs" / "security.md").read_text()
    before, measured, after = re.split(r"(<!-- defaults.*?<!-- end of defaults -->)", page, flags=re.DOTALL)
    assert "tests/security/test_defaults_table.py" in measured
    blocks = re.split(r"\n\n|\n(?=- )|\n(?=\|)", f"{before}\n\n{after}")
    promises = [block.strip() for block in blocks if block.strip() and not block.strip().startswith(NO_PROMISE)]
    assert len(promises) > 35
    for promise in promises:
        assert re.search(r"`(tests/[\w/]+/)?test_\w+\.py`", promise), f"names no test: {promise}"
    for path in re.findall(r"\b(tests/[\w/]+\.py)\b", page):
        assert (root / path).is_file(), path
    # Where two tests of one folder are named, the second comes without it.
    for name in re.findall(r"`(test_\w+\.py)`", page):
        assert (root / "tests" / "security" / name).is_file(), name


def test_the_providers_role_ends_at_its_namespace():
    role, binding, account = yaml.safe_load_all((PACKAGE.parents[1] / "helm/roles/provider-role.yaml").read_text())
    assert [one["kind"] for one in (role, binding, account)] == ["Role", "RoleBinding", "ServiceAccount"]
    assert binding["roleRef"]["kind"] == "Role"
    granted = {resource for rule in role["rules"] for resource in rule["resources"]}
    verbs = {verb for rule in role["rules"] for verb in rule["verbs"]}
    assert not granted & {"*", "nodes", "namespaces", "customresourcedefinitions", "deployments", "roles"}
    assert not granted & {"rolebindings", "clusterroles", "clusterrolebindings", "pods/exec", "pods/attach"}
    assert not verbs & {"*", "escalate", "bind", "impersonate"}
