"""``python -m tests.kubernetes.node build | up | down | status | exec | prune``."""

from __future__ import annotations

import argparse
import os
import sys

from tests.kubernetes.node import control, parts
from tests.kubernetes.node.cache import prune
from tests.kubernetes.node.cgroups import CgroupError
from tests.kubernetes.node.supervisor import NodeError

USAGE = """
The node is up. To use it:

  export KUBECONFIG={kubeconfig}
  export PATH={path}:$PATH
  kubectl get nodes

Tests take it with
  export AIRFLOW_RAY_TEST_KUBECONFIG={kubeconfig}

A program in the node's network, with the cluster's DNS:
  python -m tests.kubernetes.node exec curl http://my-cluster-head-svc.default:8265/api/version

make kubernetes-down ends it.
"""


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.kubernetes.node")
    commands = arguments.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="make all parts into the cache (about 15 minutes from nothing)")
    starting = commands.add_parser("up", help="start a node that stays until it is ended")
    starting.add_argument("--operator", choices=["chart", "none"], default="chart")
    commands.add_parser("down", help="end all nodes that were started with up, and remains of dead ones")
    commands.add_parser("status", help="list running nodes")
    running = commands.add_parser("exec", help="run a command in the network of the node")
    running.add_argument("argv", nargs=argparse.REMAINDER)
    commands.add_parser("prune", help="remove built parts that no version in use needs")
    asked = arguments.parse_args()
    try:
        return globals()[f"_{asked.command}"](asked) or 0
    except (NodeError, parts.BuildError, CgroupError) as error:
        print(error, file=sys.stderr)
        return 1


def _standing() -> list[control.NodeHandle]:
    """Nodes that were started with ``up``: those of tests belong to these tests."""
    return [node for node in control.running() if not node.owned()]


def _build(_: argparse.Namespace) -> None:
    parts.build(parts.kuberay_version())


def _up(asked: argparse.Namespace) -> None:
    parts.build(parts.kuberay_version())
    standing = _standing()
    node = standing[0] if standing else control.up(operator=asked.operator)
    path = parts.tool("helm4").path
    print(USAGE.format(kubeconfig=node.kubeconfig, path=path))


def _down(_: argparse.Namespace) -> None:
    for name in control.reap_stale():
        print(f"removed what was left of {name}")
    for node in _standing():
        node.down()
        print(f"ended {node.name}")


def _status(_: argparse.Namespace) -> None:
    for node in control.running():
        print(node.name, node.kubeconfig, node.ask("status")["parts"])


def _exec(asked: argparse.Namespace) -> None:
    standing = _standing()
    if not standing:
        raise NodeError("no node is up: make kubernetes-up")
    command = standing[0].visit(*asked.argv)
    os.execv(command[0], command)


def _prune(_: argparse.Namespace) -> None:
    version = parts.kuberay_version()
    for name in prune([part for lane in parts.lanes(version) for part in lane], days=0):
        print(f"removed {name}")


if __name__ == "__main__":
    sys.exit(main())
