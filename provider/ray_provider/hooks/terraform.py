"""What tasks that run Terraform have in common: their arguments, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ray_provider._compat import conf, mask_secrets
from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.handle import InfrastructureHandle
from ray_provider.infrastructure.terraform.process import PATIENCE_SECONDS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.infrastructure.cloud.presence import Cloud
    from ray_provider.infrastructure.module.spec import InfrastructureSpec
    from ray_provider.infrastructure.run import InfrastructureRun


class TerraformTask:
    """Put before an operator or a sensor: gives it the arguments for a run of a module.

    :param module: ``eks`` or ``gke``, an absolute path, or a git URL (``git::https://host/repo.git//folder?ref=v1``).
    :param variables: of the module.
    :param sensitive_variables: more of them. They are rendered, but shown nowhere, and masked in the log.
    :param backend: where the state lies, e.g. ``{"type": "s3", "bucket": …, "key": …, "region": …}``. Without it: a
        file below ``AIRFLOW_HOME``, which is good for trials on one machine only.
    :param workspace: Terraform workspace; made if it is missing.
    :param providers: configuration of providers, e.g. ``{"aws": {"region": "eu-west-1"}}``.
    :param aws_conn_id: connection of type ``aws`` for provider and backend; without it, what the worker has.
    :param gcp_conn_id: connection of type ``google_cloud_platform``, likewise.
    :param env: environment variables for Terraform.
    :param terraform_binary: path or name of ``terraform`` or ``tofu``.
    :param lock_timeout: how long to wait for the state's lock: ``30s``, ``5m`` or ``1h``. Default: ``60s``.
    :param parallelism: how many resources at a time.
    :param interrupt_patience: seconds after the first and after the second SIGINT, before Terraform is killed.
    :param kwargs: of the operator or sensor.
    """

    #: Of what is rendered, this is shown in Airflow's UI. The rest may hold secrets.
    terraform_fields: ClassVar[tuple[str, ...]] = ("module", "variables", "workspace", "aws_conn_id", "gcp_conn_id")
    _rendered_unseen: Sequence[str] = ("sensitive_variables", "backend", "providers", "env")

    # What the operator or sensor has besides.
    log: Any
    dag_id: Any
    render_template: Any

    def __init__(
        self,
        *,
        module: str | None = None,
        variables: Mapping[str, Any] | None = None,
        sensitive_variables: Mapping[str, Any] | None = None,
        backend: Mapping[str, Any] | None = None,
        workspace: str | None = None,
        providers: Mapping[str, Any] | None = None,
        aws_conn_id: str | None = None,
        gcp_conn_id: str | None = None,
        env: Mapping[str, str] | None = None,
        terraform_binary: str | None = None,
        lock_timeout: str = "60s",
        parallelism: int | None = None,
        interrupt_patience: Sequence[float] = PATIENCE_SECONDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.module = module
        self.variables = variables
        self.sensitive_variables = sensitive_variables
        self.backend = backend
        self.workspace = workspace
        self.providers = providers
        self.aws_conn_id = aws_conn_id
        self.gcp_conn_id = gcp_conn_id
        self.env = env
        self.terraform_binary = terraform_binary
        self.lock_timeout = lock_timeout
        self.parallelism = parallelism
        self.interrupt_patience = interrupt_patience
        self._run: InfrastructureRun | None = None

    def on_kill(self) -> None:
        """Interrupt Terraform: it saves its state and releases the lock, after this process if need be."""
        if self._run is not None:
            self._run.interrupt()

    def new_run(
        self,
        context: Context | dict[str, Any],
        handle: InfrastructureHandle | None = None,
        *,
        destroy: bool = False,
        name: str | None = None,
    ) -> InfrastructureRun:
        """Begin what can be killed.

        :param context: the task's.
        :param handle: gives what the arguments leave out.
        :param destroy: it is only for a destroy, for which the module's variables need not be complete.
        :param name: of the infrastructure, if neither arguments nor handle say it.
        """
        from ray_provider.infrastructure.run import InfrastructureRun

        spec = self.spec(context, handle)
        if destroy:
            spec = replace(spec, destroy=True, made_by=handle.made_by if handle else {})
            if name and handle is None and "name" not in spec.variables:
                spec = replace(spec, variables={**spec.variables, "name": name})
        self._run = InfrastructureRun(spec, write=self.log.info)
        return self._run

    def spec(self, context: Context | dict[str, Any], handle: InfrastructureHandle | None = None) -> InfrastructureSpec:
        """Put together what to run.

        :param context: the task's.
        :param handle: of infrastructure that is there; ``None`` for a set-up.
        :raises ConfigurationError: bad input.
        """
        from ray_provider._shared.redaction import leaves
        from ray_provider.infrastructure.module.settings import merge_backend, merge_providers
        from ray_provider.infrastructure.module.spec import InfrastructureSpec

        unseen = {name: self.render_template(getattr(self, name), context) for name in self._rendered_unseen}
        module, recorded = self._module(handle)
        variables = _mapping("variables", self.variables if self.variables is not None else recorded)
        sensitive = _mapping("sensitive_variables", unseen["sensitive_variables"])
        mask_secrets(text for text in leaves(sensitive) if text)
        providers: Mapping[str, Any] = _mapping("providers", unseen["providers"])
        backend, place = unseen["backend"], dict[str, Any]()
        if handle is not None:
            if self.workspace and handle.workspace and self.workspace != handle.workspace:
                raise ConfigurationError(
                    f"workspace: the infrastructure is in {handle.workspace!r}, and this task says {self.workspace!r}.",
                    hint="Leave it out: the handle says it.",
                    field="workspace",
                )
            providers = merge_providers(providers, handle.providers)
            backend = merge_backend(backend, handle.backend)
            outputs = handle.outputs
            place = dict(handle.place)
            if outputs.get("cloud") == "aws" and outputs.get("location"):
                # The handles of earlier releases say it so.
                place.setdefault("region", outputs["location"])
        given_env = dict(_mapping("env", unseen["env"]))
        env, files = self._credentials(providers, place)
        spec = InfrastructureSpec(
            module=module,
            backend=backend or self._trial_backend(module, variables),
            # What the handle says of a variable that is given as a secret now, doesn't count.
            variables={name: value for name, value in variables.items() if name not in sensitive or self.variables},
            sensitive_variables=sensitive,
            workspace=self.workspace or (handle.workspace if handle else None),
            providers=providers,
            env=env | given_env,
            given_env=given_env,
            place=place,
            files=files,
            binary=self.terraform_binary,
            lock_timeout=self.lock_timeout,
            parallelism=self.parallelism,
            patience=self.interrupt_patience,
        )
        spec.validate()
        return spec

    def _module(self, handle: InfrastructureHandle | None) -> tuple[str, Mapping[str, Any]]:
        """Give the module, and the variables of the handle that may be used with it.

        A handle is data: others may write it. Of itself it names bundled modules only; what runs code of another place
        has to be said by the task.

        :raises ConfigurationError: the handle names another module than the task, or one that only a task may name.
        """
        from ray_provider.infrastructure.module.source import ModuleSource, bundled_modules

        if handle is None:
            return self.module or "", {}
        if handle.module in bundled_modules():
            if self.module and self.module != handle.module:
                raise ConfigurationError(
                    f"module: the infrastructure was made by {handle.module!r}, and this task says {self.module!r}.",
                    hint="Leave it out: the handle says it.",
                    field="module",
                )
            return handle.module, handle.variables
        if not self.module:
            raise ConfigurationError(
                f"module: the handle names {handle.module!r}, which is not one of the bundled modules. A handle does "
                "not decide which code runs with this worker's credentials. Nothing was changed.",
                hint="Give `module` and `variables` to this task too, as SetupRayInfrastructure has them.",
                field="module",
            )
        own = ModuleSource.parse(self.module).public
        # Another commit of it is let pass: it may be the one that made the infrastructure.
        if own.partition("?")[0] != handle.module.partition("?")[0]:
            raise ConfigurationError(
                f"module: the infrastructure was made by {handle.module!r}, and this task says {own!r}.",
                hint="Give the module that SetupRayInfrastructure has.",
                field="module",
            )
        given = {**(self.variables or {}), **(self.sensitive_variables or {})}
        different = sorted(name for name, value in handle.variables.items() if given.get(name) != value)
        if different:
            raise ConfigurationError(
                f"variables: the handle says more, or something else, than this task, of {', '.join(different)}. For a"
                " module that is not bundled the task has to say them.",
                hint="Give this task the `variables` of SetupRayInfrastructure.",
                field="variables",
                variables=different,
            )
        return self.module, {}

    def _trial_backend(self, module: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        home = conf.get("core", "dags_folder")
        name = str(variables.get("name") or self.dag_id)
        safe = "".join(
            character if character.isalnum() or character in "-_" else "-"
            for character in f"{Path(module).name}-{name}"
        )
        path = Path(home).parent / "ray-infrastructure" / safe / "terraform.tfstate"
        self.log.warning(
            "No backend is given: the state lies on this machine, in %s. Good for trials; otherwise set `backend`.",
            path,
        )
        return {"type": "local", "path": str(path)}

    def cloud(self, run: InfrastructureRun) -> Cloud | None:
        """Give the cloud that a run works in, to ask what is really there; ``None`` if no cloud is known.

        :param run: entered.
        :raises ConfigurationError: a connection can't be used, or a package is missing.
        """
        from ray_provider.hooks.cloud import cloud_of_run

        return cloud_of_run(run, aws_conn_id=self.aws_conn_id, gcp_conn_id=self.gcp_conn_id)

    def _credentials(
        self, providers: Mapping[str, Any], place: Mapping[str, Any]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Give the environment variables for the cloud connections, and the files that some of them name."""
        if not self.aws_conn_id and not self.gcp_conn_id:
            return {}, {}
        from ray_provider.hooks import terraform_credentials

        env: dict[str, str] = {}
        files: dict[str, str] = {}
        if self.aws_conn_id:
            configured = providers.get("aws")
            region = configured.get("region") if isinstance(configured, Mapping) else None
            region = region or place.get("region")
            found = terraform_credentials.aws_credentials(self.aws_conn_id, region)
            env |= found.env
            files |= found.files
        if self.gcp_conn_id:
            found = terraform_credentials.google_credentials(self.gcp_conn_id)
            env |= found.env
            files |= found.files
        return env, files


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if value is None or value == "":
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{name}: it has to be a mapping, but is {type(value).__name__}.", field=name)
    return value
