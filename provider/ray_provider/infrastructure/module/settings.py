"""Where Terraform works: the settings of providers that are no secret, and the place that a state tells."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ray_provider._shared.redaction import sounds_secret
from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.terraform.state import StateView

#: Names that sound secret and are not.
_HARMLESS = frozenset({"impersonate_service_account", "skip_credentials_validation", "sts_region"})
#: What a handle may say of a provider: where it works, and in which role. Nothing that names a program or a file, and
#: no
#: address to which credentials would be sent.
_FROM_HANDLE = {
    "aws": frozenset(
        {
            "region",
            "assume_role",
            "profile",
            "allowed_account_ids",
            "forbidden_account_ids",
            "default_tags",
            "ignore_tags",
            "max_retries",
            "retry_mode",
            "s3_use_path_style",
            "skip_credentials_validation",
            "skip_metadata_api_check",
            "skip_region_validation",
            "skip_requesting_account_id",
            "use_dualstack_endpoint",
            "use_fips_endpoint",
        }
    ),
    "google": frozenset(
        {
            "project",
            "region",
            "zone",
            "impersonate_service_account",
            "billing_project",
            "user_project_override",
            "default_labels",
            "request_timeout",
        }
    ),
}
_FROM_HANDLE["google-beta"] = _FROM_HANDLE["google"]

#: The same of a backend: type, and which of its arguments. (`type` is always one.)
BACKEND_ARGUMENTS = {
    "local": frozenset({"path", "workspace_dir"}),
    "s3": frozenset(
        {
            "acl",
            "allowed_account_ids",
            "assume_role",
            "bucket",
            "dynamodb_table",
            "encrypt",
            "force_path_style",
            "forbidden_account_ids",
            "key",
            "kms_key_id",
            "max_retries",
            "profile",
            "region",
            "retry_mode",
            "role_arn",
            "session_name",
            "skip_credentials_validation",
            "skip_metadata_api_check",
            "skip_region_validation",
            "skip_requesting_account_id",
            "skip_s3_checksum",
            "use_dualstack_endpoint",
            "use_fips_endpoint",
            "use_legacy_workflow",
            "use_lockfile",
            "use_path_style",
            "workspace_key_prefix",
        }
    ),
    "gcs": frozenset({"bucket", "prefix", "impersonate_service_account", "kms_encryption_key"}),
}

_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
_PROJECT_VARIABLES = ("GOOGLE_PROJECT", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT")


def public_settings(value: Any) -> Any:
    """Give settings without what sounds secret, at any depth.

    :param value: settings of any shape.
    """
    if isinstance(value, Mapping):
        return {
            name: public_settings(item)
            for name, item in value.items()
            if not sounds_secret(str(name)) or name in _HARMLESS
        }
    if isinstance(value, (list, tuple)):
        return [public_settings(item) for item in value]
    return value


def merge_providers(given: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Put what a handle says of providers under what the task says.

    :param given: by the task.
    :param recorded: in the handle. Only what tells place and role is taken from it.
    :raises ConfigurationError: both say it, and differently; or the handle says what only a task may decide.
    """
    merged = dict(given)
    for provider, settings in recorded.items():
        own = given.get(provider)
        if not isinstance(settings, Mapping) or (own is not None and not isinstance(own, Mapping)):
            if own is None or public_settings(own) != settings:
                raise _differs(f"providers.{provider}", "several configurations", "other ones" if own else None)
            continue
        allowed = _FROM_HANDLE.get(provider, frozenset())
        taken = dict(own or {})
        for name, value in settings.items():
            field = f"providers.{provider}.{name}"
            if name in taken:
                if public_settings(taken[name]) != value:
                    raise _differs(field, value, taken[name])
            elif name in allowed:
                taken[name] = value
            else:
                raise _only_by_task(field, value)
        merged[provider] = taken
    return merged


def merge_backend(given: Mapping[str, Any] | None, recorded: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the backend that the task names, checked against the handle's; else the handle's.

    :param given: of the task; ``None`` if it names none.
    :param recorded: of the handle.
    :raises ConfigurationError: both say it, and differently; or the handle says what only a task may decide.
    """
    kind = recorded.get("type")
    if given:
        for name, value in public_settings(given).items():
            if name in recorded and recorded[name] != value:
                raise _differs(f"backend.{name}", recorded[name], value)
        return given
    if kind not in BACKEND_ARGUMENTS:
        raise _only_by_task("backend.type", kind)
    for name, value in recorded.items():
        if name != "type" and name not in BACKEND_ARGUMENTS[kind]:
            raise _only_by_task(f"backend.{name}", value)
    return recorded


def bundled_cloud(module: str) -> str | None:
    """Give the cloud of a bundled module: ``aws`` or ``gcp``.

    :param module: as the task names it.
    """
    return {"eks": "aws", "gke": "gcp"}.get(module)


def region_in(env: Mapping[str, str]) -> str | None:
    """Give the AWS region that the environment (or else AWS's shared configuration) says.

    :param env: environment variables.
    """
    everything = {**os.environ, **env}
    for name in _REGION_VARIABLES:
        if everything.get(name):
            return everything[name]
    try:
        import botocore.session
    except ImportError:
        return None
    from botocore.exceptions import BotoCoreError

    try:
        found = botocore.session.Session(profile=everything.get("AWS_PROFILE")).get_config_variable("region")
    except BotoCoreError:
        return None
    return str(found) if found else None


def project_in(env: Mapping[str, str]) -> str | None:
    """Give the Google Cloud project that the environment says.

    :param env: environment variables.
    """
    everything = {**os.environ, **env}
    return next((everything[name] for name in _PROJECT_VARIABLES if everything.get(name)), None)


def settle(
    state: StateView,
    *,
    providers: Mapping[str, Any],
    given_env: Mapping[str, str],
    expected: Mapping[str, Any],
) -> dict[str, str]:
    """Find out where Terraform is to work: in the place of the state, or in the handle's, whatever this worker's is.

    A refresh in another region finds nothing, drops everything from the state, and a destroy then has nothing to do.

    :param state: before the run.
    :param providers: their configuration in this run.
    :param given_env: the environment variables that the task itself says.
    :param expected: the handle's place.
    :return: environment variables that name the place; they count where a provider's configuration says nothing.
    :raises ConfigurationError: settings name another place than state or handle.
    """
    accounts = (item.account for item in state.resources if item.type.startswith("google_") and item.account)
    found: dict[str, str] = {}
    for provider, key, names, there in (
        ("aws", "region", _REGION_VARIABLES, state.regions),
        ("google", "project", _PROJECT_VARIABLES, tuple(dict.fromkeys(accounts))),
    ):
        wanted = _wanted_place(key, there, expected.get(key))
        if not wanted:
            continue
        config = providers.get(provider)
        said = config.get(key) if isinstance(config, Mapping) else None
        field = f"providers.{provider}.{key}"
        if not said:
            field, said = next(
                ((f"env.{item}", given_env[item]) for item in names if given_env.get(item)), (field, None)
            )
        if said and said not in wanted:
            raise ConfigurationError(
                f"{field}: it says {said}, and {'what the state holds is' if there else 'the handle says it is'} in"
                f" {', '.join(map(str, wanted))}. Nothing was changed.",
                hint=f"In another {key} Terraform would find nothing of it, take it for deleted, and make everything a"
                f" second time. Say {wanted[0]}, or give infrastructure in another {key} a state of its own.",
                field=field,
                wanted=list(wanted),
            )
        if not said and len(wanted) == 1:
            found |= dict.fromkeys(names, str(wanted[0]))
    return found


def _wanted_place(key: str, there: tuple[str, ...], handle: Any) -> tuple[str, ...]:
    """Give where something is: as the state says, else as the handle does.

    :param key: ``region`` or ``project``.
    :param there: those that the state's resources are in.
    :param handle: what the handle says of it.
    :raises ConfigurationError: the two disagree.
    """
    if there and isinstance(handle, str) and handle not in there:
        raise ConfigurationError(
            f"infrastructure: the handle says {key} {handle}, and the state {', '.join(there)}. Nothing was changed.",
            hint="The handle and the state are not of the same infrastructure: look at `backend` and `workspace`.",
            field="infrastructure",
        )
    return there or ((handle,) if isinstance(handle, str) and handle else ())


def place_of(
    state: StateView, *, cloud: str | None, providers: Mapping[str, Any], env: Mapping[str, str]
) -> dict[str, str]:
    """Give the place for a handle: the state's, or, before anything is made, the one that the settings say.

    :param state: what is in the state.
    :param cloud: of a bundled module; ``None`` of others.
    :param providers: their settings by their names.
    :param env: Terraform's environment.
    """
    found: dict[str, str] = {}
    types = {resource.type.partition("_")[0] for resource in state.resources}
    if cloud == "aws" or "aws" in types or "aws" in providers:
        config = providers.get("aws")
        said = config.get("region") if isinstance(config, Mapping) else None
        region = state.regions[0] if state.regions else said or region_in(env)
        if region:
            found["region"] = str(region)
        accounts = [item.account for item in state.resources if item.type.startswith("aws_") and item.account]
        if accounts:
            found["account"] = accounts[0]
    if cloud == "gcp" or "google" in types or "google" in providers:
        config = providers.get("google")
        said = config.get("project") if isinstance(config, Mapping) else None
        own = [item.account for item in state.resources if item.type.startswith("google_") and item.account]
        project = own[0] if own else said or project_in(env)
        if project:
            found["project"] = str(project)
    return found


def _differs(field: str, recorded: Any, given: Any) -> ConfigurationError:
    return ConfigurationError(
        f"{field}: the infrastructure was made with {recorded!r}, and this task says {given!r}. Nothing was changed.",
        hint="Leave it out (the handle says it), or give what it was made with.",
        field=field,
    )


def _only_by_task(field: str, value: Any) -> ConfigurationError:
    return ConfigurationError(
        f"{field}: the handle says {value!r}, which a handle does not decide: it is data that others may write, and"
        f" this"
        " says where code comes from or where credentials go. Nothing was changed.",
        hint=f"Give `{field.partition('.')[0]}` to this task too, as SetupRayInfrastructure has it.",
        field=field,
    )
