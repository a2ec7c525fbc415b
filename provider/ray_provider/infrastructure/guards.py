"""Guards against losing sight of what exists: the state is believed only as far as the cloud agrees with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from ray_provider.exceptions import InfrastructureError, RayProviderError
from ray_provider.infrastructure.cloud.presence import Cloud, require_identity
from ray_provider.infrastructure.errors import BackendError, PlanRefusedError
from ray_provider.infrastructure.terraform.state import StateView

#: Gives the cloud to ask, or ``None`` where no cloud is known for the module.
CloudOf = Callable[[], Cloud | None]
_LISTED = 20


def guard_missing(
    missing: Sequence[str], state: StateView, cloud: CloudOf, *, allow_drifted: Iterable[str] = (), doing: str
) -> list[str]:
    """Refuse to take for deleted what the refresh did not find, unless the cloud says so, or somebody does.

    :param missing: addresses of what the refresh did not find.
    :param state: as it was before the refresh.
    :param cloud: whom to ask.
    :param allow_drifted: addresses (``*`` stands for anything) of what is known to be gone.
    :param doing: what is refused, e.g. ``The destroy``.
    :return: what is gone, as the cloud says.
    :raises PlanRefusedError: something of it may still be there.
    """
    patterns = tuple(allow_drifted)
    open_questions = [
        item for item in missing if not any(item == pattern or fnmatchcase(item, pattern) for pattern in patterns)
    ]
    if not open_questions:
        return []
    gone: list[str] = []
    there: list[str] = []
    unknown: list[str] = []
    why = ""
    by_address = {resource.address: resource for resource in state.resources}
    asked = cloud()
    try:
        if asked is not None:
            require_identity(asked, state.accounts)
        for address in open_questions:
            resource = by_address.get(address)
            answer = asked.exists(resource) if asked is not None and resource is not None else None
            {True: there, False: gone, None: unknown}[answer].append(address)
    except RayProviderError as error:
        unknown = [address for address in open_questions if address not in {*gone, *there}]
        why = f" The cloud could not be asked: {error.message}"
    if not there and not unknown:
        return gone
    parts = []
    if there:
        parts.append(f"the cloud says that they are there: {_some(there)}")
    if unknown:
        parts.append(f"nobody says that they are gone: {_some(unknown)}")
    raise PlanRefusedError(
        f"{doing} is refused, and nothing was changed. The refresh did not find {len(open_questions)} resources of the"
        f" state, and {'; '.join(parts)}.{why}",
        hint="Terraform looks in another region, account or project than where they are, or may not read them: compare"
        " `providers` and the credentials with those that made them. What is really gone can be named in"
        f" `allow_drifted`, e.g. `allow_drifted={[*there, *unknown][:1]!r}`.",
        there=there,
        unknown=unknown,
    )


def guard_new_cluster(
    name: str, location: str, state_label: str, cloud: CloudOf, write: Callable[[str], None], *, allowed: bool = False
) -> None:
    """Refuse to make a cluster of a name that is there already, in another state.

    :param name: of the cluster that is to be made.
    :param location: where.
    :param state_label: where this run's state lies, for people.
    :param cloud: gives whom to ask.
    :param write: gets each line of progress.
    :param allowed: the user said that it is meant.
    :raises BackendError: there is such a cluster, and this state does not hold it.
    """
    if allowed or not name or not location:
        return
    try:
        asked = cloud()
        found = None if asked is None else asked.cluster(name, location)
    except RayProviderError as error:
        write(f"WARNING: the cloud could not be asked whether the cluster {name} is there already: {error.message}")
        return
    if found is None or found.going:
        return
    raise BackendError(
        f"backend: there is a cluster {name} in {location} already: the state of this run ({state_label})"
        f" does not hold it (status {found.status}). Nothing was made.",
        hint="If it is the same infrastructure, give the backend and workspace with which it was made; otherwise give"
        " this one another name.",
        field="backend",
        cluster=name,
    )


def guard_gone(clusters: Sequence[tuple[str, str, str]], cloud: CloudOf, write: Callable[[str], None]) -> None:
    """Ask the cloud whether clusters are gone that Terraform says are destroyed.

    :param clusters: name, location and API server's address of each.
    :param cloud: gives whom to ask.
    :param write: gets each line of progress.
    :raises InfrastructureError: one is still there.
    """
    for name, location, endpoint in clusters:
        if not name or not location:
            continue
        try:
            asked = cloud()
            found = None if asked is None else asked.cluster(name, location)
        except RayProviderError as error:
            write(
                f"WARNING: the state says that {name} is gone, and the cloud could not be asked whether that is so:"
                f" {error.message}"
            )
            continue
        if asked is None or found is None or found.going:
            continue
        if not endpoint or bare(found.endpoint) != bare(endpoint):
            write(
                f"A cluster {name} is in {location}, but not this one: it is at {found.endpoint or 'no address yet'}."
            )
            continue
        raise InfrastructureError(
            f"The cluster {name} is still there and costs money: the state holds nothing of it any more, and it is"
            f" still in {location} (status {found.status}, {found.endpoint or 'no API server yet'}).",
            hint="Its state lies elsewhere (another key or workspace of the backend), or was lost: look for it, or"
            " delete the cluster, its node groups and its network by hand.",
            cluster=name,
            location=location,
        )


def bare(endpoint: str) -> str:
    """Give an API server's address as it can be compared: without a scheme.

    :param endpoint: with a scheme or without.
    """
    return endpoint.rpartition("://")[2].rstrip("/").lower()


def _some(addresses: Sequence[str]) -> str:
    rest = f" and {len(addresses) - _LISTED} more" if len(addresses) > _LISTED else ""
    return ", ".join(addresses[:_LISTED]) + rest
