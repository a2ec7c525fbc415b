"""From Airflow's cloud connections to credentials that Terraform renews by itself.

An apply takes longer than many credentials are good for, and what supervises it may outlive the task, and with it
Airflow. So Terraform gets what it can make new credentials from: a profile with the role to assume, a key, a
federation's configuration, or nothing where the worker's own identity is meant. Only what can't be written down in such
a way is asked for once, and handed on as it is, with a warning. The functions block.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_provider._compat import BaseHook, mask_secrets
from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks import cloud

log = logging.getLogger(__name__)

_PROFILE = "airflow-ray"
#: Arguments of an assumed role that a profile can say.
_ROLE_ARGUMENTS = {
    "ExternalId": "external_id",
    "DurationSeconds": "duration_seconds",
    "RoleSessionName": "role_session_name",
}
#: In the worker's environment these would win over a profile.
_STATIC_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@dataclass(frozen=True, slots=True)
class TerraformCredentials:
    """What Terraform gets.

    :param env: environment variables.
    :param files: variables that name a file, and its content: it lies in the run's private folder.
    """

    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)


def aws_credentials(conn_id: str, region: str | None = None) -> TerraformCredentials:
    """Give the credentials of an ``aws`` connection.

    A connection with a key alone gives the key; with ``role_arn``, a profile that assumes the role, again and again.

    :param conn_id: of the connection.
    :param region: if not the connection's own.
    :raises ConfigurationError: the connection can't be used.
    """
    connection = BaseHook.get_connection(conn_id)
    extra = connection.extra_dejson if isinstance(connection.extra_dejson, dict) else {}
    given = {
        "aws_access_key_id": connection.login or extra.get("aws_access_key_id"),
        "aws_secret_access_key": connection.password or extra.get("aws_secret_access_key"),
        "aws_session_token": extra.get("aws_session_token"),
    }
    key = {name: str(value) for name, value in given.items() if value}
    region = region or extra.get("region_name")
    regions = {"AWS_REGION": str(region), "AWS_DEFAULT_REGION": str(region)} if region else {}
    role = _role(extra)
    if role is not None and (source := _source(key)) is not None:
        mask_secrets([value for name, value in key.items() if name != "aws_access_key_id"])
        text = _ini(
            {f"profile {_PROFILE}": {**role, **source[0], **({"region": region} if region else {})}, **source[1]}
        )
        emptied = {} if source[0].get("credential_source") == "Environment" else dict.fromkeys(_STATIC_KEYS, "")
        return TerraformCredentials({**regions, **emptied, "AWS_PROFILE": _PROFILE}, {"AWS_CONFIG_FILE": text})
    if not extra.get("role_arn") and not key and extra.get("profile_name"):
        return TerraformCredentials({**regions, "AWS_PROFILE": str(extra["profile_name"])})
    found = cloud.aws_environment(conn_id, region)
    if "AWS_SESSION_TOKEN" in found:
        _warn("aws_conn_id", conn_id, "temporary AWS keys")
    return TerraformCredentials(found)


def google_credentials(conn_id: str) -> TerraformCredentials:
    """Give the credentials of a ``google_cloud_platform`` connection.

    A key or a federation's configuration goes on as it is, and an impersonated account by its name. A connection that
    has none of these means the worker's own identity: Terraform finds that itself, as google-auth does.

    :param conn_id: of the connection.
    :raises ConfigurationError: the connection can't be used.
    """
    extra = cloud.google_extra(conn_id)
    document = cloud.google_key(extra) or _document(extra, conn_id)
    chain = cloud.google_field(extra, "impersonation_chain")
    names = [chain] if isinstance(chain, str) else list(chain or ())
    names = [name.strip() for text in names for name in str(text).split(",") if name.strip()]
    own_way = [
        name for name in ("key_secret_name", "is_anonymous", "idp_issuer_url") if cloud.google_field(extra, name)
    ]
    if own_way or len(names) > 1:
        _warn("gcp_conn_id", conn_id, "an access token of Google's, which is good for an hour")
        return TerraformCredentials(cloud.google_environment(conn_id))
    found: dict[str, str] = {}
    if document is not None:
        found["GOOGLE_CREDENTIALS"] = json.dumps(document)
        secret = ("private_key", "private_key_id", "refresh_token", "client_secret")
        mask_secrets([str(document[name]) for name in secret if document.get(name)])
    if names:
        found["GOOGLE_IMPERSONATE_SERVICE_ACCOUNT"] = found["GOOGLE_BACKEND_IMPERSONATE_SERVICE_ACCOUNT"] = names[0]
    project = cloud.google_field(extra, "project") or (document or {}).get("project_id")
    if project:
        found["GOOGLE_PROJECT"] = str(project)
    return TerraformCredentials(found)


def _document(extra: Mapping[str, Any], conn_id: str) -> dict[str, Any] | None:
    """Give the key or the federation's configuration that the connection names a file of."""
    for name in ("key_path", "credential_config_file"):
        value = cloud.google_field(extra, name)
        if not value:
            continue
        try:
            text = value if str(value).lstrip().startswith("{") else Path(str(value)).read_text(encoding="utf-8")
            found = value if isinstance(value, dict) else json.loads(str(text))
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"gcp_conn_id: `{name}` of the connection {conn_id!r} can't be read ({type(error).__name__}).",
                field="gcp_conn_id",
            ) from None
        if isinstance(found, dict):
            return found
    return None


def _role(extra: Mapping[str, Any]) -> dict[str, str] | None:
    """Give the role as a profile says it; ``None`` if there is none, or a profile can't say all that is wanted."""
    if not extra.get("role_arn") or extra.get("assume_role_method", "assume_role") != "assume_role":
        return None
    arguments = {"RoleSessionName": _PROFILE, **(extra.get("assume_role_kwargs") or {})}
    if extra.get("external_id"):
        arguments["ExternalId"] = extra["external_id"]
    if set(arguments) - set(_ROLE_ARGUMENTS):
        return None
    return {"role_arn": extra["role_arn"], **{_ROLE_ARGUMENTS[name]: value for name, value in arguments.items()}}


def _source(key: Mapping[str, str]) -> tuple[dict[str, str], dict[str, dict[str, str]]] | None:
    """Say with whose credentials the role is assumed: a line for its profile, and more profiles."""
    base = f"{_PROFILE}-base"
    if key:
        return {"source_profile": base}, {f"profile {base}": dict(key)}
    if os.environ.get("AWS_PROFILE"):
        return None
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {"credential_source": "Environment"}, {}
    if os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") and os.environ.get("AWS_ROLE_ARN"):
        own = {
            "web_identity_token_file": os.environ["AWS_WEB_IDENTITY_TOKEN_FILE"],
            "role_arn": os.environ["AWS_ROLE_ARN"],
        }
        return {"source_profile": base}, {f"profile {base}": own}
    if any(name.startswith("AWS_CONTAINER_CREDENTIALS_") for name in os.environ):
        return {"credential_source": "EcsContainer"}, {}
    return {"credential_source": "Ec2InstanceMetadata"}, {}


def _ini(sections: Mapping[str, Mapping[str, Any]]) -> str:
    lines: list[str] = []
    for name, values in sections.items():
        lines.append(f"[{name}]")
        for key, value in values.items():
            if any(character in str(value) for character in "\r\n"):
                raise ConfigurationError(
                    f"aws_conn_id: {key} of the connection has more than one line.", field="aws_conn_id"
                )
            lines.append(f"{key} = {value}")
    return "\n".join([*lines, ""])


def _warn(field: str, conn_id: str, what: str) -> None:
    log.warning(
        "The connection %r (%s) gives %s, which Terraform can't renew. A run that takes longer ends with an error, and"
        " its state is kept on this worker.",
        conn_id,
        field,
        what,
    )
