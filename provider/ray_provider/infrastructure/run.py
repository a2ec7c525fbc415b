"""One run of a module: a private copy, its backend, a saved plan, its guards, its apply, its outputs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ray_provider._shared.private_files import write_private
from ray_provider._shared.redaction import Redactor
from ray_provider.exceptions import ConfigurationError, InfrastructureError
from ray_provider.infrastructure.cloud.marks import Tags
from ray_provider.infrastructure.errors import ProviderChangedError, ProviderCrashError, TerraformInterruptedError
from ray_provider.infrastructure.handle import InfrastructureHandle
from ray_provider.infrastructure.module.declared import read_declared
from ray_provider.infrastructure.module.given import GivenVariables, remember_secrets, write_providers
from ray_provider.infrastructure.module.made_by import add_way_back, made_by
from ray_provider.infrastructure.module.outputs import InfrastructureOutputs, check_planned
from ray_provider.infrastructure.module.settings import bundled_cloud, place_of, public_settings, region_in, settle
from ray_provider.infrastructure.module.source import ModuleSource
from ray_provider.infrastructure.module.spec import InfrastructureSpec
from ray_provider.infrastructure.plan import PlanSummary, check_same_module
from ray_provider.infrastructure.terraform.backend import Backend
from ray_provider.infrastructure.terraform.binary import TerraformBinary, find_binary
from ray_provider.infrastructure.terraform.environment import build_environment, default_plugin_cache
from ray_provider.infrastructure.terraform.failures import DAMAGED
from ray_provider.infrastructure.terraform.folder import private_folder, write_private_json
from ray_provider.infrastructure.terraform.kept import identity_of, save_kept, write_identity
from ray_provider.infrastructure.terraform.lock_file import OUTDATED, LockFile
from ray_provider.infrastructure.terraform.plugin_cache import drop_damaged, one_at_a_time
from ray_provider.infrastructure.terraform.state import StateView, check_providers

if TYPE_CHECKING:
    from ray_provider.infrastructure.terraform.runner import TerraformRunner

log = logging.getLogger(__name__)

_PLAN = "run.tfplan"
_VARIABLES = "run.tfvars.json"


class InfrastructureRun:
    """A module, ready to be planned and applied. Use as a context manager: on leaving, its private files are removed.

    :param spec: what to run.
    :param write: gets each line of progress, without secrets.
    """

    def __init__(self, spec: InfrastructureSpec, *, write: Callable[[str], None] = log.info) -> None:
        self.spec = spec
        self.write = write
        self.redactor = Redactor()
        self._stack = ExitStack()
        self._folder: Path | None = None
        self._runner: TerraformRunner | None = None
        self._interrupted = False
        self._cache: Path | None = None
        self._repaired = False
        self._lock_file: LockFile | None = None
        self._given = GivenVariables(spec, {})
        self._backend: Backend | None = None
        self._root = Path()
        self._variables: dict[str, Any] = {}
        #: What is in the state, as of the last time it was read.
        self.state = StateView()
        #: What the state's resources are marked with, or what new ones are to be.
        self.tags = Tags()

    def __enter__(self) -> Self:
        remember_secrets(self.spec, self.redactor)
        self.spec.validate()
        # Before anything is made or written.
        _runner_class()
        with ExitStack() as stack:
            self._folder = stack.enter_context(private_folder())
            try:
                self._prepare(self._folder)
            except InfrastructureError as error:
                self._add_way_back(error)
                raise
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._add_way_back(error)
        self._stack.close()

    @property
    def runner(self) -> TerraformRunner:
        """Terraform in the copy of the module.

        :raises RuntimeError: the run is not entered.
        """
        if self._runner is None:
            raise RuntimeError("the run is not entered")
        return self._runner

    @property
    def backend(self) -> Backend:
        """Where the state lies, with the region that the environment added."""
        return self._backend or Backend.parse(self.spec.backend)

    def first_handle(self) -> InfrastructureHandle:
        """Give a handle of what is known before the module is read: where the state will lie."""
        spec = self.spec
        name = spec.variables.get("name")
        return InfrastructureHandle(
            module=ModuleSource.parse(spec.module).public,
            backend=self.backend.public(),
            workspace=spec.workspace,
            variables={"name": name} if isinstance(name, str) else {},
            providers=public_settings(spec.providers),
            complete=False,
        )

    def wanted_cluster(self) -> tuple[str, str]:
        """Give name and location of the cluster that a bundled module would make; empty where that is not known."""
        cloud = bundled_cloud(self.spec.module)
        name = str(self.spec.variables.get("name") or "") if cloud else ""
        location = self.place().get("region") if cloud == "aws" else self.spec.variables.get("location")
        return name, str(location or "")

    def place(self) -> dict[str, str]:
        """Tell where the infrastructure is: region, account, project."""
        found = place_of(
            self.state,
            cloud=bundled_cloud(self.spec.module),
            providers=self.spec.providers,
            env=self.runner.env,
        )
        return {**{name: str(value) for name, value in self.spec.place.items()}, **found}

    def made_by(self) -> dict[str, Any]:
        """Tell with what the infrastructure is made: versions of this package, of Terraform and of its providers."""
        return made_by(self._root, self.runner.binary.label)

    def public_variables(self) -> dict[str, Any]:
        """Give the variables that are not secret."""
        return self._given.public()

    @property
    def can_be_marked(self) -> bool:
        """Whether the module has variables for the tags of its cluster."""
        return any({kind, f"cluster_{kind}"} <= set(self._given.declared) for kind in ("tags", "labels"))

    def mark(self, tags: Tags) -> None:
        """Have what is made marked, if the module has variables for tags. Not asked for, it stays as it is marked.

        :param tags: whose it is, and until when it is needed.
        """
        self.tags = tags
        write_private_json(self._file(_VARIABLES), tags.variables(self._variables, self._given.declared))

    def interrupt(self) -> None:
        """Stop: Terraform saves its state and releases the lock. Nothing more is started."""
        self._interrupted = True
        if self._runner is not None:
            self._runner.interrupt()

    def plan(self, *, destroy: bool = False, lock: bool = True, refresh: bool = True) -> PlanSummary:
        """Make a plan, save it, and give what it would do.

        :param destroy: the plan of a destroy.
        :param lock: lock the state; not needed for only looking.
        :param refresh: ask the cloud what has changed. Default: yes.
        :raises InfrastructureError: it failed.
        :raises BackendError: the state belongs to another module.
        :raises ModuleError: its outputs would not be what the tasks after it read.
        """
        saved = self._file(_PLAN)

        def make() -> None:
            self.runner.plan(saved, var_file=self._file(_VARIABLES), destroy=destroy, refresh=refresh, lock=lock)

        try:
            make()
        except (ProviderCrashError, ProviderChangedError) as error:
            if not self._dropped_damaged(error):
                raise
            self._init()
            make()
        data = json.loads(self._read("show", str(saved)))
        if not (destroy and self.spec.destroy and self.state.cluster_name):
            # A destroy is checked by the name of what the state holds; the module may have changed since.
            check_same_module(data, ModuleSource.parse(self.spec.module).public)
        if not destroy:
            for line in check_planned(data):
                self.write(f"Warning: {line}")
        return PlanSummary.from_json(data, destroy=destroy)

    def apply(self) -> None:
        """Apply the saved plan, and exactly that.

        :raises InfrastructureError: it failed; what was made is in the state.
        """
        self.runner.apply(self._file(_PLAN), variables=self._given.ephemeral())
        if self._lock_file is not None:
            self._lock_file.keep(self.write)

    def outputs(self) -> InfrastructureOutputs:
        """Give the outputs in the state."""
        outputs = InfrastructureOutputs.from_json(json.loads(self._read("output")))
        self.redactor.add(outputs.sensitive)
        return outputs

    def read_state(self) -> StateView:
        """Read the state, and keep it as :attr:`state`. Needs no provider.

        :raises BackendError: it can't be read.
        """
        self.state = StateView.from_text(self.runner.run("state pull").out)
        return self.state

    # ------------------------------------------------------------------ preparing
    def _prepare(self, folder: Path) -> None:
        spec = self.spec
        given = dict(spec.env)
        for name, content in spec.files.items():
            given[name] = str(write_private(folder / f"{name.lower()}.file", content, replace=True))
        binary = find_binary(spec.binary, os.environ | given)
        source = ModuleSource.parse(spec.module)
        backend = self._backend = Backend.parse(spec.backend).in_region(region_in(spec.env))
        self.write(
            f"{binary.label}, module {source.public}, state in {backend.label}, workspace {spec.workspace or 'default'}"
        )
        env = build_environment(given)
        root = self._root = source.copy_to(folder, env=env, redact=self.redactor, remember=self.redactor.add)
        self._given = GivenVariables(spec, read_declared(root))
        self._variables = self._given.fitted(root, env, redactor=self.redactor, write=self.write)
        backend.prepare()
        backend.write(root)
        write_providers(root, spec.providers)
        identity = identity_of(backend, spec.workspace, source.public)
        write_identity(folder, identity)
        self._lock_file = LockFile.of(root, identity, binary)
        if self._lock_file.is_kept:
            self.write(self._lock_file.tell())
        given |= self._with_cache(env, locked=bool(self._lock_file.begin))
        # The lock of a local state ends with its process.
        rescue = {"identity": identity, "lockable": backend.type != "local", "seconds": spec.state_patience}
        self._runner = self._make_runner(folder, binary, given, rescue)
        if self._interrupted:
            raise TerraformInterruptedError("The run was stopped before Terraform was started.", killed=False)
        self._init()
        if spec.workspace and spec.workspace != "default":
            self._runner.run("workspace select", spec.workspace, or_create=True)
        save_kept(identity, self._runner, self.write)
        self._settle(source)

    def _make_runner(
        self, folder: Path, binary: TerraformBinary, env: Mapping[str, str], rescue: Mapping[str, Any]
    ) -> TerraformRunner:
        spec = self.spec
        return _runner_class()(
            self._root,
            binary=binary,
            folder=folder,
            env=env,
            write=self.write,
            redactor=self.redactor,
            lock_timeout=spec.lock_timeout,
            patience=spec.patience,
            parallelism=spec.parallelism,
            rescue=rescue,
        )

    def _with_cache(self, env: Mapping[str, str], *, locked: bool) -> dict[str, str]:
        """Find the cache of providers, and give the variables that have Terraform use it, if the user has none."""
        cache = default_plugin_cache(env)
        if cache is None:
            own = env.get("TF_PLUGIN_CACHE_DIR")
            self._cache = Path(own).expanduser() if own else None
            return {}
        self._cache = cache
        # Without a hash to compare with, Terraform would fetch what the cache has.
        unlocked = {} if locked else {"TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE": "true"}
        return {"TF_PLUGIN_CACHE_DIR": str(cache), **unlocked}

    def _settle(self, source: ModuleSource) -> None:
        """Go to the place where the infrastructure is, and refuse a state that would run other people's programs."""
        state = self.read_state()
        if source.kind == "bundled":
            check_providers(state)
        place = settle(
            state,
            providers=self.spec.providers,
            given_env=self.spec.given_env,
            expected=self.spec.place,
        )
        for name, value in place.items():
            if (self.spec.env.get(name) or os.environ.get(name)) not in {None, value}:
                self.write(f"{name} is {value} in this run, where the infrastructure is; this worker says another one.")
        self.runner.env.update(place)
        self.mark(Tags.in_state(state))

    def _add_way_back(self, error: BaseException) -> None:
        if self.spec.made_by and self._runner is not None:
            add_way_back(error, self.spec.module, self.spec.made_by, self.made_by())

    def _init(self) -> None:
        with one_at_a_time(self._cache):
            try:
                self._init_mended()
            except ProviderChangedError as error:
                if self._lock_file is not None:
                    error.hint = f"{error.hint} {self._lock_file.advice(self.runner.binary)}"
                raise

    def _init_mended(self) -> None:
        try:
            self.runner.init()
        except InfrastructureError as error:
            if self._lock_file is not None and self._lock_file.is_kept and OUTDATED.search(str(error)):
                self.write("The module does not take these versions any more, or they are gone: others are chosen.")
                # Of a provider that keeps its version, the hash is still compared.
                self.runner.init(upgrade=True)
            elif self._dropped_damaged(error):
                self.runner.init()
            else:
                raise

    def _dropped_damaged(self, error: InfrastructureError) -> bool:
        """Drop what is damaged in the cache of providers, once in a run; say whether another try makes sense."""
        if self._cache is None or self._repaired or not DAMAGED.search(str(error)):
            return False
        dropped = drop_damaged(self._cache, self.runner.working_dir, str(error))
        if not dropped:
            return False
        self._repaired = True
        if self._lock_file is not None:
            # The first `init` recorded the damaged one's hash.
            self._lock_file.restore()
        self.write(f"The cached provider {', '.join(dropped)} is damaged: it is removed, and fetched once more.")
        return True

    def _read(self, command: str, *arguments: str) -> str:
        return self.runner.run(command, *arguments, json=True).out

    def _file(self, name: str) -> Path:
        if self._folder is None:
            raise RuntimeError("the run is not entered")
        return self._folder / name


def _runner_class() -> type[TerraformRunner]:
    try:
        from ray_provider.infrastructure.terraform.runner import TerraformRunner
    except ImportError as error:
        raise ConfigurationError(
            "python-terraform is needed for infrastructure, and is not installed.",
            hint="pip install 'airflow-ray[infrastructure]', on workers.",
        ) from error
    return TerraformRunner
