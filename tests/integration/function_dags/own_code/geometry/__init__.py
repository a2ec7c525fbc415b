"""A package of the user's own, which the cluster gets through ``py_modules``."""


def area(width: float, height: float) -> float:
    return width * height
