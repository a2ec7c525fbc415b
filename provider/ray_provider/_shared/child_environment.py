"""What programs that we start get of our environment: Helm, Terraform, git, credential programs, a local Ray."""

from __future__ import annotations

import os

#: Airflow's settings, keys, connections and variables, and Ray's token: nothing that another program needs.
_NOT_PASSED_ON = ("AIRFLOW", "_AIRFLOW", "RAY_AUTH_")


def inherited() -> dict[str, str]:
    """Give this process' environment without Airflow's secrets (the Fernet key, the database's URL) and Ray's token."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
