"""What the tests of DAGs on Kubernetes have in common: Airflow with exactly the provider's Role, and a run of a RayJob."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_provider.testing import AirflowStack
from tests.support.kubernetes import Kubernetes, until
from tests.support.logs import begun_log

HERE = Path(__file__).parent
#: The forms in which DAGs for the predecessor are written; they lie beside DAGs that need no Kubernetes.
FORMS = HERE.parents[1] / "integration" / "peer_dags"
EXAMPLES = HERE.parents[2] / "examples" / "dags"
#: One of each file.
_DAGS = ("ray_pair", "rayjob_deferred", "carriers", "alone", "shop", "ray_service", "peer_taskflow", "old_paths")


@contextmanager
def airflow(kubernetes: Kubernetes, place: str, home: Path) -> Iterator[AirflowStack]:
    """Run an Airflow whose connections have exactly the provider's Role in a namespace: DAGs need no more.

    A DAG's tasks wait for files of the test's in the folder that ``TEST_GATES`` names.
    """
    kubeconfig = kubernetes.service_account_kubeconfig(place, Path("helm/roles/provider-role.yaml"))
    dags, gates = home / "dags", home / "gates"
    pycache = shutil.ignore_patterns("__pycache__")
    shutil.copytree(HERE / "dags", dags, ignore=pycache)
    shutil.copytree(FORMS, dags / "forms", ignore=pycache)
    shutil.copytree(EXAMPLES / "include", dags / "examples" / "include", ignore=pycache)
    shutil.copy(EXAMPLES / "ray_service.py", dags / "examples")
    gates.mkdir()
    stack = AirflowStack(
        home,
        dags_folder=dags,
        env={
            "TEST_HELM3": str(kubernetes.helm3),
            "TEST_HELM4": str(kubernetes.helm4),
            "RAY_PROVIDER_HELM": str(kubernetes.helm4),
            "TEST_GATES": str(gates),
        },
        config={"core": {"parallelism": "4"}},
        start_timeout=300,
    )
    extra = {"kube_config_path": str(kubeconfig), "namespace": place, "backend": "kubernetes"}
    with stack:
        for conn_id in ("kube", "ray_conn", "ray_default"):
            stack.client.add_connection(conn_id, "ray", extra=extra)
        for dag in _DAGS:
            stack.client.wait_for_dag(dag, timeout=300)
        yield stack
    assert not stack.leftovers


def left(kubernetes: Kubernetes, place: str) -> list[str]:
    """Name what is there of any cluster; the service account and its Role are the test's own."""
    kinds = "rayjobs,rayservices,rayclusters,pods,services,secrets,networkpolicies"
    names = kubernetes.kubectl("get", kinds, "-n", place, "-o", "name").split()
    return [name for name in names if "service-account" not in name]


class Case:
    """One run of a DAG with one task, and its RayJob."""

    def __init__(self, kubernetes: Kubernetes, place: str, stack: AirflowStack, dag: str, **conf: Any) -> None:
        self.kubernetes, self.place, self.client, self.dag = kubernetes, place, stack.client, dag
        self.run = stack.client.trigger_run(dag, conf=conf)

    def log(self, try_number: int = 1, task: str = "job") -> str:
        return self.client.log_text(self.dag, self.run, task, try_number=try_number)

    def told(self, text: str, timeout: float = 300, try_number: int = 1) -> None:
        until(lambda: text in self.begun_log(try_number), timeout, text, every=1)

    def printed(self, line: str, timeout: float = 300, try_number: int = 1) -> None:
        """Wait for a line of the job's own: the task itself tells the entrypoint's text."""
        until(lambda: line in self.begun_log(try_number).splitlines(), timeout, f"the line {line!r}", every=1)

    def begun_log(self, try_number: int = 1) -> str:
        """Give the log of a try, empty until there is one."""
        return begun_log(self.client, self.dag, self.run, "job", try_number=try_number)

    def ends(self, state: str, timeout: float = 300) -> None:
        self.client.wait_run(self.dag, self.run, state=state, timeout=timeout)

    @property
    def job(self) -> dict[str, Any] | None:
        """The RayJob of this run."""
        found = self.kubernetes.get("rayjobs", "-n", self.place)["items"]
        own = [one for one in found if one["metadata"]["annotations"]["airflow-ray/run_id"] == self.run]
        return own[0] if own else None

    @property
    def head(self) -> str:
        """The name of the head's pod."""
        assert self.job is not None
        cluster = self.job["status"]["rayClusterName"]
        (found,) = self.kubernetes.get(
            "pods", "-n", self.place, "-l", f"ray.io/cluster={cluster},ray.io/node-type=head"
        )["items"]
        return str(found["metadata"]["name"])

    def patch(self, **spec: Any) -> None:
        assert self.job is not None
        name, change = self.job["metadata"]["name"], json.dumps({"spec": spec})
        self.kubernetes.kubectl("patch", "rayjob", name, "-n", self.place, "--type=merge", "-p", change)

    def go(self) -> None:
        """Let the job go on to its end."""
        self.kubernetes.kubectl("exec", "-n", self.place, self.head, "--", "touch", "/tmp/go")

    def is_gone(self) -> bool:
        return self.job is None
