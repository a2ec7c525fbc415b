"""``ray-provider``: the demonstration, and a look at what is installed and reachable."""

from __future__ import annotations

import argparse
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("airflow-ray", "apache-airflow", "ray", "pyhelm3", "kubernetes-asyncio", "python-terraform", "boto3")
_PROGRAMS = ("helm", "kubectl", "terraform", "tofu")


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand.

    :param argv: arguments; the process's own unless given.
    :return: the exit status.
    """
    parser = argparse.ArgumentParser(prog="ray-provider", description="The airflow-ray provider.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="a real Airflow runs a Ray job on a Ray of its own")
    demo.add_argument("--keep-web", action="store_true", help="leave the web interface up until Ctrl-C")
    demo.add_argument("--image", type=Path, help="where the picture goes (default: flight_delays.png)")
    doctor = commands.add_parser("doctor", help="what is installed, and whether a connection works")
    doctor.add_argument("--conn-id", help="a connection of type ray to try")
    arguments = parser.parse_args(argv)
    if arguments.command == "demo":
        return _demo(arguments)
    return _doctor(arguments.conn_id)


def _demo(arguments: argparse.Namespace) -> int:
    from ray_provider.resources import bundled
    from ray_provider.testing.demo import run_demo

    try:
        dags = bundled("examples", "dags")
    except FileNotFoundError:
        sys.stderr.write("The demonstration runs from a checkout of the project: make demo\n")
        return 2
    image = (arguments.image or Path("flight_delays.png")).absolute()
    image.unlink(missing_ok=True)
    return run_demo(dags=dags, image=image, keep_web=arguments.keep_web)


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
    from ray_provider.hooks import RayHook

    _compat.allow_database()
    try:
        good, message = RayHook(conn_id).test_connection()
    except _compat.AirflowNotFoundException as error:
        good, message = False, str(error)
    print(f"connection {conn_id}: {'ok' if good else 'FAILED'}: {message}")  # noqa: T201
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
