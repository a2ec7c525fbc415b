"""Why an application does not run, in a sentence: Serve has it in one of three places, below a long traceback."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_provider._shared.plain_text import clean
from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import RayApiError, RayConnectionError
from ray_provider.serve.state import DEPLOY_FAILED, UNHEALTHY, ApplicationState, DeploymentState, ReplicaState

if TYPE_CHECKING:
    from ray_provider.jobs.endpoint import RayEndpoint

#: The last line of a traceback, and its frames.
_ERROR = re.compile(r"^\s*((?:[\w.]+\.)?[A-Za-z_]\w*(?:Error|Exception|Timeout|Interrupt|Exit)\b.*)$", re.MULTILINE)
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
#: What pip says in the end.
_PIP = re.compile(r"^\s*ERROR: (\S.*)$", re.MULTILINE)
_WANTS = re.compile(
    r"Resources required for each replica: (?P<wants>\{[^}]*\}), total resources available: (?P<has>\{[^}]*\})"
)
_STARTS = re.compile(r"failed to start (?P<times>\d+) times")
#: Ray's own frames are above and below the user's.
_NOT_THEIRS = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen ")
_PACKAGE = re.compile(r"^.*/_ray_pkg_[^/]+/")
#: A failed check in the controller's log, up to the next line that has a level.
_CHECK = r"Health check for Replica\([^\n]*app='{name}'\) failed: (.*?)(?=^[A-Z]+ \d{{4}}-|\Z)"
_LENGTH = 400
_LOG_LINES = 500

_RUNTIME_ENV = "Runtime env setup for app"
_IMPORT = (
    "The cluster imports import_path: the module has to be in its image, on PYTHONPATH, or in the application's "
    "runtime_env (working_dir, py_modules)."
)
_ENVIRONMENT = (
    "Check runtime_env: names and versions in pip, the URI in working_dir, and the access of the cluster to the "
    "package index and the object store."
)
_CONSTRUCTOR = (
    "Serve has tried the constructor three times. Correct what it needs (args, files, env_vars), and deploy anew."
)
_ROOM = (
    "Ask for less (ray_actor_options, num_replicas), or give the cluster more: what other applications and jobs hold "
    "counts, too. An autoscaler that is on its way needs more timeout_seconds."
)
_HEALTH = "check_health raised or took too long (health_check_timeout_s). Serve's controller log says why."


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an application does not run.

    :param text: what happened, in a sentence or two.
    :param advice: what to do about it.
    """

    text: str
    advice: str


def reason_of(application: ApplicationState) -> Reason | None:
    """Say why an application does not run, as far as its state tells; ``None``: it does not tell.

    :param application: as Serve shows it.
    """
    message = application.message
    if application.status == DEPLOY_FAILED and _RUNTIME_ENV in message:
        return Reason(f"its runtime environment could not be made: {_told(message)}", _ENVIRONMENT)
    for deployment in application.deployments.values():
        if (found := _reason_of_deployment(deployment)) is not None:
            return found
    if application.status == DEPLOY_FAILED and message:
        where = _frame(message)
        return Reason(f"it could not be imported or built: {_told(message)}{where}", _IMPORT)
    if application.status == UNHEALTHY:
        return Reason(message or "a deployment is unhealthy.", _HEALTH)
    return None


def _reason_of_deployment(deployment: DeploymentState) -> Reason | None:
    message, name = deployment.message, deployment.name
    if wants := _WANTS.search(message):
        return Reason(
            f"there is no room for a replica of deployment {name}: each asks for {wants['wants']}, and "
            f"{wants['has']} is available.",
            _ROOM,
        )
    if deployment.status == UNHEALTHY:
        return Reason(f"deployment {name} is unhealthy: {_short(message) or 'its health check fails.'}", _HEALTH)
    if "to be scheduled" in message:
        return Reason(f"there is no room for a replica of deployment {name}: {_short(message)}", _ROOM)
    if _ERROR.search(message) and ("Error" in message or _STARTS.search(message)):
        times = _STARTS.search(message)
        tries = f" {times['times']} times" if times else ""
        return Reason(
            f"a replica of deployment {name} failed to start{tries}: {_told(message)}{_frame(message)}", _CONSTRUCTOR
        )
    if deployment.status == DEPLOY_FAILED:
        return Reason(f"deployment {name} failed: {_short(message)}", _CONSTRUCTOR)
    return None


async def health_in_log(endpoint: RayEndpoint, name: str, controller: ReplicaState) -> str | None:
    """Give why a health check failed: Serve writes that into its controller's log, and nowhere else.

    :param endpoint: of the dashboard.
    :param name: of the application.
    :param controller: where its log lies.
    """
    from ray_provider.jobs.client import RayJobsClient

    if not controller.log_file_path or not controller.node_id:
        return None
    path = controller.log_file_path.lstrip("/")
    try:
        async with RayJobsClient(endpoint, timeout=10.0, retry=RetryPolicy.none()) as client:
            pieces = [piece async for piece in client.log_file(controller.node_id, path, _LOG_LINES)]
    except (RayApiError, RayConnectionError):
        return None
    checks = re.compile(_CHECK.format(name=re.escape(name)), re.MULTILINE | re.DOTALL)
    found = checks.findall(b"".join(pieces).decode("utf-8", "replace"))
    return f"{_told(found[-1])}{_frame(found[-1])}" if found else None


def _told(text: str) -> str:
    """Give what was said last: pip's error, or the last line of a traceback."""
    found = _PIP.findall(text) or _ERROR.findall(text)
    return _short(found[-1] if found else text)


def _frame(text: str) -> str:
    """Say where in the user's code that was."""
    frames = [one for one in _FRAME.finditer(text) if not any(part in one["file"] for part in _NOT_THEIRS)]
    if not frames:
        return ""
    last = frames[-1]
    return f" ({_PACKAGE.sub('', last['file'])}, line {last['line']}, in {last['function']})"


def _short(text: str) -> str:
    line = " ".join(clean(text).split())
    return line if len(line) <= _LENGTH else f"{line[: _LENGTH - 1]}…"
