"""A small API server that behaves as Kubernetes' where it matters for watches: history that is lost, restarts, refusals."""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import asynccontextmanager

from aiohttp import web

from ray_provider.clusters.kubernetes.access import KubernetesAccess


class ApiServer:
    """Lists and watches, from a log of events in memory."""

    def __init__(self):
        self.objects: dict[str, dict[str, dict]] = {}
        self.version = 10
        self.oldest = 0
        self.log: list[tuple[int, str, dict]] = []
        self.changed = asyncio.Condition()
        self.requests: list[str] = []
        self.forbidden: set[str] = set()
        #: Paths where label selectors count; elsewhere everything is given.
        self.selects: set[str] = set()
        self.token = "good"
        self.port = 0
        self.stopping = False
        self._runner = None

    async def start(self):
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def stop(self):
        async with self.changed:
            self.stopping = True
            self.changed.notify_all()
        await self._runner.cleanup()
        self.stopping = False

    async def put(self, path, name, obj, kind=None):
        async with self.changed:
            there = name in self.objects.setdefault(path, {})
            self.version += 1
            obj = {
                **obj,
                "metadata": {
                    "name": name,
                    "uid": name,
                    **obj.get("metadata", {}),
                    "resourceVersion": str(self.version),
                },
            }
            self.objects[path][name] = obj
            self.log.append((self.version, kind or ("MODIFIED" if there else "ADDED"), {"path": path, "object": obj}))
            self.changed.notify_all()

    async def remove(self, path, name):
        obj = self.objects[path][name]
        await self.put(path, name, obj, "DELETED")
        del self.objects[path][name]

    async def answer(self, request):
        path = request.path
        self.requests.append(f"{'watch' if request.query.get('watch') else request.method} {path}")
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.status(401, "Unauthorized")
        if path in self.forbidden:
            return self.status(
                403, f'x is forbidden: User "u" cannot list resource "{path.rpartition("/")[2]}" in API group ""'
            )
        if request.query.get("watch"):
            return await self.watch(request)
        if path in self.objects:
            items = [one for one in self.objects[path].values() if self.is_meant(request, one)]
            return web.json_response(
                {"kind": "XList", "metadata": {"resourceVersion": str(self.version)}, "items": items}
            )
        folder, _, name = path.rpartition("/")
        if name in self.objects.get(folder, {}):
            return web.json_response(self.objects[folder][name])
        if path.endswith("s"):
            return web.json_response({"kind": "XList", "metadata": {"resourceVersion": str(self.version)}, "items": []})
        return self.status(404, "not found")

    async def watch(self, request):
        since = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if since < self.oldest:
            gone = {
                "type": "ERROR",
                "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"},
            }
            await response.write(json.dumps(gone).encode() + b"\n")
            return response
        while not self.stopping:
            for version, kind, entry in list(self.log):
                if version > since and entry["path"] == request.path:
                    since = version
                    if not self.is_meant(request, entry["object"]):
                        continue
                    await response.write(json.dumps({"type": kind, "object": entry["object"]}).encode() + b"\n")
            async with self.changed:
                if not self.stopping:
                    await self.changed.wait()
        return response

    def is_meant(self, request, obj):
        """Whether an object is of the name, and where that is looked at, has the labels, that are asked for."""
        key, _, name = request.query.get("fieldSelector", "").partition("=")
        if key == "metadata.name" and obj["metadata"]["name"] != name:
            return False
        wanted = request.query.get("labelSelector", "") if request.path in self.selects else ""
        labels = obj["metadata"].get("labels") or {}
        return all(labels.get(one.partition("=")[0]) == one.partition("=")[2] for one in wanted.split(",") if one)

    @staticmethod
    def status(code, message):
        return web.json_response({"kind": "Status", "code": code, "message": message}, status=code)


@asynccontextmanager
async def running():
    server = ApiServer()
    await server.start()
    try:
        yield server, KubernetesAccess(kubeconfig=kubeconfig(server))
    finally:
        await server.stop()


def kubeconfig(server):
    return {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "good"}}],
    }


def check_seconds_told(error, least, *, since):
    """Check the time that an error tells: at least what was to pass, and no more than has since (``time.monotonic``)."""
    told = int(re.search(r" after (\d+) s\b", error.message)[1])
    assert least <= told <= time.monotonic() - since + 1, error.message
