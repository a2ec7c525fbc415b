"""DAGs whose jobs run in clusters that KubeRay makes for them, by RayJobs."""

from __future__ import annotations

import copy
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from ray_provider.operators import RunRayJob
from ray_provider.sensors import RayJobSensor
from ray_provider.task_groups import RayClusterTaskGroup

HEAD = {
    "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
    "rayStartParams": {"num-cpus": "1", "object-store-memory": "100000000"},
}
HEAD_ONLY: dict[str, Any] = {"head": HEAD, "worker": {"disabled": True}, "headOnly": True}
ALL: dict[str, Any] = {"conn_id": "kube", "values": HEAD_ONLY, "start_timeout_seconds": 300}
WAIT = """python -c "
import os, time
print('began', flush=True)
while not os.path.exists('/tmp/go'):
    time.sleep(0.2)
print('went on')
" """

for where in ("worker", "deferred"):
    with DAG(f"rayjob_{where}", schedule=None, catchup=False) as dag:
        RunRayJob(
            task_id="job",
            entrypoint="python say.py",
            runtime_env={"working_dir": str(Path(__file__).parent / "code")},
            deferrable=where == "deferred",
            helm_path=os.environ["TEST_HELM3" if where == "worker" else "TEST_HELM4"],
            **ALL,
        )
    globals()[dag.dag_id] = dag

with DAG("rayjob_function", schedule=None, catchup=False) as dag:

    @task.ray(conn_id="kube", ray_job={"values": HEAD_ONLY}, deferrable=True)
    def host(word: str) -> dict[str, str]:
        """Say where it runs."""
        import socket

        return {"word": word, "host": socket.gethostname()}

    host("hello")

with DAG("rayjob_failing", schedule=None, catchup=False) as dag:
    RunRayJob(
        task_id="job",
        entrypoint="echo the last words; exit 3",
        deferrable=True,
        keep_on_failure=True,
        name="kept",
        **ALL,
    )

with DAG("rayjob_waiting", schedule=None, catchup=False) as dag:
    RunRayJob(task_id="job", entrypoint=WAIT, deferrable=True, **ALL)

with DAG("rayjob_waiting_worker", schedule=None, catchup=False) as dag:
    RunRayJob(task_id="job", entrypoint=WAIT, retries=2, retry_delay=timedelta(seconds=1), **ALL)

with DAG("rayjob_stuck", schedule=None, catchup=False) as dag:
    RunRayJob(
        task_id="job",
        entrypoint="true",
        conn_id="kube",
        values=[HEAD_ONLY, {"head": {"resources": {"requests": {"cpu": "200"}, "limits": {"cpu": "200"}}}}],
        deferrable=True,
    )

with DAG("rayjob_queued", schedule=None, catchup=False) as dag:
    RunRayJob(task_id="job", entrypoint="true", deferrable=True, local_queue="team", queue_timeout_seconds=3600, **ALL)

with DAG("rayjob_in_queue", schedule=None, catchup=False) as dag:
    RunRayJob(task_id="job", entrypoint=WAIT, deferrable=True, local_queue="team", **ALL)

with DAG("rayjob_too_long", schedule=None, catchup=False) as dag:
    RunRayJob(task_id="job", entrypoint=WAIT, deferrable=True, job_timeout_seconds=20, **ALL)

with DAG("rayjob_pending", schedule=None, catchup=False) as dag:
    RunRayJob(task_id="job", entrypoint="true", num_gpus=8, deferrable=True, job_timeout_seconds=40, **ALL)

#: As in KubeRay's own sample: it says no more than its command, and on which cluster.
SELECTING = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "selecting"},
    "spec": {"entrypoint": "echo says hello from there", "clusterSelector": {"ray.io/cluster": "shared"}},
}

with DAG("rayjob_shared", schedule=None, catchup=False) as dag:
    with RayClusterTaskGroup("group", conn_id="kube", values=HEAD_ONLY, name="shared", deferrable=True):
        # What somebody else made, by kubectl: it waits for the cluster, as KubeRay does.
        RayJobSensor(task_id="by_hand", conn_id="kube", ray_job="by-hand", deferrable=True, timeout=300)
        RunRayJob(task_id="selecting", conn_id="kube", ray_job_yaml=SELECTING, deferrable=True)

        @task.ray(num_cpus=0, deferrable=True)
        def there() -> str:
            """Say where it runs, when the other job has begun."""
            import socket

            return socket.gethostname()

        there()

#: A manifest in which KubeRay submits, with a token and what a shell would split.
SUBMITTED: dict[str, Any] = {
    "entrypoint": "echo first; sleep 30; python -c \"print('says', 'hello from', __import__('socket').gethostname())\"",
    "shutdownAfterJobFinishes": True,
    "rayClusterSpec": {
        "rayVersion": "2.60.0",
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": HEAD["rayStartParams"],
            "template": {
                "spec": {
                    "containers": [
                        {"name": "ray-head", "image": "rayproject/ray:2.60.0", "resources": HEAD["resources"]}
                    ]
                }
            },
        },
    },
}


def submitted(name: str, mode: str, **spec: Any) -> dict[str, Any]:
    """Give a manifest whose job KubeRay submits."""
    spec = {**SUBMITTED, "submissionMode": mode, **spec}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": name}, "spec": spec}


for mode in ("HTTPMode", "SidecarMode", "K8sJobMode"):
    with DAG(f"rayjob_{mode.lower()}", schedule=None, catchup=False) as dag:
        given = submitted(mode.lower(), mode)
        RunRayJob(task_id="job", conn_id="kube", ray_job_yaml=given, start_timeout_seconds=300, deferrable=True)
    globals()[dag.dag_id] = dag

#: In SidecarMode such a job ends before its head is ready, which it then never is: the submitter, a container of that
#: pod, has ended with it. The last one is never submitted. That the head is late makes sure of it.
SHORT = {
    "succeeds": {"entrypoint": "echo says hello at once"},
    "fails": {"entrypoint": "echo the last words; exit 3"},
    "unsubmitted": {"entrypoint": "true", "runtimeEnvYAML": "working_dir: /nowhere"},
}
LATE = {"readinessProbe": {"exec": {"command": ["true"]}, "initialDelaySeconds": 60}}
for which, what in SHORT.items():
    with DAG(f"rayjob_short_{which}", schedule=None, catchup=False) as dag:
        given = copy.deepcopy(submitted(f"short-{which}", "SidecarMode", **what))
        given["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0] |= LATE
        deferred = which == "succeeds"
        RunRayJob(task_id="job", conn_id="kube", ray_job_yaml=given, start_timeout_seconds=300, deferrable=deferred)
    globals()[dag.dag_id] = dag
