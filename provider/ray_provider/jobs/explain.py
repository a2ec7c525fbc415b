"""What Ray's error types and exit codes mean to the owner of a job, and what to do about them."""

from __future__ import annotations

import signal
from collections.abc import Sequence

_LAST_LINES = 25
_LAST_CHARACTERS = 4000

_BY_TYPE = {
    "RUNTIME_ENV_SETUP_FAILURE": (
        "The runtime environment could not be made: check runtime_env (package names and versions in pip, the URI in "
        "working_dir, access of the cluster to the package index and the object store)."
    ),
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT": (
        "Ray found no place to start the entrypoint in time (RAY_JOB_START_TIMEOUT_SECONDS, 15 minutes by default): "
        "ask for fewer num_cpus, num_gpus, memory or resources, or for a larger cluster."
    ),
    "JOB_SUPERVISOR_ACTOR_START_FAILURE": (
        "Ray could not start the process that runs the entrypoint: see the head's logs (dashboard_agent.log, "
        "gcs_server.out); a head that has no memory or disk left does this."
    ),
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE": (
        "No node of the cluster can hold what the entrypoint asks for: check num_cpus, num_gpus, memory, resources "
        "and label_selector against the cluster's nodes."
    ),
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE": "See the head's logs: Ray itself does not know why.",
    "JOB_SUPERVISOR_ACTOR_DIED": (
        "The process that ran the entrypoint died, most often with its node: out of memory, a spot node taken away, a "
        "node scaled down. Give the entrypoint memory of its own (memory=…), or a node that stays."
    ),
    "JOB_ENTRYPOINT_COMMAND_START_ERROR": "The entrypoint could not be started: check the command.",
}

_BY_CODE = {
    1: "The entrypoint ended with an error of its own: its last lines say which.",
    2: "The command was used wrongly, or a file that it was to run is not there: check the entrypoint and working_dir.",
    126: "The command is there but can't be run: is the file executable, and made for this machine?",
    127: "The command is not known in the image: check the entrypoint, the image and working_dir.",
    137: (
        "The entrypoint was killed, most often because the node or container had no memory left: give it more memory, "
        "or let Ray tasks do the work instead of the entrypoint."
    ),
    139: "The entrypoint crashed in native code: check the versions of the libraries with native parts.",
    143: "Something told the entrypoint to end (SIGTERM): a node that was drained, or somebody by hand.",
}

_MEANING = {126: "can't be run", 127: "command not found", 137: "killed, probably out of memory"}


def describe_exit_code(code: int) -> str:
    """Say what an exit code means, as far as that is agreed upon.

    :param code: as Ray gives it: negative or above 128 for a signal.
    """
    meaning = _MEANING.get(_normal(code))
    number = -code if code < 0 else code - 128
    if meaning is None and 0 < number < 65:
        try:
            meaning = f"ended by {signal.Signals(number).name}"
        except ValueError:
            meaning = None
    return f"{code} ({meaning})" if meaning else str(code)


def what_to_do(error_type: str | None, exit_code: int | None, message: str | None) -> str:
    """Say what the owner of a failed job can do.

    :param error_type: Ray's.
    :param exit_code: the driver's.
    :param message: Ray's.
    """
    if error_type in _BY_TYPE:
        return _BY_TYPE[error_type]
    if message and "ModuleNotFoundError" in message:
        return "A Python module is missing on the cluster: add it to runtime_env['pip'], or to py_modules or the image."
    if message and "OutOfMemory" in message:
        return "The node had no memory left: give tasks memory=…, process less at a time, or take larger nodes."
    if exit_code is not None and _normal(exit_code) in _BY_CODE:
        return _BY_CODE[_normal(exit_code)]
    return "See the job's log, above and in Ray's dashboard."


def first_of(texts: Sequence[str], most: int) -> str:
    """Join the first of some texts for a sentence, and say how many more there are.

    :param texts: all of them.
    :param most: how many are shown.
    """
    return "; ".join(texts[:most]) + (f"; and {len(texts) - most} more" if len(texts) > most else "")


def last_lines(message: str | None) -> str:
    """Give the end of a message: Ray's holds up to 20,000 characters of log.

    :param message: Ray's.
    """
    text = (message or "").rstrip()
    lines = text.splitlines()
    if len(lines) > _LAST_LINES:
        # The first line says what happened, the last ones why.
        lines = [lines[0], "…", *lines[-_LAST_LINES:]]
    text = "\n".join(lines)
    return text if len(text) <= _LAST_CHARACTERS else f"{text[:500]}\n…\n{text[500 - _LAST_CHARACTERS :]}"


def _normal(code: int) -> int:
    return 128 - code if code < 0 else code
