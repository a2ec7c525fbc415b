"""What people and clusters give us, spoilt in every way: either it is taken, or it is refused in our own words."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json

import yaml
from hypothesis import strategies as st

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.helm.values import merge, read_values
from ray_provider.clusters.kuberay.manifests import read_documents, read_manifest
from ray_provider.clusters.kubernetes.kubeconfig import check_kubeconfig, select
from ray_provider.exceptions import ConfigurationError, RayProviderError
from ray_provider.functions.results import decode
from ray_provider.hooks.address import check_address
from ray_provider.hooks.connection import RayConnectionConfig
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.jobs.http.session import base_url
from ray_provider.jobs.models import ClusterVersion, JobDetails, JobSpec
from ray_provider.jobs.parsing import parse_jobs
from tests.fuzz.harness import JSON, KEYS, SCALARS, fuzz, spoilt
from tests.support.jobs_api import FakeJob
from tests.support.kubernetes_front import HANDLE

MAPS = st.dictionaries(KEYS, JSON, max_size=4)
#: Text that has something of YAML: aliases and anchors, tags, documents.
YAML_TEXT = st.text(max_size=200) | st.lists(
    st.sampled_from(
        ["a: ", "&x ", "*x", "<<: ", "- ", "\n", "  ", "{", "}", "[", "]", "? ", "| ", "---\n", "!!python/name:os.system ", "'", '"', "#", "null", "1", "b", ":", "!!binary ", "!!set ", "2001-01-01", "\t", "kind: RayCluster\n"]
    ),
    max_size=25,
).map("".join)  # fmt: skip


def pure(value):
    """Whether a value is what JSON can say; floats that are not numbers count as they are."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


# Values -------------------------------------------------------------------------------------------------------------


def check_merge(layers):
    before = copy.deepcopy(layers)
    merged = merge(*layers)
    assert repr(layers) == repr(before), "what is merged is not changed"
    for layer in layers:
        for key, value in layer.items():
            assert key in merged
            if isinstance(value, dict):
                continue
    if layers:
        for key, value in layers[-1].items():
            if not isinstance(value, dict):
                assert repr(merged[key]) == repr(value), "the last one wins"
    assert repr(merge(merged)) == repr(merged)
    # Nothing is shared: who changes the result changes no layer.
    for value in merged.values():
        if isinstance(value, list):
            value.append("changed")
    assert repr(layers) == repr(before)


def test_merge_of_values():
    assert fuzz(check_merge, st.lists(MAPS, max_size=4)) > 20


def check_values(given):
    with contextlib.suppress(ConfigurationError):
        values = read_values(given)
        assert isinstance(values, dict)
        assert all(isinstance(key, str) for key in values)
        json.dumps(values)  # it goes to Helm as JSON


def test_values_as_text():
    assert fuzz(check_values, YAML_TEXT | JSON.map(yaml.safe_dump)) > 20


def test_values_as_data():
    assert fuzz(check_values, JSON | st.lists(MAPS | YAML_TEXT, max_size=3)) > 20


# Manifests ----------------------------------------------------------------------------------------------------------

MANIFEST = {
    "apiVersion": "ray.io/v1",
    "kind": "RayCluster",
    "metadata": {"name": "c", "namespace": "n", "labels": {"a": "b"}, "annotations": {"x": "y"}},
    "spec": {
        "rayVersion": "2.60.0",
        "enableInTreeAutoscaling": True,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "headService": {"spec": {"type": "NodePort"}},
            "rayStartParams": {"num-cpus": "1"},
            "template": {"spec": {"containers": [{"name": "ray-head", "image": "ray:1"}]}},
        },
        "workerGroupSpecs": [{"groupName": "w", "replicas": 1, "template": {"spec": {"containers": [{"name": "w"}]}}}],
    },
}


def check_manifest(given):
    with contextlib.suppress(ConfigurationError):
        manifest = read_manifest(given)
        assert manifest.cluster["kind"] == "RayCluster"
        for kuberay in (None, (1, 4, 2), (1, 6, 1)):
            values, notes = manifest.to_values(kuberay)
            assert all(isinstance(note, str) for note in notes)
            json.dumps(values)


def test_manifests_as_data():
    assert fuzz(check_manifest, spoilt(MANIFEST)) > 20


def test_manifests_as_text():
    documents = st.lists(spoilt(MANIFEST) | JSON, max_size=3).map(yaml.safe_dump_all)
    assert (
        fuzz(check_manifest, documents | YAML_TEXT | YAML_TEXT.map(lambda text: yaml.safe_dump(MANIFEST) + text)) > 20
    )


def test_documents_as_text():
    def check(text):
        with contextlib.suppress(ConfigurationError):
            read_documents(text, what="gpu_device_plugin_yaml")

    assert fuzz(check, YAML_TEXT) > 20


# Connections --------------------------------------------------------------------------------------------------------

PLANTED = "planted-5f2c"
CONNECTION = {
    "address": "https://ray.example.com:8265/x",
    "backend": "kubernetes",
    "token": PLANTED,
    "headers": json.dumps({"X-Key": PLANTED}),
    "cookies": f"session={PLANTED}",
    "metadata": {"a": "b"},
    "verify": "true",
    "access": "auto",
    "namespace": "n",
    "kube_config": yaml.safe_dump({"clusters": [{"name": "c"}], "users": [{"name": "u", "user": {"token": PLANTED}}]}),
    "in_cluster": "no",
    "disable_verify_ssl": False,
    "extra__ray__token": PLANTED,
}


def check_connection(extra, host, port, schema):
    if not isinstance(extra, dict):
        return
    try:
        config = RayConnectionConfig.from_connection(
            "ray", extra=extra, host=host, port=port, schema=schema, password=PLANTED, environ={}
        )
    except ConfigurationError as error:
        assert PLANTED not in f"{error}{error.data}"
        return
    assert PLANTED not in repr(config)
    assert config.tls.verify is not False or "verify" in str(extra)
    if config.address:
        assert config.address.startswith(("http://", "https://"))
        base_url(RayEndpoint(config.address))


def test_connections():
    hosts = st.none() | st.text(max_size=20) | st.sampled_from(["h", "::1", "https://x", "a@b", "ray://h:1"])
    extras = spoilt(CONNECTION) | st.dictionaries(st.sampled_from(sorted(CONNECTION)), JSON, max_size=5)
    assert (
        fuzz(check_connection, extras, hosts, st.none() | st.integers(0, 70000), st.none() | st.text(max_size=6)) > 20
    )


def check_url(text):
    with contextlib.suppress(ConfigurationError):
        url, headers = check_address(text, "a test")
        assert url.startswith(("http://", "https://"))
        assert "@" not in url.split("/")[2]
        assert set(headers) <= {"Authorization"}
        assert "\n" not in "".join(headers.values())


def test_addresses():
    parts = st.lists(
        st.sampled_from(["http", "https", "ray", "://", ":", "@", "[", "]", "::1", "h", "8265", "/", "?", "#", "%", "é", " ", "\n", "\\", "user", "..", "\x00"]),
        max_size=12,
    ).map("".join)  # fmt: skip
    assert fuzz(check_url, st.text(max_size=60) | parts | parts.map(lambda rest: "http://" + rest)) > 20


KUBECONFIG = {
    "current-context": "x",
    "clusters": [{"name": "x", "cluster": {"server": "https://k:6443", "certificate-authority-data": "QUJD"}}],
    "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x", "namespace": "n"}}],
    "users": [{"name": "x", "user": {"token": PLANTED, "exec": {"command": "x", "args": [], "env": []}}}],
}


def check_kubeconfig_of(config, context):
    try:
        server = select(check_kubeconfig(config, "a test"), context)
    except ConfigurationError as error:
        assert PLANTED not in f"{error}{error.data}"
        return
    assert server.url.startswith("http")
    yaml.safe_dump(server.to_kubeconfig())


def test_kubeconfigs():
    assert fuzz(check_kubeconfig_of, spoilt(KUBECONFIG) | JSON, st.none() | st.text(max_size=3)) > 20


# What comes from clusters and XComs ---------------------------------------------------------------------------------

JOB = FakeJob("a", "echo").to_json()


def check_job(data):
    if isinstance(data, dict):
        details = JobDetails.from_json(data)
        assert isinstance(details.status, str)
        assert isinstance(details.is_final, bool)
        str(details.message)
        ClusterVersion.from_json(data)


def test_details_of_jobs():
    assert fuzz(check_job, spoilt(JOB)) > 20


def check_list(body):
    async def read():
        return [job async for job in parse_jobs(body)]

    with contextlib.suppress(ValueError):
        asyncio.run(read())


def test_lists_of_jobs():
    good = json.dumps([JOB, JOB]).encode()
    cut = st.integers(0, len(good)).map(lambda at: good[:at])
    bodies = (
        st.binary(max_size=100) | cut | st.lists(spoilt(JOB), max_size=3).map(lambda jobs: json.dumps(jobs).encode())
    )
    assert fuzz(check_list, bodies) > 20


def check_result(content):
    with contextlib.suppress(RayProviderError):
        found = decode(content, allow_pickle=False)
        if found.error is not None:
            str(found.exception(submission_id="a", url="http://x"))


def test_results_of_functions():
    import hashlib

    def file(kind, value):
        body = json.dumps(value).encode()
        header = {"kind": kind, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        return json.dumps(header).encode() + b"\n" + body

    kinds = st.sampled_from(["json", "reference", "error", "version", "pickle"]) | st.text(max_size=4)
    error = {"type": "X", "message": "m", "traceback": "t", "meaning": "fail"}
    whole = st.builds(file, kinds, spoilt(error) | JSON)
    assert fuzz(check_result, st.binary(max_size=80) | whole) > 20


def check_handle(data):
    with contextlib.suppress(ConfigurationError):
        if isinstance(data, dict):
            ClusterHandle.from_dict(data).to_dict()


def test_handles():
    assert fuzz(check_handle, spoilt(HANDLE.to_dict())) > 20


def check_spec(values):
    if not isinstance(values, dict):
        return
    known = {key: value for key, value in values.items() if key in JobSpec.__dataclass_fields__}
    if "entrypoint" not in known or "submission_id" not in known:
        return
    with contextlib.suppress(ConfigurationError):
        spec = JobSpec(**known)
        spec.validate()
        json.dumps(spec.to_request(), allow_nan=False)


def test_jobs_of_users():
    good = {
        "entrypoint": "echo",
        "submission_id": "a",
        "runtime_env": {"env_vars": {"A": "b"}, "pip": ["x"]},
        "metadata": {"a": "b"},
        "num_cpus": 1,
        "num_gpus": 0.5,
        "memory": 100,
        "resources": {"x": 1},
        "label_selector": {"a": "b"},
    }
    assert fuzz(check_spec, spoilt(good)) > 20


def test_scalars_are_what_json_can_say():
    # The strategies themselves: what they make up is what arrives in practice.
    assert fuzz(lambda value: json.dumps(value), SCALARS) > 20
