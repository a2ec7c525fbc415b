"""A client in a pod that calls Kubernetes services all the time, by a connection that it keeps and by new ones, and counts.

What an application beside Ray sees: kube-proxy balances connections, not requests, so one that is kept stays with its pod.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from tests.support.kubernetes import Kubernetes, until

#: Standard library only. Counting begins with a target's first answer: before a first version serves, its service has no
#: name. A kept connection that is closed under a request is counted, and the request is made again at once by a new one,
#: as HTTP clients do; each other error is a failure.
CODE = """
import http.client, json, os, threading, time

GONE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
lock, counts = threading.Lock(), {}

def ask(connection, path):
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise ValueError(f"{answer.status} {body[:120]!r}")
    return json.loads(body)["word"]

def call(name, host, port, path, kept):
    mine = {"answers": {}, "first": {}, "last": {}, "failures": [], "failed": 0, "closed": []}
    counts[f"{name} {'kept' if kept else 'new'}"] = mine
    connection, begun, again = None, False, False
    while True:
        connection = connection or http.client.HTTPConnection(host, port, timeout=20)
        used = connection.sock is not None
        word = error = None
        try:
            word = ask(connection, path)
        except Exception as found:
            error = found
        now = time.time()
        if error is not None or not kept:
            connection.close()
            connection = None
        with lock:
            if word is not None:
                begun = True
                mine["answers"][word] = mine["answers"].get(word, 0) + 1
                mine["first"].setdefault(word, now)
                mine["last"][word] = now
            elif used and isinstance(error, GONE) and not again:
                mine["closed"].append(now)
                again = True
                continue
            elif begun:
                mine["failed"] += 1
                if mine["failed"] <= 20:
                    mine["failures"].append([now, f"{type(error).__name__}: {error}"])
        again = False
        time.sleep(PAUSE)

PAUSE = float(os.environ["PAUSE"])
for name, (host, port, path) in json.loads(os.environ["TARGETS"]).items():
    for kept in (True, False):
        threading.Thread(target=call, args=(name, host, port, path, kept), daemon=True).start()
while True:
    with lock:
        text = json.dumps(counts)
    with open("/tmp/counts.new", "w") as file:
        file.write(text)
    os.replace("/tmp/counts.new", "/tmp/counts")
    time.sleep(0.2)
"""
#: Of the client's pod, for a network policy.
LABELS = {"app": "caller"}


@dataclass(frozen=True)
class Counts:
    """What one target answered, by one way of connecting.

    :param answers: how often each word came.
    :param first: when each word came first, in seconds since 1970.
    :param last: when each word came last.
    :param failures: when something else came, and what; the first twenty.
    :param failed: how many did.
    :param closed: when a kept connection was closed under a request, which a new one then answered.
    """

    answers: Counter[str] = field(default_factory=Counter)
    first: Mapping[str, float] = field(default_factory=dict)
    last: Mapping[str, float] = field(default_factory=dict)
    failures: list[tuple[float, str]] = field(default_factory=list)
    failed: int = 0
    closed: list[float] = field(default_factory=list)


@dataclass
class PodClient:
    """The client; it ends with the context.

    :param targets: by a name of their own: host, port and path, as seen from a pod.
    :param pause: seconds between two requests of a connection.
    """

    kubernetes: Kubernetes
    namespace: str
    targets: Mapping[str, tuple[str, int, str]]
    name: str = "caller"
    pause: float = 0.03

    def __enter__(self) -> Self:
        self.kubernetes.apply(self._pod(), self.namespace)
        where = ("pod", self.name, "-n", self.namespace)
        self.kubernetes.kubectl("wait", *where, "--for=condition=Ready", "--timeout=300s")
        return self

    def __exit__(self, *_: object) -> None:
        where = ("pod", self.name, "-n", self.namespace)
        self.kubernetes.kubectl("delete", *where, "--grace-period=0", "--force", "--ignore-not-found")

    def _pod(self) -> dict[str, Any]:
        container = {
            "name": "main",
            "image": self.kubernetes.ray_image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python", "-c", CODE],
            "env": [
                {"name": "TARGETS", "value": json.dumps(self.targets)},
                {"name": "PAUSE", "value": str(self.pause)},
                {"name": "PYTHONUNBUFFERED", "value": "1"},
            ],
            "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
            "readinessProbe": {"exec": {"command": ["cat", "/tmp/counts"]}, "periodSeconds": 1, "timeoutSeconds": 10},
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "labels": LABELS},
            "spec": {"terminationGracePeriodSeconds": 0, "restartPolicy": "Never", "containers": [container]},
        }

    def counts(self) -> dict[str, Counts]:
        """Give what was counted so far: by target and ``kept`` or ``new``, such as ``shop kept``."""
        text = self.kubernetes.kubectl("exec", self.name, "-n", self.namespace, "--", "cat", "/tmp/counts")
        found = {}
        for name, each in json.loads(text).items():
            each["failures"] = [(at, why) for at, why in each["failures"]]
            found[name] = Counts(**{**each, "answers": Counter(each["answers"])})
        return found

    def answers(self) -> int:
        """Give how many requests were answered."""
        return sum(each.answers.total() for each in self.counts().values())

    def failures(self) -> list[str]:
        """Give what failed, and when: of each target the first twenty."""
        found = [(at, name, why) for name, each in self.counts().items() for at, why in each.failures]
        return [f"{datetime.fromtimestamp(at, UTC):%H:%M:%S.%f} {name}: {why}" for at, name, why in sorted(found)]

    def hears(self, word: str, *, by: str = "", seconds: float = 300) -> None:
        """Wait until each target answers with this word.

        :param by: ``new`` or ``kept``: by connections of this kind; unless given, by both.
        """
        began = time.time()

        def heard() -> bool:
            found = [each for name, each in self.counts().items() if name.endswith(by)]
            return all(each.last.get(word, 0.0) > began for each in found)

        until(heard, seconds, f"the word {word!r}", every=0.5)
