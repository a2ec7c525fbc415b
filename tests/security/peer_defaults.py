"""Run by the Python of the predecessor's environment: what its hook does when nothing is said. Prints JSON."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace


def connection(**extra: object) -> None:
    os.environ["AIRFLOW_CONN_PEER"] = json.dumps({"conn_type": "ray", "extra": extra})


def main() -> None:
    given = json.loads(sys.argv[1])
    os.environ.update({"NO_PROXY": "*", "no_proxy": "*"})
    from kubernetes import config as kubernetes_config

    kubernetes_config.load_kube_config = lambda **_: None  # no cluster is needed for what is asked here
    from ray_provider.hooks import RayHook

    found: dict[str, object] = {}

    def asks(url: str, **extra: object) -> str:
        connection(address=url, **extra)
        try:
            RayHook(conn_id="peer").ray_client().list_jobs()
        except Exception as error:  # noqa: BLE001 - which one it is, is the finding
            return type(error).__name__
        return "answered"

    found["tls"] = asks(given["tls"])
    found["plain"] = asks(given["plain"], token=given["secret"])
    found["redirect"] = asks(given["redirect"], headers=json.dumps({"X-Key": given["secret"]}))

    folder = Path(tempfile.mkdtemp())
    tempfile.tempdir = str(folder)
    connection(kube_config=json.dumps({"users": [{"user": {"token": given["secret"]}}]}))
    hook = RayHook(conn_id="peer")
    del hook
    kept = [path for path in folder.iterdir() if path.is_file() and given["secret"] in path.read_text()]
    found["kubeconfig files"] = [oct(stat.S_IMODE(path.stat().st_mode)) for path in kept]

    mark = folder / "ran"
    connection(namespace=f"x; touch {mark}; #", kube_config_path=str(folder))
    with contextlib.suppress(Exception):
        RayHook(conn_id="peer").uninstall_kuberay_operator()
    found["shell"] = mark.exists()

    service = SimpleNamespace(
        status=SimpleNamespace(load_balancer=SimpleNamespace(ingress=None)), spec=SimpleNamespace(ports=[])
    )
    found["without load balancer"] = RayHook(conn_id="peer")._get_load_balancer_details(service)
    print("RESULT " + json.dumps(found))


main()
