"""What can go wrong with Terraform, told apart, because the next step differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_provider.exceptions import ConfigurationError, InfrastructureError

if TYPE_CHECKING:
    from pathlib import Path


class TerraformNotFoundError(ConfigurationError, InfrastructureError):
    """There is no Terraform or OpenTofu here, or it is too old."""

    retryable = False


class ModuleError(ConfigurationError, InfrastructureError):
    """The module is not there, can't be read, or is wrong in itself."""

    retryable = False


class VariableError(ConfigurationError, InfrastructureError):
    """A variable is missing, unknown, of the wrong type or value. ``data`` holds ``variables``: their names."""

    retryable = False


class BackendError(ConfigurationError, InfrastructureError):
    """The place for the state is not there, or holds the state of something else."""

    retryable = False


class TerraformCredentialsError(InfrastructureError):
    """The cloud does not accept who we are, or what we may do."""

    retryable = False


class ExpiredCredentialsError(TerraformCredentialsError):
    """The credentials were good, and ended meanwhile: another try gets new ones."""

    retryable = True


class UnreachableError(InfrastructureError):
    """A registry, a backend or a cloud did not answer, or answered that it can't just now."""


class PlanRefusedError(InfrastructureError):
    """The plan would destroy or replace what must not be. ``data`` holds ``destroy`` and ``replace``: addresses."""

    retryable = False


class UnsavedStateError(InfrastructureError):
    """The backend did not take the state of an apply. ``data`` holds ``path``: where it lies."""

    # A try on another worker would not find it, and would make everything once more.
    retryable = False


class StateLockedError(InfrastructureError):
    """Somebody else works on this state. ``data`` holds ``lock_id`` and ``who``."""


class CapacityError(InfrastructureError):
    """The cloud has no such machines now, or the account's quota is used up."""


class StalePlanError(InfrastructureError):
    """The state changed between the plan and its apply."""


class TerraformInterruptedError(InfrastructureError):
    """We stopped it (the task was killed). ``data`` holds ``killed``: true if it had to be killed at the end."""


class ProviderChangedError(InfrastructureError):
    """A provider is not the one that the lock file names under its version."""

    retryable = False


class ProviderCrashError(InfrastructureError):
    """A provider plugin (or Terraform itself) crashed."""


def unsaved(path: str | Path, why: str, lock_id: str | None, program: str) -> UnsavedStateError:
    """Make the error that says where a state lies and what to do with it.

    :param path: where the state lies.
    :param why: the backend did not take it.
    :param lock_id: of the lock that was left behind, if one was.
    :param program: ``terraform`` or ``tofu``.
    """
    return UnsavedStateError(
        f"THE STATE IS NOT IN ITS BACKEND. It lies in {path} on this worker, and tells what was made: without it"
        f" nobody will delete that. The backend said: {why}",
        hint="Bring the backend back, then run the task again on this worker: it pushes that state before anything"
        f" else. Or by hand, in a folder with the same backend: `{program} init`, `{program} state push {path}`"
        + (f", `{program} force-unlock {lock_id}`" if lock_id else "")
        + ", and remove the file. Where the backend holds a newer state, compare both before.",
        path=str(path),
        lock_id=lock_id,
    )
