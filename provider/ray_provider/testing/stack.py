"""A real Airflow for a test: API server, scheduler, DAG processor and triggerers, on loopback, in a home of its own."""

from __future__ import annotations

import logging
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from ray_provider.clusters.local.cluster import end_all_local
from ray_provider.clusters.local.head import free_ports
from ray_provider.clusters.local.processes import last_lines, signal_all, wait_gone
from ray_provider.clusters.local.state import HOME_VARIABLE
from ray_provider.testing.client import AirflowApiError, AirflowClient
from ray_provider.testing.components import (
    JOB_TYPES,
    MARK,
    command,
    kind_of,
    record,
    running,
    sweep,
    tree_of,
    triggerer_name,
)
from ray_provider.testing.configuration import HOST, component_environment, settings, write_config
from ray_provider.testing.parent import dying_with_parent

log = logging.getLogger(__name__)

#: Sockets are made in the folder for temporary files, and their paths may have 107 characters.
_LONGEST_TEMPORARY = 70

#: How long a component waits for its turn to write (seconds). With the default of 5 a slow disk ends the scheduler.
_SQLITE_SECONDS = 60

#: The same for the API server. It writes its audit log in its event loop, which those requests need that have written
#: something and are about to commit: two at once wait for each other until one gives up, and is sent again.
_API_SERVER_SECONDS = 2


class StackError(RuntimeError):
    """A component of the stack did not start, or ended by itself. The message holds its last log lines."""


class AirflowStack:
    """Starts the components of Airflow 3 as they run in production, each in a process of its own.

    .. code-block:: python

        with AirflowStack(tmp_path, dags_folder="dags") as stack:
            stack.client.add_connection("ray_default", "ray", extra={"backend": "local"})
            run_id = stack.client.trigger_run("my_dag")
            stack.client.wait_run("my_dag", run_id, state="success")
            print(stack.client.log_text("my_dag", run_id, "my_task"))

    It listens on 127.0.0.1 only, on free ports; every visitor is an administrator. Keys are made for each home, and lie
    in its ``airflow.cfg`` (0600): ``AIRFLOW_HOME=… airflow …`` works on a running stack. Nothing of the caller's own
    Airflow is used: variables that start with ``AIRFLOW`` are not passed on. Logs lie in ``<home>/logs``. Local Ray
    clusters that its DAGs set up are kept in ``<home>/ray``, and end with the stack.

    :param home: ``AIRFLOW_HOME``; made if it isn't there.
    :param sql_alchemy_conn: the metadata database; unless given, SQLite in the home.
    :param dags_folder: where the DAGs lie; unless given, ``<home>/dags``.
    :param env: variables for all components and tasks (``AIRFLOW__SECTION__KEY`` too). Never put connections here: one
        in the environment hides faults that a connection in the database shows. Use ``client.add_connection``.
    :param config: additions to ``airflow.cfg``: section → key → value.
    :param triggerers: how many triggerers start at once.
    :param port: of the API server; unless given, a free one.
    :param python: the interpreter of the environment that Airflow is installed in.
    :param start_timeout: how many seconds all components together have until they are healthy.
    """

    def __init__(
        self,
        home: str | Path,
        *,
        sql_alchemy_conn: str | None = None,
        dags_folder: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        config: Mapping[str, Mapping[str, str]] | None = None,
        triggerers: int = 1,
        port: int | None = None,
        python: str | Path = sys.executable,
        start_timeout: float = 300.0,
    ) -> None:
        self.home = Path(home).absolute()
        self.logs = self.home / "logs"
        self.dags_folder = Path(dags_folder).absolute() if dags_folder else self.home / "dags"
        self.sql_alchemy_conn = sql_alchemy_conn or self._sqlite_conn(_SQLITE_SECONDS)
        self._api_server_conn = sql_alchemy_conn or self._sqlite_conn(_API_SERVER_SECONDS)
        self.port = port or free_ports(1)[0]
        self.client = AirflowClient(HOST, self.port, check=self._check, timeout=_SQLITE_SECONDS + 15.0)
        #: What ``stop`` had to end by force after all components were gone: a fault of theirs, empty if all is well.
        self.leftovers: list[str] = []
        #: How many seconds the steps of the start took.
        self.timings: dict[str, float] = {}
        self._config = config or {}
        self._env = dict(env or {})
        self._triggerers = triggerers
        self._python = str(python)
        self._start_timeout = start_timeout
        self._temporary: Path | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._job_ids: dict[str, int] = {}
        #: Components that may end at any time: somebody sent them a signal.
        self._signalled: set[str] = set()

    @property
    def url(self) -> str:
        """The address of the web interface and the REST API."""
        return f"http://{HOST}:{self.port}"

    @property
    def _sqlite(self) -> Path:
        return self.home / "airflow.db"

    def _sqlite_conn(self, seconds: int) -> str:
        return f"sqlite:///{self._sqlite}?timeout={seconds}"

    @property
    def local_ray_home(self) -> Path:
        """Where ``backend: local`` remembers the clusters that this stack's tasks set up."""
        return Path(self._env.get(HOME_VARIABLE) or self.home / "ray")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the components, for commands that are to meet the same Airflow."""
        return self._environment()

    @property
    def components(self) -> tuple[str, ...]:
        """The names of the components that were started and not stopped (``triggerer``, ``triggerer-2`` and so on)."""
        return tuple(self._processes)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Write the configuration, prepare the database, start all components, and wait until they are healthy.

        What an earlier stack left running in the same home is ended first. Whoever calls this instead of using the
        stack as a context manager has to call :meth:`stop` in all cases, also after an error from here.

        :raises StackError: a component ended, or was not healthy in time.
        """
        sweep(self.home, "left running by an earlier stack")
        self.leftovers.clear()
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        self._temporary = self._make_temporary()
        self.dags_folder.mkdir(parents=True, exist_ok=True)
        write_config(self.home, self._settings(), self._config)
        began = time.monotonic()
        migrated = self.airflow("db", "migrate", timeout=self._start_timeout, check=False)
        (self.logs / "db-migrate.log").write_text(migrated.stdout, encoding="utf-8")
        if migrated.returncode:
            raise StackError(f"airflow db migrate failed:\n{migrated.stdout[-4000:]}")
        if self._sqlite.exists():
            # Kept in the file: those who read don't wait for those who write, nor the other way round.
            with closing(sqlite3.connect(self._sqlite)) as database:
                database.execute("PRAGMA journal_mode=WAL")
        self.timings["db migrate"] = time.monotonic() - began
        began = time.monotonic()
        names = ["api-server", "scheduler", "dag-processor", *map(triggerer_name, range(1, self._triggerers + 1))]
        for name in names:
            self._spawn(name)
        deadline = began + self._start_timeout
        for name in names:
            self._wait_healthy(name, deadline)
            self.timings[name] = time.monotonic() - began

    def airflow(self, *arguments: str, timeout: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run an ``airflow`` command in the stack's home; its output and its errors come together in ``stdout``.

        :param arguments: of the command.
        :param timeout: seconds, then it is ended (``subprocess.TimeoutExpired``). Default: 60.
        :param check: whether a failure is an error. Default: yes.
        :raises StackError: it failed, unless ``check`` is off.
        """
        done = subprocess.run(
            [self._python, "-m", "airflow", *arguments],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise StackError(f"airflow {' '.join(arguments)} failed ({done.returncode}):\n{done.stdout[-4000:]}")
        return done

    def add_triggerer(self) -> str:
        """Start one more triggerer, wait until it is healthy, and give its name."""
        number = 1
        while triggerer_name(number) in self._processes:
            number += 1
        self.start_component(triggerer_name(number))
        return triggerer_name(number)

    def start_component(self, name: str) -> None:
        """Start a component, e.g. again after :meth:`stop_component` or :meth:`kill_component`, and wait for it.

        :param name: as the stack calls it.
        :raises StackError: it ended, or is not healthy in time.
        """
        self._spawn(name)
        self._wait_healthy(name, time.monotonic() + self._start_timeout)

    def pid(self, name: str) -> int:
        """Give the id of a component's first process.

        :param name: as the stack calls it: of one that runs.
        """
        return self._processes[name].pid

    def processes(self) -> list[psutil.Process]:
        """Give all processes of the stack that run, its tasks' included; not those of a local Ray."""
        return running(self.home)

    def log_tail(self, name: str, lines: int = 40) -> str:
        """Give the last lines that a component wrote.

        :param name: as the stack calls it.
        :param lines: how many at most. Default: 40.
        """
        return last_lines(self.logs / f"{name}.log", lines)

    def _check(self) -> None:
        """Tell whoever waits for something that it can't come: a component has ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None and name not in self._signalled:
                raise StackError(f"{name} ended with {process.returncode}. Its last lines:\n{self.log_tail(name)}")

    def _spawn(self, name: str) -> None:
        if name in self._processes:
            raise ValueError(f"{name} is running already")
        arguments = command(name, HOST, self.port)
        environment = self._environment()
        if name == "api-server":
            environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = self._api_server_conn
        with (self.logs / f"{name}.log").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                dying_with_parent([self._python, "-m", "airflow", *arguments], python=self._python),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        record(self.home, self._processes[name].pid)

    def _wait_healthy(self, name: str, deadline: float) -> None:
        while not self._healthy(name):
            process = self._processes[name]
            if process.poll() is not None:
                raise StackError(f"{name} ended with {process.returncode}. Its last lines:\n{self.log_tail(name)}")
            if time.monotonic() > deadline:
                raise StackError(
                    f"{name} was not healthy within {self._start_timeout:.0f} s. Its last lines:\n{self.log_tail(name)}"
                )
            time.sleep(0.2)

    def _healthy(self, name: str) -> bool:
        try:
            health, kind = self.client.health(), kind_of(name)
            if kind == "api-server":
                # What tasks talk to is another app, which its first request makes.
                return bool(self.client.request("GET", "/execution/health"))
            if health[kind.replace("-", "_")]["status"] != "healthy":
                return False
            # Of several triggerers the health check knows only the liveliest. A job record of its own tells them apart.
            process = psutil.Process(self._processes[name].pid)
            taken = set(self._job_ids.values())
            for job in self.client.jobs(job_type=JOB_TYPES[kind], is_alive="true"):
                started = datetime.fromisoformat(job["start_date"]).timestamp()
                if job["id"] not in taken and job["latest_heartbeat"] and started >= process.create_time() - 1:
                    self._job_ids[name] = job["id"]
                    return True
        except (OSError, AirflowApiError, psutil.NoSuchProcess):
            return False
        return False

    def kill_component(self, name: str, number: signal.Signals = signal.SIGKILL, *, group: bool = True) -> None:
        """Send a signal to a component, as a crash or an eviction would; with ``SIGKILL``, wait until it is gone.

        After that the component counts as ended only if it has: :meth:`start_component` starts it again.

        :param name: as the stack calls it.
        :param number: the signal.
        :param group: to all of its processes, as when a container is ended; else to the first one.
        """
        process = self._processes[name]
        self._signalled.add(name)
        tree = tree_of(process) if group else [psutil.Process(process.pid)]
        signal_all(tree, number)
        if number == signal.SIGKILL:
            process.wait(10)
            wait_gone(tree, 10)
            self._forget(name)

    def stop_component(self, name: str, *, timeout: float = 20.0) -> None:
        """Ask a component to end (``SIGTERM``), wait, and end all of its processes by force if it doesn't.

        :param name: as the stack calls it.
        :param timeout: how long (seconds) it has to end by itself. Default: 20.
        """
        process = self._processes[name]
        tree = tree_of(process)
        process.terminate()
        self._end(name, process, tree, timeout)

    def stop(self, *, timeout: float = 20.0) -> None:
        """Stop everything, and make sure that nothing is left. Does nothing on a stack that is not running.

        What is still there after the components have ended is ended by force and named in :attr:`leftovers`.

        :param timeout: how many seconds the components have to end by themselves.
        """
        deadline = time.monotonic() + timeout
        trees = {name: tree_of(process) for name, process in self._processes.items()}
        for process in self._processes.values():
            process.terminate()
        for name, process in list(self._processes.items()):
            self._end(name, process, trees[name], max(0.1, deadline - time.monotonic()))
        self.leftovers += sweep(self.home, "left behind by a component that had ended")
        # A local Ray outlives the task that sets it up, and so the components: it ends with the stack.
        for cluster in end_all_local(self.local_ray_home):
            log.info("The local Ray %s was still running: ended with the stack", cluster)
        if self._temporary and not self._temporary.is_relative_to(self.home):
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def _end(self, name: str, process: subprocess.Popen[bytes], tree: list[psutil.Process], timeout: float) -> None:
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            log.warning("%s did not end within %.0f s of SIGTERM: killed", name, timeout)
            tree = [*tree, *tree_of(process)]
            process.kill()
            process.wait(10)
        # What it had started gets a moment to notice, then no more.
        remaining = wait_gone([entry for entry in tree if entry.pid != process.pid], 3)
        signal_all(remaining, signal.SIGKILL)
        wait_gone(remaining, 5)
        self._forget(name)

    def _forget(self, name: str) -> None:
        del self._processes[name]
        self._signalled.discard(name)

    def _make_temporary(self) -> Path:
        """Make a folder for the temporary files of components and tasks: those that are ended by force leave some."""
        folder = self.home / "tmp"
        if len(str(folder)) > _LONGEST_TEMPORARY:
            return Path(tempfile.mkdtemp(prefix="airflow-", dir="/tmp"))  # nosec B108
        folder.mkdir(exist_ok=True)
        return folder

    def _settings(self) -> dict[str, dict[str, str]]:
        return settings(
            dags_folder=self.dags_folder, logs=self.logs, port=self.port, sql_alchemy_conn=self.sql_alchemy_conn
        )

    def _environment(self) -> dict[str, str]:
        environment = component_environment(self.home, self._python)
        if self._temporary:
            environment["TMPDIR"] = str(self._temporary)
        return {
            **environment,
            HOME_VARIABLE: str(self.local_ray_home),
            **self._env,
            "AIRFLOW_HOME": str(self.home),
            MARK: str(self.home),
        }
