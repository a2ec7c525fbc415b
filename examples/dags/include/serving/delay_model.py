"""What the cluster serves: a linear model of the delay at arrival. Uploaded with ``runtime_env={"working_dir": ...}``."""

from __future__ import annotations

from typing import Any

from ray import serve
from starlette.requests import Request


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class DelayModel:
    """Answers ``POST {"dep_delay": 20, "distance": 500, "hour": 9}`` with the delay to expect, in minutes."""

    def __init__(self, model: dict[str, Any]) -> None:
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
    """Build the application: what stands in the task's ``args`` comes here."""
    return DelayModel.bind(args["model"])
