"""What a run's module is given, and which of it is secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray_provider._shared.redaction import Redactor, sounds_secret
from ray_provider.infrastructure.module.declared import DeclaredVariable, check_variables, for_destroy, names_in_files
from ray_provider.infrastructure.module.spec import InfrastructureSpec
from ray_provider.infrastructure.terraform.backend import Backend
from ray_provider.infrastructure.terraform.folder import write_private_json


def remember_secrets(spec: InfrastructureSpec, redactor: Redactor) -> None:
    """Have the secrets of a specification taken out of all that is said, also of what says that it is wrong.

    :param spec: not checked yet.
    :param redactor: learns them.
    """
    if isinstance(spec.sensitive_variables, Mapping):
        redactor.add(spec.sensitive_variables)
    for values in (spec.variables, spec.providers):
        if isinstance(values, Mapping):
            redactor.add_named(values)
    if isinstance(spec.env, Mapping):
        redactor.add({name: value for name, value in spec.env.items() if sounds_secret(name)})
    if isinstance(spec.files, Mapping):
        lines = [line for content in spec.files.values() for line in str(content).splitlines()]
        named = [(name.strip(), value.strip()) for name, _, value in (line.partition("=") for line in lines)]
        redactor.add([value for name, value in named if sounds_secret(name)])
    if isinstance(spec.backend, Mapping) and isinstance(spec.backend.get("type"), str):
        redactor.add(Backend(spec.backend["type"], spec.backend).secrets())


class GivenVariables:
    """The variables of a specification, beside what its module declares.

    :param spec: gives them.
    :param declared: what the module declares.
    """

    def __init__(self, spec: InfrastructureSpec, declared: Mapping[str, DeclaredVariable]) -> None:
        self.spec = spec
        self.declared = declared

    def is_secret(self, name: str) -> bool:
        """Whether a variable's value is to be seen by nobody: it was given so, declared so, or is named so.

        :param name: the variable's.
        """
        declared = self.declared.get(name)
        return (
            name in self.spec.sensitive_variables
            or sounds_secret(name)
            or (declared is not None and (declared.sensitive or declared.ephemeral))
        )

    def public(self) -> dict[str, Any]:
        """Give those that are not secret."""
        return {name: value for name, value in self.spec.variables.items() if not self.is_secret(name)}

    def ephemeral(self) -> dict[str, Any]:
        """Give those that are not kept in a plan: an apply has to be told them again."""
        found = ((name, value, self.declared.get(name)) for name, value in self._all().items())
        return {name: value for name, value, declared in found if declared is not None and declared.ephemeral}

    def fitted(
        self, root: Path, env: Mapping[str, str], *, redactor: Redactor, write: Callable[[str], None]
    ) -> dict[str, Any]:
        """Give the variables that the module takes, and refuse what it does not take; a destroy is told and goes on.

        :param root: the module's folder, whose own files may set variables.
        :param env: Terraform's environment, which may, too.
        :param redactor: learns the secret ones.
        :param write: told what a destroy leaves out.
        :raises VariableError: a variable does not fit.
        """
        given = self._all()
        elsewhere = {name.removeprefix("TF_VAR_"): value for name, value in env.items() if name.startswith("TF_VAR_")}
        for name, value in [*given.items(), *elsewhere.items()]:
            if self.is_secret(name):
                redactor.add(value)
        elsewhere |= names_in_files(root)
        if not self.spec.destroy:
            check_variables(self.declared, given, elsewhere=elsewhere)
            return given
        fitting, told = for_destroy(self.declared, given, elsewhere=elsewhere)
        for line in told:
            write(line)
        return fitting

    def _all(self) -> dict[str, Any]:
        return {**self.spec.variables, **self.spec.sensitive_variables}


def write_providers(root: Path, providers: Mapping[str, Any]) -> None:
    """Write the providers' configuration; where the module has such blocks itself, on top of them.

    :param root: the copy of the module.
    :param providers: their settings by their names.
    """
    if not providers:
        return
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in root.glob("*.tf"))
    for name, config in providers.items():
        there = re.search(rf'^\s*provider\s+"{re.escape(name)}"', text, re.MULTILINE) is not None
        suffix = "_override.tf.json" if there else ".tf.json"
        write_private_json(root / f"zz_airflow_ray_provider_{name}{suffix}", {"provider": {name: config}})
