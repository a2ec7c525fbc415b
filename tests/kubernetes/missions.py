"""What the whole missions need of a cloud beside its API: nodes that come when they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.support.kubernetes import KubectlError, Kubernetes, until


@dataclass(frozen=True)
class Pool:
    """A node pool as the cloud's API has it."""

    labels: Mapping[str, str]
    taints: tuple[str, ...] = ()
    gpus: int = 0


@dataclass
class Nodes:
    """Plays the cloud's nodes: gives the one node of the test the labels, taints and GPUs of the pool that a waiting pod wants.

    A node that was given once stays that of the pods on it: Kubernetes looks at labels and taints when it schedules.

    :param pools: asks the cloud's API for its pools.
    """

    kubernetes: Kubernetes
    namespace: str
    pools: Callable[[], Mapping[str, Pool]]
    given: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _now: Pool | None = None
    _thread: threading.Thread | None = None
    #: What this thread died of.
    failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(60)
        self._put(None)

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.5):
                for pod in self._waiting():
                    self._serve(pod)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    def _waiting(self) -> Iterable[dict[str, Any]]:
        try:
            pods = self.kubernetes.get("pods", "-n", self.namespace, "--field-selector=status.phase=Pending")["items"]
        except KubectlError:
            # The API server was just restarted, or the namespace is not there yet.
            return []
        return [pod for pod in pods if not pod["spec"].get("nodeName")]

    def _serve(self, pod: Mapping[str, Any]) -> None:
        wanted = pod["spec"].get("nodeSelector") or {}
        for name, pool in self.pools().items():
            if pool != self._now and wanted.items() <= pool.labels.items():
                self._put(pool)
                self.given.append(name)
                # The next pod's pool only when this one has its node.
                until(lambda: self._stop.is_set() or not self._waits(pod), 300, f"node for {pod['metadata']['name']}")
                return

    def _waits(self, pod: Mapping[str, Any]) -> bool:
        uid = pod["metadata"]["uid"]
        return any(waiting["metadata"]["uid"] == uid for waiting in self._waiting())

    def _put(self, pool: Pool | None) -> None:
        before, self._now = self._now, pool
        if before is not None:
            self.kubernetes.label_node(dict.fromkeys(before.labels))
            if before.taints:
                self.kubernetes.taint_node(*(f"{taint.partition('=')[0]}-" for taint in before.taints))
            self.kubernetes.patch_node_gpu(0)
        if pool is not None:
            if pool.gpus:
                self.kubernetes.patch_node_gpu(pool.gpus)
            if pool.taints:
                self.kubernetes.taint_node(*pool.taints)
            self.kubernetes.label_node(dict(pool.labels))
