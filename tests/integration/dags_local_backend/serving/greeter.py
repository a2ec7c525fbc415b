"""What the local backend's Serve is given."""

from __future__ import annotations

import time

from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 0}, max_surge_percent=100)
class Greeter:
    def __init__(self, word: str, seconds: float) -> None:
        time.sleep(seconds)
        self.word = word

    def __call__(self) -> dict[str, str]:
        return {"word": self.word}


def build(args: dict) -> serve.Application:
    if args["word"] == "none":
        raise ValueError("no word to greet with")
    return Greeter.bind(args["word"], float(args.get("seconds", 0)))
