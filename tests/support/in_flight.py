"""Writes what tasks of a release leave behind while they wait, as that release writes it: the next one has to read it.

Run it in a checkout of the release (this file follows the code: of commit 6260089 it had the module paths of then)::

    python tests/support/in_flight.py > NEXT/tests/unit/triggers/in_flight.json
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray_provider.clusters.handle import AuthReference, ClusterHandle
from ray_provider.clusters.kuberay.readiness import ReadinessOptions
from ray_provider.clusters.local.spec import LocalClusterSpec
from ray_provider.clusters.local.state import LocalPaths, LocalRecord
from ray_provider.clusters.naming import owner_annotations, owner_labels, unique_name
from ray_provider.functions import runner
from ray_provider.infrastructure.handle import InfrastructureHandle
from ray_provider.jobs.submit.identity import JobOwner, submission_id_for
from ray_provider.jobs.watch.outcome import JobOutcome
from ray_provider.operators._cluster.common import where_is
from ray_provider.operators._job import memory as task_memory
from ray_provider.serve.deploy import Written
from ray_provider.triggers import RayClusterTrigger, RayJobTrigger, RayServeTrigger

NAME = "ray-training-1"
SERVICE = f"{NAME}-head-svc"
OWNER = {
    "dag_id": "training",
    "run_id": "scheduled__2026-11-01T00:00:00+00:00",
    "task_id": "setup",
    "map_index": -1,
    "airflow": "https://airflow.example.com",
}
PROXY = f"https://10.0.0.1/api/v1/namespaces/team/services/{SERVICE}:8265/proxy"
JOB = "airflow-training-1"


def infrastructure() -> InfrastructureHandle:
    """Google Cloud's; one that a real apply made on EKS lies in ``tests/infrastructure/fixtures``."""
    outputs = {
        "cloud": "gcp", "cluster_name": "raytest", "location": "europe-west4-a", "project": "team-1",
        "ray_helm_values": {"worker": {"disabled": True}},
    }  # fmt: skip
    return InfrastructureHandle(
        module="gke",
        backend={"type": "gcs", "bucket": "ray-states", "prefix": "raytest"},
        workspace="blue",
        variables={"name": "raytest", "project": "team-1"},
        outputs=outputs,
        gcp_conn_id="google",
    )


def handles() -> dict[str, ClusterHandle]:
    secret = AuthReference("secret", secret_name=NAME)
    rest: dict[str, Any] = {"namespace": "team", "release": NAME, "service": SERVICE, "owner": OWNER}
    file = AuthReference("file", path=f"/tmp/ray/{NAME}/token")  # noqa: S108 - written down, not used
    return {
        "kubernetes": ClusterHandle("kubernetes", NAME, PROXY, auth=secret, **rest),
        "local": ClusterHandle("local", NAME, "http://127.0.0.1:8265", auth=file, owner=OWNER, created=False),
        "cloud": ClusterHandle(
            "kubernetes", NAME, PROXY, auth=secret, kubernetes=where_is(infrastructure().to_dict()), **rest
        ),
        "manifest": ClusterHandle("kubernetes", "mine", PROXY, "team", None, "mine-head-svc", owner=OWNER),
    }


def serve_written() -> dict[str, Any] | None:
    """What a deploy of an application wrote, and what was there before."""
    former = {"name": "recommender", "import_path": "model:v1", "runtime_env": {"env_vars": {"KEY": "x"}}}
    written = Written("recommender", "0123", "other", former, 1.9e9)
    return written.packed({**former, "import_path": "model:v2"})


def triggers() -> list[tuple[str, dict[str, Any]]]:
    """Of each operator and sensor that defers, with all arguments that it gives, and with as few as there may be."""
    cluster = handles()["kubernetes"].to_dict()
    cloud = handles()["cloud"].to_dict()
    readiness = ReadinessOptions().to_dict()
    made = [
        RayClusterTrigger(
            conn_id="c", cluster=cluster, readiness=readiness, deadline=2e9, stale_pods=["uid-1"], access="proxy",
            helm_path="/usr/bin/helm", keep=True, not_before=1.9e9,
        ),
        RayClusterTrigger("c", cloud, readiness, 2e9, not_before=1.9e9),
        RayJobTrigger(
            job_id=JOB, conn_id="c", poll_interval=2.0, cluster=cluster, owns_cluster=True, deadline=2e9,
            log_max_lines=100, cancel_on_kill=False, deferred_at=1.9e9, session_name="session_1",
        ),
        RayJobTrigger(JOB, "c"),
        RayJobTrigger(
            JOB, "c", "http://127.0.0.1:8265", "ray.yaml", "https://example.com/plugin.yaml", 2.0, False,
            cluster=cloud, max_unreachable_seconds=60.0, deferred_at=1.9e9,
        ),
        RayServeTrigger(
            "c", "recommender", 2e9, written=serve_written(), cluster=cluster, keep=True, max_unreachable_seconds=60.0,
            deferred_at=1.9e9,
        ),
        RayServeTrigger("c", "recommender", 2e9),
    ]  # fmt: skip
    return [one.serialize() for one in made]


def events() -> dict[str, Any]:
    """What triggers fire."""

    def job(outcome: JobOutcome) -> dict[str, Any]:
        return RayJobTrigger(JOB, "c")._event(outcome)  # noqa: SLF001 - what run() yields

    def failed(kind: str) -> dict[str, Any]:
        error = {"kind": kind, "message": "so it is", "hint": "do that", "retryable": kind != "KubernetesAccessError"}
        return {"status": "failed", "cluster": handles()["kubernetes"].to_dict(), "error": error}

    error = {"message": "nobody answers", "hint": "look there", "retryable": True}
    final = {"submission_id": JOB, "kind": "final"}
    return {
        "cluster": {"status": "ready", "cluster": handles()["kubernetes"].to_dict()},
        "cluster failed": failed("ClusterFailedError"),
        "cluster late": failed("ClusterTimeoutError"),
        "job": job(JobOutcome(**final, status="FAILED", message="exit code 3")),
        "job succeeded": job(JobOutcome(**final, status="SUCCEEDED", log_offset=1000)),
        "job stopped": job(JobOutcome(**final, status="STOPPED", message="stopped by a user")),
        "job lost": job(JobOutcome(JOB, "lost", message="it was lost: the Ray head restarted")),
        "job late": job(JobOutcome(JOB, "deadline", status="RUNNING", message="its time is over")),
        "job unreachable": job(JobOutcome(JOB, "unreachable", message="nobody answered for 600 s")),
        "job not watched": {"status": "EXCEPTION", "message": "nobody answers", "job_id": JOB, "error": error},
    }


def told() -> dict[str, Any]:
    """What a task leaves in XCom of its job."""
    found: dict[str, Any] = {}
    ti = SimpleNamespace(xcom_push=lambda key, value: found.update({key: value}))
    cluster = handles()["kubernetes"]
    run: Any = SimpleNamespace(job_id=JOB, dashboard_url=None, cluster=cluster, cluster_owner=OWNER)
    task_memory.tell({"ti": ti}, run)  # type: ignore[typeddict-item]
    return found


def job_of_a_task() -> dict[str, Any]:
    """Under which id a task's job was submitted, and with which metadata: its next try takes it over by these."""
    owner = JobOwner("dag", "run", "task", attempt=2, try_number=3, provider_version="0.9.0", deployment="https://a")
    fields = {"dag_id": "dag", "run_id": "run", "task_id": "task", "attempt": 2, "deployment": "https://a"}
    return {"owner": fields, "submission_id": submission_id_for(owner), "metadata": owner.to_metadata()}


def results() -> dict[str, str]:
    """The files that functions leave beside the job's log."""
    found = {}
    headers: dict[str, tuple[dict[str, Any], Any]] = {
        "json": ({"kind": "json"}, {"accuracy": 0.9, "epochs": [1, 2]}),
        "error": (
            {"kind": "error"},
            {
                "type": "ValueError",
                "message": "no data",
                "traceback": "Traceback:\nValueError: no data",
                "meaning": "error",
            },
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"AIRFLOW_RAY_LOG_FOLDER": folder, "AIRFLOW_RAY_RESULT_FILE": "result"}
        for name, (header, value) in headers.items():
            runner.write_result(header, json.dumps(value).encode())
            found[name] = base64.b64encode((Path(folder) / "result").read_bytes()).decode()
    return found


def local_record() -> dict[str, Any]:
    """What is remembered of a local Ray that runs."""
    spec = LocalClusterSpec(NAME, num_cpus=2, resources={"fpga": 1})
    record = LocalRecord(
        name=NAME, phase="ready", machine="worker-1 pid:[4026531836]", address="http://127.0.0.1:8265", pid=4711,
        started=1.9e9, owner=OWNER, settings=spec.settings, ray_version="2.60.0",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        paths = LocalPaths.of(NAME, Path(folder))
        paths.folder.mkdir()
        record.write(paths)
        where = paths.record.relative_to(folder).as_posix()
        written: dict[str, Any] = {"path": where, "record": json.loads(paths.record.read_text())}
    return written


def main() -> None:
    """Write it."""
    whole = {
        "handles": {name: handle.to_dict() for name, handle in handles().items()},
        "infrastructure": infrastructure().to_dict(),
        "triggers": triggers(),
        "events": events(),
        "xcoms": told(),
        "job": job_of_a_task(),
        "results": results(),
        "local": local_record(),
        "raycluster": {
            "name": unique_name(OWNER), "labels": owner_labels(OWNER), "annotations": owner_annotations(OWNER),
        },
    }  # fmt: skip
    json.dump(whole, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
