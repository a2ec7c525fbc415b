"""Tests that are ended leave no server behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from ray_provider.testing.parent import dying_with_parent
from tests.support.requirements import need

ROOT = Path(__file__).resolve().parents[2]
PARENT = """
import subprocess, sys, time
from ray_provider.testing.parent import dying_with_parent
server = subprocess.Popen(dying_with_parent(["sleep", "600"]), start_new_session=True)
print(server.pid, flush=True)
time.sleep(600)
"""
# gRPC's own fork handlers abort some children only, on a busy machine; the one that is added aborts each.
GRPC = """
import ctypes, json, os, subprocess, sys, threading, time
from concurrent import futures
import grpc
from ray_provider.testing.parent import dying_with_parent

class Echo(grpc.GenericRpcHandler):
    def service(self, _details):
        return grpc.unary_unary_rpc_method_handler(lambda request, _context: request)

server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Echo(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
calls = 0
def call():
    global calls
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        echo = channel.unary_unary("/echo/Echo")
        while True:
            assert echo(b"x") == b"x"
            calls += 1
threading.Thread(target=call, daemon=True).start()
while not calls:
    time.sleep(0.01)
libc = ctypes.CDLL(None)
libc.__register_atfork(None, None, ctypes.cast(libc.abort, ctypes.c_void_p), None)
ways = {
    "ours": lambda: subprocess.run(dying_with_parent(["true"]), start_new_session=True),
    "forked": lambda: subprocess.run(["true"], start_new_session=True, preexec_fn=lambda: None),
    "another user": lambda: subprocess.run(dying_with_parent(["true"], user=(65534, 65534))),
}
before, ends = calls, set()
for _ in range(10):
    ends.add(ways[sys.argv[1]]().returncode)
while calls == before:
    time.sleep(0.01)
print(json.dumps(sorted(ends)), flush=True)
os._exit(0)  # gRPC goes on in its threads
"""


def gone(pid: int) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_a_server_ends_with_tests_that_are_killed():
    need("Linux", present=sys.platform == "linux", how="The kernel's part in it is Linux's.")
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        server = int(tests.stdout.readline())
        assert psutil.pid_exists(server)
        tests.kill()
    assert gone(server)


def ends_beside_grpc(way: str) -> list[int]:
    """Give how ten servers ended that were started in this way while gRPC works in the same process."""
    done = subprocess.run(
        [sys.executable, "-c", GRPC, way], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("way", ["ours", "another user"])
def test_a_server_starts_beside_grpc_whose_fork_handlers_would_abort_it(way):
    need("Linux", present=sys.platform == "linux", how="The fork handler is added as glibc does.")
    if way == "another user":
        need("root", present=os.getuid() == 0)
    assert ends_beside_grpc(way) == [0]


def test_a_server_that_is_forked_beside_grpc_is_aborted():
    """Else the test above shows nothing. Now and then gRPC's handlers let the parent wait for ever instead."""
    need("Linux", present=sys.platform == "linux", how="The fork handler is added as glibc does.")
    try:
        assert ends_beside_grpc("forked") == [-signal.SIGABRT]
    except subprocess.TimeoutExpired:
        pass


def test_a_server_runs_as_the_user_that_is_named_and_still_ends_with_the_tests(tmp_path):
    need("root on Linux", present=sys.platform == "linux" and os.getuid() == 0)
    parent = PARENT.replace('["sleep", "600"]', '["sleep", "600"], user=(65534, 65534)')
    with subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        server = psutil.Process(int(tests.stdout.readline()))
        until = time.monotonic() + 20
        while server.name() != "sleep" and time.monotonic() < until:
            time.sleep(0.05)
        assert set(server.uids()) == set(server.gids()) == {65534}
        tests.kill()
    assert gone(server.pid)


def test_a_program_that_is_not_there_is_named():
    done = subprocess.run(dying_with_parent(["no-such-program"]), capture_output=True, text=True, check=False)
    assert done.returncode
    assert "no-such-program can't be started: No such file or directory" in done.stderr


def test_tests_that_are_told_to_end_put_things_away_first(tmp_path):
    case = tmp_path / "test_case.py"
    case.write_text(
        textwrap.dedent(f"""
        import os, pathlib, signal, time, pytest

        @pytest.fixture(scope="session")
        def server():
            yield
            pathlib.Path({str(tmp_path / "away")!r}).touch()

        def test_waits(server):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        """)
    )
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", case],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stdout
    assert (tmp_path / "away").exists()
