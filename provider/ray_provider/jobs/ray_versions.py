"""What older Ray versions on a cluster lack. Clusters lag behind the workers that send them jobs."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from ray_provider.exceptions import ConfigurationError, RayProviderError

if TYPE_CHECKING:
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.models import JobSpec

#: The oldest Ray on a cluster for jobs, and for functions (``@task.ray``).
JOBS_FROM, FUNCTIONS_FROM = (2, 9), (2, 40)
#: Before it Ray's Jobs API refuses a label selector.
LABELS_FROM = (2, 54)
#: Before it Ray knows no token authentication: it lets everybody in, with any token or none.
TOKEN_FROM = (2, 52)
#: Before it the State API writes its own bytes, and its own errors, between those of a log file.
LOG_FILES_FROM = (2, 44)

#: Seconds for which it is believed that the same Ray answers at an address.
_BELIEVED_SECONDS = 300.0
_known: dict[str, tuple[float, bool]] = {}


def parse(version: str | None) -> tuple[int, int] | None:
    """Give the first two numbers of a version; ``None`` if it has none, as builds of one's own may.

    :param version: as Ray says it; ``None`` if it says none.
    """
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?!\d)", version or "")
    return (int(found[1]), int(found[2])) if found else None


def check(version: str | None, spec: JobSpec, *, functions: bool = False) -> None:
    """Refuse what the cluster's Ray can't do, before anything is sent.

    :param version: Ray's on the cluster, as ``GET /api/version`` tells it.
    :param spec: of the job.
    :param functions: the job is a function.
    :raises ConfigurationError: it is too old; the message names it and what is asked of it.
    """
    there = parse(version)
    if there is None:
        return
    wanted = [(JOBS_FROM, "Ray jobs"), (FUNCTIONS_FROM if functions else JOBS_FROM, "functions (@task.ray)")]
    if spec.label_selector:
        wanted.append((LABELS_FROM, "label_selector"))
    for least, what in wanted:
        if there < least:
            raise ConfigurationError(
                f"The cluster runs Ray {version}: {what} need{'' if what.endswith(('s', ')')) else 's'} "
                f"Ray {least[0]}.{least[1]} or newer there. Nothing was sent.",
                hint="Use a newer Ray image for the cluster"
                + (", or leave label_selector out and reserve a custom resource." if what == "label_selector" else "."),
                field="label_selector" if what == "label_selector" else None,
            )


def token_warning(version: str | None) -> str | None:
    """Say that a cluster does not check the token that the connection has; ``None`` if it may.

    :param version: as Ray says it; ``None`` if it says none.
    """
    there = parse(version)
    if there is None or there >= TOKEN_FROM:
        return None
    return (
        f"The cluster runs Ray {version}, which knows no token authentication ({TOKEN_FROM[0]}.{TOKEN_FROM[1]} and "
        "newer do): unless a proxy in front of it checks the connection's token, everybody who reaches it may run code."
    )


async def log_files_are_plain(client: RayJobsClient) -> bool:
    """Tell whether the State API gives log files as they are. Asked once in a while of each address.

    :param client: of the cluster.
    """
    url = client.endpoint.url
    when, plain = _known.get(url, (0.0, True))
    if when and time.monotonic() - when < _BELIEVED_SECONDS:
        return plain
    try:
        there = parse((await client.version()).ray_version)
    except RayProviderError:
        return True  # whether Ray can be reached, the status' own requests tell
    plain = there is None or there >= LOG_FILES_FROM
    if len(_known) > 1000:
        _known.clear()
    _known[url] = (time.monotonic(), plain)
    return plain
