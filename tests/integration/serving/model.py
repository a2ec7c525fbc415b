"""Applications that serve well, and some that do not."""

from __future__ import annotations

import os
import time

from ray import serve

LIGHT = {"num_cpus": 0}


@serve.deployment(ray_actor_options=LIGHT, graceful_shutdown_timeout_s=5, graceful_shutdown_wait_loop_s=0.1)
class Model:
    def __init__(self, version: str, seconds: float = 0.0, wants: str = "") -> None:
        time.sleep(seconds)
        if wants and not os.path.exists(wants):
            raise FileNotFoundError(wants)
        if version == "bad":
            raise ValueError("no weights at /models")
        self.version = version

    def __call__(self) -> dict[str, str]:
        return {"version": self.version, "key": os.environ.get("MODEL_KEY", "")}


@serve.deployment(ray_actor_options=LIGHT)
class Bad:
    def __init__(self) -> None:
        raise ValueError("no weights at /models")

    def __call__(self) -> str:
        return "never"


@serve.deployment(ray_actor_options=LIGHT, health_check_period_s=1, health_check_timeout_s=5)
class Sick:
    def __init__(self) -> None:
        self.until = time.time() + 4

    def check_health(self) -> None:
        if time.time() > self.until:
            raise RuntimeError("the GPU fell off")

    def __call__(self) -> str:
        return "for a moment"


@serve.deployment(
    ray_actor_options={"num_cpus": 1000}, graceful_shutdown_timeout_s=1, graceful_shutdown_wait_loop_s=0.1
)
class Big(Model.func_or_class):
    pass


def build(args: dict) -> serve.Application:
    return Model.bind(args["version"], float(args.get("seconds", 0)), args.get("wants", ""))


bad = Bad.bind()
sick = Sick.bind()
big = Big.bind("big")
