"""A PostgreSQL of our own: a data folder that goes again, a password, and loopback only."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ray_provider.clusters.local.head import free_ports
from ray_provider.testing.parent import dying_with_parent
from tests.support.requirements import need

#: root can't run PostgreSQL. Whoever of these exists does it for root.
_USERS = ("postgres", "nobody")
_DEBIAN = Path("/usr/lib/postgresql")


def programs() -> Path | None:
    """Give the folder with ``initdb`` and ``postgres``: Debian keeps them off PATH."""
    for folder in sorted(_DEBIAN.glob("*/bin"), reverse=True):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found and shutil.which("postgres") else None


class PostgresServer:
    """A server as a context manager.

    :param start_timeout: seconds until it takes connections.
    """

    def __init__(self, *, start_timeout: float = 60.0) -> None:
        folder = programs()
        need("postgresql", present=folder is not None, how="Debian: apt-get install postgresql; or `make system`.")
        assert folder is not None
        self._programs = folder
        self._start_timeout = start_timeout
        self._password = secrets.token_hex(12)
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        # Not one that the kernel gives to whoever connects while the server is still being made.
        [self.port] = free_ports(1)

    @property
    def sqlalchemy_url(self) -> str:
        """For Airflow's ``sql_alchemy_conn``."""
        return f"postgresql+psycopg2://airflow:{self._password}@127.0.0.1:{self.port}/airflow"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def connect(self, database: str = "airflow") -> Any:
        """Give a connection (psycopg2)."""
        import psycopg2

        return psycopg2.connect(
            host="127.0.0.1", port=self.port, user="airflow", password=self._password, dbname=database
        )

    def _start(self) -> None:
        as_whom = self._as_whom()
        secret, data, log = self.folder / "secret", self.folder / "data", self.folder / "log"
        secret.write_text(self._password)
        for path in (self.folder, secret):
            path.chmod(0o700)
            if as_whom:
                os.chown(path, *as_whom)
        done = subprocess.run(
            dying_with_parent(
                [self._programs / "initdb", "-D", data, "-U", "airflow", "--auth=scram-sha-256", f"--pwfile={secret}",
                 "-E", "UTF8", "--locale=C", "--no-sync"],
                user=as_whom,
            ),
            cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                dying_with_parent(
                    [self._programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(self.port),
                     "-k", self.folder, "-F", "-c", "max_connections=200"],
                    user=as_whom,
                ),
                cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._create_database(log)

    def _create_database(self, log: Path) -> None:
        import time

        import psycopg2

        deadline = time.monotonic() + self._start_timeout
        while True:
            assert self._process is not None
            assert self._process.poll() is None, f"postgres ended:\n{log.read_text()}"
            try:
                connection = self.connect("postgres")
                break
            except psycopg2.OperationalError:
                assert time.monotonic() < deadline, f"postgres does not answer:\n{log.read_text()}"
                time.sleep(0.1)
        try:
            connection.autocommit = True
            connection.cursor().execute("CREATE DATABASE airflow")
        finally:
            connection.close()

    def stop(self) -> None:
        """End the server and remove its folder."""
        process, self._process = self._process, None
        try:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGINT)  # ends the clients' sessions too
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(10)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _as_whom() -> tuple[int, int] | None:
        if os.getuid() != 0:
            return None
        for name in _USERS:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return entry.pw_uid, entry.pw_gid
        raise AssertionError(f"root can't run PostgreSQL, and there is none of the users {', '.join(_USERS)}")
