"""From nothing to a job on a GPU and back, in one DAG on real Airflow components: on an emulated EKS and an emulated GKE.

Real are Terraform, the module, AWS' provider (5.100; Google's is a stand-in made from its published schema), Airflow, the
Kubernetes with its scheduler, KubeRay, Helm and Ray. The cloud's API is an emulation, whose cluster is the test's
Kubernetes. Its API server knows nobody who comes from Airflow: it asks a webhook about each token, as those of the clouds
do, and the webhook asks the emulated cloud who signed it.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from ray_provider.testing import AirflowStack
from tests.infrastructure.lab import stand_in
from tests.infrastructure.lab.aws_server import AwsServer
from tests.infrastructure.lab.google_api import EMAIL, GoogleCloud
from tests.infrastructure.lab.presigned import caller
from tests.infrastructure.lab.provider import need_schema
from tests.infrastructure.runner_modules import is_ours
from tests.kubernetes.missions import Nodes, Pool
from tests.support.kubernetes import Kubernetes
from tests.support.terraform import environment, need_aws_provider, need_terraform
from tests.support.token_reviews import TokenReviews, User

pytestmark = pytest.mark.timeout(1200)

NAME = "mission"
EKS_PREFIX = "k8s-aws-v1."
PROJECT, LOCATION = "my-project", "europe-west4"
TASKS = ("infrastructure", "addons", "cluster", "job", "delete_cluster", "delete_addons", "delete_infrastructure")
#: What Ray may ask of a node here: the memory of the test's machine.
TINY = {"cpu": 1, "memory_gib": 2}


@dataclass(frozen=True)
class Scene:
    """Both clouds, the Kubernetes that they call their cluster, and Airflow."""

    kubernetes: Kubernetes
    reviews: TokenReviews
    aws: AwsServer
    google: GoogleCloud
    plugin: Path
    states: Path
    temporary: Path
    stack: AirflowStack

    def pools(self, cloud: str) -> Mapping[str, Pool]:
        """Ask the cloud's API for its pools."""
        return self._eks_pools() if cloud == "eks" else self._gke_pools()

    def _eks_pools(self) -> Mapping[str, Pool]:
        eks = self.aws.client("eks")
        found = {}
        for name in eks.list_nodegroups(clusterName=NAME)["nodegroups"]:
            group = eks.describe_nodegroup(clusterName=NAME, nodegroupName=name)["nodegroup"]
            taints = tuple(
                f"{taint['key']}={taint['value']}:{_effect(taint['effect'])}" for taint in group.get("taints") or []
            )
            found[name] = Pool(group["labels"], taints, gpus=1 if "NVIDIA" in group["amiType"] else 0)
        return found

    def _gke_pools(self) -> Mapping[str, Pool]:
        found = {}
        for thing in stand_in.made(self.plugin, "google"):
            if thing["type"] == "google_container_node_pool":
                config = thing["values"]["node_config"][0]
                taints = tuple(f"{t['key']}={t['value']}:{_effect(t['effect'])}" for t in config["taint"] or [])
                found[thing["values"]["name"]] = Pool(
                    config["labels"], taints, gpus=1 if config["guest_accelerator"] else 0
                )
        return found


#: In kube-system, which the cluster of the tests goes on with.
OF_THE_MODULE = ("-n", "kube-system", "-l", "app.kubernetes.io/managed-by=airflow-ray", "-o", "name")


def _effect(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


@pytest.fixture(scope="module")
def scene(kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    terraform, folder = need_terraform(), tmp_path_factory.mktemp("missions")
    ca_data = base64.b64encode(kubernetes.ca_certificate.encode()).decode()
    plugin = folder / "plugin"
    address = kubernetes.server.removeprefix("https://")
    answers = {"google_container_cluster": {"endpoint": address, "cluster_ca_certificate": ca_data}}
    google_mirror, google_extra = stand_in.install(plugin, "google", need_schema("google"), answers=answers)

    def gke(path: str) -> dict[str, Any] | None:
        for thing in stand_in.made(plugin, "google"):
            values = thing["values"]
            if (
                thing["type"] == "google_container_cluster"
                and path == f"projects/{PROJECT}/locations/{LOCATION}/clusters/{values['name']}"
            ):
                return {
                    "name": values["name"],
                    "endpoint": address,
                    "status": "RUNNING",
                    "master_auth": {"cluster_ca_certificate": ca_data},
                }
        return None

    with (
        AwsServer(cluster_endpoint=kubernetes.server, cluster_ca_data=ca_data, log=folder / "aws.log") as aws,
        GoogleCloud(gke) as google,
        tempfile.TemporaryDirectory(prefix="rt-") as temporary,
    ):

        def by_sts(token: str) -> User | None:
            """As EKS' authenticator: follow the address, if it is one of AWS."""
            if not token.startswith(EKS_PREFIX):
                return None
            text = token.removeprefix(EKS_PREFIX)
            url = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            if not url.startswith(f"{aws.url}/?Action=GetCallerIdentity&"):
                raise PermissionError("not an address of AWS")
            arn = caller(url, NAME)
            access = aws.client("eks").describe_cluster(name=NAME)["cluster"]["accessConfig"]
            creator = access["bootstrapClusterCreatorAdminPermissions"]
            return User(arn, ("system:masters",) if creator else ())

        def by_google(token: str) -> User | None:
            return User(google.caller(token), ("system:masters",)) if token.startswith("ya29.") else None

        with TokenReviews(by_sts, by_google) as reviews, kubernetes.token_webhook(reviews.url):
            missions = {
                "eks": {
                    "terraform": str(terraform.path),
                    "env": {},
                    "connections": {},
                    "conn_id": "ray_worker",
                    "namespace": "mission-eks",
                    "state": str(folder / "states" / "eks.tfstate"),
                    "variables": {
                        "name": NAME,
                        "deletion_protection": False,
                        "bucket_force_destroy": True,
                        "log_drain_seconds": 0,
                        "availability_zones": ["us-east-1a", "us-east-1b"],
                        "system_pool": {"allocatable": TINY},
                        "ray_head": {"cpu": 1, "memory_gib": 2},
                        # From none: Ray's autoscaler asks for it when the job wants a GPU.
                        "node_pools": {"gpu": {"machine_type": "g5.xlarge", "max": 1, "allocatable": TINY}},
                    },
                },
                "gke": {
                    "terraform": str(terraform.path),
                    "env": _terraform_variables(
                        environment(folder / "cli-google", mirrors=[google_mirror], extra=google_extra)
                    ),
                    "connections": {"gcp_conn_id": "google"},
                    "conn_id": "ray_plain",
                    "namespace": "mission-gke",
                    "state": str(folder / "states" / "gke.tfstate"),
                    "variables": {
                        "name": NAME,
                        "project": PROJECT,
                        "location": LOCATION,
                        "deletion_protection": False,
                        "bucket_force_destroy": True,
                        "system_pool": {"allocatable": TINY},
                        "ray_head": {"cpu": 1, "memory_gib": 2},
                        # There from the beginning: setting up waits for its worker.
                        "node_pools": {
                            "gpu": {"machine_type": "g2-standard-8", "min": 1, "max": 1, "allocatable": TINY}
                        },
                    },
                },
            }
            env = {
                **_terraform_variables(environment(folder / "cli-aws", mirrors=[need_aws_provider()])),
                **aws.env,
                **google.env,
                "RAY_PROVIDER_HELM": str(kubernetes.helm4),
                "TEST_MISSIONS": json.dumps(missions),
                "TMPDIR": temporary,
            }
            dags = Path(__file__).parent / "dags_missions"
            stack = AirflowStack(
                folder / "airflow", dags_folder=dags, env=env, config={"core": {"parallelism": "4"}}, start_timeout=300
            )
            with stack:
                stack.client.add_connection("ray_worker", "ray", extra={"backend": "kubernetes"})
                stack.client.add_connection("ray_plain", "ray", extra={"backend": "kubernetes"})
                key = json.dumps(google.key(PROJECT))
                stack.client.add_connection("google", "google_cloud_platform", extra={"keyfile_dict": key})
                yield Scene(kubernetes, reviews, aws, google, plugin, folder / "states", Path(temporary), stack)
            assert not stack.leftovers


def _terraform_variables(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(("TF_", "CHECKPOINT_"))}


# What is EKS' own, each layer has rows for: the module's life against the emulation, the credentials, the tokens.
@pytest.mark.parametrize("cloud", [pytest.param("eks", marks=pytest.mark.slow), "gke"])
def test_the_whole_mission(scene: Scene, cloud: str, capsys: pytest.CaptureFixture[str]) -> None:
    client, dag, namespace = scene.stack.client, f"mission_{cloud}", f"mission-{cloud}"
    scene.reviews.admitted.clear()
    try:
        with Nodes(scene.kubernetes, namespace, lambda: scene.pools(cloud)) as nodes:
            run = client.trigger_run(dag)
            client.wait_run(dag, run, state="success", timeout=900)
        assert nodes.failure is None
        logs = {task: client.log_text(dag, run, task) for task in TASKS}
        xcoms = {task: client.xcom(dag, run, task) for task in TASKS if task != "job"}
        with capsys.disabled():
            print(timeline(cloud, client.task_instances(dag, run), logs))

        # The head came on the system pool's node, the worker on one with the GPU pool's labels and taint.
        assert sorted(nodes.given) == ["gpu", "system"]
        assert "ran on a worker with 1.0 GPU" in logs["job"]
        assert "is ready: Ray 2.60.0" in logs["cluster"]
        assert xcoms["cluster"]["kubernetes"]["cloud"] == {"eks": "aws", "gke": "gcp"}[cloud]
        assert xcoms["cluster"]["namespace"] == namespace

        # What the module hands out for GPU pods was in the cluster, and went before it; GKE brings it itself. The
        # operator, which the step found there, is still there.
        made = xcoms["addons"]["installed"]
        wanted = ["DaemonSet kube-system/nvidia-device-plugin-daemonset", "Deployment kube-system/cluster-autoscaler"]
        assert [one for one in wanted if one in made] == ([] if cloud == "gke" else wanted)
        assert sorted(xcoms["delete_addons"]["removed"]) == sorted(made)
        assert scene.kubernetes.kubectl("get", "daemonsets,deployments", *OF_THE_MODULE).split() == []
        assert scene.kubernetes.exists("deployments", "-A", "-l", "app.kubernetes.io/name=kuberay-operator")

        # Everybody came in by the cloud's own identity, and nobody was refused.
        who = {"eks": "arn:aws:sts::123456789012:user/moto", "gke": EMAIL}[cloud]
        assert set(scene.reviews.admitted) == {who}
        assert scene.reviews.refused == []
        told = json.dumps([xcoms, logs, client.task_instances(dag, run)])
        secrets = [EKS_PREFIX, "ya29.", "BEGIN PRIVATE KEY", scene.aws.env["AWS_ACCESS_KEY_ID"]]
        assert [secret for secret in secrets if secret in told] == []

        # Nothing is left.
        assert xcoms["delete_cluster"] is True
        assert xcoms["delete_infrastructure"]["destroyed"] > 5
        assert json.loads((scene.states / f"{cloud}.tfstate").read_text())["resources"] == []
        if cloud == "eks":
            assert scene.aws.client("eks").list_clusters()["clusters"] == []
            vpcs = scene.aws.client("ec2").describe_vpcs()["Vpcs"]
            assert [vpc["VpcId"] for vpc in vpcs if not vpc["IsDefault"]] == []
        else:
            assert stand_in.made(scene.plugin, "google") == []
        assert json.loads(scene.kubernetes.helm("list", "-n", namespace, "-a", "-o", "json")) == []
        kinds = "rayclusters,pods,services,secrets,networkpolicies"
        assert scene.kubernetes.kubectl("get", kinds, "-n", namespace, "-o", "name").split() == []
        assert [child for child in psutil.Process().children(recursive=True) if is_ours(child)] == []
        # Airflow has files of its own there.
        ours = ("airflow-ray-", "ray-provider-", "helm")
        assert [path.name for path in scene.temporary.iterdir() if path.name.startswith(ours)] == []
    finally:
        kinds = "daemonsets,deployments,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
        scene.kubernetes.kubectl("delete", kinds, *OF_THE_MODULE)
        if scene.kubernetes.exists("namespace", namespace):
            scene.kubernetes.remove_namespace(namespace)


def timeline(cloud: str, tasks: list[dict[str, Any]], logs: Mapping[str, str]) -> str:
    """Show when the tasks ran, and what they said last."""
    by_name = {task["task_id"]: task for task in tasks}
    begin = min(datetime.fromisoformat(task["start_date"]) for task in tasks if task["start_date"])
    lines = [f"\nThe whole mission on {cloud.upper()}:"]
    for name in TASKS:
        task = by_name[name]
        start, end = (datetime.fromisoformat(task[key]) for key in ("start_date", "end_date"))
        lines.append(
            f"  {(start - begin).total_seconds():6.1f} s  to {(end - begin).total_seconds():6.1f} s  {name:<22}"
            f" {_said(name, logs[name])}"
        )
    return "\n".join(lines)


def _said(task: str, log: str) -> str:
    """Find the line that says what a task did."""
    marks = {
        "infrastructure": "Plan: ",
        "addons": "was made",
        "cluster": "is ready: ",
        "job": "ran on a worker with 1",
        "delete_cluster": "Nothing is left",
        "delete_addons": "was deleted",
        "delete_infrastructure": "Plan: ",
    }
    return next((line[line.index(marks[task]) :].strip() for line in log.splitlines() if marks[task] in line), "")
