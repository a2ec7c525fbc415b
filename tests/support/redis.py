"""A Redis of our own: a password, loopback only, nothing on a disk."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from types import TracebackType
from typing import Self

from ray_provider.clusters.local.head import free_ports
from ray_provider.testing.parent import dying_with_parent
from tests.support.requirements import need


class RedisServer:
    """A server as a context manager.

    :param start_timeout: seconds until it takes connections.
    """

    def __init__(self, *, start_timeout: float = 30.0) -> None:
        need("redis-server", how="Debian: apt-get install redis-server; or `make system`.")
        self._start_timeout = start_timeout
        self._password = secrets.token_hex(12)
        self._process: subprocess.Popen[bytes] | None = None
        # Not one that the kernel gives to whoever connects while the server is still being made.
        [self.port] = free_ports(1)

    @property
    def url(self) -> str:
        """For Celery's ``broker_url``."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        # The configuration comes by standard input: a password in the arguments could be seen by everybody.
        self._process = subprocess.Popen(
            dying_with_parent(["redis-server", "-"]),
            cwd="/", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        settings = f'bind 127.0.0.1\nport {self.port}\nrequirepass {self._password}\nsave ""\nappendonly no\n'
        self._process.stdin.write(settings.encode())
        self._process.stdin.close()
        deadline = time.monotonic() + self._start_timeout
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                code = self._process.poll()
                if code is not None or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"redis-server does not answer (it ended with {code})") from None
                time.sleep(0.1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
