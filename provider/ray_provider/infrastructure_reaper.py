"""Finds infrastructure whose time is over, by what stands on the clusters themselves, and deletes it if told to.

What a set-up wrote on its cluster says whose it is, until when it is needed and where its state lies
(:mod:`ray_provider.infrastructure.cloud.marks`). With credentials for cloud and state nothing else is needed: neither a
handle nor Airflow's history, which may have been cleaned. It is deleted as ``DeleteRayInfrastructure`` does it, with
all its guards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ray_provider import _compat
from ray_provider._compat import database
from ray_provider.exceptions import ConfigurationError, RayProviderError
from ray_provider.infrastructure.cloud.marks import PREFIX, Marks, decode, word
from ray_provider.infrastructure.cloud.presence import CloudClusterFacts
from ray_provider.infrastructure.guards import bare
from ray_provider.infrastructure.handle import InfrastructureHandle
from ray_provider.infrastructure.module.settings import BACKEND_ARGUMENTS, bundled_cloud, region_in
from ray_provider.infrastructure.terraform.backend import Backend
from ray_provider.reaper import FINISHED, age_text

if TYPE_CHECKING:
    from ray_provider.infrastructure.cloud.presence import Cloud
    from ray_provider.infrastructure.terraform.state import StateView
    from ray_provider.operators.infrastructure import DeleteRayInfrastructure


@dataclass(frozen=True, slots=True)
class Place:
    """A region of AWS, or a project of Google Cloud, and whose credentials are used there.

    :param cloud: ``aws`` or ``gcp``.
    :param name: the region, or the project.
    :param aws_conn_id: Airflow connection; without one, what the machine has.
    :param gcp_conn_id: likewise.
    :param terraform_binary: path or name of ``terraform`` or ``tofu``.
    """

    cloud: str
    name: str
    aws_conn_id: str | None = None
    gcp_conn_id: str | None = None
    terraform_binary: str | None = None

    def ask(self) -> Cloud:
        """Give the cloud."""
        from ray_provider.hooks.cloud_cluster import CloudCluster
        from ray_provider.hooks.cloud_marks import cloud_of_cluster

        location, project = (self.name, None) if self.cloud == "aws" else ("-", self.name)
        return cloud_of_cluster(
            CloudCluster(self.cloud, "", location, project, aws_conn_id=self.aws_conn_id, gcp_conn_id=self.gcp_conn_id)
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A cluster that a set-up made.

    :param place: where.
    :param cluster: as its cloud describes it.
    :param marks: what stands on it.
    """

    place: Place
    cluster: CloudClusterFacts
    marks: Marks

    def handle(self) -> InfrastructureHandle:
        """Give the handle that its marks stand for."""
        variables = {"name": self.cluster.name}
        place = {"region": self.place.name}
        if self.place.cloud == "gcp":
            variables |= {"project": self.place.name, "location": self.cluster.location}
            place = {"project": self.place.name}
        return InfrastructureHandle(
            module=str(self.marks.module or ""),
            backend=self.marks.backend,
            workspace=self.marks.workspace,
            variables=variables,
            outputs={
                "cloud": self.place.cloud,
                "cluster_name": self.cluster.name,
                "location": self.cluster.location,
                "cluster_endpoint": self.cluster.endpoint,
            },
            place=place,
            made_by={"airflow-ray": self.marks.version} if self.marks.version else {},
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of it.

    :param found: which.
    :param delete: whether its time is over, and it can be deleted from here.
    :param reason: in words.
    """

    found: Found
    delete: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Runs:
    """What this Airflow knows.

    :param name: of the deployment, as infrastructure is marked with it.
    :param states: of each run, by the ids of its DAG and its own.
    """

    name: str = ""
    states: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def state_of(self, marks: Marks) -> str | None:
        """Give the state of the run that set it up last; ``None`` if that is not known (any more).

        :param marks: of the infrastructure: they name DAG and run.
        """
        return next(
            (
                state
                for (dag, run), state in self.states.items()
                if marks.is_of("dag", dag) and marks.run and marks.is_of("run", run)
            ),
            None,
        )


def places(
    *,
    regions: Iterable[str],
    project: str | None,
    aws_conn_id: str | None,
    gcp_conn_id: str | None,
    terraform_binary: str | None = None,
) -> list[Place]:
    """Tell where to look: in the regions and the project that are named, else where the machine's settings say.

    :param regions: of AWS, e.g. ``eu-central-1``.
    :param project: of Google Cloud; ``None``: that of ``gcp_conn_id``, if that is given.
    :param aws_conn_id: connection with the credentials for AWS; ``None``: those of the machine.
    :param gcp_conn_id: connection with the credentials for Google Cloud; ``None``: those of the machine.
    :param terraform_binary: Terraform's executable; unless given, as ``TerraformTask`` finds it.
    :raises ConfigurationError: nothing says where.
    """
    from ray_provider.hooks.cloud import google_project

    common = {"aws_conn_id": aws_conn_id, "gcp_conn_id": gcp_conn_id, "terraform_binary": terraform_binary}
    named = list(regions)
    if not named and not project and (region := region_in({})):
        named = [region]
    found = [Place("aws", region, **common) for region in named]
    if project or gcp_conn_id:
        project = project or google_project(gcp_conn_id)
        if project:
            found.append(Place("gcp", project, **common))
    if not found:
        raise ConfigurationError(
            "Nothing says where to look for infrastructure.",
            hint="Name a region of AWS (--region, as often as needed) or a project of Google Cloud (--project).",
            field="region",
        )
    return found


def survey(where: Iterable[Place]) -> tuple[list[Found], list[str]]:
    """Find the clusters that set-ups made; and what is there without a cluster, in words. Blocking.

    :param where: from :func:`places`.
    :raises TerraformCredentialsError: a cloud denies access.
    """
    found: list[Found] = []
    without: list[str] = []
    for place in where:
        cloud = place.ask()
        here = [
            Found(place, cluster, marks)
            for cluster in cloud.clusters()
            if (marks := Marks.read(cluster.tags)) is not None
        ]
        found += here
        names = {one.marks.owner.get("name") for one in here}
        for identifier, tags in cloud.networks():
            if tags[f"{PREFIX}name"] not in names:
                said = {key: decode(tags.get(PREFIX + key, "?")) for key in ("name", "dag", "task")}
                without.append(
                    f"{place.name}: the network {identifier} of {said['name']} has no cluster: its set-up (task"
                    f" {said['task']} of DAG {said['dag']}) did not get that far, or its delete. Nothing there says"
                    " where its state lies: run its DeleteRayInfrastructure with `module`, `backend` and"
                    f" `confirm={said['name']!r}`."
                )
    return found, without


def ask_airflow(found: Iterable[Found]) -> Runs:
    """Ask the metadata database about the runs that set infrastructure up. Blocking.

    :param found: whose DAGs it is asked for.
    """
    wanted = {one.marks.owner.get("dag") for one in found}
    dags = {dag_id for dag_id in database.known_dags() if word(dag_id) in wanted}
    return Runs(_compat.deployment_name(), database.run_states(dags))


def judge(found: Found, runs: Runs, older_than: timedelta | None, now: datetime) -> Verdict:
    """Decide whether its time is over. In doubt it is kept.

    :param found: what a cloud says of it.
    :param runs: what Airflow says.
    :param older_than: delete what is older, whatever its run says; ``None``: nothing.
    :param now: with a time zone.
    """
    marks = found.marks
    if marks.owner.get("airflow") and runs.name and not marks.is_of("airflow", runs.name):
        return Verdict(found, False, f"it belongs to another Airflow ({marks.said('airflow')})")
    if found.cluster.going:
        return Verdict(found, False, "it is being deleted")
    if older_than is not None and found.cluster.created is not None and now - found.cluster.created > older_than:
        return Verdict(found, True, f"it is older than {age_text(older_than)}")
    state = runs.state_of(marks)
    if state is not None and state not in FINISHED:
        return Verdict(found, False, f"the run that set it up is {state}")
    if marks.expires is None:
        return Verdict(found, False, "it has no end (ttl): --older-than takes it too, by its age")
    if marks.expires > now:
        return Verdict(found, False, f"it is needed for another {age_text(marks.expires - now)}")
    return Verdict(found, True, f"its time ended {age_text(now - marks.expires)} ago")


def check(verdict: Verdict) -> Verdict:
    """Look whether what is to be deleted can be: its state is read, and nothing is changed. Blocking.

    :param verdict: one that keeps is given back as it is.
    :return: the same, or one that keeps and says why.
    """
    found = verdict.found
    if not verdict.delete:
        return verdict
    try:
        refuse_unreadable(found)
        task = deletion(found)
        with task.new_run({}, found.handle(), destroy=True, name=found.cluster.name) as run:
            if problem := problem_of(found, run.state):
                return replace(verdict, delete=False, reason=f"{verdict.reason}, but {problem}")
            return replace(verdict, reason=f"{verdict.reason}; {len(run.state.resources)} resources")
    except RayProviderError as error:
        return replace(verdict, delete=False, reason=f"{verdict.reason}, but its state can't be read: {error.message}")


def refuse_unreadable(found: Found) -> None:
    """Refuse what marks can't name. They are data: they don't decide which code runs, or where credentials go.

    :param found: with its marks.
    :raises ConfigurationError: another module than a bundled one; a backend that can't be reached by its marks.
    """
    marks = found.marks
    own = "Its own DeleteRayInfrastructure has to delete it."
    if bundled_cloud(str(marks.module)) != found.place.cloud:
        raise ConfigurationError(f"the module {marks.module} is not bundled. {own}", field="module")
    kind = marks.backend.get("type")
    if kind not in BACKEND_ARGUMENTS:
        raise ConfigurationError(f"tags don't name a backend of the type {kind}. {own}", field="backend")
    unknown = set(marks.backend) - BACKEND_ARGUMENTS[kind] - {"type"}
    if unknown:
        raise ConfigurationError(f"the tags name {', '.join(sorted(unknown))} of its backend. {own}", field="backend")
    backend = Backend.parse(marks.backend)
    if kind == "local" and not Path(backend.config["path"]).exists() and not marks.workspace:
        raise ConfigurationError(
            f"it lies on another machine's disk ({backend.config['path']}): run this there.", field="backend"
        )


def problem_of(found: Found, state: StateView) -> str | None:
    """Say why a state is not the one to delete a cluster by; ``None`` if it is.

    :param found: with its marks.
    :param state: the one that the marks name.
    """
    ours = [
        item
        for item in state.clusters
        if item.text("name") == found.cluster.name
        and (item.region or item.text("location")) == found.cluster.location
        and bare(item.text("endpoint")) in {"", bare(found.cluster.endpoint)}
    ]
    if not ours:
        return f"its state ({Backend.parse(found.marks.backend).label}) does not hold it: it was moved, or lost"
    if state.protected:
        return "it is protected (deletion_protection)"
    return None


def deletion(found: Found) -> DeleteRayInfrastructure:
    """Give the task that deletes it.

    :param found: with its marks.
    """
    from ray_provider.operators.infrastructure import DeleteRayInfrastructure

    return DeleteRayInfrastructure(
        task_id="reap_infrastructure",
        infrastructure=found.handle().to_dict(),
        confirm=found.cluster.name,
        aws_conn_id=found.place.aws_conn_id,
        gcp_conn_id=found.place.gcp_conn_id,
        terraform_binary=found.place.terraform_binary,
    )


def delete_all(verdicts: Iterable[Verdict], say: Callable[[str], None]) -> list[str]:
    """Delete what was judged, one after the other, if it still says the same. Goes on after a failure. Blocking.

    :param verdicts: from :func:`check`.
    :param say: is told what became of each.
    :return: what was not deleted, and why.
    """
    failures = []
    for verdict in verdicts:
        found = verdict.found
        if not verdict.delete:
            continue
        where = f"{found.place.name}/{found.cluster.name}"
        try:
            now = found.place.ask().cluster(found.cluster.name, found.cluster.location)
            if now is None:
                say(f"{where} is gone meanwhile.")
            elif Marks.read(now.tags) != found.marks:
                failures.append(f"{where}: somebody set it up again meanwhile, or changed its tags.")
            else:
                destroyed = deletion(found).delete({})["destroyed"]
                say(f"{where}: {destroyed} resources destroyed.")
        except RayProviderError as error:
            failures.append(f"{where}: {error}")
    return failures


def rows(verdicts: Sequence[Verdict], now: datetime | None = None) -> list[tuple[str, ...]]:
    """Give the rows of a table that shows what was found and what is to become of it, its head first.

    :param verdicts: in the order in which they are shown.
    :param now: with a time zone; unless given, the present.
    """
    now = now or datetime.now(tz=UTC)
    made: list[tuple[str, ...]] = [("WHERE", "CLUSTER", "AGE", "DAG", "RUN", "TASK", "STATE IN", "", "WHY")]
    for verdict in verdicts:
        one, marks = verdict.found, verdict.found.marks
        age = age_text(now - one.cluster.created) if one.cluster.created else "?"
        where = one.place.name if one.place.cloud == "aws" else f"{one.place.name}/{one.cluster.location}"
        owner = [marks.said(key) for key in ("dag", "run", "task")]
        what = "delete" if verdict.delete else "keep"
        made.append((where, one.cluster.name, age, *owner, _state(marks), what, verdict.reason))
    return made


def _state(marks: Marks) -> str:
    text = Backend(str(marks.backend.get("type")), marks.backend).label
    return f"{text} ({marks.workspace})" if marks.workspace else text
