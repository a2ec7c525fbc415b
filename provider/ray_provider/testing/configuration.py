"""The configuration and the environment of an Airflow that runs for a test."""

from __future__ import annotations

import base64
import configparser
import io
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from ray_provider._shared.private_files import write_private

HOST = "127.0.0.1"

Settings = Mapping[str, Mapping[str, str]]


def settings(*, dags_folder: Path, logs: Path, port: int, sql_alchemy_conn: str) -> dict[str, dict[str, str]]:
    """Give what differs from Airflow's defaults: one small machine, quick answers, nothing sent anywhere.

    :param dags_folder: where DAGs are read from.
    :param logs: where tasks' logs are written.
    :param port: of the API server, on loopback.
    :param sql_alchemy_conn: URL of the metadata database.
    :return: section, key and value.
    """
    url = f"http://{HOST}:{port}"
    return {
        "core": {
            "dags_folder": str(dags_folder),
            "load_examples": "False",
            "executor": "LocalExecutor",
            "parallelism": "4",
            "fernet_key": _new_key(),
            "simple_auth_manager_all_admins": "True",
            "execution_api_server_url": f"{url}/execution/",
            "test_connection": "Enabled",
            # Past 30 s, the default, a task whose file imports pandas on a busy machine is put back and tried again.
            "dagbag_import_timeout": "120",
        },
        "database": {
            "sql_alchemy_conn": sql_alchemy_conn,
            "load_default_connections": "False",
            # The stack has just migrated it. Each component would read all migrations to find that out.
            "check_migrations": "False",
        },
        "logging": {"base_log_folder": str(logs)},
        "api": {"host": HOST, "port": str(port), "base_url": url, "secret_key": _new_key(), "workers": "1"},
        "api_auth": {"jwt_secret": _new_key()},
        "workers": {
            # A short task that resumes from a deferral can be failed by the scheduler while its heartbeat is still the
            # old one, at Airflow's default of 5 s.
            "min_heartbeat_interval": "1",
            # Five tries of 5 s, the default, are over before the API server of a busy machine has answered its first
            # tasks: they fail before they begin. Three heartbeats without an answer end one that runs.
            "execution_api_timeout": "60",
            "max_failed_heartbeats": "20",
        },
        "scheduler": {"enable_tracemalloc": "False"},
        # New and changed files are found at once; reading all of them again and again would keep a core busy.
        "dag_processor": {
            "refresh_interval": "2",
            "min_file_process_interval": "300",
            "parsing_processes": "1",
            "dag_file_processor_timeout": "240",
        },
        "triggerer": {"job_heartbeat_sec": "2"},
        "usage_data_collection": {"enabled": "False"},
    }


def write_config(home: Path, given: Settings, further: Settings) -> None:
    """Write ``airflow.cfg`` (0600). The keys of a home stay what they were: its database is encrypted with them.

    :param home: folder of the stack.
    :param given: section, key and value.
    :param further: wins over ``given``.
    """
    path = home / "airflow.cfg"
    config = configparser.ConfigParser(interpolation=None)
    config.optionxform = str  # type: ignore[assignment,method-assign]
    for source in (given, further):
        for section, values in source.items():
            if not config.has_section(section):
                config.add_section(section)
            config[section].update(values)
    for section in config.sections():  # Airflow reads % as the start of a reference
        config[section].update({key: value.replace("%", "%%") for key, value in config[section].items()})
    if path.exists():
        earlier = configparser.ConfigParser(interpolation=None)
        earlier.read(path, encoding="utf-8")
        for section, key in (("core", "fernet_key"), ("api", "secret_key"), ("api_auth", "jwt_secret")):
            config[section][key] = earlier.get(section, key, fallback=config[section][key])
    text = io.StringIO()
    config.write(text)
    write_private(path, text.getvalue(), replace=True)


def component_environment(home: Path, python: str) -> dict[str, str]:
    """Give the environment for Airflow's components: the caller's, without what the caller's own Airflow has in it.

    :param home: the Airflow home.
    :param python: the interpreter; what is installed beside it comes first in ``PATH``.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "_AIRFLOW"))}
    # The components talk to each other over loopback: never through a proxy.
    no_proxy = ",".join(filter(None, [inherited.get("NO_PROXY") or inherited.get("no_proxy"), HOST, "localhost"]))
    return {
        **inherited,
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "PATH": os.pathsep.join([str(Path(python).parent), inherited.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "AIRFLOW_HOME": str(home),
    }


def _new_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
