"""What the job runs: it needs a Ray, and a file that lies beside it."""

from pathlib import Path

import ray


@ray.remote
def square(number: int) -> int:
    return number * number


ray.init()
numbers = [int(line) for line in Path("numbers.txt").read_text().split()]
print("sum of squares:", sum(ray.get([square.remote(number) for number in numbers])))
