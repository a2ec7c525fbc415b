"""What Airflow's XCom can't carry, although a pickle did."""

from __future__ import annotations

import math
from typing import Any


def without_nan(value: Any, where: str = "the return value") -> tuple[Any, list[str]]:
    """Put None where plain containers hold NaN or an infinity: XCom has neither.

    :param value: from a pickle.
    :param where: it stands.
    :return: the value, the same object if nothing had to change; and the places.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None, [f"{where} is {float(value)}"]
    places: list[str] = []
    if type(value) is dict:
        changed: Any = {key: without_nan(item, f"{where}[{key!r}]") for key, item in value.items()}
        places = [place for _, found in changed.values() for place in found]
        return ({key: item for key, (item, _) in changed.items()} if places else value), places
    if type(value) in {list, tuple}:
        changed = [without_nan(item, f"{where}[{index}]") for index, item in enumerate(value)]
        places = [place for _, found in changed for place in found]
        return (type(value)(item for item, _ in changed) if places else value), places
    return value, places
