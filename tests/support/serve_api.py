"""A double of Serve's REST API, as Ray 2.60 was seen to answer: a write replaces all that was written before."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ray_provider.serve.applications import DEPLOYMENT_KEYS, KEYS

NODE = "47e1e5523374263f9b44b1c4e190b313c9d03e317778f4de6a3cc9f2"


@dataclass
class FakeApplication:
    """An application of the double."""

    name: str
    config: dict[str, Any] | None
    status: str = "DEPLOYING"
    message: str = ""
    source: str = "declarative"
    route_prefix: str | None = "/"
    deployments: dict[str, Any] = field(default_factory=dict)
    #: When it leaves its status.
    until: float = 0.0

    def to_json(self) -> dict[str, Any]:
        data = {
            key: getattr(self, key) for key in ("name", "status", "message", "source", "route_prefix", "deployments")
        }
        shown = self.config is not None and self.status != "DELETING"
        return {**data, **({"deployed_app_config": self.config} if shown else {})}


class ServeApi:
    """The double: two handlers, which a dashboard's double calls."""

    def __init__(self) -> None:
        self.applications: dict[str, FakeApplication] = {}
        self.http_options: dict[str, Any] = {}
        self.target_capacity: float | None = None
        self.bodies: list[dict[str, Any]] = []
        self.installed = True
        self.tells_source = True
        self.deploy_seconds = self.delete_seconds = 0.05
        #: By import path: what becomes of it instead of RUNNING (status, message, deployments).
        self.fates: dict[str, tuple[str, str, dict[str, Any]]] = {}
        #: Called after a write with its number: somebody else may act.
        self.after_write: Callable[[int], None] = lambda _number: None
        self.fail_writes: list[int] = []
        self.write_seconds = 0.0

    def add(self, name: str, import_path: str = "m:app", *, imperative: bool = False, **config: Any) -> FakeApplication:
        """Have an application that runs."""
        self.http_options = self.http_options or {"host": "0.0.0.0", "port": 8000}
        whole = None if imperative else {"name": name, "import_path": import_path, "route_prefix": f"/{name}", **config}
        found = FakeApplication(
            name, whole, "RUNNING", source="imperative" if imperative else "declarative", route_prefix=f"/{name}"
        )
        self.applications[name] = found
        return found

    async def get(self, _request: web.Request) -> web.Response:
        if not self.installed:
            return web.Response(
                status=501, text='Serve dependencies are not installed. Run `pip install "ray[serve]"`.'
            )
        self._move()
        applications = {name: one.to_json() for name, one in self.applications.items()}
        if not self.tells_source:
            for one in applications.values():
                del one["source"]
        if not self.http_options:
            return web.json_response(
                {"controller_info": {}, "proxies": {}, "applications": {}, "target_capacity": None}
            )
        return web.json_response(
            {
                "controller_info": {"node_id": NODE},
                "http_options": self.http_options,
                "proxy_location": "EveryNode",
                "target_capacity": self.target_capacity,
                "applications": applications,
            }
        )

    async def health(self, _request: web.Request) -> web.Response:
        """What Serve's proxies answer; they listen at another port, and ask for no token."""
        return web.Response(text="success")

    async def put(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.fail_writes:
            return web.Response(status=self.fail_writes.pop(0), text="upstream connect error")
        await asyncio.sleep(self.write_seconds)
        if refused := _refusal(body):
            return web.Response(status=400, text=refused)
        self.write(body)
        self.after_write(len(self.bodies))
        return web.Response()

    def write(self, body: dict[str, Any]) -> None:
        """What a write does, whoever it is from."""
        self.bodies.append(copy.deepcopy(body))
        self._move()
        self.http_options = self.http_options or {"host": "0.0.0.0", "port": 8000, **body.get("http_options", {})}
        self.target_capacity = body.get("target_capacity")
        for given in body["applications"]:
            config = _kept(given)
            name = config["name"]
            now = self.applications.get(name)
            if now is None or now.config != config or now.status in ("DEPLOY_FAILED", "DELETING"):
                self.applications[name] = FakeApplication(
                    name,
                    config,
                    route_prefix=config.get("route_prefix", "/"),
                    until=time.monotonic() + self.deploy_seconds,
                )
        names = {one["name"] for one in body["applications"]}
        for name, one in self.applications.items():
            if name not in names and one.source == "declarative" and one.status != "DELETING":
                one.status, one.until = "DELETING", time.monotonic() + self.delete_seconds

    def _move(self) -> None:
        for name, one in list(self.applications.items()):
            if time.monotonic() < one.until:
                continue
            if one.status == "DELETING":
                del self.applications[name]
            elif one.status == "DEPLOYING" and one.config is not None:
                status, message, deployments = self.fates.get(one.config["import_path"], ("RUNNING", "", {}))
                one.status, one.message, one.deployments = status, message, deployments


def _kept(config: dict[str, Any]) -> dict[str, Any]:
    """What Serve does not know it drops."""
    found = {key: copy.deepcopy(value) for key, value in config.items() if key in KEYS}
    for number, one in enumerate(found.get("deployments", ())):
        found["deployments"][number] = {key: value for key, value in one.items() if key in DEPLOYMENT_KEYS}
    return found


def _refusal(body: dict[str, Any]) -> str | None:
    applications = body["applications"]
    if not all("import_path" in one for one in applications):
        return "1 validation error for ServeDeploySchema\napplications.0.import_path\n  Field required"
    for key in ("name", "route_prefix"):
        values = [one.get(key, "/") for one in applications if one.get(key, "/") is not None]
        if len(values) != len(set(values)):
            return f"1 validation error for ServeDeploySchema\n  Value error, Found duplicate {key}"
    return None
