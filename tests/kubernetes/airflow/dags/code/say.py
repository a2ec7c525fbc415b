"""The job of a DAG: its code was uploaded."""

import ray

ray.init()
print("says", ray.get(ray.remote(lambda: "hello from a task").remote()))
