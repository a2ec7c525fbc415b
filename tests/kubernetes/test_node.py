"""The test Kubernetes itself: it comes up, runs Ray, and leaves nothing however it ends."""

from __future__ import annotations

import base64
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.kubernetes.node import control, parts
from tests.kubernetes.node.cache import remove_tree
from tests.kubernetes.node.cgroups import groups_named, processes_in
from tests.kubernetes.node.supervisor import start_time_of
from tests.support.kubernetes import KubectlError, Kubernetes, until
from tests.support.requirements import need
from tests.support.token_reviews import TokenReviews, User

ROOT = Path(__file__).resolve().parents[2]


def ray_cluster(image: str, *, token: bool) -> dict:
    def pod(name: str, memory: str) -> dict:
        resources = {"requests": {"cpu": "200m", "memory": memory}, "limits": {"cpu": "2", "memory": "3Gi"}}
        container = {"name": name, "image": image, "imagePullPolicy": "IfNotPresent", "resources": resources}
        return {"spec": {"containers": [container]}}

    worker = {
        "groupName": "small",
        "replicas": 1,
        "minReplicas": 0,
        "maxReplicas": 2,
        "rayStartParams": {"num-cpus": "1", "object-store-memory": "80000000"},
        "template": pod("ray-worker", "512Mi"),
    }
    head = {
        "rayStartParams": {"num-cpus": "1", "object-store-memory": "100000000"},
        "template": pod("ray-head", "1Gi"),
    }
    spec = {"rayVersion": "2.60.0", "headGroupSpec": head, "workerGroupSpecs": [worker]}
    if token:
        spec["authOptions"] = {"mode": "token"}
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "sample"}, "spec": spec}


class Caller:
    """HTTP through the API server's service proxy, signed in as the administrator."""

    def __init__(self, kubernetes: Kubernetes, base: str, headers: dict[str, str]) -> None:
        user = yaml.safe_load(kubernetes.kubeconfig.read_text())["users"][0]["user"]
        self.context = ssl.create_default_context(cadata=kubernetes.ca_certificate)
        for name in ("client-certificate-data", "client-key-data"):
            path = kubernetes.scratch / name
            path.write_text(subprocess.run(["base64", "-d"], input=user[name], text=True, capture_output=True).stdout)
        self.context.load_cert_chain(
            kubernetes.scratch / "client-certificate-data", kubernetes.scratch / "client-key-data"
        )
        self.base = kubernetes.server + base
        self.headers = headers

    def __call__(self, path: str, body: dict | None = None) -> dict:
        headers = {"Content-Type": "application/json", **self.headers}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.base + path, data, headers)
        with urllib.request.urlopen(request, timeout=20, context=self.context) as answer:
            return json.load(answer)


def traces(name: str) -> list[str]:
    """What is left of a node on this machine."""
    found = [f"cgroup {group}" for group in groups_named(name)]
    found += [f"process {pid}" for pid in processes_in(name)]
    found += [f"folder {path}" for path in control.nodes_folder().glob(f"{name}*")]
    found += [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line]
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if name in cmdline.read_text():
                found.append(f"process {cmdline}")
        except OSError:
            continue
    return found


def kept_log(name: str) -> Path:
    """Where the logs of a node that broke are kept."""
    return control.nodes_folder() / f"{name}.broken"


@pytest.fixture
def second_node() -> Iterator[control.NodeHandle]:
    """A node beside the one of all tests: without KubeRay, quickly made."""
    need("root", present=os.geteuid() == 0)
    node = control.up(operator="none", owner=os.getpid())
    yield node
    node.down()


def test_it_is_ready_with_the_operator_as_a_release(kubernetes: Kubernetes) -> None:
    nodes = kubernetes.get("nodes")["items"]
    assert all(c["status"] == "True" for n in nodes for c in n["status"]["conditions"] if c["type"] == "Ready")
    releases = json.loads(kubernetes.helm("list", "-A", "-o", "json"))
    assert [r["name"] for r in releases if r["chart"].startswith("kuberay-operator-")] == ["kuberay-operator"]
    with kubernetes.namespace() as name:
        assert kubernetes.exists("namespace", name)
    until(lambda: not kubernetes.exists("namespace", name), 300, "end of the namespace")


# With a token the provider's own tests do the same.
@pytest.mark.slow  # tests of clusters do it, too
@pytest.mark.parametrize("token", [True, False], ids=["token", "open"])
def test_a_cluster_runs_a_job_on_both_nodes_through_the_service_proxy(
    kubernetes: Kubernetes, namespace: str, token: bool
) -> None:
    if token:
        need("KubeRay with token authentication (1.5.1)", present=kubernetes.kuberay_version != "1.4.2")
    kubernetes.apply(ray_cluster(kubernetes.ray_image, token=token), namespace)
    kubernetes.kubectl(
        *("wait", "raycluster/sample", "-n", namespace, "--for=condition=RayClusterProvisioned", "--timeout=300s"),
    )
    headers = {}
    if token:
        data = kubernetes.get("secret", "sample", "-n", namespace)["data"]["auth_token"]
        headers = {"X-Ray-Authorization": f"Bearer {base64.b64decode(data).decode()}"}
    call = Caller(kubernetes, f"/api/v1/namespaces/{namespace}/services/sample-head-svc:8265/proxy", headers)

    def version() -> str:
        try:
            return call("/api/version")["ray_version"]
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise
            return ""  # the head's service has no endpoint yet

    assert until(version, 300, "answer of the dashboard") == kubernetes.ray_version
    code = (
        "import ray; ray.init(log_to_driver=False); f = ray.remote(num_cpus=1)(lambda: "
        "(__import__('time').sleep(0.5), ray.get_runtime_context().get_node_id())[1]); "
        "import pandas, pyarrow, cloudpickle; "
        "print('nodes:', len(set(ray.get([f.remote() for _ in range(8)]))), ray.data.range(10).sum('id'))"
    )
    job = call("/api/jobs/", {"entrypoint": f'python -c "{code}"'})["submission_id"]
    status = until(
        lambda: (s := call(f"/api/jobs/{job}")["status"]) in ("SUCCEEDED", "FAILED", "STOPPED") and s, 300, "end of job"
    )
    log = call(f"/api/jobs/{job}/logs")["logs"]
    assert status == "SUCCEEDED", log
    assert "nodes: 2 45" in log


def test_an_account_may_what_its_role_says_and_nothing_else(kubernetes: Kubernetes, namespace: str) -> None:
    role = """
    kind: Role
    apiVersion: rbac.authorization.k8s.io/v1
    metadata: {name: reader}
    rules: [{apiGroups: [""], resources: [pods], verbs: [list]}]
    """
    config = kubernetes.service_account_kubeconfig(namespace, role)
    assert oct(config.stat().st_mode & 0o777) == "0o600"
    kubernetes.kubectl("get", "pods", "-n", namespace, kubeconfig=config)
    with pytest.raises(KubectlError, match="forbidden"):
        kubernetes.kubectl("get", "pods", "-n", "default", kubeconfig=config)
    with pytest.raises(KubectlError, match="forbidden"):
        kubernetes.kubectl("get", "secrets", "-n", namespace, kubeconfig=config)


def test_the_node_can_say_that_it_has_gpus(kubernetes: Kubernetes) -> None:
    kubernetes.patch_node_gpu(2)
    try:
        assert kubernetes.get("node", kubernetes.node_name)["status"]["allocatable"]["nvidia.com/gpu"] == "2"
    finally:
        kubernetes.patch_node_gpu(0)
    assert "nvidia.com/gpu" not in kubernetes.get("node", kubernetes.node_name)["status"]["capacity"]


@pytest.mark.slow  # tests of clusters do it, too
def test_the_operator_can_be_stopped_and_started(kubernetes: Kubernetes) -> None:
    def available() -> int:
        deployment = kubernetes.get("deployment", "kuberay-operator", "-n", "kuberay-system")
        return deployment["status"].get("availableReplicas", 0)

    with kubernetes.operator_stopped():
        assert available() == 0
    assert available() == 1


@pytest.mark.slow  # tests of clusters do it, too
def test_the_operator_can_be_absent_and_comes_back(kubernetes: Kubernetes) -> None:
    with kubernetes.without_operator():
        assert not kubernetes.exists("crd", "rayclusters.ray.io")
        assert not kubernetes.exists("deployments", "-A", "-l", "app.kubernetes.io/name=kuberay-operator")
    assert kubernetes.exists("crd", "rayclusters.ray.io")
    assert kubernetes.exists("deployment", "kuberay-operator", "-n", "kuberay-system")


@pytest.mark.slow  # test_mission_clouds.py needs it, too
def test_the_api_server_asks_a_webhook_whom_a_token_belongs_to(kubernetes: Kubernetes) -> None:
    need("a test node of our own", present=kubernetes.node is not None and not kubernetes.from_outside)
    asked = []

    def ask(token: str) -> User | None:
        asked.append(token)
        return User("someone@cloud", ("system:masters",)) if token == "cloud-token" else None

    with TokenReviews(ask) as reviews, kubernetes.token_webhook(reviews.url):
        known = kubernetes.token_kubeconfig("cloud-token")
        assert "kube-system" in kubernetes.kubectl("get", "namespaces", kubeconfig=known)
        with pytest.raises(KubectlError, match="logged in|Unauthorized"):
            kubernetes.kubectl("get", "namespaces", kubeconfig=kubernetes.token_kubeconfig("other-token"))
    assert set(asked) == {"cloud-token", "other-token"}
    with pytest.raises(KubectlError, match="logged in|Unauthorized"):
        kubernetes.kubectl("get", "namespaces", kubeconfig=known)


@pytest.mark.slow  # it waits for controllers that have lost their patience
def test_controllers_look_again_at_once_when_the_api_server_is_back(kubernetes: Kubernetes) -> None:
    kubernetes.restart_api_server(stay_down=15)
    with kubernetes.namespace():  # waits for its account for 30 s: left alone, the controllers take 48
        pass


@pytest.mark.slow  # of the test node itself
def test_large_answers_and_many_connections_pass(kubernetes: Kubernetes, namespace: str) -> None:
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"x": "y" * 900_000}}
    kubernetes.apply(config_map, namespace)
    path = f"/api/v1/namespaces/{namespace}/configmaps/big"
    call = Caller(kubernetes, "", {})
    answers: list[int] = []
    began = time.monotonic()
    threads = [threading.Thread(target=lambda: answers.append(len(call(path)["data"]["x"]))) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [900_000] * 40
    assert time.monotonic() - began < 30


@pytest.mark.slow  # the next test has a node that is ended with its owner
def test_a_node_that_is_ended_leaves_nothing_and_two_do_not_meet(
    kubernetes: Kubernetes, second_node: control.NodeHandle
) -> None:
    other = kubernetes.env(KUBECONFIG=str(second_node.kubeconfig))
    subprocess.run([kubernetes.kubectl_path, "create", "namespace", "only-there"], env=other, check=True)
    assert not kubernetes.exists("namespace", "only-there")
    began = time.monotonic()
    second_node.down()
    assert time.monotonic() - began < 30, "a second, on a machine that has nothing else to do"
    assert traces(second_node.name) == []
    assert kubernetes.get("nodes")["items"]  # the other one did not notice


OWNER = """
import os, sys, time
from tests.kubernetes.node import control
node = control.up(operator="none", owner=os.getpid(), name=os.environ["NODE"], progress=lambda _: None)
print(node.state, flush=True)
time.sleep(600)
"""


def start_owner(name: str) -> subprocess.Popen[str]:
    """Start a process that starts a node of this name."""
    env = {**os.environ, "NODE": name}
    return subprocess.Popen([sys.executable, "-c", OWNER], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def owner() -> Iterator[tuple[subprocess.Popen, control.NodeHandle]]:
    """A process that has started a node, as tests do."""
    need("root", present=os.geteuid() == 0)
    process = start_owner(control.new_name())
    assert process.stdout is not None
    state = process.stdout.readline().strip()
    assert state, "the node did not come up"
    yield process, control.NodeHandle(Path(state))
    process.kill()
    process.wait()
    process.stdout.close()


def test_tests_that_are_killed_leave_no_node(owner: tuple[subprocess.Popen, control.NodeHandle]) -> None:
    process, node = owner
    assert traces(node.name)
    process.kill()
    process.wait()
    until(lambda: not traces(node.name), 300, "end of the node of a killed owner")


@pytest.mark.slow  # the test before it: one that stands
@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.5])
def test_tests_that_are_killed_while_a_node_comes_up_leave_none(seconds: float) -> None:
    need("root", present=os.geteuid() == 0)
    name = control.new_name()
    process = start_owner(name)
    try:
        until(lambda: name in groups_named(name), 300, "groups of the node")
        time.sleep(seconds)
    finally:
        process.kill()
        process.communicate()
    # Its log is kept, as that of each node that did not come up.
    until(lambda: all(str(kept_log(name)) in trace for trace in traces(name)), 300, "end of the node of a killed owner")
    remove_tree(kept_log(name))


@pytest.mark.slow
def test_a_killed_supervisor_takes_its_node_along_and_the_next_start_clears_up(
    owner: tuple[subprocess.Popen, control.NodeHandle],
) -> None:
    _, node = owner
    os.kill(node.supervisor_pid(), signal.SIGKILL)
    until(lambda: not processes_in(node.name), 300, "end of the node's processes")
    assert node.name in control.reap_stale()
    until(lambda: not traces(node.name), 300, "end of what stood around the node")


@pytest.mark.slow
def test_a_node_that_stands_is_used_from_another_network(second_node: control.NodeHandle, tmp_path: Path) -> None:
    program = (
        "from tests.support.kubernetes import kubernetes\n"
        "with kubernetes() as k: print(k.from_outside, k.get('nodes')['items'][0]['metadata']['name'])\n"
    )
    env = {
        **os.environ,
        "AIRFLOW_RAY_TEST_KUBECONFIG": str(second_node.kubeconfig),
        "AIRFLOW_RAY_TEST_OPERATOR": "none",
    }
    inner = 'ip link set lo up && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", inner, sys.executable, program],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["True", "k8snode"], done.stderr


@pytest.mark.slow
def test_a_part_that_dies_ends_the_node_and_its_last_words_are_kept(second_node: control.NodeHandle) -> None:
    etcd = next(pid for pid in processes_in(second_node.name) if b"/usr/bin/etcd" in _cmdline(pid))
    os.kill(etcd, signal.SIGKILL)
    until(lambda: not second_node.state.exists(), 300, "end of the node")
    kept = second_node.state.with_suffix(".broken")
    try:
        assert "etcd ended with" in (kept / "log/supervisor.log").read_text()
    finally:
        remove_tree(kept)
    # Its supervisor removes its folder, and ends then.
    until(lambda: not traces(second_node.name), 300, "end of the supervisor")


@pytest.mark.slow  # of the test node itself
def test_a_node_that_cannot_come_up_says_why_and_leaves_nothing() -> None:
    need("root", present=os.geteuid() == 0)
    # Only what has its name is looked at: other nodes come and go beside it.
    name = control.new_name()
    broken = {"operator": "none", "api_server_args": ["--no-such-flag"]}
    with pytest.raises(control.NodeError, match=r"unknown flag: --no-such-flag"):
        control.up(**broken, owner=os.getpid(), name=name, progress=lambda _: None)
    assert traces(name) == [f"folder {kept_log(name)}"]
    assert "unknown flag" in (kept_log(name) / "log/kube-apiserver.log").read_text()
    remove_tree(kept_log(name))


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def test_a_process_is_known_by_its_start_time() -> None:
    assert start_time_of(os.getpid()) > 0
    assert start_time_of(2**22 + 1) == 0


def test_versions_agree_and_a_config_file_does_not_rebuild_kubernetes(monkeypatch, tmp_path) -> None:
    for version in parts.versions()["kuberay"]["versions"]:
        for lane in parts.lanes(version):
            assert all(part.key for part in lane)
    keys = {part.name: part.key for lane in parts.lanes("1.6.1") for part in lane}
    monkeypatch.setitem(parts.versions()["ray"], "packages", ["ray==0"])
    changed = {part.name: part.key for lane in parts.lanes("1.6.1") for part in lane}
    assert {name for name in keys if keys[name] != changed[name]} == {"image-store"}


def test_an_unknown_kuberay_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("KUBERAY_VERSION", "0.1")
    with pytest.raises(parts.BuildError, match=r"0\.1 is not one of 1\.4\.2, 1\.5\.1, 1\.6\.1"):
        parts.kuberay_version()
