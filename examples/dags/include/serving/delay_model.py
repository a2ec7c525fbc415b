"""What the cluster serves: a linear model of the delay at arrival. Uploaded with ``runtime_env={"working_dir": ...}``."""

from __future__ import annotations

import json
from typing import Any

from ray import serve
from starlette.requests import Request


def read(path: str) -> dict[str, Any]:
    """Read a model from a storage (``s3://…``, ``gs://…``, ``file://…``), with the replica's own credentials."""
    from pyarrow.fs import FileSystem

    storage, name = FileSystem.from_uri(path)
    with storage.open_input_file(name) as file:
        return json.loads(file.read())


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class DelayModel:
    """Answers ``POST {"dep_delay": 20, "distance": 500, "hour": 9}`` with the delay to expect, in minutes."""

    def __init__(self, model: dict[str, Any] | str) -> None:
        if isinstance(model, str):
            model = read(model)
        self.columns = model["columns"]
        self.weights = model["weights"]
        self.version = model["version"]

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer one request."""
        flight = await request.json() if request.method == "POST" else {}
        features = [1.0, *(float(flight.get(column, 0)) for column in self.columns)]
        minutes = sum(weight * value for weight, value in zip(self.weights, features, strict=True))
        return {"minutes": round(minutes, 1), "version": self.version}


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application: what stands in the task's ``args`` comes here, a model or the path of one."""
    return DelayModel.bind(args["model"])
