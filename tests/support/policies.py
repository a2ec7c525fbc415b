"""A small enforcer of NetworkPolicy objects, for the test node, whose network plug-in enforces none.

It is the tests' own: it reads the policies of a namespace from the API server, as a plug-in does, and writes them as
netfilter rules into the network namespaces of the pods they select. Standing behind the pod's own interface, it sees
the true source of what comes in. It knows what the chart renders (pod and namespace selectors, address blocks,
numbered ports), refuses what it does not know, and enforces what is there at the moment: pods that come later are not
in it. What goes out is seen before a service's address is translated, so egress is by pods' addresses.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.kubernetes import Kubernetes

_EVERYBODY = "0.0.0.0/0"


@dataclass
class Enforcer:
    """Enforces policies on a node of ours."""

    kubernetes: Kubernetes
    _places: dict[str, str] = field(default_factory=dict)  # address → network namespace's name

    @contextlib.contextmanager
    def enforcing(self, namespace: str) -> Iterator[None]:
        """Enforce the policies of a namespace for a while."""
        try:
            self.enforce(namespace)
            yield
        finally:
            self.release()

    def enforce(self, namespace: str) -> None:
        """Read the policies anew, and put them into force."""
        policies = self.kubernetes.get("networkpolicies", "-n", namespace)["items"]
        pods = [pod for pod in self.kubernetes.get("pods", "-A")["items"] if pod.get("status", {}).get("podIP")]
        pods = [pod for pod in pods if not pod["spec"].get("hostNetwork")]
        spaces = {
            space["metadata"]["name"]: space["metadata"].get("labels") or {}
            for space in self.kubernetes.get("namespaces")["items"]
        }
        assert policies, f"namespace {namespace} has no policy"
        for pod in pods:
            if pod["metadata"]["namespace"] != namespace:
                continue
            applying = [policy["spec"] for policy in policies if selects(policy["spec"]["podSelector"], labels(pod))]
            if applying:
                self._write(pod["status"]["podIP"], rules(applying, namespace, pods, spaces))

    def release(self) -> None:
        """Take all rules away again."""
        for address in list(self._places):
            self._write(address, "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n", gone=True)
        self._places.clear()

    def _write(self, address: str, text: str, *, gone: bool = False) -> None:
        if address not in self._places:
            self._places[address] = self._place(address)
        command = ["nsenter", f"--net=/run/netns/{self._places[address]}", "iptables-restore", "-w", "5"]
        done = self._in_node(*command, stdin=text)
        # A pod that has ended has taken its rules along.
        assert done.returncode == 0 or gone, done.stderr

    def _place(self, address: str) -> str:
        script = 'for n in /run/netns/*; do nsenter --net="$n" ip -j -4 address | sed "s|^|${n##*/} |"; done'
        for line in self._in_node("bash", "-c", script).stdout.splitlines():
            name, _, links = line.partition(" ")
            if any(info["local"] == address for link in json.loads(links) for info in link.get("addr_info", ())):
                return name
        raise AssertionError(f"no pod of the node has the address {address}")

    def _in_node(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        node = self.kubernetes.node
        assert node is not None, "policies are enforced on a node of ours only"
        return subprocess.run(
            node.enter(*command), input=stdin, capture_output=True, text=True, timeout=60, check=False
        )


def labels(thing: Mapping[str, Any]) -> Mapping[str, str]:
    return thing["metadata"].get("labels") or {}


def selects(selector: Mapping[str, Any], found: Mapping[str, str]) -> bool:
    """Whether a label selector means something with these labels."""
    known = {"In", "NotIn", "Exists", "DoesNotExist"}
    for wanted in selector.get("matchExpressions") or ():
        key, operator, values = wanted["key"], wanted["operator"], wanted.get("values") or ()
        assert operator in known, operator
        if operator == "In" and found.get(key) not in values:
            return False
        if operator == "NotIn" and found.get(key) in values:
            return False
        if (operator == "Exists" and key not in found) or (operator == "DoesNotExist" and key in found):
            return False
    return all(found.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())


def rules(specs: list[Mapping[str, Any]], namespace: str, pods: list[Any], spaces: Mapping[str, Any]) -> str:
    """Give what policies mean for one pod, as iptables-restore reads it."""
    kinds = {kind for spec in specs for kind in spec["policyTypes"]}
    lines = ["*filter"]
    for chain, kind in (("INPUT", "Ingress"), ("OUTPUT", "Egress")):
        lines.append(f":{chain} {'DROP' if kind in kinds else 'ACCEPT'}")
    lines += [":FORWARD ACCEPT", "-A INPUT -i lo -j ACCEPT", "-A OUTPUT -o lo -j ACCEPT"]
    # Answers pass. What the other side began is judged packet by packet, so that open connections are no way in.
    for chain in ("INPUT", "OUTPUT"):
        lines.append(f"-A {chain} -m conntrack --ctstate RELATED -j ACCEPT")
        lines.append(f"-A {chain} -m conntrack --ctstate ESTABLISHED --ctdir REPLY -j ACCEPT")
    for spec in specs:
        for chain, key, side, option in (("INPUT", "ingress", "from", "-s"), ("OUTPUT", "egress", "to", "-d")):
            for rule in spec.get(key) or ():
                unknown = set(rule) - {side, "ports"}
                assert not unknown, unknown
                for address in peers(rule.get(side), namespace, pods, spaces):
                    for port in ports(rule.get("ports")):
                        lines.append(f"-A {chain} {option} {address} {port}-j ACCEPT")
    return "\n".join([*lines, "COMMIT", ""])


def peers(wanted: list[Any] | None, namespace: str, pods: list[Any], spaces: Mapping[str, Any]) -> list[str]:
    if not wanted:
        return [_EVERYBODY]
    found = []
    for peer in wanted:
        unknown = set(peer) - {"podSelector", "namespaceSelector", "ipBlock"}
        assert not unknown, unknown
        if block := peer.get("ipBlock"):
            assert not block.get("except"), "exceptions are not known here"
            found.append(str(ipaddress.ip_network(block["cidr"])))
            continue
        for pod in pods:
            own = pod["metadata"]["namespace"]
            in_space = (
                selects(peer["namespaceSelector"], spaces[own]) if "namespaceSelector" in peer else own == namespace
            )
            if in_space and selects(peer.get("podSelector") or {}, labels(pod)):
                found.append(f"{pod['status']['podIP']}/32")
    return found


def ports(wanted: list[Any] | None) -> list[str]:
    if not wanted:
        return [""]
    for port in wanted:
        assert isinstance(port.get("port"), int), f"a port without a number is not known here: {port}"
        assert "endPort" not in port
    return [f"-p {port.get('protocol', 'TCP').lower()} --dport {port['port']} " for port in wanted]
