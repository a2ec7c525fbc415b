"""What a run of a module is told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.errors import VariableError
from ray_provider.infrastructure.module.source import ModuleSource
from ray_provider.infrastructure.terraform.backend import Backend
from ray_provider.infrastructure.terraform.process import PATIENCE_SECONDS
from ray_provider.infrastructure.terraform.rescue import PATIENCE_SECONDS as STATE_PATIENCE_SECONDS

_WORKSPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,89}")
_LOCK_TIMEOUT = re.compile(r"\d+(?:ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class InfrastructureSpec:
    """What to run.

    :param module: a bundled module's name, an absolute path, or a git URL.
    :param variables: of the module.
    :param sensitive_variables: more variables; their values are masked wherever they would show. (So are those that the
        module declares as sensitive.)
    :param backend: where the state lies.
    :param workspace: Terraform workspace; made if missing.
    :param providers: configuration of providers, e.g. ``{"aws": {"region": "eu-west-1"}}``.
    :param env: environment variables for Terraform, e.g. credentials; those whose names sound secret are masked.
    :param files: environment variables that name a file, and its content, which lies in the run's private folder.
    :param given_env: the part of ``env`` that somebody chose for this run (and not: what a connection or machine says).
    :param place: where the infrastructure is, as its handle says it: ``{"region": …, "account": …, "project": …}``.
    :param destroy: only for a destroy: variables that the module does not know (any more) are left out, and those that
        it wants are not missed. It may have changed since.
    :param made_by: with what the infrastructure was made, as its handle says.
    :param binary: path or name of ``terraform`` or ``tofu``.
    :param lock_timeout: how long to wait for the state's lock: ``30s``, ``5m`` or ``1h``. Default: ``60s``.
    :param parallelism: how many resources at a time.
    :param patience: seconds after the first and second SIGINT.
    :param state_patience: how long, in seconds, a state is pushed again that the backend did not take after an apply.
    """

    module: str
    backend: Mapping[str, Any]
    variables: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sensitive_variables: Mapping[str, Any] = field(default_factory=dict, repr=False)
    workspace: str | None = None
    providers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    given_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    place: Mapping[str, Any] = field(default_factory=dict)
    destroy: bool = False
    made_by: Mapping[str, Any] = field(default_factory=dict)
    binary: str | None = None
    lock_timeout: str = "60s"
    parallelism: int | None = None
    patience: Sequence[float] = PATIENCE_SECONDS
    state_patience: float = STATE_PATIENCE_SECONDS

    def validate(self) -> None:
        """Check what can be checked without the module.

        :raises ConfigurationError: with the field's name.
        """
        ModuleSource.parse(self.module)
        Backend.parse(self.backend)
        for name in ("variables", "sensitive_variables", "providers", "env", "files"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise ConfigurationError(f"{name}: it has to be a mapping with text as keys.", field=name)
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                # The error's text tells a type, not a value.
                raise ConfigurationError(
                    f"{name}: it has to be plain data ({type(error).__name__}).", field=name
                ) from None
        if both := sorted(set(self.variables) & set(self.sensitive_variables)):
            raise VariableError(f"variables and sensitive_variables both give {', '.join(both)}.", variables=both)
        if self.workspace is not None and not _WORKSPACE.fullmatch(str(self.workspace)):
            raise ConfigurationError(f"workspace: {self.workspace!r} is not a name for a workspace.", field="workspace")
        if not _LOCK_TIMEOUT.fullmatch(str(self.lock_timeout)):
            raise ConfigurationError("lock_timeout: give it as 30s, 5m or 1h.", field="lock_timeout")
        if self.parallelism is not None and (
            isinstance(self.parallelism, bool) or not 1 <= int(self.parallelism) <= 256
        ):
            raise ConfigurationError("parallelism: it has to be between 1 and 256.", field="parallelism")
