"""The jobs library against a real Ray: submit, adopt, stop, logs, packages, and every way a job can end."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator

import pytest

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import (
    JobConflictError,
    JobFailedError,
    JobStoppedError,
    RayApiError,
    RayAuthenticationError,
)
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.jobs.models import JobSpec
from ray_provider.jobs.submit.identity import JobOwner, submission_id_for
from ray_provider.jobs.submit.once import submit_once
from ray_provider.jobs.submit.packaging import package_runtime_env
from ray_provider.jobs.watch.watcher import JobWatcher, WatchOptions
from tests.support.ray_head import RayHead


@pytest.fixture
async def client(token_ray_head: RayHead) -> AsyncIterator[RayJobsClient]:
    async with RayJobsClient(token_ray_head.endpoint) as client:
        yield client


@pytest.fixture
async def either_client(ray_head: RayHead) -> AsyncIterator[RayJobsClient]:
    """Runs the test without and with a token."""
    async with RayJobsClient(ray_head.endpoint) as client:
        yield client


def python(code: str) -> str:
    return f"{sys.executable} -u -c '{code}'"


def new_id() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


async def run(client, entrypoint, *, options=None, submission_id=None, **spec):
    """Submit, watch, and give the outcome and the lines of the log."""
    lines: list[str] = []
    progress: list[str] = []
    result = await submit_once(client, JobSpec(entrypoint, submission_id or new_id(), **spec))
    watcher = JobWatcher(
        client,
        result.submission_id,
        options or WatchOptions(),
        on_log=lambda batch: lines.extend(batch.text.split("\n")),
        on_progress=progress.append,
    )
    async with asyncio.timeout(300):
        outcome = await watcher.watch()
    return outcome, lines, progress


async def until_running(client, submission_id):
    async with asyncio.timeout(300):
        while (details := await client.get(submission_id)).status != "RUNNING":
            assert not details.is_final, details
            await asyncio.sleep(0.05)


async def test_submit_is_safe_to_repeat_and_a_running_job_is_not_deleted(either_client):
    owner = JobOwner("dag", uuid.uuid4().hex, "task", try_number=1)
    spec = JobSpec(python("import time; time.sleep(60)"), submission_id_for(owner), metadata=owner.to_metadata())
    first = await submit_once(either_client, spec)
    second = await submit_once(either_client, spec)
    assert (first.adopted, second.adopted) == (False, True)
    mine = [job for job in await either_client.list_jobs() if job.submission_id == spec.submission_id]
    assert len(mine) == 1
    assert JobOwner.from_metadata(mine[0].metadata) == owner
    with pytest.raises(JobConflictError, match="entrypoint"):
        await submit_once(either_client, JobSpec("true", spec.submission_id, metadata=owner.to_metadata()))
    with pytest.raises(JobConflictError, match="airflow_run_id"):
        other = JobOwner("dag", "another run", "task")
        await submit_once(either_client, JobSpec(spec.entrypoint, spec.submission_id, metadata=other.to_metadata()))
    # Stopped by somebody; found in that state by whoever repeats the submit.
    await until_running(either_client, spec.submission_id)  # one that still waits is ended in another way, as FAILED
    with pytest.raises(RayApiError, match="non-terminal"):
        await either_client.delete(spec.submission_id)
    assert (await either_client.stop_and_wait(spec.submission_id)).status == "STOPPED"
    third = await submit_once(either_client, spec)
    assert third.adopted
    assert third.details.status == "STOPPED"


@pytest.mark.slow  # test_dag_job_outcomes.py, test_a_job_that_succeeds
async def test_a_thousand_lines_once_and_in_order(either_client):
    code = 'for n in range(1000): print(f"line {n:04d} ☃", "  indented" if n % 2 else "")'
    outcome, lines, progress = await run(either_client, python(code))
    assert outcome.is_success
    assert [line.split()[1] for line in lines if line.startswith("line ")] == [f"{n:04d}" for n in range(1000)]
    assert any(line.endswith("☃   indented") for line in lines)
    assert progress[-1].endswith("is SUCCEEDED")
    assert outcome.log_incomplete is None


async def test_lines_arrive_while_the_job_runs_and_another_goes_on_where_one_left_off(client, tmp_path):
    submission_id, flag = new_id(), tmp_path / "flag"
    count = "for n in $(seq {} {}); do echo $n; done"
    entrypoint = f"{count.format(0, 20)}; until [ -e {flag} ]; do sleep 0.1; done; {count.format(21, 40)}"
    await submit_once(client, JobSpec(entrypoint, submission_id))
    first: list[str] = []
    watcher = JobWatcher(client, submission_id, on_log=lambda batch: first.extend(batch.text.split("\n")))
    watching = asyncio.create_task(watcher.watch())
    async with asyncio.timeout(300):
        while "20" not in first:
            await asyncio.sleep(0.05)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    flag.touch()  # the job ends only when its first lines have come
    options = WatchOptions(log_offset=watcher.log_offset)
    outcome, rest, _ = await run(client, entrypoint, submission_id=submission_id, options=options)
    assert outcome.is_success
    assert [line for line in first + rest if line.isdigit()] == [str(n) for n in range(41)]


async def test_a_line_of_6_mb_and_a_long_log_to_its_last_line(client):
    code = (
        'print("before"); print("x" * 6_000_000); print("after")\nfor n in range(100_000): print(f"{n:06d}", "y" * 80)'
    )
    outcome, lines, _ = await run(client, python(code))
    assert outcome.is_success
    assert "".join(lines[lines.index("before") + 1 : lines.index("after")]) == "x" * 6_000_000
    numbers = [line[:6] for line in lines if line.endswith("y" * 80)]
    assert numbers == [f"{n:06d}" for n in range(100_000)]


@pytest.mark.slow  # test_dag_job_outcomes.py, test_a_job_that_fails
async def test_failed(client):
    outcome, lines, _ = await run(client, python('import sys; print("bye"); sys.exit(3)'))
    assert (outcome.kind, outcome.status, outcome.driver_exit_code) == ("final", "FAILED", 3)
    assert "bye" in lines
    error = outcome.error()
    assert isinstance(error, JobFailedError)
    assert "exit code 3" in str(error)
    assert "bye" in str(error)


@pytest.mark.slow  # test_bad_input.py has one
async def test_an_entrypoint_that_does_not_exist(client):
    outcome, lines, _ = await run(client, "no-such-command --x")
    assert "127 (command not found)" in str(outcome.error())
    assert "What to do: The command is not known" in str(outcome.error())
    assert any("not found" in line for line in lines)


async def test_a_driver_that_is_killed(client):
    outcome, _, _ = await run(client, python("import os; os.kill(os.getpid(), 9)"))
    assert "137 (killed, probably out of memory)" in str(outcome.error())


@pytest.mark.slow  # test_dag_job_outcomes.py, test_a_job_that_somebody_stops
async def test_stopped_by_somebody(client):
    submission_id = new_id()
    await submit_once(client, JobSpec(python("import time; time.sleep(100)"), submission_id))
    watching = asyncio.create_task(JobWatcher(client, submission_id).watch())
    await until_running(client, submission_id)
    assert await client.stop(submission_id)
    outcome = await asyncio.wait_for(watching, 300)
    assert isinstance(outcome.error(), JobStoppedError)


@pytest.mark.slow  # test_dag_job_outcomes.py, test_a_job_that_takes_too_long
async def test_a_deadline(client):
    code = 'import time; print("working"); time.sleep(300)'
    submission_id = new_id()
    await submit_once(client, JobSpec(python(code), submission_id))
    await until_running(client, submission_id)
    outcome, lines, _ = await run(
        client, python(code), submission_id=submission_id, options=WatchOptions(deadline=time.time() + 3)
    )
    assert (outcome.kind, outcome.status) == ("deadline", "STOPPED")
    assert "working" in lines
    assert (await client.get(submission_id)).status == "STOPPED"


@pytest.mark.slow  # test_dag_job_outcomes.py, test_a_job_that_vanished_while_nobody_could_look
async def test_a_job_that_vanishes(client):
    submission_id = new_id()
    await submit_once(client, JobSpec("true", submission_id))
    async with asyncio.timeout(300):
        while not (await client.get(submission_id)).is_final:
            await asyncio.sleep(0.1)
    assert await client.delete(submission_id)
    outcome = await JobWatcher(client, submission_id).watch()
    assert outcome.kind == "lost"
    assert "deleted" in outcome.message


async def test_a_bad_runtime_env(client):
    options = WatchOptions()
    outcome, _, _ = await run(
        client, "true", options=options, runtime_env={"working_dir": "https://127.0.0.1:1/nothing.zip"}
    )
    assert outcome.status == "FAILED"
    assert outcome.error_type == "RUNTIME_ENV_SETUP_FAILURE"
    assert "check runtime_env" in str(outcome.error())


async def test_working_dir_and_py_modules_are_uploaded_without_what_is_excluded(either_client, tmp_path):
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (project / "main.py").write_text(
        "import os, helpers\nprint('helpers say', helpers.VALUE)\n"
        "print('files', sorted(os.path.join(d, f) for d, _, fs in os.walk('.') for f in fs if 'pycache' not in d))\n"
    )
    (project / "data" / "big.bin").write_text("x" * 1000)
    (project / "data" / "small.csv").write_text("x")
    (project / ".gitignore").write_text("*.tmp\n")
    (project / "a.tmp").write_text("x")
    package = tmp_path / "helpers"
    package.mkdir()
    (package / "__init__.py").write_text("VALUE = 42\n")
    given = {"working_dir": str(project), "py_modules": [str(package)], "excludes": ["data/big.bin"]}
    runtime_env = await package_runtime_env(either_client, given)
    assert await package_runtime_env(either_client, given) == runtime_env
    outcome, lines, _ = await run(either_client, f"{sys.executable} main.py", runtime_env=runtime_env)
    assert outcome.is_success, outcome
    assert "helpers say 42" in lines
    assert "files ['./.gitignore', './data/small.csv', './main.py']" in lines


async def test_what_a_job_is_given_and_what_it_leaves(client):
    """Variables and resources; its end, its log by WebSocket, and a file that it left beside its log, unchanged."""
    submission_id = new_id()
    code = (
        'import os; print("got", os.environ["GREETING"]); '
        'folder = os.path.dirname(os.path.realpath("/proc/self/fd/1")); '
        f'open(os.path.join(folder, "result-{submission_id}.bin"), "wb").write(bytes(range(256)) * 1000)'
    )
    given = {"runtime_env": {"env_vars": {"GREETING": "hello"}}, "num_cpus": 1}
    outcome, lines, _ = await run(client, python(code), submission_id=submission_id, **given)
    # What the watcher adds to what Ray itself needs to say it: a log stream that goes on is waited for up to a minute.
    assert time.time() - outcome.end_time / 1000 < 40
    assert outcome.is_success, outcome
    assert lines[-1] == "got hello"
    async with client.log_tail(submission_id) as websocket:
        text = "".join([message.data async for message in websocket])
    assert "got hello" in text.splitlines()
    node = (await client.get(submission_id)).driver_node_id
    assert await client.list_log_files(node, f"result-{submission_id}*") == [f"result-{submission_id}.bin"]
    assert await client.read_log_file(node, f"result-{submission_id}.bin") == bytes(range(256)) * 1000
    with pytest.raises(RayApiError, match="more than 10 bytes"):
        await client.read_log_file(node, f"result-{submission_id}.bin", max_bytes=10)
    # Ray itself answers this in two ways, by chance.
    missing = [client.read_log_file(node, "result-of-nobody.bin") for _ in range(20)]
    assert await asyncio.gather(*missing) == [None] * 20


async def test_no_token_and_a_wrong_one_are_told_apart(token_ray_head):
    for token, status, says in ((None, 401, "No token reached Ray"), ("wrong", 403, "refuses the token")):
        async with RayJobsClient(RayEndpoint(token_ray_head.url, token=token)) as client:
            assert await client.transport.json("GET", "/api/authentication_mode") == {"authentication_mode": "token"}
            with pytest.raises(RayAuthenticationError, match=says) as raised:
                await submit_once(client, JobSpec("true", new_id()))
            assert raised.value.status == status
            with pytest.raises(RayAuthenticationError):
                await JobWatcher(client, "any").watch()


@pytest.mark.slow  # test_dag_job_outcomes.py, test_a_restarted_head_loses_its_jobs_…
async def test_a_head_that_dies_and_one_that_restarts():
    """The watch survives the silence, and then says that the job was lost with the head."""
    with RayHead(num_cpus=2) as head:
        async with RayJobsClient(head.endpoint, retry=RetryPolicy(5)) as client:
            submission_id = new_id()
            await submit_once(client, JobSpec(python("import time; time.sleep(300)"), submission_id))
            progress: list[str] = []
            options = WatchOptions(session_name=(await client.version()).session_name)
            watcher = JobWatcher(client, submission_id, options, on_progress=progress.append)
            watching = asyncio.create_task(watcher.watch())
            await until_running(client, submission_id)
            await asyncio.to_thread(head.kill)
            short = await JobWatcher(client, submission_id, WatchOptions(max_unreachable_seconds=3)).watch()
            assert short.kind == "unreachable"
            assert not watching.done()
            with RayHead(num_cpus=2, dashboard_port=head.port):
                outcome = await asyncio.wait_for(watching, 300)
    assert outcome.kind == "lost"
    assert "head restarted" in outcome.message
    assert any("can't be asked" in line for line in progress)
    assert any("answers again" in line for line in progress)


async def supervisor_state(client, submission_id):
    """The state of the actor whose demand an autoscaler sees while a job waits."""
    answer = await client.transport.json("GET", "/api/v0/actors", params={"detail": "1"})
    actors = {actor["name"]: actor["state"] for actor in answer["data"]["result"]["result"]}
    return actors[f"_ray_internal_job_actor_{submission_id}"]


async def wait_pending(client, submission_id):
    """Wait until its supervisor waits for resources: before, it is PENDING as every job is."""
    async with asyncio.timeout(300):
        while (await client.get(submission_id)).status != "PENDING":
            await asyncio.sleep(0.1)
        while await supervisor_state(client, submission_id) != "PENDING_CREATION":
            await asyncio.sleep(0.1)


async def test_a_job_that_waits_for_resources_is_ended_for_good(either_client, tmp_path):
    client = either_client
    holder, waiting, ran = new_id(), new_id(), tmp_path / "ran"
    await submit_once(client, JobSpec("sleep 300", holder, num_cpus=4))
    await until_running(client, holder)
    await submit_once(client, JobSpec(f"touch {ran}", waiting, num_cpus=4))
    await wait_pending(client, waiting)
    ended = await client.stop_and_wait(waiting, 300)
    assert ended.status == "STOPPED"
    assert "never ran" in ended.message
    assert await supervisor_state(client, waiting) == "DEAD", "its demand is gone"
    # The resources come: whoever was only told to stop would start now.
    assert (await client.stop_and_wait(holder)).status == "STOPPED"
    after = new_id()
    await submit_once(client, JobSpec("true", after, num_cpus=4))
    async with asyncio.timeout(300):
        while not (await client.get(after)).is_final:
            await asyncio.sleep(0.2)
    assert not ran.exists()


@pytest.mark.slow  # the test before this one leaves none free, either
async def test_a_head_without_cpus_ends_waiting_jobs_too():
    with RayHead(num_cpus=0) as head:
        async with RayJobsClient(head.endpoint) as client:
            waiting = new_id()
            await submit_once(client, JobSpec("true", waiting, num_cpus=1))
            await wait_pending(client, waiting)
            assert (await client.stop_and_wait(waiting, 300)).status == "STOPPED"
            assert await supervisor_state(client, waiting) == "DEAD"


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_what_the_autoscaler_can_never_get_is_told_while_the_job_waits(tmp_path):
    """A head with Ray's own autoscaler, whose kinds of nodes have no GPU."""
    kinds = {
        "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "small": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    }
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config = {
        "cluster_name": "c", "max_workers": 8, "upscaling_speed": 1, "idle_timeout_minutes": 1, "auth": {}, "docker": {},
        "provider": {"type": "fake_multinode"}, "available_node_types": kinds, "head_node_type": "ray.head.default",
        **{f"{name}_commands": [] for name in commands}, "file_mounts": {}, "cluster_synced_files": [],
        "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
    }  # fmt: skip
    path = tmp_path / "autoscaling.json"
    path.write_text(json.dumps(config))
    env = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    warnings: list[str] = []
    with RayHead(num_cpus=2, env=env, options={"autoscaling-config": path}) as head:
        async with RayJobsClient(head.endpoint) as client:
            await submit_once(client, JobSpec("echo ran", submission_id="vain", num_gpus=2))
            watch = asyncio.create_task(JobWatcher(client, "vain", on_warning=warnings.append).watch())
            try:
                async with asyncio.timeout(300):
                    while not warnings:
                        await asyncio.sleep(0.2)
            finally:
                await client.stop_and_wait("vain", 300)
            outcome = await watch
    assert "asks for 2 GPU" in warnings[0]
    assert "No available node types can fulfill resource request {'GPU': 2.0}" in warnings[0]
    assert outcome.status != "SUCCEEDED"


async def test_why_a_task_of_a_job_ended_is_told(client):
    """Ray's message has the log's last lines only; what became of the task is in the State API."""
    program = "import os, ray; ray.init(); work = ray.remote(max_retries=0)(lambda: os.kill(os.getpid(), 9)); ray.get(work.remote())"
    submission_id = f"killed-{uuid.uuid4().hex[:8]}"
    await submit_once(client, JobSpec(f'python -c "{program}"', submission_id=submission_id))
    outcome = await JobWatcher(client, submission_id).watch()
    assert outcome.status == "FAILED"
    assert "was ended from outside, or crashed" in str(outcome.cause)
    assert "Ray can't tell which" in str(outcome.error())
